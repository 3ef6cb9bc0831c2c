"""The rotation of a crystal in the beam, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class ScanGeometry:
    """One sweep. Vectors in the DIALS laboratory frame, reciprocal ones in 1/Angstrom.

    g(phi) = S(phi) R(phi) F A(phi) h, with the setting rotation S, the rotation R about
    ``rotation_axis`` (the datum: before S) and the crystal's setting matrix A after the fixed
    rotation F. A beam that moves along the scan is described by turning g instead (only the
    angle between beam and g matters), so that ``beam_direction`` is constant.

    Attributes:
        wavelength: in Angstrom.
        beam_direction: shape (3,), unit vector along s0.
        rotation_axis: shape (3,), unit vector, ``get_rotation_axis_datum()``.
        phi_points: shape (p,), angles in degrees, increasing, at which the following are given;
            linear interpolation between them.
        crystal_settings: shape (p, 3, 3), F A.
        setting_rotations: shape (p, 3, 3), S, with the beam's movement taken out.
        image_width: rotation per image in degrees.
    """

    wavelength: float
    beam_direction: NDArray[np.float64]
    rotation_axis: NDArray[np.float64]
    phi_points: NDArray[np.float64]
    crystal_settings: NDArray[np.float64]
    setting_rotations: NDArray[np.float64]
    image_width: float

    @property
    def phi_range(self) -> tuple[float, float]:
        """First and last angle of the scan in degrees."""
        return float(self.phi_points[0]), float(self.phi_points[-1])

    def _interpolate(
        self, matrices: NDArray[np.float64], phi: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        flat = matrices.reshape(len(self.phi_points), 9)
        columns = [np.interp(phi, self.phi_points, flat[:, i]) for i in range(9)]
        return np.stack(columns, axis=-1).reshape(*phi.shape, 3, 3)

    def rotation_axes(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        """Unit vectors S(phi) e of the axis e at angles phi (degrees) of shape (n,); (n, 3)."""
        settings = self._interpolate(self.setting_rotations, np.asarray(phi, dtype=float))
        return np.asarray(settings @ self.rotation_axis)

    @property
    def middle_axis(self) -> NDArray[np.float64]:
        """Unit vector (3,) along the rotation axis in the middle of the scan."""
        axis = self.rotation_axes(np.array([np.mean(self.phi_range)]))[0]
        return np.asarray(axis / np.linalg.norm(axis))

    def reciprocal_bases(
        self, phi: NDArray[np.float64], recorded: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Matrices G with g = G h at angles phi (degrees) of shape (n,); shape (n, 3, 3).

        Args:
            recorded: angles (n,) whose S, A are taken; None: phi.
        """
        phi = np.asarray(phi, dtype=float)
        recorded = phi if recorded is None else np.asarray(recorded, dtype=float)
        turns = Rotation.from_rotvec(np.radians(phi)[:, None] * self.rotation_axis).as_matrix()
        settings = self._interpolate(self.setting_rotations, recorded)
        return np.asarray(settings @ turns @ self._interpolate(self.crystal_settings, recorded))
