"""Restraints of SHELX files.

Their meaning and default standard deviations are those of SHELXL (Sheldrick (2015), Acta Cryst. C71, 3-8,
and the program's manual). iotbx reads them too, but drops an instruction that names an unknown atom, a
range or an element without a word, and ignores CHIV and DEFS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from dials_hybrid_refine.io.structure_atoms import ModelError
from dials_hybrid_refine.models.restraints.request import AtomName, RestraintRequest

#: instructions that are understood here
RESTRAINT_INSTRUCTIONS = frozenset("DFIX DANG SADI FLAT CHIV SIMU DELU RIGU ISOR DEFS EQIV".split())

#: free variables are written as 10 n + multiple
_FREE_VARIABLE = 10.0

#: SHELXL's default standard deviations, where DEFS does not set them (second: of far atoms)
_SIGMA_RIGU, _SIGMA_ISOR, _SIGMA_CHIV = 0.004, 0.1, 0.1
#: and its distance between atoms with similar displacement parameters, in Angstrom
_SIMU_DISTANCE = 2.0

_ATOM = re.compile(r"(?P<label>\w[^_$]*)(?:_\$(?P<equivalent>\d+))?")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class ShelxAtoms:
    """Labels and elements of the atoms of a file, in its order."""

    labels: Sequence[str]
    elements: Sequence[str]


class _Unsupported(Exception):
    """A form of an instruction that is not applied."""


@dataclass
class _Defaults:
    """Standard deviations that DEFS sets for the instructions after it: of DFIX and SADI (twice that for
    DANG), of FLAT, DELU and SIMU."""

    distance: float = 0.02
    plane: float = 0.1
    rigid: float = 0.01
    similar: float = 0.04
    equivalents: dict[str, str] = field(default_factory=dict)


def read_restraints(
    instructions: Sequence[str], atoms: ShelxAtoms, has_residues: bool
) -> tuple[list[RestraintRequest], list[str]]:
    """Restraints, and the instructions or forms of them that are not applied.

    Args:
        instructions: complete lines that begin with one of ``RESTRAINT_INSTRUCTIONS``.
        has_residues: whether the file has RESI instructions; labels alone do not tell its atoms apart.

    Raises:
        ModelError: for an instruction that is wrong.
    """
    defaults = _Defaults()
    requests: list[RestraintRequest] = []
    left_out: list[str] = []
    # operations may stand anywhere before or after the instructions that use them
    for line in instructions:
        words = line.split(None, 2)
        if words[0].upper() == "EQIV":
            if len(words) < 3:
                raise ModelError(f"the instruction {line} is not complete: correct it")
            defaults.equivalents[words[1].lstrip("$")] = words[2].replace(" ", "").lower()
    for line in instructions:
        name, *arguments = line.split()
        if name.upper() == "EQIV":
            continue
        try:
            if has_residues or "_" in name:
                raise _Unsupported
            requests += _read(name.upper(), arguments, line, atoms, defaults)
        except _Unsupported:
            left_out.append(line)
    return requests, left_out


def _read(
    name: str, arguments: Sequence[str], line: str, atoms: ShelxAtoms, defaults: _Defaults
) -> list[RestraintRequest]:
    numbers = [float(a) for a in arguments if _NUMBER.fullmatch(a)]
    names = [a for a in arguments if not _NUMBER.fullmatch(a)]
    if name == "DEFS":
        _set_defaults(defaults, numbers)
        return []
    most = {"DFIX": 2, "DANG": 2, "CHIV": 2, "SIMU": 3, "DELU": 2, "RIGU": 2, "ISOR": 2}.get(
        name, 1
    )
    if len(numbers) > most:
        raise ModelError(f"the instruction {line} has more than {most} numbers: correct it")
    chosen = tuple(_atoms(names, line, atoms, defaults))

    def number(i: int, default: float) -> float:
        return numbers[i] if len(numbers) > i else default

    if name in ("DFIX", "DANG"):
        if not numbers:
            raise ModelError(f"the instruction {line} has no distance: complete it")
        if numbers[0] < 0 or numbers[0] > _FREE_VARIABLE:
            raise _Unsupported  # only from below; a free variable
        sigma = number(1, defaults.distance * (1 if name == "DFIX" else 2))
        return [RestraintRequest("distance", line, chosen, sigma, numbers[0])]
    if name == "SADI":
        return [RestraintRequest("equal_distance", line, chosen, number(0, defaults.distance))]
    if name == "FLAT":
        return [RestraintRequest("plane", line, chosen, number(0, defaults.plane))]
    if name == "CHIV":
        sigma = number(1, _SIGMA_CHIV)
        return [RestraintRequest("chiral_centre", line, chosen, sigma, number(0, 0.0))]
    if name == "SIMU":
        sigma = number(0, defaults.similar)
        far, distance = number(1, 2 * sigma), number(2, _SIMU_DISTANCE)
        return [RestraintRequest("similar_displacements", line, chosen, sigma, None, far, distance)]
    if name == "ISOR":
        sigma = number(0, _SIGMA_ISOR)
        far = number(1, 2 * sigma)
        return [RestraintRequest("isotropic_displacements", line, chosen, sigma, None, far)]
    sigma = number(0, defaults.rigid if name == "DELU" else _SIGMA_RIGU)
    kind = "rigid_bond" if name == "DELU" else "enhanced_rigid_bond"
    return [RestraintRequest(kind, line, chosen, sigma, None, number(1, sigma))]


def _set_defaults(defaults: _Defaults, numbers: Sequence[float]) -> None:
    for attribute, value in zip(("distance", "plane", "rigid", "similar"), numbers):
        setattr(defaults, attribute, value)


def _atoms(
    words: Sequence[str], line: str, atoms: ShelxAtoms, defaults: _Defaults
) -> list[AtomName]:
    """Atoms of an instruction: labels, images (C1_$2), elements ($C) and ranges (C1 > C6, C6 < C1)."""
    positions = {label.upper(): i for i, label in reversed(list(enumerate(atoms.labels)))}

    def position(label: str) -> int:
        if label.upper() == "LAST":
            return len(atoms.labels) - 1
        if label.upper() not in positions:
            raise ModelError(f"the instruction {line} names {label}, which is no atom: correct it")
        return positions[label.upper()]

    def heavy(indices: range) -> list[AtomName]:
        return [AtomName(atoms.labels[i]) for i in indices if atoms.elements[i] != "H"]

    found: list[AtomName] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("$"):
            element = word[1:].capitalize()
            same = [l for l, e in zip(atoms.labels, atoms.elements) if e == element]
            found += [AtomName(label) for label in same]
        elif word in (">", "<"):
            if not (found and rest):
                raise ModelError(f"the instruction {line} has an incomplete range: correct it")
            start, end = position(found[-1].label), position(rest.pop(0))
            step = 1 if word == ">" else -1
            found += heavy(range(start + step, end + step, step))
        else:
            match = _ATOM.fullmatch(word)
            if match is None:
                raise _Unsupported  # of a residue
            label = atoms.labels[position(match["label"])]
            found.append(AtomName(label, _operation(match["equivalent"], line, defaults)))
    return found


def _operation(number: str | None, line: str, defaults: _Defaults) -> str:
    if number is None:
        return "x,y,z"
    if number not in defaults.equivalents:
        raise ModelError(f"the instruction {line} needs EQIV ${number}: add it")
    return defaults.equivalents[number]
