"""Hydrogen atoms that are missing from a model, placed where the geometry of their parent wants them.

Only where the other atoms leave no doubt: on carbon, and planar amide groups NH2. Whether another N or
an O bears hydrogen atoms depends on charges and hydrogen bonds; such atoms are named to the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cctbx import xray
from smtbx.refinement.constraints.geometrical import hydrogens as geometries

from dials_hybrid_refine.models.connectivity import Bond, Disorder, bonds_of
from dials_hybrid_refine.models.hydrogens import place
from dials_hybrid_refine.models.xh_distances import neutron_distance

#: Angstrom: C-C and C=C are 1.53 and 1.34, C(sp2)-C(sp2) in benzene 1.39, C#C 1.20 (International Tables C,
#: chapter 9.5); shorter than these a bond is double or triple
_DOUBLE_BOND = {"C": 1.42, "N": 1.36, "O": 1.30}
_TRIPLE_BOND = 1.25
#: degrees: X-C-Y is 109 to 114 at sp3 and 117 to 125 at sp2 carbon
_PLANAR_ANGLE = 116.5
_LINEAR_ANGLE = 160.0
#: sum of the angles in degrees at an atom with three neighbours: 360 if planar, 328 if tetrahedral
_PLANAR_SUM = 345.0
#: C-N in Angstrom of a planar NH2 group: 1.33 in amides, 1.47 in amines
_AMIDE = (1.29, 1.40)
#: Angstrom: longer bonds of carbon to C, N and O are contacts
_LONGEST_BOND = 1.75
#: Angstrom: atoms closer than this are no neighbours but alternatives
_SHORTEST_BOND = 0.7
#: Angstrom: hydrogen atoms of one group are 1.5 or more apart
_SMALLEST_HH = 1.0


@dataclass(frozen=True)
class Generated:
    """A structure with hydrogen atoms added at its end, and sentences about doubtful atoms."""

    structure: xray.structure
    disorder: Disorder
    added: list[int]
    notes: list[str]


def generate(structure: xray.structure, disorder: Disorder) -> Generated:
    """Add the hydrogen atoms that are missing, with occupancies and disorder of their parents."""
    table = bonds_of(structure, disorder)
    result = structure.deep_copy_scatterers()
    added: list[int] = []
    parents: list[int] = []
    doubtful, failed = [], []
    for i, scatterer in enumerate(structure.scatterers()):
        element = scatterer.element_symbol()
        neighbours = [structure.scatterers()[bond.atom].element_symbol() for bond in table[i]]
        if element not in ("C", "N", "O") or "H" in neighbours:
            continue
        if element == "C" and _is_next_to_alternatives(table[i], disorder):
            failed.append(scatterer.label)
            continue
        kind = missing_on_carbon(structure, i, table) if element == "C" else None
        if element == "N" and _is_amide(structure, i, table):
            kind = geometries.terminal_planar_xh2_sites
        elif element != "C" and not _is_saturated(element, table[i], neighbours):
            doubtful.append(scatterer.label)
        if kind is None:
            continue
        members = add_hydrogens(result, i, kind, disorder.extended(parents))
        if not members:
            failed.append(scatterer.label)
        added += members
        parents += [i] * len(members)
    notes = []
    if doubtful:
        notes.append(
            f"whether {', '.join(doubtful)} should bear hydrogen atoms cannot be told from the geometry: "
            "put them into the model if so"
        )
    if failed:
        notes.append(
            f"no hydrogen atoms could be placed on {', '.join(failed)}: put them into the model"
        )
    return Generated(result, disorder.extended(parents), added, notes)


def _is_next_to_alternatives(bonds: list[Bond], disorder: Disorder) -> bool:
    """Whether neighbours are alternatives of each other, or stand on one site."""
    numbers = {disorder.conformers[bond.atom] for bond in bonds} if disorder.conformers else {0}
    return len(numbers - {0}) > 1 or any(bond.length < _SHORTEST_BOND for bond in bonds)


def _is_saturated(element: str, bonds: list[Bond], neighbours: list[str]) -> bool:
    """Whether an N or O atom needs no hydrogen: three or two neighbours, or C=O and C#N."""
    if element == "N":
        return len(bonds) > 2 or (len(bonds) == 1 and bonds[0].length < _TRIPLE_BOND)
    return len(bonds) > 1 or (
        len(bonds) == 1 and neighbours[0] == "C" and bonds[0].length < _DOUBLE_BOND["O"]
    )


