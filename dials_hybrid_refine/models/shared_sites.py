"""Atoms that share a site: coordinates and displacement parameters in common, occupancies that add up."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from cctbx import adptbx, xray
from smtbx.refinement.constraints.adp import shared_u
from smtbx.refinement.constraints.occupancy import occupancy_affine_constraint
from smtbx.refinement.constraints.site import shared_site

#: atoms closer than this in Angstrom, images included, share a site: rounding of coordinates
_SAME_SITE = 0.02


def shared_sites(structure: xray.structure) -> list[list[int]]:
    """Groups of atoms on one site, and their coordinates made the same.

    An atom given at an image of another's site is moved to that site.
    """
    pairs = structure.pair_asu_table(distance_cutoff=_SAME_SITE).extract_pair_sym_table()
    leader = list(range(structure.scatterers().size()))
    for pair in pairs.iterator():
        first, second = sorted((leader[pair.i_seq], leader[pair.j_seq]))
        leader = [first if i == second else i for i in leader]
    groups = [
        [i for i, of in enumerate(leader) if of == first]
        for first in sorted({of for of in leader if leader.count(of) > 1})
    ]
    scatterers = structure.scatterers()
    for group in groups:
        for i in group[1:]:
            scatterers[i].site = scatterers[group[0]].site
            structure.re_apply_symmetry(i)
    return groups


def share(
    structure: xray.structure, groups: list[list[int]], told: Collection[int] = ()
) -> tuple[list[Any], list[str]]:
    """Constraints for atoms on common sites, and a sentence on each displacement that was changed.

    Displacement parameters that differ are replaced by their mean, weighted by occupancy and atomic
    number; if one atom of a site is anisotropic, all are. The sum of the occupancies stays as it is,
    but where the file says how they depend on each other.

    Args:
        told: indices of atoms of whose occupancies it does.
    """
    constraints: list[Any] = []
    notes = []
    for group in groups:
        labels = ", ".join(structure.scatterers()[i].label for i in group)
        if _unite_displacements(structure, group):
            notes.append(f"{labels} share a site: their displacement parameters were averaged")
        constraints += [shared_site(list(group)), shared_u(list(group))]
        if not set(group) & set(told):
            total = sum(structure.scatterers()[i].occupancy for i in group)
            # smtbx makes the first of the list dependent
            constraints.append(
                occupancy_affine_constraint(list(reversed(group)), [1.0] * len(group), total)
            )
    return constraints, notes


def _unite_displacements(structure: xray.structure, group: list[int]) -> bool:
    """Give all atoms of a group the same U; whether any changed."""
    cell = structure.unit_cell()
    atoms = [structure.scatterers()[i] for i in group]
    anisotropic = any(atom.flags.use_u_aniso() for atom in atoms)
    tensors = np.array(
        [
            atom.u_star if atom.flags.use_u_aniso() else adptbx.u_iso_as_u_star(cell, atom.u_iso)
            for atom in atoms
        ]
    )
    weights = [atom.occupancy * atom.electron_count() for atom in atoms]
    mean = np.average(tensors, axis=0, weights=weights)
    for atom in atoms:
        if anisotropic:
            atom.set_use_u_aniso_only()
            atom.u_star = tuple(mean)
        else:
            atom.u_iso = adptbx.u_star_as_u_iso(cell, tuple(mean))
    return bool(np.abs(tensors - mean).max() > 1e-3 * np.abs(mean).max())
