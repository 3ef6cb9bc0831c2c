"""AFIX, EADP, EXYZ, SUMP and free variables of a SHELX file to constraints of smtbx.

iotbx reads some of them, but gives no neutron distances, no rigid groups and wrong occupancies where
more than two atoms depend on one free variable; it passes over EADP, EXYZ and SUMP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cctbx import xray
from iotbx.shelx import parsers
from smtbx.refinement.constraints.adp import shared_u, u_iso_proportional_to_pivot_u_eq
from smtbx.refinement.constraints.geometrical import hydrogens as geometries
from smtbx.refinement.constraints.occupancy import (
    occupancy_affine_constraint,
    occupancy_pair_affine_constraint,
)
from smtbx.refinement.constraints.rigid import (
    idealised_fragment,
    rigid_pivoted_rotatable_group,
    rigid_riding_expandable_group,
    rigid_rotatable_expandable_group,
)
from smtbx.refinement.constraints.site import shared_site

from dials_hybrid_refine.io.shelx_atoms import (
    AfixGroup,
    AtomLine,
    ModelInstruction,
    atoms_named,
    cartesian,
)
from dials_hybrid_refine.io.structure_atoms import ModelError, some
from dials_hybrid_refine.models.connectivity import Disorder, bonds_of

#: hydrogen geometries AFIX m, and how many atoms they have
HYDROGEN_GEOMETRIES = {
    1: (geometries.tertiary_xh_site, 1),
    2: (geometries.secondary_xh2_sites, 2),
    3: (geometries.staggered_terminal_tetrahedral_xh3_sites, 3),
    4: (geometries.secondary_planar_xh_site, 1),
    8: (geometries.staggered_terminal_tetrahedral_xh_site, 1),
    9: (geometries.terminal_planar_xh2_sites, 2),
    13: (geometries.terminal_tetrahedral_xh3_sites, 3),
    14: (geometries.terminal_tetrahedral_xh_site, 1),
    15: (geometries.polyhedral_bh_site, 1),
    16: (geometries.terminal_linear_ch_site, 1),
}
#: idealised groups AFIX m, number of atoms, and those that SHELXL fits them to (of AFIX 7n three)
_FRAGMENTS = {
    5: ("Cp", 5, (0, 1, 2, 3, 4)),
    6: ("Ph", 6, (0, 1, 2, 3, 4, 5)),
    7: ("Ph", 6, (0, 2, 4)),
    10: ("Cp*", 10, tuple(range(10))),
    11: ("Naphthalene", 10, tuple(range(10))),
}
_ROTATING, _STRETCHING = (7, 8), (4, 8)

Behaviours = Sequence[Sequence[Any]]


def make_constraints(
    structure: xray.structure,
    atoms: Sequence[AtomLine],
    groups: Sequence[AfixGroup],
    instructions: Sequence[ModelInstruction],
    behaviours: Behaviours,
    disorder: Disorder,
) -> tuple[list[Any], set[str], list[str]]:
    """Constraints in the order that smtbx needs, names of what is not supported, and sentences.

    Atoms of idealised groups are moved into place, gradient flags set for AFIX 1 and 2.

    Raises:
        ModelError: for atoms that are not there, or groups that are not complete.
    """
    unsupported: set[str] = set()
    shared: list[Any] = []
    sums: list[ModelInstruction] = []
    for instruction in instructions:
        if instruction.name == "SUMP":
            sums.append(instruction)
        elif instruction.name in ("EADP", "EXYZ"):
            members = atoms_named(instruction, instruction.arguments, atoms, structure)
            if len(members) < 2 or not _alike(structure, instruction, members):
                unsupported.add(f"{instruction.name} {' '.join(instruction.arguments)}")
            else:
                kind = shared_u if instruction.name == "EADP" else shared_site
                shared.append(kind(members))
    tied, notes = _tied_displacements(structure, behaviours)
    occupancies, failed = _occupancies(structure, behaviours, sums)
    rigid, hydrogens, more = _afix(structure, groups, disorder)
    proportional = [
        u_iso_proportional_to_pivot_u_eq(i, parent, factor)
        for i, (kind, factor, parent) in (
            (i, b[4]) for i, b in enumerate(behaviours) if isinstance(b[4], tuple)
        )
        if kind == parsers.constant_times_u_eq
    ]
    return (
        [*shared, *tied, *occupancies, *rigid, *hydrogens, *proportional],
        unsupported | failed | more,
        notes,
    )


def _alike(structure: xray.structure, instruction: ModelInstruction, members: list[int]) -> bool:
    kinds = {structure.scatterers()[i].flags.use_u_aniso() for i in members}
    return instruction.name == "EXYZ" or len(kinds) == 1


def _tied_displacements(
    structure: xray.structure, behaviours: Behaviours
) -> tuple[list[Any], list[str]]:
    """Isotropic U that are the same multiple of a free variable; a sentence on other uses of those."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    others = []
    for i, behaviour in enumerate(behaviours):
        site, u = behaviour[:3], behaviour[4:]
        by_variable = [b for b in (*site, *u) if _is_variable(b)]
        if len(u) == 1 and by_variable == [u[0]]:
            groups.setdefault(u[0], []).append(i)
        elif by_variable:
            others.append(structure.scatterers()[i].label)
    variables = [key[2] for key in groups]
    for key in [key for key in groups if variables.count(key[2]) > 1]:
        others += [structure.scatterers()[i].label for i in groups[key]]
    constraints = [shared_u(members) for members in groups.values() if len(members) > 1]
    if not others:
        return constraints, []
    return constraints, [
        f"free variables in coordinates or U of {some(others)} are not kept: these are refined freely"
    ]


