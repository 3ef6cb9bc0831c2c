"""Atoms in a CIF: the loops atom_site, atom_site_aniso and atom_type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import iotbx.cif.model
from cctbx import adptbx, xray

from dials_hybrid_refine.io.cif_text import measured
from dials_hybrid_refine.io.standard_uncertainties import (
    AtomUncertainty,
    standard_uncertainties,
)
from dials_hybrid_refine.refinement.result import Result

_SCATTERING_SOURCE = "Lobato & Van Dyck (2014), Acta Cryst. A70, 636-649"
_SITE_COLUMNS = (
    "label type_symbol fract_x fract_y fract_z U_iso_or_equiv adp_type occupancy "
    "site_symmetry_order calc_flag refinement_flags_posn refinement_flags_adp "
    "refinement_flags_occupancy disorder_assembly disorder_group"
).split()
_ANISO_COLUMNS = "label U_11 U_22 U_33 U_12 U_13 U_23".split()


def atom_loops(
    result: Result,
    constraints: Sequence[Any] = (),
    disorder: Mapping[str, tuple[str, str]] | None = None,
) -> Iterator[iotbx.cif.model.loop]:
    """The loops of a refined structure.

    Args:
        constraints: of ``smtbx.refinement.constraints``, for atoms that ride.
        disorder: assembly and group of disordered atoms, by label.
    """
    structure = result.structure
    yield _types(structure)
    uncertainty = standard_uncertainties(result)
    riding = riding_atoms(constraints)
    sites = _loop("_atom_site_", _SITE_COLUMNS)
    for i, su in enumerate(uncertainty):
        label = structure.scatterers()[i].label
        part = (disorder or {}).get(label, (".", "."))
        sites.add_row([*_site(structure, i, su), *_flags(structure, i, i in riding), *part])
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


def riding_atoms(constraints: Sequence[Any]) -> set[int]:
    """Indices of atoms whose sites are calculated from those of others."""
    return {i for c in constraints for i in getattr(c, "constrained_site_indices", ())}


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


def _flags(structure: xray.structure, i: int, is_riding: bool) -> list[str]:
    """Order of the site's symmetry, calc_flag and the three refinement flags."""
    scatterer = structure.scatterers()[i]
    symmetry = structure.site_symmetry_table().get(i)
    is_special = not symmetry.is_point_group_1()
    position = ("R" if is_riding else "") + ("S" if is_special else "")
    bound = scatterer.flags.use_u_aniso() and symmetry.adp_constraints().n_independent_params() < 6
    partial = scatterer.occupancy != 1 and not scatterer.flags.grad_occupancy()
    order = structure.space_group().order_z() // scatterer.multiplicity()
    return [
        str(order),
        "calc" if is_riding else "d",
        position or ".",
        "T" if bound else ".",
        "P" if partial else ".",
    ]


def _anisotropic(structure: xray.structure, i: int, su: AtomUncertainty) -> list[str]:
    scatterer = structure.scatterers()[i]
    values = adptbx.u_star_as_u_cif(structure.unit_cell(), scatterer.u_star)
    u_su = [None] * 6 if su.u is None else np.atleast_1d(su.u)
    return [scatterer.label, *(measured(u, s) for u, s in zip(values, u_su))]


def hydrogen_treatment(structure: xray.structure, constraints: Sequence[Any] = ()) -> str:
    """The code of _refine_ls_hydrogen_treatment."""
    riding = riding_atoms(constraints)
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
