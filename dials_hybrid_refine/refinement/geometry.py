"""Bond lengths, angles and torsion angles with standard uncertainties.

A quantity q has the variance J C J^T (the delta method), J being its derivatives with respect to the
sites of the asymmetric unit and the unit cell, C their covariance. So the correlations of atoms, and of
an atom with its symmetry equivalents, are all in it. Variances of angles and torsion angles as of
``cctbx.geometry`` (2022.9) differ from this where equivalents of one atom or the cell take part: hence
derivatives of our own, which the tests compare with finite differences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cctbx import sgtbx, xray

from dials_hybrid_refine.models.connectivity import Disorder, bonds_of

_Array = NDArray[np.float64]

#: variances below are round-off of quantities that symmetry or the user fixes
_NEGLIGIBLE = 1e-14

#: torsion angles about bonds of nearly linear groups mean nothing (degrees)
_LINEAR = 170.0


@dataclass(frozen=True)
class GeometricValue:
    """A bond length in Angstrom, an angle or a torsion angle in degrees.

    Attributes:
        labels: of its atoms, along the bonds; the vertex of an angle stands in the middle.
        symmetry: CIF codes of the operations that were applied to them, "." for none.
        value: the quantity. su: its standard uncertainty, None where it is fixed or unknown.
        hydrogen: whether a hydrogen atom takes part.
    """

    labels: tuple[str, ...]
    symmetry: tuple[str, ...]
    value: float
    su: float | None
    hydrogen: bool


@dataclass(frozen=True)
class Geometry:
    """Bonds of each atom pair, angles about each atom, torsion angles about bonds."""

    bonds: tuple[GeometricValue, ...]
    angles: tuple[GeometricValue, ...]
    torsions: tuple[GeometricValue, ...]


@dataclass(frozen=True)
class _Atom:
    """An atom of the asymmetric unit under a symmetry operation."""

    index: int
    operation: sgtbx.rt_mx


def structure_geometry(
    structure: xray.structure,
    covariance: _Array | None = None,
    cell_covariance: _Array | None = None,
    disorder: Disorder = Disorder(),  # noqa: B008  immutable
    riding: Collection[int] = (),
) -> Geometry:
    """All bonds that covalent radii suggest, and the angles and torsion angles between them.

    Torsion angles are those of molecules: about bonds between atoms neither of which stands on a
    special position or has more than four neighbours, and without hydrogen.

    Args:
        covariance: shape (q, q), of the crystallographic parameters in the order of
            ``structure.parameter_map()``, as in ``Result``; atoms whose site was not refined have
            no uncertainty. None: no standard uncertainties.
        cell_covariance: shape (6, 6), of a, b, c (Angstrom) and the angles (degrees).
        disorder: alternatives, which are not bound to each other.
        riding: atoms (indices) whose bonds and angles have no uncertainty, as SHELXL has it. Constraints
            prescribe them; for smtbx such atoms move as their parents do, so that the angles would
            seem to vary.
    """
    calculator = _Calculator(structure, covariance, cell_covariance, disorder, set(riding))
    return Geometry(
        tuple(calculator.bonds()), tuple(calculator.angles()), tuple(calculator.torsions())
    )


def cell_covariance(structure: xray.structure, su: _Array) -> _Array:
    """Covariance (6, 6) of the unit cell from the s.u. (6,) of its parameters.

    Parameters that the lattice symmetry makes equal are fully correlated, those that it fixes have
    no uncertainty; others are taken as independent.
    """
    group, cell = structure.space_group(), structure.unit_cell()
    parameters = np.array(cell.parameters())
    columns = []
    for i in range(6):
        # how the symmetrised cell follows one parameter of a cell that is slightly off
        step = 1e-4 * parameters[i]
        moved = parameters.copy()
        moved[i] += step
        average = group.average_unit_cell(type(cell)(tuple(moved)))
        columns.append((np.array(average.parameters()) - parameters) / step)
    follows = np.array(columns)
    linked = (np.abs(follows) > 0.05) & (np.abs(follows.T) > 0.05)
    linked[:3, 3:] = linked[3:, :3] = False
    free = linked.diagonal()
    return np.where(linked & free[:, None] & free[None], np.outer(su, su), 0.0)


class _Calculator:
    def __init__(
        self,
        structure: xray.structure,
        covariance: _Array | None,
        cell_covariance: _Array | None,
        disorder: Disorder,
        riding: set[int],
    ) -> None:
        self._riding = riding
        self._info = structure.space_group_info()
        self._labels = [s.label for s in structure.scatterers()]
        self._hydrogen = [s.element_symbol() in ("H", "D") for s in structure.scatterers()]
        special = set(structure.special_position_indices())
        self._neighbours = [
            [_Atom(bond.atom, bond.operation) for bond in bonds]
            for bonds in bonds_of(structure, disorder)
        ]
        self._rotatable = [i not in special and len(n) <= 4 for i, n in enumerate(self._neighbours)]
        self._sites = torch.tensor([s.site for s in structure.scatterers()], dtype=torch.float64)
        cell = structure.unit_cell().parameters()
        self._cell = torch.tensor(cell, dtype=torch.float64)
        self._covariance = _of_sites_and_cell(structure, covariance, cell_covariance)

    def bonds(self) -> Iterator[GeometricValue]:
        for i, neighbours in enumerate(self._neighbours):
            bonds = [
                self._value((_Atom(i, _UNIT), other)) for other in neighbours if other.index >= i
            ]
            yield from sorted(bonds, key=lambda bond: bond.value)

    def angles(self) -> Iterator[GeometricValue]:
        for i, neighbours in enumerate(self._neighbours):
            for k, last in enumerate(neighbours):
                for first in neighbours[:k]:
                    yield self._value((first, _Atom(i, _UNIT), last))

    def torsions(self) -> Iterator[GeometricValue]:
        for j, neighbours in enumerate(self._neighbours):
            for centre in neighbours:
                if centre.index <= j or not (self._rotatable[j] and self._rotatable[centre.index]):
                    continue
                beyond = [
                    _Atom(n.index, centre.operation.multiply(n.operation))
                    for n in self._neighbours[centre.index]
                ]
                for first in neighbours:
                    for last in beyond:
                        yield from self._torsion((first, _Atom(j, _UNIT), centre, last))

    def _torsion(self, atoms: tuple[_Atom, ...]) -> Iterator[GeometricValue]:
        if any(self._hydrogen[a.index] for a in atoms):
            return
        if len({(a.index, a.operation.as_xyz()) for a in atoms}) < 4:
            return
        points = self._points(atoms, self._sites, self._cell)
        if max(float(_quantity(points[k : k + 3])) for k in (0, 1)) < _LINEAR:
            yield self._value(atoms)

    def _points(
        self, atoms: tuple[_Atom, ...], sites: torch.Tensor, cell: torch.Tensor
    ) -> torch.Tensor:
        """Cartesian coordinates (k, 3) of atoms, from fractional ones of all and the cell (6,)."""
        placed = [
            torch.tensor(a.operation.r().as_double(), dtype=torch.float64).reshape(3, 3)
            @ sites[a.index]
            + torch.tensor(a.operation.t().as_double(), dtype=torch.float64)
            for a in atoms
        ]
        return torch.stack(placed) @ _orthogonalization(cell).T

    def _value(self, atoms: tuple[_Atom, ...]) -> GeometricValue:
        sites = self._sites.clone().requires_grad_()
        cell = self._cell.clone().requires_grad_()
        quantity = _quantity(self._points(atoms, sites, cell))
        slopes = torch.autograd.grad(quantity, (sites, cell))
        slope = torch.cat([part.reshape(-1) for part in slopes]).numpy()
        # a straight angle has no slope: it is fixed, or not normally distributed
        variance = float(slope @ self._covariance @ slope) if np.isfinite(slope).all() else 0.0
        if atoms[0].index in self._riding or atoms[-1].index in self._riding:
            variance = 0.0
        codes = (self._info.cif_symmetry_code(a.operation) for a in atoms)
        return GeometricValue(
            tuple(self._labels[a.index] for a in atoms),
            tuple("." if code == "1" else code for code in codes),
            float(quantity.detach()),
            float(np.sqrt(variance)) if variance > _NEGLIGIBLE else None,
            any(self._hydrogen[a.index] for a in atoms),
        )


def _quantity(points: torch.Tensor) -> torch.Tensor:
    """Distance in Angstrom of 2 points (k, 3), angle or torsion angle in degrees of 3 or 4.

    Torsion angles are positive for a clockwise turn from front to back (IUPAC).
    """
    steps = points.diff(dim=0)
    if len(points) == 2:
        return steps.norm()
    if len(points) == 3:
        normal = torch.linalg.cross(steps[0], steps[1])
        return torch.rad2deg(torch.atan2(normal.norm(), -steps[0] @ steps[1]))
    first, second = (torch.linalg.cross(steps[k], steps[k + 1]) for k in (0, 1))
    sine = steps[0] @ second * steps[1].norm()
    return torch.rad2deg(torch.atan2(sine, first @ second))


def _orthogonalization(cell: torch.Tensor) -> torch.Tensor:
    """Matrix (3, 3) from fractional to Cartesian coordinates, a along x, b in the plane of x and y.

    International Tables B (2008), section 3.3.1.1.1. Differentiable in a, b, c, alpha, beta, gamma (6,).
    """
    a, b, c = cell[:3]
    cosine, sine = torch.cos(torch.deg2rad(cell[3:])), torch.sin(torch.deg2rad(cell[3:]))
    y = (cosine[0] - cosine[1] * cosine[2]) / sine[2]
    zero = torch.zeros_like(a)
    rows = [
        [a, b * cosine[2], c * cosine[1]],
        [zero, b * sine[2], c * y],
        [zero, zero, c * torch.sqrt(sine[1] ** 2 - y**2)],
    ]
    return torch.stack([torch.stack(row) for row in rows])


_UNIT = sgtbx.rt_mx()


def _of_sites_and_cell(
    structure: xray.structure, covariance: _Array | None, cell_covariance: _Array | None
) -> _Array:
    """Covariance (3 n + 6, 3 n + 6) of the sites of all n atoms, zero for fixed ones, and the cell."""
    n = 3 * len(structure.scatterers())
    full = np.zeros((n + 6, n + 6))
    if covariance is not None:
        places = list(enumerate(structure.parameter_map()))
        refined = [(i, place.site) for i, place in places if place.site >= 0]
        to = [3 * i + k for i, _ in refined for k in range(3)]
        come_from = [p + k for _, p in refined for k in range(3)]
        full[np.ix_(to, to)] = covariance[np.ix_(come_from, come_from)]
    if cell_covariance is not None:
        full[n:, n:] = cell_covariance
    return full
