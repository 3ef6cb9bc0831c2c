"""How each reflection passes the Ewald sphere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry

_Array = NDArray[np.float64]

#: 1/Angstrom per radian; slower reflections are on the rotation axis
_SLOWEST = 1e-6


@dataclass(frozen=True)
class Passages:
    """The passages of n reflections, at their predicted angles.

    A rotation by the small vector c (radians) moves g along the outward normal n = (k + g) / |k + g| of
    the Ewald sphere by (c x g).n = c.(g x n), so that turning about the unit vector e changes the
    excitation error by e.(g x n) for each radian.

    Attributes:
        inverse_d: shape (n,), |g| in 1/Angstrom.
        speed: shape (n,), e.(g x n) of the rotation axis e, in 1/Angstrom per radian: positive where the
            reflection leaves the sphere.
        lorentz: shape (n,), 1 / |speed|: how long the reflection takes, which integrated intensities
            are proportional to.
        lever: shape (n,), shift of the angle of passage for a turn of the crystal about the
            direction normal to axis and beam, without unit; for one about the axis it is -1.
    """

    inverse_d: _Array
    speed: _Array
    lorentz: _Array
    lever: _Array


def passages(scans: Sequence[ScanGeometry], observations: Observations) -> Passages:
    """The passages of all observations."""
    n = len(observations)
    inverse_d, speed, lever = np.zeros(n), np.zeros(n), np.zeros(n)
    for i, scan in enumerate(scans):
        rows = np.flatnonzero(observations.experiment == i)
        phi = observations.phi[rows]
        g = np.einsum("nij,nj->ni", scan.reciprocal_bases(phi), observations.hkl[rows])
        outgoing = scan.beam_direction / scan.wavelength + g
        moment = np.cross(g, outgoing / np.linalg.norm(outgoing, axis=1, keepdims=True))
        axis = scan.rotation_axes(phi)
        across = np.cross(scan.beam_direction, axis)
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        about_axis = np.einsum("ni,ni->n", axis, moment)
        about_axis = np.where(np.abs(about_axis) < _SLOWEST, _SLOWEST, about_axis)
        inverse_d[rows], speed[rows] = np.linalg.norm(g, axis=1), about_axis
        lever[rows] = -np.einsum("ni,ni->n", across, moment) / about_axis
    return Passages(inverse_d, speed, 1 / np.abs(speed), lever)
