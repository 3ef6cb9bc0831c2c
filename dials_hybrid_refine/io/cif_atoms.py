"""Atoms in a CIF: the loops atom_site, atom_site_aniso and atom_type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import iotbx.cif.model
from cctbx import adptbx, xray
from smtbx.refinement.constraints.adp import u_iso_proportional_to_pivot_u_eq
from smtbx.refinement.constraints.geometrical.hydrogens import hydrogens
from smtbx.refinement.constraints.rigid import (
    rigid_pivoted_rotatable_group,
    rigid_riding_expandable_group,
    rigid_rotatable_expandable_group,
)

from dials_hybrid_refine.io.cif_text import measured
from dials_hybrid_refine.io.standard_uncertainties import (
    AtomUncertainty,
    standard_uncertainties,
)
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.refined_flags import in_effect
from dials_hybrid_refine.refinement.restraint_summary import RestraintRow
from dials_hybrid_refine.refinement.result import Result

_SCATTERING_SOURCE = "Lobato & Van Dyck (2014), Acta Cryst. A70, 636-649"
_RIDING = (rigid_riding_expandable_group, rigid_pivoted_rotatable_group)
_RESTRAINTS_OF_U = (
    "similar_displacements",
    "rigid_bond",
    "enhanced_rigid_bond",
    "isotropic_displacements",
)
_SITE_COLUMNS = (
    "label type_symbol fract_x fract_y fract_z U_iso_or_equiv adp_type occupancy "
    "site_symmetry_order calc_flag refinement_flags_posn refinement_flags_adp "
    "refinement_flags_occupancy disorder_assembly disorder_group"
).split()
_ANISO_COLUMNS = "label U_11 U_22 U_33 U_12 U_13 U_23".split()


def atom_loops(
    result: Result,
    constraints: Sequence[Any] = (),
    disorder: Disorder = Disorder(),  # noqa: B008  immutable
) -> Iterator[iotbx.cif.model.loop]:
    """The loops of a refined structure.

    Args:
        constraints: of ``smtbx.refinement.constraints``, for atoms that ride.
        disorder: which atoms are alternatives.
    """
    structure = result.structure
    yield _types(structure)
    constraints = in_effect(structure, constraints)
    flags = _Flags(result, constraints)
    riding = riding_atoms(constraints)
    follows = {
        c.u_iso_scatterer_idx
        for c in constraints
        if isinstance(c, u_iso_proportional_to_pivot_u_eq)
    }
    uncertainty = [
        # those of what follows from other atoms are no measure of its own
        replace(
            su,
            site=None if i in riding else su.site,
            u_equivalent=None if i in follows else su.u_equivalent,
        )
        for i, su in enumerate(standard_uncertainties(result))
    ]
    sites = _loop("_atom_site_", _SITE_COLUMNS)
    for i, su in enumerate(uncertainty):
        sites.add_row([*_site(structure, i, su), *flags.of(i), ".", _disorder_group(disorder, i)])
    yield sites
    anisotropic = [
        _anisotropic(structure, i, su)
        for i, su in enumerate(uncertainty)
        if structure.scatterers()[i].flags.use_u_aniso()
    ]
    if anisotropic:
        aniso = _loop("_atom_site_aniso_", _ANISO_COLUMNS)
        for row in anisotropic:
            aniso.add_row(row)
        yield aniso


def _disorder_group(disorder: Disorder, i: int) -> str:
    """The number of PART, as SHELXL writes it: below zero for alternatives by symmetry."""
    return str(number) if (number := disorder.part(i)) else "."


def riding_atoms(constraints: Sequence[Any]) -> set[int]:
    """Indices of atoms whose sites are calculated from those of others."""
    found: set[int] = set()
    for constraint in constraints:
        if isinstance(constraint, hydrogens):
            found.update(constraint.constrained_site_indices)
        elif isinstance(constraint, _RIDING):
            found.update(constraint.indices)
    return found


def _loop(prefix: str, columns: Sequence[str]) -> iotbx.cif.model.loop:
    return iotbx.cif.model.loop(header=[prefix + name for name in columns])


def _types(structure: xray.structure) -> iotbx.cif.model.loop:
    loop = _loop("_atom_type_", ["symbol", "description", "scat_source"])
    for element in sorted({s.element_symbol() for s in structure.scatterers()}):
        loop.add_row([element, element, _SCATTERING_SOURCE])
    return loop


def _site(structure: xray.structure, i: int, su: AtomUncertainty) -> list[str]:
    scatterer = structure.scatterers()[i]
    site_su = [None] * 3 if su.site is None else su.site
    u = scatterer.u_iso_or_equiv(structure.unit_cell())
    return [
        scatterer.label,
        scatterer.element_symbol(),
        *(measured(x, x_su) for x, x_su in zip(scatterer.site, site_su)),
        measured(u, su.u_equivalent),
        "Uani" if scatterer.flags.use_u_aniso() else "Uiso",
        measured(scatterer.occupancy, su.occupancy, _occupancy_digits(scatterer.occupancy)),
    ]


def _occupancy_digits(occupancy: float) -> int:
    return 0 if occupancy == 1 else 6


class _Flags:
    """What is told of the refinement of each atom, by codes of the dictionary."""

    def __init__(self, result: Result, constraints: Sequence[Any]) -> None:
        self._structure = result.structure
        self._riding = riding_atoms(constraints)
        # as SHELXL does, R alone is for riding atoms that do not turn
        self._rigid: set[int] = set()
        for constraint in constraints:
            if isinstance(constraint, rigid_rotatable_expandable_group):
                self._rigid.update((constraint.pivot, *constraint.indices))
            elif isinstance(constraint, rigid_pivoted_rotatable_group):
                self._rigid.update(constraint.indices)
            elif getattr(constraint, "rotating", False):
                self._rigid.update(constraint.constrained_site_indices)
        rows = result.restraints.rows if result.restraints else ()
        self._distances = _labels(rows, ("distance", "equal_distance", "angle"))
        self._displacements = _labels(rows, _RESTRAINTS_OF_U)

    def of(self, i: int) -> list[str]:
        """Order of the site's symmetry, calc_flag and the three refinement flags."""
        structure = self._structure
        scatterer = structure.scatterers()[i]
        symmetry = structure.site_symmetry_table().get(i)
        is_special = not symmetry.is_point_group_1()
        bound = (
            scatterer.flags.use_u_aniso() and symmetry.adp_constraints().n_independent_params() < 6
        )
        partial = scatterer.occupancy != 1 and not scatterer.flags.grad_occupancy()
        order = structure.space_group().order_z() // scatterer.multiplicity()
        riding = i in self._riding
        position = {
            "D": scatterer.label in self._distances,
            "G": i in self._rigid,
            "R": riding,
            "S": is_special,
        }
        displacement = {"T": bound, "U": scatterer.label in self._displacements}
        return [
            str(order),
            "calc" if riding else "d",
            "".join(code for code, holds in position.items() if holds) or ".",
            "".join(code for code, holds in displacement.items() if holds) or ".",
            "P" if partial else ".",
        ]


