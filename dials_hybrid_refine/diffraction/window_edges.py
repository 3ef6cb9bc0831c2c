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
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dials_hybrid_refine.diffraction.scan import ScanGeometry

#: sine of the angle between rotation axis and beam; below it the crystal is turned
_LEAST_SINE = 0.1
#: of the width of a cell: weights are linear in where windows end, but for the ends of cells
_STEP = 1e-3


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
    (axis,) = scan.rotation_axes(np.array([np.mean(scan.phi_range)]))
    return bool(np.linalg.norm(np.cross(axis, scan.beam_direction)) > _LEAST_SINE)


@dataclass(frozen=True)
class WindowEdges:
    """What the weights of P pairs of an observation and one of B blocks of n tilts depend on.

    Attributes:
        block: shape (P,), block of each pair.
        phi: shape (B, n), degrees. width: of the cells of rotation around the tilts.
        counts: shape (P, n), whether a cell may count: the beam is on, the segment the right one.
        is_first, is_last: shape (B,), whether no tilts are calculated before or after the block; its first or last
            cell then reaches as far as a window.
    """

    block: torch.Tensor
    phi: torch.Tensor
    width: float
    counts: torch.Tensor
    is_first: torch.Tensor
    is_last: torch.Tensor

    def weights(self, window: torch.Tensor) -> torch.Tensor:
        """Degrees (P, n) of each cell inside windows (P, 2), first and last angle in degrees."""
        low, high = self.phi - self.width / 2, self.phi + self.width / 2
        low[self.is_first, 0] = -torch.inf
        high[self.is_last, -1] = torch.inf
        inside = torch.minimum(high[self.block], window[:, 1:])
        inside -= torch.maximum(low[self.block], window[:, :1])
        return inside.clamp_min_(0).mul_(self.counts)

    def slopes(self, window: torch.Tensor) -> torch.Tensor:
        """Derivatives (P, n) of the weights by a turn that moves the windows, the mean of both senses."""
        step = _STEP * self.width
        return (self.weights(window + step) - self.weights(window - step)) / (2 * step)