def _is_variable(behaviour: Any) -> bool:
    return isinstance(behaviour, tuple) and behaviour[0] in (
        parsers.constant_times_independent_scalar_parameter,
        parsers.constant_times_independent_scalar_parameter_minus_1,
    )


def _occupancies(
    structure: xray.structure, behaviours: Behaviours, sums: Sequence[ModelInstruction]
) -> tuple[list[Any], set[str]]:
    """Occupancies that depend on free variables v: a (v - b), b being 0 or 1; and sums of variables."""
    variables: dict[int, list[tuple[int, float, float]]] = {}
    for i, behaviour in enumerate(behaviours):
        if _is_variable(behaviour[3]):
            kind, coefficient, number = behaviour[3]
            minus_one = kind == parsers.constant_times_independent_scalar_parameter_minus_1
            weight = structure.scatterers()[i].weight_without_occupancy()
            variables.setdefault(number + 1, []).append(
                (i, coefficient / weight, 1.0 if minus_one else 0.0)
            )
    constraints: list[Any] = []
    failed = set()
    for instruction in sums:
        values = [float(v) for v in instruction.arguments]
        terms = list(zip(values[2::2], (int(v) for v in values[3::2])))
        if len(terms) < 2 or any(number not in variables for _, number in terms):
            failed.add(f"SUMP {' '.join(instruction.arguments)}")
            continue
        # sum c v = s with v = occ / a + b, of the first atom of each variable
        firsts = [(c, *variables[number][0]) for c, number in terms]
        constraints.append(
            occupancy_affine_constraint(
                [i for _, i, _, _ in firsts],
                [c / a for c, _, a, _ in firsts],
                values[0] - sum(c * b for c, _, _, b in firsts),
            )
        )
    # all of a variable's atoms in terms of its first: smtbx does not follow chains
    for (first, a_first, b_first), *rest in variables.values():
        constraints += [
            occupancy_pair_affine_constraint((first, i), ((1 / a_first, -1 / a), b - b_first))
            for i, a, b in rest
        ]
    return constraints, failed


