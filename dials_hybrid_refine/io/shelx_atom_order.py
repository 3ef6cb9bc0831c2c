"""Atoms in the order that SHELX wants, with AFIX, PART and displacement parameters of riding atoms.

Riding atoms follow the atom they ride on, rigid groups stand together (SHELX-97 manual, chapter 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cctbx import xray
from smtbx.refinement.constraints.adp import u_iso_proportional_to_pivot_u_eq
from smtbx.refinement.constraints.geometrical import hydrogens as geometries
from smtbx.refinement.constraints.rigid import (
    rigid_pivoted_rotatable_group,
    rigid_riding_expandable_group,
    rigid_rotatable_expandable_group,
)

from dials_hybrid_refine.io.shelx_constraints import HYDROGEN_GEOMETRIES
from dials_hybrid_refine.models.connectivity import Disorder

_M = {kind: m for m, (kind, _) in HYDROGEN_GEOMETRIES.items()}
#: n of AFIX mn by whether the group turns and whether its distance from the pivot is refined
_N = {(False, False): 3, (False, True): 4, (True, False): 7, (True, True): 8}


@dataclass(frozen=True)
class AtomPlace:
    """An atom (index) in its place.

    Attributes:
        before: lines to write before it.
        multiplier: U in units of U_eq of the last atom without a multiplier, or None.
    """

    index: int
    before: tuple[str, ...]
    multiplier: float | None


@dataclass(frozen=True)
class _Group:
    """Atoms under one AFIX; ``again`` takes it up after others stood in between."""

    pivot: int
    members: tuple[int, ...]
    first: str = "AFIX 0"
    again: str = "AFIX 0"


_NO_GROUP = _Group(-1, ())


def place_atoms(
    structure: xray.structure, constraints: Sequence[Any], disorder: Disorder
) -> tuple[list[AtomPlace], list[str]]:
    """All atoms in order, and sentences on what cannot be said. The last line is still to be written:
    ``AFIX 0`` and ``PART 0``."""
    scatterers = structure.scatterers()
    sequence = list(_Sequence(structure, constraints).atoms())
    factors = {
        c.u_iso_scatterer_idx: (c.u_eq_scatterer_idx, float(c.multiplier))
        for c in constraints
        if isinstance(c, u_iso_proportional_to_pivot_u_eq)
    }
    places = []
    notes = []
    part, group, opened = 0, _NO_GROUP, {_NO_GROUP}
    with_own_u = None
    for i, own in sequence:
        before = []
        if (number := disorder.part(i)) != part:
            before.append(f"PART {number}")
            part = number
        if own is not group:
            before.append(own.again if own in opened else own.first)
            group = own
            opened.add(own)
        parent, multiplier = factors.get(i, (None, None))
        if multiplier is None or parent != with_own_u:
            if multiplier is not None:
                label, of = scatterers[i].label, scatterers[parent].label
                notes.append(f"U of {label} was {multiplier:g} times that of {of}")
            multiplier, with_own_u = None, i
        places.append(AtomPlace(i, tuple(before), multiplier))
    return places, notes


class _Sequence:
    """Finds the order of atoms: those that ride follow their pivot."""

    def __init__(self, structure: xray.structure, constraints: Sequence[Any]) -> None:
        self._n = structure.scatterers().size()
        self._rigid: dict[int, _Group] = {}
        self._riding: dict[int, list[_Group]] = {}
        dependents: set[int] = set()
        for constraint in constraints:
            group = _group(structure, constraint)
            if group is None:
                continue
            if isinstance(constraint, rigid_rotatable_expandable_group):
                self._rigid[group.pivot] = group
                dependents |= set(group.members[1:])
            else:
                self._riding.setdefault(group.pivot, []).append(group)
                dependents |= set(group.members)
        for constraint in constraints:  # atoms of which only U depends on another
            if isinstance(constraint, u_iso_proportional_to_pivot_u_eq):
                i, pivot = constraint.u_iso_scatterer_idx, constraint.u_eq_scatterer_idx
                if i not in dependents and i not in self._rigid:
                    self._riding.setdefault(pivot, []).append(_Group(pivot, (i,)))
                    dependents.add(i)
        self._dependents = dependents
        self._done: set[int] = set()

    def atoms(self) -> Iterator[tuple[int, _Group]]:
        """Each atom with the group it belongs to."""
        for i in range(self._n):
            if i not in self._dependents:
                yield from self._with_followers(i, _NO_GROUP)
        for i in range(self._n):  # should atoms depend on each other in a circle
            yield from self._once(i, _NO_GROUP)

    def _once(self, i: int, group: _Group) -> Iterator[tuple[int, _Group]]:
        if i not in self._done:
            self._done.add(i)
            yield i, group

    def _with_followers(self, i: int, group: _Group) -> Iterator[tuple[int, _Group]]:
        if i in self._rigid and group is not self._rigid[i]:
            for member in self._rigid[i].members:
                yield from self._with_followers(member, self._rigid[i])
            return
        yield from self._once(i, group)
        for riding in self._riding.get(i, ()):
            own = riding if riding.first != "AFIX 0" else _NO_GROUP
            for member in riding.members:
                yield from self._once(member, own)
            for member in riding.members:
                if member in self._riding:
                    yield from self._with_followers(member, own)


def _group(structure: xray.structure, constraint: Any) -> _Group | None:
    """The AFIX group of a constraint; None for others."""
    scatterers = structure.scatterers()
    if isinstance(constraint, geometries.hydrogens):
        members = tuple(constraint.constrained_site_indices)
        m, pivot = _M[type(constraint)], constraint.pivot
        n = _N[bool(constraint.rotating), bool(constraint.stretching)]
        length = structure.unit_cell().distance(scatterers[pivot].site, scatterers[members[0]].site)
        name = f"AFIX {10 * m + n} {length:.6g}"
        group = _Group(pivot, members, name, name)
    elif isinstance(constraint, (rigid_riding_expandable_group, rigid_pivoted_rotatable_group)):
        n = _N[isinstance(constraint, rigid_pivoted_rotatable_group), bool(constraint.sizeable)]
        group = _Group(constraint.pivot, tuple(constraint.indices), f"AFIX {n}", f"AFIX {n}")
    elif isinstance(constraint, rigid_rotatable_expandable_group):
        members = (constraint.pivot, *constraint.indices)
        name = "AFIX 9" if constraint.sizeable else "AFIX 6"
        group = _Group(constraint.pivot, members, name, "AFIX 5")
    else:
        return None
    return group
