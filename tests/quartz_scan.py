"""A wide scan of simulated quartz with noise, whose faults tests put in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from examples import crossing_reflections, make_scan, quartz_structure
from numpy.typing import NDArray

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.symmetry import unique_indices
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.data_checks.passages import Passages, passages

#: mean intensity in counts, and the noise of the faintest: a twentieth of the reflections come out negative
MEAN, FLOOR = 1e4, 300.0


@dataclass(frozen=True)
class Measured:
    """Data of a good crystal: about 1200 reflections, 240 unique ones, 100 degrees.

    ``true``: shape (n,), the intensities without noise.
    """

    structure: xray.structure
    scan: ScanGeometry
    observations: Observations
    true: NDArray[np.float64]
    passing: Passages

    def with_noise(self, true: NDArray[np.float64] | None = None, seed: int = 1) -> Observations:
        """The observations with other true intensities (n,) or other noise."""
        intensity = self.true if true is None else true
        sigma = np.hypot(0.02 * intensity, FLOOR)
        noise = sigma * np.random.default_rng(seed).normal(size=len(sigma))
        return replace(self.observations, intensity=intensity + noise, sigma=sigma)


@lru_cache(maxsize=1)
def measured_quartz() -> Measured:
    """Quartz of 500 Angstrom, simulated with the beams of the data and a coarse step."""
    structure = quartz_structure()
    scan = make_scan(structure, -50, 50)
    observations = crossing_reflections(scan, 1.7, 0.006, step=0.1)
    true = simulate_intensities(
        scan,
        observations,
        structure,
        GivenThickness([500.0], 50.0, scan.phi_range),
        None,
        BeamSelection(1.7, 0.008, 0.1),
        PropagationSettings(n_threads=1),
    )
    observations = replace(observations, unique_index=unique_indices(observations.hkl, structure))
    data = Measured(
        structure, scan, observations, MEAN * true / true.mean(), passages([scan], observations)
    )
    return replace(data, observations=data.with_noise(seed=0))
