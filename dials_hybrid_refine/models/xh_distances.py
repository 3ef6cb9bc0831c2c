"""Distances of hydrogen nuclei to the atoms they are bound to.

Electrons are scattered by the potential, whose peak is at the nucleus: X-H distances are those of neutron
diffraction, 0.1 to 0.15 Angstrom longer than what X-ray refinements assume. The values are means of
neutron structures from Allen & Bruno (2010), Acta Cryst. B66, 380-386, by environment; that of the
ethynyl group from Allen, Watson, Brammer, Orpen & Taylor, International Tables C (2006), chapter 9.5.
"""

from __future__ import annotations

from typing import Any

#: Angstrom, by element and by the class of smtbx's constraint without "_site(s)" and "staggered_"
_BY_ENVIRONMENT = {
    ("C", "tertiary_xh"): 1.099,
    ("C", "secondary_xh2"): 1.092,
    ("C", "terminal_tetrahedral_xh3"): 1.077,
    ("C", "secondary_planar_xh"): 1.083,
    ("C", "terminal_planar_xh2"): 1.082,
    ("C", "terminal_linear_ch"): 1.055,
    ("N", "terminal_tetrahedral_xh3"): 1.032,
    ("N", "terminal_planar_xh2"): 1.013,
    ("N", "secondary_planar_xh"): 1.027,
    ("O", "terminal_tetrahedral_xh"): 0.980,
}
#: Angstrom: the defaults proposed there for C, N and O in any environment; B and S: means
_BY_ELEMENT = {"C": 1.089, "N": 1.015, "O": 0.993, "B": 1.18, "S": 1.338}


def neutron_distance(element: str, geometry: str = "") -> float | None:
    """X-H distance in Angstrom, None for elements without one.

    Args:
        element: of the atom that the hydrogen is bound to.
        geometry: name of the class of ``smtbx.refinement.constraints.geometrical.hydrogens``.
    """
    key = geometry.removeprefix("staggered_").removesuffix("_sites").removesuffix("_site")
    return _BY_ENVIRONMENT.get((element, key), _BY_ELEMENT.get(element))


def set_distances(structure: Any, constraints: list[Any], kind: str) -> None:
    """Give riding hydrogens the distances of a kind; those that are stated or refined stay.

    Args:
        structure: the xray.structure that the constraints belong to.
        constraints: of smtbx; those of hydrogen geometry without ``bond_length`` get one.
        kind: "neutron", "xray" (SHELXL's at room temperature, built into smtbx) or "input" (as in
            the model).
    """
    cell, scatterers = structure.unit_cell(), structure.scatterers()
    for constraint in constraints:
        if getattr(constraint, "bond_length", 0) is not None or constraint.stretching:
            continue
        pivot = scatterers[constraint.pivot]
        name, element = type(constraint).__name__, pivot.element_symbol()
        if kind == "input":
            first = scatterers[constraint.constrained_site_indices[0]]
            constraint.bond_length = cell.distance(pivot.site, first.site)
        elif kind == "neutron" or element not in constraint.room_temperature_bond_length:
            constraint.bond_length = neutron_distance(element, name)