def missing_on_carbon(structure: xray.structure, i: int, table: list[list[Bond]]) -> Any:
    """The geometry (smtbx class) of the hydrogen atoms that a carbon atom without any needs, or None."""
    scatterers, cell = structure.scatterers(), structure.unit_cell()
    bonds = table[i]
    elements = [scatterers[bond.atom].element_symbol() for bond in bonds]
    if any(
        bond.length > _LONGEST_BOND and e in ("C", "N", "O") for bond, e in zip(bonds, elements)
    ):
        return None
    centre = np.array(cell.orthogonalize(scatterers[i].site))
    arms = [np.array(cell.orthogonalize(bond.site)) - centre for bond in bonds]
    short = [bond.length < _DOUBLE_BOND.get(e, 0.0) for bond, e in zip(bonds, elements)]
    angles = [_angle(a, b) for k, a in enumerate(arms) for b in arms[:k]]
    if len(bonds) == 3:
        return geometries.tertiary_xh_site if sum(angles) < _PLANAR_SUM else None
    if len(bonds) == 2:
        if angles[0] > _LINEAR_ANGLE:
            return None
        planar = angles[0] > _PLANAR_ANGLE or any(short)
        return geometries.secondary_planar_xh_site if planar else geometries.secondary_xh2_sites
    if len(bonds) == 1:
        if bonds[0].length < _TRIPLE_BOND:
            return geometries.terminal_linear_ch_site if elements[0] == "C" else None
        if short[0]:
            return geometries.terminal_planar_xh2_sites
        return geometries.staggered_terminal_tetrahedral_xh3_sites
    return None


def _is_amide(structure: xray.structure, i: int, table: list[list[Bond]]) -> bool:
    """Whether a nitrogen atom is bound to nothing but a planar carbon atom, as in R-CO-NH2."""
    if len(table[i]) != 1:
        return False
    (bond,) = table[i]
    is_carbon = structure.scatterers()[bond.atom].element_symbol() == "C"
    return is_carbon and _AMIDE[0] < bond.length < _AMIDE[1] and len(table[bond.atom]) == 3


def _angle(a: Any, b: Any) -> float:
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def add_hydrogens(
    structure: xray.structure, parent: int, kind: Any, disorder: Disorder
) -> list[int]:
    """Append the hydrogen atoms of a geometry to a structure, at neutron distances.

    Returns:
        Their indices; none where the surroundings do not suit the geometry.
    """
    atom = structure.scatterers()[parent]
    first = structure.scatterers().size()
    n = kind.n_constrained_sites
    trial = structure.deep_copy_scatterers()
    taken = {scatterer.label for scatterer in structure.scatterers()}
    for k in range(n):
        # somewhere near, in the plane of no bond: the constraint puts them right
        offset = structure.unit_cell().fractionalize((0.6 - 0.5 * k, 0.5 + 0.3 * k, 0.4 * (k - 1)))
        trial.add_scatterer(
            xray.scatterer(
                _label(atom.label, k if n > 1 else None, taken),
                tuple(x + d for x, d in zip(atom.site, offset)),
                1.2 * atom.u_iso_or_equiv(structure.unit_cell()),
                atom.occupancy,
                scattering_type="H",
            )
        )
    members = list(range(first, first + n))
    complete = disorder.extended([parent] * n)
    length = neutron_distance(atom.element_symbol(), kind.__name__)
    kinds = [kind]
    if kind is geometries.staggered_terminal_tetrahedral_xh3_sites:  # or turned at random
        kinds.append(geometries.terminal_tetrahedral_xh3_sites)
    if not any(
        place(
            trial,
            k(pivot=parent, constrained_site_indices=tuple(members), bond_length=length),
            complete,
        )
        for k in kinds
    ):
        return []
    placed = list(trial.scatterers())[first:]
    if not _apart(structure, placed, by_symmetry=disorder.part(parent) < 0):
        return []
    for scatterer in placed:
        structure.add_scatterer(scatterer)
    return members


def _apart(structure: xray.structure, hydrogens: list[Any], by_symmetry: bool) -> bool:
    """Whether hydrogen atoms are apart from each other and from all images, as they are not where
    a group does not have the symmetry of its special position.

    Args:
        by_symmetry: images are alternatives, which may be anywhere.
    """
    alone = structure.select(structure.all_selection(), True)
    alone.erase_scatterers()
    for scatterer in hydrogens:
        alone.add_scatterer(scatterer)
    near = alone.pair_asu_table(distance_cutoff=_SMALLEST_HH).extract_pair_sym_table()
    return all(by_symmetry and not pair.rt_mx_ji.is_unit_mx() for pair in near.iterator())


def _label(parent: str, number: int | None, taken: set[str]) -> str:
    """H and what follows the element in the parent's label, as SHELXL does: C12 gives H12A, H12B."""
    stem = "H" + parent.lstrip("CNO")
    label = stem if number is None else f"{stem}{'ABC'[number]}"
    while label in taken:
        label += "'"
    taken.add(label)
    return label
