"""Small PETS2 files of a made-up triclinic crystal, written with the conventions of PETS2.

Written without the package: the frame is the one of PETS2, with the beam along -z.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

WAVELENGTH = 0.0251
CELL = (5.2, 6.1, 7.3, 84.0, 97.0, 103.0)


def setting() -> np.ndarray:
    """UB of the crystal, 1/Angstrom, rounded as PETS2 does."""
    a, b, c = CELL[:3]
    cosines, sine = np.cos(np.radians(CELL[3:])), np.sin(np.radians(CELL[5]))
    cx = c * cosines[1]
    cy = c * (cosines[0] - cosines[1] * cosines[2]) / sine
    direct = np.array(
        [[a, 0, 0], [b * cosines[2], b * sine, 0], [cx, cy, np.sqrt(c**2 - cx**2 - cy**2)]]
    )
    turn = Rotation.from_euler("xyz", [23.0, -41.0, 67.0], degrees=True).as_matrix()
    return np.round(turn @ np.linalg.inv(direct), 5)


@dataclass
class PetsFile:
    """Frames 1 degree apart; change what is wanted before ``text``."""

    repeated: bool = True
    alpha: np.ndarray = field(default_factory=lambda: np.arange(-6.0, 7.0))
    semi_angle: float = 1.0
    azimuth: float = 0.0
    d_min: float = 0.8

    def __post_init__(self) -> None:
        """Orientations: a turn about the axis, which wanders by a tenth of a degree."""
        m = np.arange(len(self.alpha))
        axis = np.array([np.cos(np.radians(self.azimuth)), np.sin(np.radians(self.azimuth)), 0])
        turns = Rotation.from_rotvec(np.radians(self.alpha)[:, None] * axis)
        wander = 0.1 * np.stack([0 * m, np.sin(m / 3.0), np.cos(m / 4.0)], axis=1)
        self.rotations = turns * Rotation.from_rotvec(np.radians(wander))
        omega, alpha, beta = self.rotations.as_euler("ZXY", degrees=True).T.round(3)
        self.angles = np.stack([alpha, beta, omega], axis=1)
        self.rows = self._rows()

    def matrices(self) -> np.ndarray:
        """M = Rz(omega) Rx(alpha) Ry(beta) UB of each frame, from the angles as written."""
        alpha, beta, omega = self.angles.T
        return (
            Rotation.from_euler("z", omega, degrees=True)
            * Rotation.from_euler("x", alpha, degrees=True)
            * Rotation.from_euler("y", beta, degrees=True)
        ).as_matrix() @ setting()

    def _rows(self) -> list[tuple]:
        """h, k, l, intensity, sigma, frame number of reflections that pass within the frames."""
        limits = [int(c / self.d_min) + 1 for c in CELL[:3]]
        hkl = np.array(
            [h for h in itertools.product(*(range(-n, n + 1) for n in limits)) if any(h)]
        )
        hkl = hkl[np.linalg.norm(hkl @ setting().T, axis=1) < 1 / self.d_min]
        axis = np.array([np.cos(np.radians(self.azimuth)), np.sin(np.radians(self.azimuth)), 0])
        rows = []
        for number, matrix in enumerate(self.matrices(), start=1):
            sides = []
            for end in (-self.semi_angle, self.semi_angle):
                g = Rotation.from_rotvec(np.radians(end) * axis).apply(hkl @ matrix.T)
                sides.append(np.linalg.norm(g + [0, 0, -1 / WAVELENGTH], axis=1) > 1 / WAVELENGTH)
            for h in hkl[sides[0] != sides[1]]:
                intensity = 100.0 + abs(int(h @ [31, 17, 7]) % 400)
                if not self.repeated:
                    intensity += number
                rows.append((*h, intensity, 10.0, number))
        return rows

    def text(self) -> str:
        zone_axes = [matrix.T @ [0, 0, 1] for matrix in self.matrices()]
        lines = ["data_pets"]
        names = ["length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"]
        lines += [f"_cell_{name} {value:.5f}" for name, value in zip(names, CELL)]
        lines.append(f"_diffrn_radiation_wavelength {WAVELENGTH:.5f}")
        lines += [
            f"_diffrn_orient_matrix_UB_{i + 1}{j + 1} {setting()[i, j]:.5f}"
            for i, j in itertools.product(range(3), repeat=2)
        ]
        lines += ["_diffrn_measurement_details", ";"]
        lines += [
            "data collection geometry: continuous rotation",
            "RC width:  0.00100",
            "mosaicity:  0.050",
        ]
        lines += [f"rotation axis position:    {self.azimuth:.3f}", ";", "", "loop_"]
        columns = ["id", "u", "v", "w", "precession_angle", "alpha", "beta", "omega", "scale"]
        lines += [f"_diffrn_zone_axis_{name}" for name in columns]
        for i, (axis, angles) in enumerate(zip(zone_axes, self.angles)):
            numbers = [*(axis / np.abs(axis).max()), self.semi_angle, *angles, 1 + 0.01 * i]
            lines.append(f"{i + 1:4d} " + " ".join(f"{value:9.5f}" for value in numbers))
        lines += ["loop_", "_refln_index_h", "_refln_index_k", "_refln_index_l"]
        lines += ["_refln_intensity_meas", "_refln_intensity_sigma", "_refln_zone_axis_id"]
        lines += ["{:4d}{:4d}{:4d}{:12.2f}{:12.2f}{:6d}".format(*row) for row in self.rows]
        return "\n".join(lines) + "\n"