def _labels(rows: Sequence[RestraintRow], kinds: Sequence[str]) -> set[str]:
    return {label for row in rows if row.kind in kinds for label in row.labels}


def _anisotropic(structure: xray.structure, i: int, su: AtomUncertainty) -> list[str]:
    scatterer = structure.scatterers()[i]
    values = adptbx.u_star_as_u_cif(structure.unit_cell(), scatterer.u_star)
    u_su = [None] * 6 if su.u is None else np.atleast_1d(su.u)
    return [scatterer.label, *(measured(u, s) for u, s in zip(values, u_su))]


def hydrogen_treatment(structure: xray.structure, constraints: Sequence[Any] = ()) -> str:
    """The code of _refine_ls_hydrogen_treatment."""
    riding = riding_atoms(in_effect(structure, constraints))
    kinds = set()
    for i, scatterer in enumerate(structure.scatterers()):
        if scatterer.element_symbol() not in ("H", "D"):
            continue
        flags = scatterer.flags
        u = flags.grad_u_iso() or flags.grad_u_aniso()
        if i in riding:
            kinds.add("constr")
        else:
            kinds.add({(True, True): "refall", (True, False): "refxyz", (False, True): "refU"}
                      .get((flags.grad_site(), u), "noref"))  # fmt: skip
    if not kinds:
        return "undef"
    return kinds.pop() if len(kinds) == 1 else "mixed"
