"""Logarithms of intensities, to be compared with those of symmetry equivalents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations

#: mean intensity of equivalents over the rms sigma from which most logarithms have small errors
_CLEAR = 5.0


@dataclass(frozen=True)
class ClearEquivalents:
    """Reflections that are, with their equivalents, clearly above noise.

    Attributes:
        chosen: shape (m,), which observations.
        log_intensity: shape (m,), of the intensity or its sigma, whichever is larger.
        unique: shape (m,), the same for equivalents.
    """

    chosen: NDArray[np.int64]
    log_intensity: NDArray[np.float64]
    unique: NDArray[np.int64]


def clear_equivalents(observations: Observations) -> ClearEquivalents:
    """All measurements of those unique reflections, measured twice or more, that are strong on average.

    To choose single measurements by their intensity would leave out the weaker ones of the same
    reflection, and what is wanted is why they are weaker.
    """
    _, unique, counts = np.unique(
        observations.unique_index, return_inverse=True, return_counts=True
    )
    mean = np.bincount(unique, observations.intensity) / counts
    sigma = np.sqrt(np.bincount(unique, observations.sigma**2) / counts)
    chosen = np.flatnonzero(((counts > 1) & (mean > _CLEAR * sigma))[unique])
    data = observations.select(chosen)
    return ClearEquivalents(chosen, np.log(np.maximum(data.intensity, data.sigma)), unique[chosen])
