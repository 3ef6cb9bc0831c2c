"""Hydrogen atoms that ride on the atoms they are bound to.

The geometry is told from the model: how many neighbours the parent has and how many hydrogen atoms.
smtbx has a constraint for each of SHELXL's geometries (AFIX); where the hydrogen atoms of the model
are far from what it would give, and for geometries it does not know, they keep their direction and move
with the parent (AFIX 3). U is 1.2 times that of the parent, 1.5 times for methyl, hydroxyl and
ammonium groups, as is usual with SHELXL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cctbx import xray
from smtbx.refinement.constraints import InvalidConstraint, reparametrisation
from smtbx.refinement.constraints.adp import u_iso_proportional_to_pivot_u_eq
from smtbx.refinement.constraints.geometrical import hydrogens as geometries
from smtbx.refinement.constraints.rigid import rigid_riding_expandable_group

from dials_hybrid_refine.models.connectivity import Bond, Disorder, bonds_of, connectivity
from dials_hybrid_refine.models.xh_distances import neutron_distance

#: largest angle in degrees between X-H in the model and as a geometry would have it; more: another geometry
_LARGEST_ANGLE = 20.0
#: largest X-H distance in Angstrom: a longer one is a contact or a hydrogen bond
LONGEST_XH = {"C": 1.3, "N": 1.3, "O": 1.3, "B": 1.4}
_LONGEST_XH_OTHERS = 1.7

#: constraint by numbers of other neighbours and hydrogen atoms
_GEOMETRIES: dict[tuple[int, int], tuple[Any, ...]] = {
    (3, 1): (geometries.tertiary_xh_site,),
    (2, 2): (geometries.secondary_xh2_sites,),
    (2, 1): (geometries.secondary_planar_xh_site,),
    (1, 3): (geometries.terminal_tetrahedral_xh3_sites,),
    (1, 2): (geometries.terminal_planar_xh2_sites,),
    (1, 1): (geometries.terminal_linear_ch_site, geometries.terminal_tetrahedral_xh_site),
}
_ELEMENTS_WITH_GEOMETRY = frozenset("BCNOS")
_ROTATING = (geometries.terminal_tetrahedral_xh3_sites, geometries.terminal_tetrahedral_xh_site)


@dataclass(frozen=True)
class Riding:
    """Constraints for hydrogen atoms, and those (indices) for which none was found."""

    constraints: list[Any]
    left_free: list[int]


def hydrogen_atoms(structure: xray.structure) -> list[int]:
    """Indices of the hydrogen atoms."""
    return [i for i, s in enumerate(structure.scatterers()) if s.element_symbol() in ("H", "D")]


def ride(
    structure: xray.structure, chosen: list[int], disorder: Disorder, distances: str = "neutron"
) -> Riding:
    """Let hydrogen atoms ride on their parents; the structure is changed to obey.

    Args:
        structure: its hydrogen atoms are made isotropic.
        chosen: indices of the hydrogen atoms.
        disorder: which atoms are alternatives.
        distances: of X-H, see ``xh_distances.set_distances``.
    """
    table = bonds_of(structure, disorder)
    if _bring_home(structure, chosen, table):
        table = bonds_of(structure, disorder)
    families, free = _families(structure, chosen, table)
    constraints: list[Any] = []
    for parent, family in families.items():
        found = _geometry(structure, parent, family, table, disorder, distances)
        constraints += found if found else _fixed_direction(structure, parent, family, distances)
        constraints += [
            displacement_of(parent, i, _factor(structure, parent, family)) for i in family
        ]
    for i in chosen:
        if i not in free:
            structure.scatterers()[i].set_use_u_iso_only()
    return Riding(constraints, free)


def displacement_of(parent: int, hydrogen: int, factor: float) -> Any:
    """U(H) = factor U(parent)."""
    return u_iso_proportional_to_pivot_u_eq(hydrogen, parent, factor)


def _factor(structure: xray.structure, parent: int, family: list[int]) -> float:
    turns = structure.scatterers()[parent].element_symbol() == "O" or len(family) == 3
    return 1.5 if turns else 1.2


def _parents(structure: xray.structure, i: int, table: list[list[Bond]]) -> list[Bond]:
    """Bonds of a hydrogen atom to atoms that can be its parent."""
    scatterers = structure.scatterers()
    elements = {bond.atom: scatterers[bond.atom].element_symbol() for bond in table[i]}
    return [
        bond
        for bond in table[i]
        if elements[bond.atom] not in ("H", "D")
        and bond.length < LONGEST_XH.get(elements[bond.atom], _LONGEST_XH_OTHERS)
    ]


def _bring_home(structure: xray.structure, chosen: list[int], table: list[list[Bond]]) -> bool:
    """Move hydrogen atoms that are given next to an image of their parent next to the parent."""
    moved = False
    for i in chosen:
        parents = _parents(structure, i, table)
        if len(parents) == 1 and not parents[0].operation.is_unit_mx():
            scatterer = structure.scatterers()[i]
            scatterer.site = parents[0].operation.inverse() * scatterer.site
            structure.re_apply_symmetry(i)
            moved = True
    return moved


def _families(
    structure: xray.structure, chosen: list[int], table: list[list[Bond]]
) -> tuple[dict[int, list[int]], list[int]]:
    """Hydrogen atoms by the atom they are bound to, and those bound to none or to several."""
    families: dict[int, list[int]] = {}
    free = []
    for i in chosen:
        parents = _parents(structure, i, table)
        if len(parents) == 1:
            families.setdefault(parents[0].atom, []).append(i)
        else:
            free.append(i)
    return families, free


def _geometry(
    structure: xray.structure,
    parent: int,
    family: list[int],
    table: list[list[Bond]],
    disorder: Disorder,
    distances: str,
) -> list[Any]:
    """The constraint that fits a parent and its hydrogen atoms, or nothing; sites are set by it."""
    element = structure.scatterers()[parent].element_symbol()
    hydrogens = set(hydrogen_atoms(structure))
    n_hydrogens = sum(bond.atom in hydrogens for bond in table[parent])
    if element not in _ELEMENTS_WITH_GEOMETRY or n_hydrogens != len(family):
        return []
    n_others = sum(bond.atom not in hydrogens for bond in table[parent])
    before = _directions(structure, parent, family)
    for kind in _GEOMETRIES.get((n_others, len(family)), ()):
        length = _length(structure, parent, family[0], kind.__name__, distances)
        constraint = kind(
            pivot=parent,
            constrained_site_indices=tuple(family),
            bond_length=length,
            rotating=kind in _ROTATING,
        )
        trial = structure.deep_copy_scatterers()
        if not place(trial, constraint, disorder):
            continue
        cosines = np.einsum("ij,kj->ik", before, _directions(trial, parent, family))
        # two hydrogen atoms may come out in the other order
        orders = [list(range(len(family))), list(range(len(family)))[::-1]][: len(family)]
        for order in orders:
            if cosines[range(len(family)), order].min() > np.cos(np.radians(_LARGEST_ANGLE)):
                constraint.constrained_site_indices = tuple(family[k] for k in np.argsort(order))
                place(structure, constraint, disorder)
                return [constraint]
    return []


def _length(
    structure: xray.structure, parent: int, hydrogen: int, geometry: str, distances: str
) -> float:
    """X-H in Angstrom."""
    atom = structure.scatterers()[parent]
    element = atom.element_symbol()
    present = structure.unit_cell().distance(atom.site, structure.scatterers()[hydrogen].site)
    known: float | None = None
    if distances == "neutron":
        known = neutron_distance(element, geometry)
    elif distances == "xray" and geometry:
        known = getattr(geometries, geometry).room_temperature_bond_length.get(element)
    return float(present if known is None else known)


def place(structure: xray.structure, constraint: Any, disorder: Disorder) -> bool:
    """Put hydrogen atoms where a constraint wants them; False where the surroundings do not suit it."""
    try:
        parameters = reparametrisation(
            structure=structure,
            constraints=[constraint],
            connectivity_table=connectivity(structure, disorder),
            temperature=20,
        )
    except (InvalidConstraint, IndexError, AssertionError, RuntimeError):
        return False  # smtbx lets some fail for want of a neighbour's neighbour out of line
    parameters.linearise()
    parameters.store()
    return True


def _directions(structure: xray.structure, parent: int, family: list[int]) -> NDArray[np.float64]:
    """Unit vectors (n, 3), Cartesian, from the parent to each hydrogen atom."""
    cell, scatterers = structure.unit_cell(), structure.scatterers()
    origin = np.array(cell.orthogonalize(scatterers[parent].site))
    vectors = np.array([cell.orthogonalize(scatterers[i].site) for i in family]) - origin
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1)[:, None])


def _fixed_direction(
    structure: xray.structure, parent: int, family: list[int], distances: str
) -> list[Any]:
    """Hydrogen atoms that keep their direction from the parent, at the right distance (AFIX 3)."""
    cell, scatterers = structure.unit_cell(), structure.scatterers()
    origin = np.array(cell.orthogonalize(scatterers[parent].site))
    directions = _directions(structure, parent, family)
    for i, direction in zip(family, directions):
        length = _length(structure, parent, i, "", distances)
        scatterers[i].site = cell.fractionalize(tuple(origin + length * direction))
    return [rigid_riding_expandable_group(parent, tuple(family), False)]
