"""Turns of the crystal about the rotation axis, which move the windows instead of the crystal.

A crystal that is turned about the rotation axis by x passes the same orientations, by x degrees earlier:
the tilts may stay and the windows move by x. The sum over tilts, which is only nearly the integral, then does
not change with where the tilts lie on a rocking curve, but only with what the ends of the windows
cut off: such a turn changes the intensity of a whole passage by nothing at all.

A window has one x, that of its middle. What a scan has at a recorded angle phi (crystal settings, segments'
scales, thickness) is taken at phi + x but for the settings, which may differ from frame to frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dials_hybrid_refine.diffraction.scan import ScanGeometry

#: sine of the angle between rotation axis and beam; below it the crystal is turned
_LEAST_SINE = 0.1


@dataclass(frozen=True)
class Correction:
    """The correction of a crystal's orientation, split at its rotation axis.

    Attributes:
        scan: geometry as integrated.
        vectors: rotation vectors (n, 3) in radians at angles (n,) in degrees.
        moves_windows: whether the part about the rotation axis moves windows; if not, it turns the crystal.
    """

    scan: ScanGeometry
    vectors: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    moves_windows: bool

    def axes(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        """The axes that windows move about at angles (n,), shape (n, 3): unit vectors, or zero."""
        return self.scan.rotation_axes(phi) * self.moves_windows

    def turns(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part about the axis at angles (n,), in degrees."""
        return np.asarray(np.degrees((self.vectors(phi) * self.axes(phi)).sum(axis=1)))

    def moved(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """First and last angles (n, 2) in degrees of the uncorrected crystal's rotation in windows (n, 2)."""
        return np.asarray(windows + self.turns(windows.mean(axis=1))[:, None])

    def bases(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        """Reciprocal bases (n, 3, 3) of the uncorrected crystal at angles (n,), with the settings of those
        at which it has been recorded."""
        return self.scan.reciprocal_bases(phi, phi - self.turns(phi))

    def matrices(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rotation matrices (n, 3, 3) of the rest."""
        vectors, axes = self.vectors(phi), self.axes(phi)
        across = vectors - (vectors * axes).sum(axis=1, keepdims=True) * axes
        return np.asarray(Rotation.from_rotvec(across).as_matrix())


def axis_and_beam_differ(scan: ScanGeometry) -> bool:
    """Whether the rotation axis is clear of the beam, so that a turn about it takes reflections past."""
    return bool(np.linalg.norm(np.cross(scan.middle_axis, scan.beam_direction)) > _LEAST_SINE)
