"""Logarithms of intensities, to be compared with those of symmetry equivalents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations

#: I / sigma(I) from which a logarithm has an error of less than a third
_CLEAR = 3.0


@dataclass(frozen=True)
class ClearEquivalents:
    """Reflections clearly above noise whose equivalents are there, too.

    Attributes:
        chosen: shape (m,), which observations.
        log_intensity: shape (m,).
        unique: shape (m,), the same for equivalents.
    """

    chosen: NDArray[np.int64]
    log_intensity: NDArray[np.float64]
    unique: NDArray[np.int64]


def clear_equivalents(observations: Observations) -> ClearEquivalents:
    """Those with I > 3 sigma and an equivalent with the same."""
    clear = np.flatnonzero(observations.intensity > _CLEAR * observations.sigma)
    _, unique, counts = np.unique(
        observations.unique_index[clear], return_inverse=True, return_counts=True
    )
    together = counts[unique] > 1
    chosen = clear[together]
    return ClearEquivalents(chosen, np.log(observations.intensity[chosen]), unique[together])
