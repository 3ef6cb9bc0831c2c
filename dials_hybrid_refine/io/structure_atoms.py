"""What the readers of model files have in common: atoms, elements and how they are put together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cctbx import crystal, uctbx, xray
from cctbx.eltbx import covalent_radii, tiny_pse

from dials_hybrid_refine.diffraction.scattering_factors import electron_scattering_factors
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.restraints.request import RestraintRequest

#: mean-square displacement in Angstrom^2 of atoms for which the file states none
DEFAULT_U_ISO = 0.01
#: atoms closer than this to their own images, in Angstrom, stand on the symmetry element between
SPECIAL_POSITION_DISTANCE = 0.5

_TYPE_SYMBOL = re.compile(r"([A-Za-z]{1,2})(?:va|val)?(\d*[+-]\d*|[+-]?\d+)?")


#: more atoms of the asymmetric unit cannot be refined: the normal matrix of their
#: coordinates and isotropic U alone would have 51 GB
MOST_ATOMS = 20_000


class ModelError(ValueError):
    """A model file that cannot be used; the text says why, without the file's name."""


@dataclass(frozen=True)
class Atom:
    """One atom of a file.

    Attributes:
        label: its name.
        element: symbol of a neutral element.
        site: fractional coordinates.
        occupancy: crystallographic occupancy, 1 for a full site of any multiplicity.
        u: U_iso in Angstrom^2, or U* (six numbers, 11 22 33 12 13 23), or None if not stated.
    """

    label: str
    element: str
    site: tuple[float, float, float]
    occupancy: float
    u: float | tuple[float, ...] | None


@dataclass(frozen=True)
class LoadedStructure:
    """What a reader found in a file, before it is checked.

    Attributes:
        structure: the structure; atoms near symmetry elements have been moved onto them.
        given_sites: fractional coordinates as the file states them.
        shelx_constraints: constraints for smtbx.
        warnings: sentences for the user.
        unsupported: SHELX instructions that are not applied.
        disorder: which atoms are alternatives of each other.
        riding: hydrogen atoms (indices) that ride according to a CIF.
        restraints: of a SHELX file.
        cell_su: s.u. of a, b, c (Angstrom) and the angles (degrees), or None if the file has none.
    """

    structure: xray.structure
    given_sites: Sequence[tuple[float, float, float]]
    shelx_constraints: list[Any] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    disorder: Disorder = Disorder()
    riding: tuple[int, ...] = ()
    restraints: tuple[RestraintRequest, ...] = ()
    cell_su: tuple[float, ...] | None = None


