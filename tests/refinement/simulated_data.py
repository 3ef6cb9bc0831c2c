"""What simulations of the tests of refinements share: noise, and atoms to start from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from examples import quartz_structure
from numpy.typing import NDArray

from cctbx import xray

from dials_hybrid_refine.diffraction.observations import Observations


def with_noise(
    observations: Observations, intensity: NDArray[np.float64], relative: float, of_mean: float
) -> Observations:
    """Observations of intensities (n,), 1e5 on average, with normal noise.

    Args:
        relative, of_mean: the standard deviation is the first times the intensity plus the second times the mean.
    """
    intensity = intensity * (1e5 / intensity.mean())
    sigma = relative * intensity + 1e5 * of_mean
    noise = sigma * np.random.default_rng(0).normal(size=len(sigma))
    return replace(observations, intensity=intensity + noise, sigma=sigma)


def displaced_quartz(distance: float, seed: int = 1) -> xray.structure:
    """Quartz with each atom moved so far (Angstrom) in some direction, where the symmetry lets it."""
    structure, rng = quartz_structure(), np.random.default_rng(seed)
    for scatterer in structure.scatterers():
        step = rng.normal(size=3)
        step *= distance / np.linalg.norm(step)
        shift = structure.unit_cell().fractionalize(tuple(step))
        scatterer.site = tuple(np.array(scatterer.site) + shift)
    structure.apply_symmetry_sites()
    return structure
