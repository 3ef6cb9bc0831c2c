"""Restraints as parameters, and from there to requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import libtbx

from dials_hybrid_refine.models.restraints.request import ALL_ATOMS, AtomName, RestraintRequest

_ATOMS = """
  atoms = None
    .type = strings
    .help = "{atoms}"
"""
_SYMMETRY = """
  symmetry = None
    .type = strings
    .help = "A symmetry operation for each atom, such as x,y,z -x,1/2+y,-z. None: the atoms as given."
"""
_SIGMA = """
  sigma = {value:g}
    .type = float
    .help = "Standard deviation ({unit})."
"""
_TARGET = """
  target = None
    .type = float
    .help = "{help}"
"""
_SIGMA_FAR = """
  {name} = Auto
    .type = float
    .help = "Standard deviation (Angstrom^2) {what}"
"""
_MAX_DISTANCE = """
  max_distance = 2.0
    .type = float(value_min=0)
    .help = "Largest distance (Angstrom) of such atoms."
"""
_AMONG = "The atoms among which to look; 'all': all but hydrogen."


@dataclass(frozen=True)
class _Scope:
    """A kind of restraint: its help, parameters, and whether 'all' atoms may be asked for."""

    help: str
    parameters: str
    all_atoms: bool = False


def _scopes() -> Mapping[str, _Scope]:
    def sigma(value: float, unit: str) -> str:
        return _SIGMA.format(value=value, unit=unit)

    def atoms(text: str) -> str:
        return _ATOMS.format(atoms=text) + _SYMMETRY

    among = _ATOMS.format(atoms=_AMONG)
    of_pairs = _SIGMA_FAR.format(name="sigma_13", what="of 1,3-distances. Auto: the same.")
    of_ends = _SIGMA_FAR.format(name="sigma_terminal", what="for terminal atoms. Auto: twice that.")
    return {
        "distance": _Scope(
            "Distances (DFIX and DANG of SHELXL).",
            atoms("Two labels for each distance.")
            + _TARGET.format(help="The distance in Angstrom.")
            + sigma(0.02, "Angstrom"),
        ),
        "equal_distance": _Scope(
            "Distances that are equal (SADI).",
            atoms("Two labels for each distance.") + sigma(0.02, "Angstrom"),
        ),
        "angle": _Scope(
            "Angles.",
            atoms("Three labels for each angle, its apex in the middle.")
            + _TARGET.format(help="The angle in degrees.")
            + sigma(2.0, "degrees"),
        ),
        "plane": _Scope(
            "Atoms in a plane (FLAT).",
            atoms("Labels of four atoms or more.") + sigma(0.1, "Angstrom"),
        ),
        "chiral_volume": _Scope(
            "Chiral volumes: the triple product of the bonds from a centre to three atoms (CHIV).",
            atoms("Four labels for each: the centre and three atoms, in this order.")
            + _TARGET.format(help="The volume in Angstrom^3, with its sign.")
            + sigma(0.1, "Angstrom^3"),
        ),
        "similar_displacements": _Scope(
            "Displacement parameters that are similar for near atoms (SIMU).",
            among + sigma(0.04, "Angstrom^2") + of_ends + _MAX_DISTANCE,
            all_atoms=True,
        ),
        "rigid_bond": _Scope(
            "Equal displacements along bonds and 1,3-distances, of anisotropic atoms (DELU).",
            among + sigma(0.01, "Angstrom^2") + of_pairs,
            all_atoms=True,
        ),
        "enhanced_rigid_bond": _Scope(
            "The same, and of their correlation with displacements across (RIGU).",
            among + sigma(0.004, "Angstrom^2") + of_pairs,
            all_atoms=True,
        ),
        "isotropic_displacements": _Scope(
            "Anisotropic displacement parameters that are nearly isotropic (ISOR).",
            among + sigma(0.1, "Angstrom^2") + of_ends,
            all_atoms=True,
        ),
    }


_SCOPES = _scopes()

RESTRAINTS_PHIL = (
    """
restraints
  .help = "What is known of the structure: terms (value - target)^2 / sigma^2 beside the data. Each scope"
          "may be given several times."
{
  from_file = True
    .type = bool
    .help = "Apply the restraints of a SHELX .ins or .res file."
"""
    + "".join(
        f'{name}\n  .multiple = True\n  .help = "{scope.help}"\n{{{scope.parameters}}}\n'
        for name, scope in _SCOPES.items()
    )
    + "}\n"
)


def requested_restraints(restraints: Any) -> list[RestraintRequest]:
    """The restraints of the scope ``restraints`` of the parameters, kind by kind.

    Raises:
        ValueError: for parameters that do not go together.
    """
    found = []
    for kind, scope in _SCOPES.items():
        for number, given in enumerate(getattr(restraints, kind), start=1):
            source = f"restraints.{kind} {number}"
            if given.atoms:
                found.append(_request(kind, source, given, scope.all_atoms))
            elif getattr(given, "target", None) is not None:
                raise ValueError(f"{source}: atoms are missing: name them in the same scope")
    return found


def _request(kind: str, source: str, given: Any, all_atoms: bool) -> RestraintRequest:
    labels = list(given.atoms)
    source += f" ({' '.join(labels)})"
    if all_atoms and [label.lower() for label in labels] == [ALL_ATOMS]:
        labels = []
    operations = list(getattr(given, "symmetry", None) or [])
    if operations and len(operations) != len(labels):
        raise ValueError(
            f"{source}: {len(operations)} symmetry operations for {len(labels)} atoms: give one for "
            "each, x,y,z where there is none"
        )
    if given.sigma is None:
        raise ValueError(f"{source}: sigma is missing: give the standard deviation")
    return RestraintRequest(
        kind,
        source,
        tuple(AtomName(*pair) for pair in zip_longest(labels, operations, fillvalue="x,y,z")),
        given.sigma,
        getattr(given, "target", None),
        _far(given),
        getattr(given, "max_distance", None),
    )


def _far(given: Any) -> float | None:
    """The standard deviation of 1,3-distances or terminal atoms, None where there is none."""
    for name, factor in (("sigma_13", 1), ("sigma_terminal", 2)):
        value = getattr(given, name, None)
        if value is libtbx.Auto:
            return float(factor * given.sigma)
        if value is not None:
            return float(value)
    return None
