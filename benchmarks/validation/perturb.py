"""Turn the orientation of an experiment, and see how much of that a refinement takes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from dxtbx.model import Experiment, ExperimentList

from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.refined_experiments import with_orientation_correction

#: periods of the Fourier terms within the scan; the n-th has an amplitude of about 1/n
_PERIODS = (0.5, 1.0, 2.0, 3.0)


@dataclass(frozen=True)
class SmoothRotation:
    """A rotation that changes slowly along a scan: a short Fourier series of rotation vectors.

    Attributes:
        phi_range: first and last angle of the scan in degrees.
        largest: largest rotation angle along the scan in degrees.
        seed: of the phases and amplitudes.
    """

    phi_range: tuple[float, float]
    largest: float
    seed: int = 0

    def at(self, phi: ArrayLike) -> NDArray[np.float64]:
        """Rotation vectors (n, 3) in degrees, laboratory frame, at angles phi (n,) in degrees."""
        dense = self._series(np.linspace(*self.phi_range, 2001))
        scale = self.largest / np.linalg.norm(dense, axis=1).max()
        return scale * self._series(np.asarray(phi, dtype=float))

    def _series(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        generator = np.random.default_rng(self.seed)
        first, last = self.phi_range
        turns = 2 * np.pi * (phi - first) / (last - first)
        total = np.zeros((len(phi), 3))
        for period in _PERIODS:
            amplitude = generator.normal(size=(2, 3)) / max(period, 1.0)
            waves = np.stack([np.cos(period * turns), np.sin(period * turns)], axis=1)
            total += waves @ amplitude
        return total


def turned(experiment: Experiment, rotation: SmoothRotation) -> Experiment:
    """A copy of an experiment whose crystal is turned: g' = R g at each scan point."""
    scan = scan_geometry(experiment)
    return with_orientation_correction(experiment, scan, np.radians(rotation.at(scan.phi_points)))


def turn_file(source: Path, target: Path, largest: float, seed: int) -> SmoothRotation:
    """Write the experiment of a file with its crystal turned; the rotation is returned."""
    (experiment,) = ExperimentList.from_file(str(source), check_format=False)
    rotation = SmoothRotation(scan_geometry(experiment).phi_range, largest, seed)
    ExperimentList([turned(experiment, rotation)]).as_file(str(target))
    return rotation


def turn_left(
    correction: Sequence[Sequence[float]] | NDArray[np.float64], turn: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The correction after the turn; all are rotation vectors (n, 3) in degrees.

    Zero where the correction undoes the turn.
    """
    both = Rotation.from_rotvec(np.radians(correction)) * Rotation.from_rotvec(np.radians(turn))
    return np.asarray(np.degrees(both.as_rotvec()))
