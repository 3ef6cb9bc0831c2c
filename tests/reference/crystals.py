"""P1 crystals on which independent formulations of dynamical diffraction are compared.

Everything here is written out by hand (cell, atoms, scattering factors), so that neither cctbx
nor the package under test can impose a sign or an orientation on the comparison.

Scattering factors are sums of five Gaussians, f(s) = sum_i a_i exp(-b_i s^2) in Angstrom with
s = |g|/2 (Peng et al., International Tables C 4.3.2.2, the values of cctbx'
``scattering_type_registry(table="electron")``).  Being Gaussians they have a closed form in real
space, see :func:`real_space_potential`: that function contains no Fourier transform at all and
hence no sign of a phase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
ScatteringFactor = Callable[[FloatArray], NDArray[np.generic]]

#: a_i (Angstrom) and b_i (Angstrom^2) of f(s) = sum a_i exp(-b_i s^2).
GAUSSIANS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "O": (
        (0.0974, 0.2921, 0.691, 0.699, 0.2039),
        (0.2067, 1.3815, 4.6943, 12.7105, 32.4726),
    ),
    "Al": (
        (0.239, 0.6573, 1.2011, 2.5586, 1.2312),
        (0.3138, 2.1063, 10.4163, 34.4552, 98.5344),
    ),
    "Si": (
        (0.2519, 0.6372, 1.3795, 2.5082, 1.05),
        (0.3075, 2.0174, 9.6746, 29.3744, 80.4732),
    ),
    "Ca": (
        (0.4054, 1.388, 2.1602, 3.7532, 2.2063),
        (0.3499, 3.0991, 11.9608, 53.9353, 142.3892),
    ),
}

#: Electron wavelength at 200 kV in Angstrom.
WAVELENGTH_200KV = 0.0250793

COMPTON_WAVELENGTH = 0.02426310239
"""h/(mc) in Angstrom."""


def relativistic_gamma(wavelength: float) -> float:
    """gamma = 1 + eV/(m c^2) of an electron of this wavelength: sqrt(1 + (h/(mc lambda))^2)."""
    return float(np.hypot(1.0, COMPTON_WAVELENGTH / wavelength))


def gaussian_factor(element: str) -> ScatteringFactor:
    """The callable f(s) of a neutral atom, Angstrom, s = |g|/2 in 1/Angstrom."""
    a, b = (np.asarray(v) for v in GAUSSIANS[element])

    def f(s: FloatArray) -> FloatArray:
        s = np.asarray(s, dtype=float)
        return np.asarray(np.sum(a * np.exp(-b * s[..., None] ** 2), axis=-1))

    return f


@dataclass(frozen=True)
class P1Crystal:
    """A crystal as plain arrays.

    ``basis``: rows a, b, c, Cartesian, Angstrom.  ``frac``: (N, 3).  ``u_cart``: (N, 3, 3),
    Cartesian mean-square displacements, Angstrom^2.
    """

    name: str
    basis: FloatArray
    elements: tuple[str, ...]
    frac: FloatArray
    u_cart: FloatArray

    @property
    def volume(self) -> float:
        """Cell volume; positive, as every basis here is right-handed."""
        return float(np.linalg.det(self.basis))

    @property
    def reciprocal(self) -> FloatArray:
        """Columns a*, b*, c* (1/Angstrom, no 2 pi): g = reciprocal @ (h, k, l)."""
        return np.asarray(np.linalg.inv(self.basis))

    @property
    def normal(self) -> FloatArray:
        """Unit vector along c*, the normal of the faces spanned by a and b."""
        c_star = self.reciprocal[:, 2]
        return np.asarray(c_star / np.linalg.norm(c_star))

    @property
    def repeat(self) -> float:
        """Thickness of one cell along the normal, c.n."""
        return float(self.basis[2] @ self.normal)

    @property
    def factors(self) -> list[ScatteringFactor]:
        """f(s) of each atom."""
        return [gaussian_factor(e) for e in self.elements]

    def inverted(self) -> P1Crystal:
        """The other hand: every x to -x, same lattice."""
        return replace(self, name=self.name + ", inverted", frac=-self.frac)

    def tilted(self, tilt_deg: float, azimuth_deg: float) -> FloatArray:
        """Unit beam direction at ``tilt_deg`` from [001], in the plane that holds [001] and the
        direction at ``azimuth_deg`` from a (towards n x a)."""
        c = self.basis[2] / np.linalg.norm(self.basis[2])
        a = self.basis[0] / np.linalg.norm(self.basis[0])
        azimuth = np.deg2rad(azimuth_deg)
        side = np.cos(azimuth) * a + np.sin(azimuth) * np.cross(self.normal, a)
        side -= (side @ c) * c
        side /= np.linalg.norm(side)
        tilt = np.deg2rad(tilt_deg)
        return np.asarray(np.cos(tilt) * c + np.sin(tilt) * side)


def cell_basis(cell: Sequence[float], rotation_vector: ArrayLike = (0.0, 0.0, 0.0)) -> FloatArray:
    """Rows a, b, c of a right-handed cell (a along x, b in the xy plane), then rotated."""
    a, b, c = cell[:3]
    alpha, beta, gamma = np.deg2rad(cell[3:])
    cx = np.cos(beta)
    cy = (np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma)
    basis = np.array(
        [
            [a, 0.0, 0.0],
            [b * np.cos(gamma), b * np.sin(gamma), 0.0],
            [c * cx, c * cy, c * np.sqrt(1.0 - cx**2 - cy**2)],
        ]
    )
    vector = np.asarray(rotation_vector, dtype=float)
    angle = np.linalg.norm(vector)
    if angle == 0.0:
        return basis
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return np.asarray(basis @ rotation.T)


def structure_potential(crystal: P1Crystal, hkl: ArrayLike, wavelength: float) -> ComplexArray:
    """U_g = gamma/(pi Omega) sum_j f_j T_j exp(-2 pi i h.x_j), from fractional coordinates."""
    h = np.atleast_2d(np.asarray(hkl, dtype=float))
    reciprocal = crystal.reciprocal
    metric = reciprocal.T @ reciprocal
    s = 0.5 * np.sqrt(np.einsum("ni,ij,nj->n", h, metric, h))
    total = np.zeros(len(h), dtype=complex)
    for x, u, f in zip(crystal.frac, crystal.u_cart, crystal.factors):
        beta = 2 * np.pi**2 * reciprocal.T @ u @ reciprocal
        debye = np.exp(-np.einsum("ni,ij,nj->n", h, beta, h))
        total += f(s) * debye * np.exp(-2j * np.pi * (h @ x))
    total *= relativistic_gamma(wavelength) / (np.pi * crystal.volume)
    return total


def real_space_potential(
    crystal: P1Crystal, points: ArrayLike, wavelength: float, images: int = 3
) -> FloatArray:
    """U(r), 1/Angstrom^2, at Cartesian ``points`` as a sum of Gaussians centred on the atoms.

    A term a exp(-b s^2) exp(-2 pi^2 g.u.g) is the transform of a Gaussian of covariance
    C = u + b/(8 pi^2), weight a.  Positive at the atoms (electrons are attracted).
    """
    r = np.atleast_2d(np.asarray(points, dtype=float))
    grid = np.arange(-images, images + 1)
    cells = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)
    shifts = cells @ crystal.basis
    total = np.zeros(len(r))
    for x, u, element in zip(crystal.frac, crystal.u_cart, crystal.elements):
        delta = r[:, None, :] - (x @ crystal.basis + shifts)[None]
        for a, b in zip(*GAUSSIANS[element]):
            covariance = u + b / (8 * np.pi**2) * np.eye(3)
            norm = a / np.sqrt((2 * np.pi) ** 3 * np.linalg.det(covariance))
            exponent = np.einsum("nmi,ij,nmj->nm", delta, np.linalg.inv(covariance), delta)
            total += norm * np.exp(-0.5 * exponent).sum(axis=1)
    return total * relativistic_gamma(wavelength) / np.pi


def _isotropic(values: Sequence[float]) -> FloatArray:
    return np.asarray(values)[:, None, None] * np.eye(3)


def quartz() -> P1Crystal:
    """Alpha quartz, P 32 2 1 (coordinates as expanded by cctbx), generally oriented."""
    frac = np.array(
        [
            [0.4697, 0.0000, 2.0 / 3.0],
            [0.0000, 0.4697, 1.0 / 3.0],
            [0.5303, 0.5303, 0.0],
            [0.4135, 0.2669, 0.7858],
            [0.7331, 0.1466, 0.7858 - 1.0 / 3.0],
            [0.8534, 0.5865, 0.7858 - 2.0 / 3.0],
            [0.1466, 0.7331, 4.0 / 3.0 - 0.7858],
            [0.5865, 0.8534, 5.0 / 3.0 - 0.7858],
            [0.2669, 0.4135, 1.0 - 0.7858],
        ]
    )
    return P1Crystal(
        name="quartz P3221",
        basis=cell_basis((4.9137, 4.9137, 5.4047, 90.0, 90.0, 120.0), (0.4, -0.7, 1.1)),
        elements=("Si",) * 3 + ("O",) * 6,
        frac=frac,
        u_cart=_isotropic((0.007,) * 3 + (0.012,) * 6),
    )


def triclinic() -> P1Crystal:
    """An invented triclinic crystal: Ca, Si, O, Al in general positions, anisotropic."""
    u_cart = np.array(
        [
            [[0.012, 0.003, -0.002], [0.003, 0.009, 0.001], [-0.002, 0.001, 0.015]],
            [[0.008, -0.002, 0.001], [-0.002, 0.013, 0.002], [0.001, 0.002, 0.010]],
            [[0.020, 0.004, 0.005], [0.004, 0.014, -0.003], [0.005, -0.003, 0.018]],
            [[0.009, 0.000, 0.002], [0.000, 0.011, 0.001], [0.002, 0.001, 0.009]],
        ]
    )
    return P1Crystal(
        name="triclinic CaSiOAl",
        basis=cell_basis((4.61, 5.37, 4.18, 81.3, 103.9, 97.4), (-0.9, 0.3, 0.5)),
        elements=("Ca", "Si", "O", "Al"),
        frac=np.array(
            [
                [0.037, 0.112, 0.083],
                [0.412, 0.571, 0.338],
                [0.691, 0.233, 0.574],
                [0.178, 0.779, 0.806],
            ]
        ),
        u_cart=u_cart,
    )


def orthogonal() -> P1Crystal:
    """An orthogonal cell of whole 0.15 Angstrom voxels, c along z, no inversion centre."""
    return P1Crystal(
        name="orthogonal SiOAl",
        basis=cell_basis((4.8, 6.0, 4.2, 90.0, 90.0, 90.0)),
        elements=("Si", "O", "Al"),
        frac=np.array([[0.05, 0.11, 0.08], [0.42, 0.57, 0.34], [0.69, 0.23, 0.77]]),
        u_cart=_isotropic((0.010, 0.015, 0.012)),
    )


@dataclass(frozen=True)
class Case:
    """A crystal, a beam direction and a thickness of ``n_cells`` repeats along c."""

    name: str
    crystal: P1Crystal
    tilt_deg: float
    azimuth_deg: float
    n_cells: int
    g_max: float = 1.2
    n_slices: int = 16

    @property
    def direction(self) -> FloatArray:
        """Unit vector along K, into the crystal."""
        return self.crystal.tilted(self.tilt_deg, self.azimuth_deg)

    @property
    def thickness(self) -> float:
        """Along the normal, Angstrom."""
        return self.n_cells * self.crystal.repeat


def cases() -> tuple[Case, ...]:
    """Off-axis cases in which the two hands differ strongly.

    The first two lie a few degrees from [001]: the strong beams have l = 0.  The last two lie
    around 20 degrees from it: 45 and 90 % of the diffracted intensity has l != 0, so the phases
    along c (the three-dimensional hand) count.
    """
    return (
        Case("quartz, 2.6 degrees", quartz(), 2.6, 33.0, 60, n_slices=8),
        Case("triclinic, 3.2 degrees", triclinic(), 3.2, 107.0, 50, n_slices=8),
        Case("quartz, 18 degrees", quartz(), 18.0, 32.0, 50, n_slices=48),
        Case("triclinic, 21 degrees", triclinic(), 21.0, 230.0, 48, n_slices=32),
    )
