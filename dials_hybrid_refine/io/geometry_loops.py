"""Bonds, angles and torsion angles as loops of the core CIF dictionary."""

from __future__ import annotations

from collections.abc import Sequence

import iotbx.cif.model
from libtbx.utils import format_float_with_standard_uncertainty

from dials_hybrid_refine.refinement.geometry import GeometricValue, Geometry


def geometry_loops(geometry: Geometry) -> list[iotbx.cif.model.loop]:
    """The loops of bonds, angles and torsion angles; those without an entry are left out."""
    # the dictionary has items for the symmetry of these atoms only (from 1)
    loops = [
        _loop("_geom_bond", "_geom_bond_distance", (2,), 4, geometry.bonds),
        _loop("_geom_angle", "_geom_angle", (1, 3), 1, geometry.angles),
        _loop("_geom_torsion", "_geom_torsion", (1, 2, 3, 4), 1, geometry.torsions),
    ]
    return [loop for loop in loops if loop is not None]


def _loop(
    category: str,
    value: str,
    with_symmetry: tuple[int, ...],
    digits: int,
    entries: Sequence[GeometricValue],
) -> iotbx.cif.model.loop | None:
    """digits: of a value without s.u."""
    if not entries:
        return None
    numbers = range(1, len(entries[0].labels) + 1)
    loop = iotbx.cif.model.loop(
        header=[
            *(f"{category}_atom_site_label_{n}" for n in numbers),
            value,
            *(f"{category}_site_symmetry_{n}" for n in with_symmetry),
        ]
    )
    for entry in entries:
        codes = [entry.symmetry[n - 1] for n in with_symmetry]
        loop.add_row([*entry.labels, _with_su(entry, digits), *codes])
    return loop


def _with_su(entry: GeometricValue, digits: int) -> str:
    if entry.su is None:
        return f"{entry.value:.{digits}f}"
    return str(format_float_with_standard_uncertainty(entry.value, entry.su))