def _afix(
    structure: xray.structure, groups: Sequence[AfixGroup], disorder: Disorder
) -> tuple[list[Any], list[Any], set[str]]:
    """Rigid groups, riding hydrogen atoms, and the names of what is not supported."""
    rigid: list[Any] = []
    hydrogens: list[Any] = []
    unsupported: set[str] = set()
    riders = {
        i for g in groups if g.m in HYDROGEN_GEOMETRIES or g.n in (3, 4, 7, 8) for i in g.members
    }
    open_group: AfixGroup | None = None
    complete: list[AfixGroup] = []
    for group in groups:
        if not group.members:
            continue
        pivot = max((i for i in range(group.members[0]) if i not in riders), default=-1)
        if group.m in HYDROGEN_GEOMETRIES:
            hydrogens.append(_hydrogens(structure, group, pivot))
        elif group.n == 5 and open_group is not None:
            open_group.members += group.members
        elif group.n in (6, 9) and (group.m == 0 or group.m in _FRAGMENTS):
            open_group = AfixGroup(group.m, group.n, group.distance, members=list(group.members))
            complete.append(open_group)
        elif group.m == 0 and group.n in (1, 2):
            _fix(structure, group)
        elif group.m == 0 and group.n in (3, 4) and pivot >= 0:
            hydrogens.append(
                rigid_riding_expandable_group(pivot, tuple(group.members), group.n == 4)
            )
        elif group.m == 0 and group.n in _ROTATING and pivot >= 0:
            hydrogens += _turning(structure, group, pivot, disorder, unsupported)
        else:
            unsupported.add(group.name)
    for group in complete:
        _idealise(structure, group)
        first, *others = group.members
        rigid.append(rigid_rotatable_expandable_group(first, tuple(others), group.n == 9, True))
    return rigid, hydrogens, unsupported


def _hydrogens(structure: xray.structure, group: AfixGroup, pivot: int) -> Any:
    kind, count = HYDROGEN_GEOMETRIES[group.m]
    label = structure.scatterers()[group.members[0]].label
    if len(group.members) != count or pivot < 0:
        raise ModelError(
            f"wrong number of atoms after {group.name} before {label}: it needs one to ride on and "
            f"{count} to follow, then AFIX 0"
        )
    if group.n in _ROTATING and kind.staggered:  # smtbx turns those with a free start only
        kind = HYDROGEN_GEOMETRIES[13 if group.m == 3 else 14][0]
    return kind(
        pivot=pivot,
        constrained_site_indices=tuple(group.members),
        bond_length=group.distance,
        rotating=group.n in _ROTATING,
        stretching=group.n in _STRETCHING,
    )


def _fix(structure: xray.structure, group: AfixGroup) -> None:
    """AFIX 1: coordinates, occupancy and U fixed; AFIX 2: only the latter two."""
    for i in group.members:
        flags = structure.scatterers()[i].flags
        flags.set_grad_u_iso(False)
        flags.set_grad_u_aniso(False)
        flags.set_grad_occupancy(False)
        if group.n == 1:
            flags.set_grad_site(False)


def _turning(
    structure: xray.structure,
    group: AfixGroup,
    pivot: int,
    disorder: Disorder,
    unsupported: set[str],
) -> list[Any]:
    """AFIX 7 and 8: a group that turns about the bond of its pivot atom."""
    bonds = [b for b in bonds_of(structure, disorder)[pivot] if b.atom not in group.members]
    if len(bonds) != 1 or not bonds[0].operation.is_unit_mx():
        unsupported.add(f"{group.name} on {structure.scatterers()[pivot].label}")
        return []
    return [
        rigid_pivoted_rotatable_group(
            pivot, bonds[0].atom, tuple(group.members), group.n == 8, True
        )
    ]


def _idealise(structure: xray.structure, group: AfixGroup) -> None:
    """Fit a regular group to its atoms and move these onto it.

    Raises:
        ModelError: if atoms are missing.
    """
    if group.m == 0:
        if len(group.members) < 2:
            raise ModelError(f"{group.name} needs two atoms or more: correct it")
        return
    name, count, fitted = _FRAGMENTS[group.m]
    if len(group.members) != count:
        label = structure.scatterers()[group.members[0]].label
        raise ModelError(
            f"{group.name} at {label} needs {count} atoms, but {len(group.members)} were found: correct it"
        )
    maker = idealised_fragment()
    lengths = None
    if group.distance is not None:
        defaults = maker.default_lengths[name]
        lengths = tuple(group.distance * d / defaults[0] for d in defaults)
    fragment = maker.generate_fragment(name, lengths)
    reference = [tuple(cartesian(structure, group.members[k])) for k in fitted]
    for i, site in zip(group.members, np.array(maker.fit(fragment, reference, list(fitted)))):
        structure.scatterers()[i].site = structure.unit_cell().fractionalize(tuple(site))
