"""Fourier coefficients of the crystal potential, from the atoms of the asymmetric unit.

    U_h = gamma / (pi Omega) sum_j w_j f_j(|g_h|/2) sum_(R,t) T_j(h R) exp(-2 pi i h (R x_j + t))

in 1/Angstrom^2, for the potential U(r) = sum_h U_h exp(+2 pi i h.r). w_j is occupancy times
multiplicity over the order of the space group. The exponent has the sign opposite to that of
crystallographic structure factors because the incident wave is exp(+2 pi i K.r); see
Humphreys (1979), Rep. Prog. Phys. 42, 1825, equations 2.3-2.10.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

from dials_hybrid_refine.diffraction.absorptive_factors import (
    absorptive_scattering_factors,
    interpolation_weights,
)
from dials_hybrid_refine.diffraction.electron import relativistic_factor, speed_ratio
from dials_hybrid_refine.diffraction.scattering_factors import electron_scattering_factors


@dataclass(frozen=True)
class AtomicParameters:
    """The crystallographic parameters of the n atoms of the asymmetric unit.

    Attributes:
        sites: shape (n, 3), fractional coordinates.
        u_star: shape (n, 6), U* in order 11 22 33 12 13 23 (isotropic U are converted).
        occupancies: shape (n,), crystallographic occupancies (1 on a filled special position).
    """

    sites: torch.Tensor
    u_star: torch.Tensor
    occupancies: torch.Tensor


@dataclass(frozen=True)
class CrystalComposition:
    """What the refinement does not change about a crystal structure.

    Attributes:
        atomic_numbers: n atomic numbers.
        multiplicity_fractions: shape (n,), site multiplicity over the order of the group.
        rotations: shape (n_ops, 3, 3), integer rotation parts acting on fractional columns.
        translations: shape (n_ops, 3), fractional. Centring operations are included.
        metric: shape (3, 3), reciprocal metric tensor G* in 1/Angstrom^2 (of the structure's
            cell): |g|^2 = h^T G* h.
        volume: cell volume in Angstrom^3.
    """

    atomic_numbers: tuple[int, ...]
    multiplicity_fractions: NDArray[np.float64]
    rotations: NDArray[np.int64]
    translations: NDArray[np.float64]
    metric: NDArray[np.float64]
    volume: float

    def is_systematically_absent(self, hkl: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of hkl (n, 3) the lattice centring forbids (such beams couple to nothing)."""
        identity = (self.rotations == np.eye(3, dtype=int)).all(axis=(1, 2))
        phases = hkl @ self.translations[identity].T
        return np.asarray((np.abs(phases - np.round(phases)) > 1e-6).any(axis=1))

    def inversion_centre(self) -> NDArray[np.float64] | None:
        """Fractional coordinates (3,) of a centre of symmetry; None where there is none."""
        inversion = (self.rotations == -np.eye(3, dtype=int)).all(axis=(1, 2))
        return self.translations[inversion][0] / 2 if inversion.any() else None


def equivalent_isotropic_u(u_star: torch.Tensor, metric: NDArray[np.float64]) -> torch.Tensor:
    """U_eq = trace(U_cart) / 3 = sum_ij G_ij U*_ij / 3 in Angstrom^2, shape (n,).

    Fischer & Tillmanns (1988), Acta Cryst. C44, 775-776.

    Args:
        u_star: shape (n, 6), U* in order 11 22 33 12 13 23.
        metric: shape (3, 3), reciprocal metric tensor G*, the inverse of G.
    """
    g = np.linalg.inv(metric)
    trace = [g[0, 0], g[1, 1], g[2, 2], 2 * g[0, 1], 2 * g[0, 2], 2 * g[1, 2]]
    return u_star @ torch.tensor(trace, dtype=u_star.dtype) / 3


@dataclass(frozen=True)
class _SymmetryReduction:
    unique: NDArray[np.int64]  # (n_unique, 3)
    index: NDArray[np.int64]  # (n,) into unique
    phase: NDArray[np.complex128]  # (n,) factor from symmetry
    friedel: NDArray[np.bool_]  # (n,) use the complex conjugate


def _encode(hkl: NDArray[np.int64]) -> NDArray[np.int64]:
    offset, base = 1 << 19, 1 << 20
    shifted = hkl + offset
    return (shifted[..., 0] * base + shifted[..., 1]) * base + shifted[..., 2]


