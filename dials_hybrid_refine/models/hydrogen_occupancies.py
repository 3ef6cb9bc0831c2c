"""Occupancies of riding hydrogen atoms: they are there where the atom is that they are bound to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from cctbx import xray
from smtbx.refinement.constraints.adp import u_iso_proportional_to_pivot_u_eq
from smtbx.refinement.constraints.occupancy import (
    occupancy_affine_constraint,
    occupancy_pair_affine_constraint,
)

#: occupancies that differ by less are the same: rounding in files
_SAME = 1e-4


def follow_parents(
    structure: xray.structure, constraints: Sequence[Any], generated: Collection[int] = ()
) -> list[Any]:
    """Constraints that give hydrogen atoms the occupancy of the atom whose U they follow.

    What a file says of an occupancy (a constraint, or that one of the two is refined and the other is
    not) is left as it is; of occupancies that differ nothing is known.

    Args:
        constraints: of ``smtbx.refinement.constraints``.
        generated: hydrogen atoms (indices) of which the file knows nothing.
    """
    scatterers = structure.scatterers()
    told = {c.constrained_parameters[0][0]: c for c in constraints if _is_of_occupancy(c)}
    found: list[Any] = []
    for constraint in constraints:
        if not isinstance(constraint, u_iso_proportional_to_pivot_u_eq):
            continue
        hydrogen, parent = constraint.u_iso_scatterer_idx, constraint.u_eq_scatterer_idx
        atoms = scatterers[hydrogen], scatterers[parent]
        refined = any(atom.flags.grad_occupancy() for atom in atoms)
        if (
            scatterers[hydrogen].element_symbol() not in ("H", "D")
            or hydrogen in told
            or abs(atoms[0].occupancy - atoms[1].occupancy) > _SAME
            or (refined and hydrogen not in generated)
        ):
            continue
        found.append(_like(told[parent], hydrogen) if parent in told else _same(parent, hydrogen))
    return found


def _is_of_occupancy(constraint: Any) -> bool:
    return isinstance(constraint, (occupancy_pair_affine_constraint, occupancy_affine_constraint))


def _same(parent: int, hydrogen: int) -> Any:
    return occupancy_pair_affine_constraint((parent, hydrogen), ((1.0, -1.0), 0.0))


def _like(constraint: Any, hydrogen: int) -> Any:
    """The constraint of another atom's occupancy, for a hydrogen atom."""
    if isinstance(constraint, occupancy_pair_affine_constraint):
        first, _ = constraint.scatterer_indices
        return occupancy_pair_affine_constraint((first, hydrogen), constraint.linear_form)
    others = list(constraint.scatterer_indices[1:])
    return occupancy_affine_constraint([hydrogen, *others], list(constraint.a), constraint.b)
