"""Which parameters of which atoms are refined: the gradient flags of cctbx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cctbx import xray


@dataclass(frozen=True)
class RefinedParameters:
    """Which structural parameters are refined.

    ``occupancies``: of all atoms, of none, or (None) of those whose gradient flag is set, as SHELX files
    do. ``occupancies_of``: labels of atoms whose occupancy is refined too.
    """

    sites: bool = True
    displacements: bool = True
    occupancies: bool | None = None
    occupancies_of: tuple[str, ...] = ()


def set_refined(
    structure: xray.structure, refined: RefinedParameters, constraints: Sequence[Any] = ()
) -> None:
    """Set the gradient flags of all scatterers.

    Where some are set already, as from SHELX files, parameters whose flag is not set are fixed by
    the user and stay so, unless a constraint makes them depend on others.

    Raises:
        ValueError: for a label in ``occupancies_of`` that no atom has.
    """
    scatterers = structure.scatterers()
    told = any(
        s.flags.grad_site() or s.flags.grad_u_iso() or s.flags.grad_u_aniso() for s in scatterers
    )
    unknown = set(refined.occupancies_of) - {s.label for s in scatterers}
    if unknown:
        raise ValueError(
            f"there is no atom {', '.join(sorted(unknown))} in the structure: correct "
            "structure.occupancies_of"
        )
    flagged = {
        "site": {i for i, s in enumerate(scatterers) if not told or s.flags.grad_site()},
        "U": {
            i
            for i, s in enumerate(scatterers)
            if not told or s.flags.grad_u_iso() or s.flags.grad_u_aniso()
        },
        "occupancy": {
            i
            for i, s in enumerate(scatterers)
            if s.label in refined.occupancies_of
            or (s.flags.grad_occupancy() if refined.occupancies is None else refined.occupancies)
        },
    }
    for constraint in constraints:
        _flag_dependents(constraint, flagged)
    for i, scatterer in enumerate(scatterers):
        flags = scatterer.flags
        u = refined.displacements and i in flagged["U"]
        flags.set_grad_site(refined.sites and i in flagged["site"])
        flags.set_grad_u_iso(u and flags.use_u_iso())
        flags.set_grad_u_aniso(u and flags.use_u_aniso())
        flags.set_grad_occupancy(i in flagged["occupancy"])
        flags.set_grad_fp(False)
        flags.set_grad_fdp(False)


def _flag_dependents(constraint: Any, flagged: dict[str, set[int]]) -> None:
    """Flag what a constraint moves: all that it binds where coordinates or U are refined; for
    occupancies, which depend on each other, all or none."""
    bound = list(constraint.constrained_parameters)
    for i, kind in bound:
        if kind != "occupancy":
            flagged[kind].add(i)
    for name in ("scatterer_indices", "indices"):  # of smtbx's linear and shared constraints
        group = set(getattr(constraint, name, ()))
        for kind in {kind for _, kind in bound}:
            if kind == "occupancy" and group & flagged[kind]:
                flagged[kind] |= group


def in_effect(structure: xray.structure, constraints: Sequence[Any]) -> list[Any]:
    """The constraints that bind a parameter which is refined, by the gradient flags of a structure.

    smtbx would refine the position and the torsion of a group whose atoms are all fixed.
    """
    refined = {
        "site": lambda flags: flags.grad_site(),
        "U": lambda flags: flags.grad_u_iso() or flags.grad_u_aniso(),
        "occupancy": lambda flags: flags.grad_occupancy(),
    }
    scatterers = structure.scatterers()
    return [
        constraint
        for constraint in constraints
        if any(refined[kind](scatterers[i].flags) for i, kind in constraint.constrained_parameters)
    ]