def _reduce_by_symmetry(
    hkl: NDArray[np.int64], composition: CrystalComposition
) -> _SymmetryReduction:
    """Map reflections to one representative each, U_(hR) = U_h exp(2 pi i h.t)."""
    images = np.einsum("ni,oij->noj", hkl, composition.rotations)
    keys = np.concatenate([_encode(images), _encode(-images)], axis=1)
    choice = keys.argmax(axis=1)
    n_ops = len(composition.rotations)
    operation, friedel = choice % n_ops, choice >= n_ops
    rows = np.arange(len(hkl))
    representative = images[rows, operation] * np.where(friedel, -1, 1)[:, None]
    # U_h exp(2 pi i h.t) = U_(hR), hence U_h = U_(hR) exp(-2 pi i h.t)
    shift = np.einsum("ni,ni->n", hkl, composition.translations[operation])
    key_values, first, index = np.unique(keys[rows, choice], return_index=True, return_inverse=True)
    return _SymmetryReduction(
        unique=representative[first],
        index=index.reshape(-1),
        phase=np.exp(-2j * np.pi * shift),
        friedel=friedel,
    )


class CrystalPotential:
    """Evaluates U_h of a fixed list of reflections, differentiable in the atoms' parameters.

    Only symmetry-unique coefficients are summed over atoms; the others follow by phase shifts.
    Scattering factors are real, so U_(-h) is the complex conjugate of U_h.
    """

    #: atoms x reflections x symmetry operations summed at a time (memory: about 100 bytes each)
    _CHUNK = 1_000_000

    def __init__(
        self, hkl: NDArray[np.int64], composition: CrystalComposition, wavelength: float
    ) -> None:
        """
        Args:
            hkl: shape (n, 3), Miller indices whose coefficients are wanted.
            composition: the invariant part of the structure.
            wavelength: in Angstrom, for the relativistic factor.
        """
        reduction = _reduce_by_symmetry(hkl, composition)
        unique = reduction.unique
        g_sq = np.einsum("ni,ij,nj->n", unique, composition.metric, unique)
        self._g = np.sqrt(np.maximum(g_sq, 0))
        self._elements: Sequence[int] = sorted(set(composition.atomic_numbers))
        factors = electron_scattering_factors(self._elements, self._g)
        self._element_of_atom = [self._elements.index(z) for z in composition.atomic_numbers]
        scale = relativistic_factor(wavelength) / (np.pi * composition.volume)

        self.hkl = hkl
        self.unique_hkl = unique
        self.composition = composition
        self.wavelength = wavelength
        self._scale = torch.from_numpy(scale * composition.multiplicity_fractions)
        self._elastic = torch.from_numpy(factors[self._element_of_atom])  # (n_atoms, n_unique)
        self._images = torch.from_numpy(
            np.einsum("ni,oij->noj", unique, composition.rotations).astype(float)
        )
        self._shifts = torch.from_numpy(unique @ composition.translations.T.astype(float))
        self._index = torch.from_numpy(reduction.index)
        self._phase = torch.from_numpy(reduction.phase)
        self._friedel = torch.from_numpy(reduction.friedel)

    def at_wavelength(self, wavelength: float) -> CrystalPotential:
        """The same crystal for electrons of another wavelength (Angstrom); tables are shared."""
        other = copy.copy(self)
        other.wavelength = wavelength
        other._scale = self._scale * self.ratio_to(wavelength)
        # divided by the speed of the electrons
        other.__dict__.pop("_absorptive_tables", None)
        return other

    def ratio_to(self, wavelength: float) -> float:
        """U for electrons of another wavelength (Angstrom) over this U: that of the masses gamma m."""
        return relativistic_factor(wavelength) / relativistic_factor(self.wavelength)

    def __call__(self, atoms: AtomicParameters) -> torch.Tensor:
        """U_h in 1/Angstrom^2, complex128, shape (n,), in the order of ``hkl``."""
        return self._sum(atoms, self._elastic)

    def of_unique(self, atoms: AtomicParameters) -> torch.Tensor:
        """U_h (n_unique,) of ``unique_hkl``, complex128, 1/Angstrom^2."""
        return self._unique_sums(atoms, self._elastic)

    def wilson_amplitudes(self, atoms: AtomicParameters) -> torch.Tensor:
        """Root mean square |U_h| (n_unique,) of atoms at random sites, without the factor epsilon.

        Wilson (1942), Nature 150, 152: the sum over the cell of the squares of what each atom
        scatters; with the equivalent isotropic U.
        """
        u_eq = equivalent_isotropic_u(atoms.u_star, self.composition.metric)
        debye_waller = torch.exp(-2 * torch.pi**2 * u_eq[:, None] * torch.from_numpy(self._g) ** 2)
        n_ops = len(self.composition.rotations)
        multiplicity = n_ops * torch.from_numpy(self.composition.multiplicity_fractions)
        each = (self._scale / multiplicity * n_ops * atoms.occupancies)[:, None] * self._elastic
        return (multiplicity[:, None] * (each * debye_waller) ** 2).sum(0).sqrt()

    def thermal_diffuse(self, atoms: AtomicParameters) -> torch.Tensor:
        """U'_h of thermal diffuse scattering (``absorptive_factors``), as U_h of f' instead of f.

        f' is that of the atoms' B = 8 pi^2 U_eq, differentiable in U, and held beyond the
        tabulated values. It is multiplied by the temperature factor, anisotropic as it is.

        Returns:
            Shape (n,), complex128, 1/Angstrom^2, in the order of ``hkl``; U'_0 > 0.

        Raises:
            ValueError: for an element that is not tabulated.
        """
        u_eq = equivalent_isotropic_u(atoms.u_star, self.composition.metric)
        weights = interpolation_weights(8 * torch.pi**2 * u_eq)
        # element by element: the tables are not repeated for each atom
        element = torch.tensor(self._element_of_atom)
        members = [torch.nonzero(element == i)[:, 0] for i in range(len(self._elements))]
        parts = [weights[m] @ table for m, table in zip(members, self._absorptive_tables)]
        factors = torch.cat(parts)[torch.argsort(torch.cat(members))]
        return self._sum(atoms, factors)

    @cached_property
    def _absorptive_tables(self) -> torch.Tensor:
        """f' (n_elements, k, n_unique) in Angstrom at the k tabulated B."""
        factors = absorptive_scattering_factors(self._elements, self._g)
        return torch.from_numpy(factors / speed_ratio(self.wavelength))

    def _sum(self, atoms: AtomicParameters, factors: torch.Tensor) -> torch.Tensor:
        """Coefficients (n,) from real factors (n_atoms, n_unique) in Angstrom."""
        return self.expand(self._unique_sums(atoms, factors))

    def _unique_sums(self, atoms: AtomicParameters, factors: torch.Tensor) -> torch.Tensor:
        n_unique, n_ops = self._shifts.shape
        step = max(1, self._CHUNK // max(1, n_ops * len(atoms.occupancies)))
        if step >= n_unique:
            return self._sum_over_atoms(atoms, factors, slice(None))
        # sums are made again for the gradient, so that memory is that of one chunk
        chunks = [slice(start, start + step) for start in range(0, n_unique, step)]
        sums = [
            checkpoint(self._sum_over_atoms, atoms, factors, chunk, use_reentrant=False)
            for chunk in chunks
        ]
        return torch.cat(sums)

    def expand(self, unique: torch.Tensor) -> torch.Tensor:
        """Coefficients (n,) of all ``hkl`` from those, complex, of ``unique_hkl`` (n_unique, 3)."""
        values = unique[self._index]
        return torch.where(self._friedel, values.conj(), values) * self._phase

    def _sum_over_atoms(
        self, atoms: AtomicParameters, factors: torch.Tensor, chunk: slice
    ) -> torch.Tensor:
        h = self._images[chunk]  # (n, n_ops, 3)
        angle = -2 * torch.pi * (h @ atoms.sites.T + self._shifts[chunk, :, None])
        h1, h2, h3 = h.unbind(-1)
        products = torch.stack(
            [h1 * h1, h2 * h2, h3 * h3, 2 * h1 * h2, 2 * h1 * h3, 2 * h2 * h3], dim=-1
        )
        debye_waller = torch.exp(-2 * torch.pi**2 * (products @ atoms.u_star.T))
        weights = (factors[:, chunk] * (self._scale * atoms.occupancies)[:, None]).T  # (n, n_atoms)
        real = (torch.cos(angle) * debye_waller).sum(1)
        imaginary = (torch.sin(angle) * debye_waller).sum(1)
        return torch.complex((weights * real).sum(-1), (weights * imaginary).sum(-1))