def some(names: Sequence[str], limit: int = 8) -> str:
    """A list of names for a sentence, shortened if long."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _known_element(symbol: str) -> str | None:
    symbol = symbol.capitalize()
    try:
        return str(tiny_pse.table(symbol, True).symbol())
    except RuntimeError:
        return None


def element_of_type(symbol: str) -> str:
    """The neutral element of a scattering type such as Si, SI, Si4+, O2-, Fe+3 or D.

    Deuterium is H: electrons are scattered by charge, which is the same.

    Raises:
        ModelError: if there is no such element or no scattering factor for it.
    """
    match = _TYPE_SYMBOL.fullmatch(symbol.strip())
    element = _known_element(match.group(1)) if match else None
    if element is None:
        raise ModelError(
            f"the scattering type {symbol!r} is not an element: name one in the type symbols"
        )
    if element == "D":
        element = "H"
    try:
        electron_scattering_factors([tiny_pse.table(element).atomic_number()], np.zeros(1))
        covalent_radii.table(element)  # smtbx asks for it
    except (ValueError, RuntimeError):
        raise ModelError(
            f"{element} has no electron scattering factor or no covalent radius: elements up to "
            "californium can be used"
        ) from None
    return element


def element_of_label(label: str) -> str:
    """The element an atom's label begins with: two letters if that is an element, else one.

    Raises:
        ModelError: if neither is.
    """
    letters = re.match(r"[A-Za-z]{0,2}", label.strip())
    text = letters.group() if letters else ""
    for candidate in (text, text[:1]):
        if candidate and _known_element(candidate):
            return element_of_type(candidate)
    raise ModelError(
        f"the element of atom {label!r} is unknown: add type symbols (_atom_site_type_symbol)"
    )


def replaced_types(types: dict[str, str]) -> list[str]:
    """Sentences on scattering types (keys) that stand for another element (values)."""
    other = [f"{t} is taken as {e}" for t, e in types.items() if t.strip().capitalize() != e]
    if not other:
        return []
    return [f"scattering factors are those of neutral atoms: {some(other)}"]


def check_amount(n_atoms: int, symmetry: crystal.symmetry) -> None:
    """Whether there are as many atoms as can be, found out before they are compared with each other.

    Raises:
        ModelError: if there are too many for the cell or the program.
    """
    volume = symmetry.unit_cell().volume()
    if n_atoms > volume:
        raise ModelError(
            f"{n_atoms} atoms are too many for a unit cell of {volume:.4g} Angstrom^3: correct the cell "
            "or the list of atoms"
        )
    if n_atoms > MOST_ATOMS:
        raise ModelError(
            f"it has {n_atoms} atoms, more than the {MOST_ATOMS} that can be refined: give a smaller "
            "structure"
        )


def build_structure(symmetry: crystal.symmetry, atoms: Sequence[Atom]) -> LoadedStructure:
    """A structure of atoms; those near symmetry elements are moved onto them.

    Raises:
        ModelError: if coordinates are missing or not numbers, or there are too many atoms.
    """
    check_amount(len(atoms), symmetry)
    lost = [a.label for a in atoms if not (np.abs(a.site) < 1e4).all()]
    if lost:
        raise ModelError(
            f"the coordinates of {some(lost)} are missing or not usable: complete them"
        )
    structure = xray.structure(
        special_position_settings=symmetry.special_position_settings(
            min_distance_sym_equiv=SPECIAL_POSITION_DISTANCE
        )
    )
    for atom in atoms:
        structure.add_scatterer(
            xray.scatterer(
                label=atom.label,
                site=atom.site,
                u=DEFAULT_U_ISO if atom.u is None else atom.u,
                occupancy=atom.occupancy,
                scattering_type=atom.element,
            )
        )
    warnings = []
    without = [a.label for a in atoms if a.u is None]
    if without:
        warnings.append(
            f"no displacement parameter is given for {some(without)}: "
            f"U_iso = {DEFAULT_U_ISO} Angstrom^2 is assumed"
        )
    return LoadedStructure(structure, [a.site for a in atoms], warnings=tuple(warnings))


def make_symmetry(cell: Sequence[float], group: Any) -> crystal.symmetry:
    """A crystal symmetry; the cell is averaged to have exactly the symmetry of the group.

    Args:
        cell: lengths in Angstrom and angles in degrees.
        group: a cctbx space group.

    Raises:
        ModelError: for an impossible cell or one that is 1 % or 1 degree off the group's symmetry.
    """
    values = np.asarray(cell, dtype=float)
    shown = " ".join(f"{v:g}" for v in values)
    try:
        usable = np.isfinite(values).all() and (values > 0).all()
        unit_cell = uctbx.unit_cell(tuple(values)) if usable else None
    except (RuntimeError, ValueError):
        unit_cell = None
    if unit_cell is None or not unit_cell.volume() > 1:
        raise ModelError(f"the unit cell {shown} is impossible: correct it")
    if not group.is_compatible_unit_cell(unit_cell):
        raise ModelError(
            f"the unit cell {shown} does not have the symmetry of space group "
            f"{group.info()}: correct one of them"
        )
    return crystal.symmetry(unit_cell=unit_cell, space_group=group)
