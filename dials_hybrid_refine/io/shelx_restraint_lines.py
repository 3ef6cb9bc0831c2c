"""Restraints as instructions of SHELX, the reverse of ``restraints_shelx``.

Standard deviations are always written, so that DEFS does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cctbx import sgtbx, xray

from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.restraints.neighbours import Neighbours
from dials_hybrid_refine.models.restraints.request import AtomName, RestraintRequest

#: distances from here on would be read as free variables
_LONGEST = 10.0


@dataclass(frozen=True)
class ShelxRestraints:
    """Instructions, and sentences on the restraints that SHELX does not have."""

    lines: tuple[str, ...]
    notes: tuple[str, ...]


def shelx_restraints(
    structure: xray.structure,
    names: Sequence[str],
    requests: Sequence[RestraintRequest],
    disorder: Disorder,
) -> ShelxRestraints:
    """Restraints of a structure's atoms as instructions, those by EQIV first.

    Args:
        names: of the atoms in the file.
    """
    writer = _Writer(structure, names, disorder)
    lines, notes = [], []
    for request in requests:
        written = writer.instructions(request)
        lines += written
        if not written:
            notes.append(f"{writer.described(request)} is not written: SHELX has no such restraint")
    equivalents = [f"EQIV ${n} {operation}" for operation, n in writer.equivalents.items()]
    return ShelxRestraints((*equivalents, *lines), tuple(notes))


class _Writer:
    """Knows the atoms by their names, and collects symmetry operations."""

    def __init__(self, structure: xray.structure, names: Sequence[str], disorder: Disorder) -> None:
        labels = [scatterer.label for scatterer in structure.scatterers()]
        self._names = list(names)
        backwards = list(zip(labels, range(len(labels))))[::-1]
        # SHELX does not distinguish case
        self._index = {**{label.upper(): i for label, i in backwards}, **dict(backwards)}
        self._structure, self._disorder = structure, disorder
        self.equivalents: dict[str, int] = {}

    def described(self, request: RestraintRequest) -> str:
        """A request with its numbers, for a remark."""
        target = "" if request.target is None else f"target {request.target:g}, "
        return f"{request.source} ({target}s.d. {request.sigma:g})"

    def instructions(self, request: RestraintRequest) -> list[str]:
        """None where SHELX has no such restraint."""
        kind, sigma = request.kind, f"{request.sigma:g}"
        if kind == "distance":
            assert request.target is not None
            # the two differ in their default standard deviation only
            name = "DANG" if request.source.upper().startswith("DANG") else "DFIX"
            if request.target > _LONGEST:
                return []
            return [f"{name} {request.target:g} {sigma} {self._atoms(request)}"]
        if kind in ("equal_distance", "plane"):
            name = {"equal_distance": "SADI", "plane": "FLAT"}[kind]
            return [f"{name} {sigma} {self._atoms(request)}"]
        if kind in ("chiral_centre", "chiral_volume"):
            return self._chiral(request)
        if kind == "similar_displacements":
            numbers = f"{sigma} {request.sigma_far:g} {request.max_distance:g}"
            return [f"SIMU {numbers} {self._atoms(request)}"]
        names = {
            "rigid_bond": "DELU",
            "enhanced_rigid_bond": "RIGU",
            "isotropic_displacements": "ISOR",
        }
        if kind in names:
            return [f"{names[kind]} {sigma} {request.sigma_far:g} {self._atoms(request)}"]
        return []

    def _atoms(self, request: RestraintRequest) -> str:
        return " ".join(map(self._atom, request.atoms))

    def _atom(self, atom: AtomName) -> str:
        name = self._names[self._find(atom.label)]
        operation = sgtbx.rt_mx(atom.operation)
        if operation.is_unit_mx():
            return name
        text = operation.as_xyz().upper()
        return f"{name}_${self.equivalents.setdefault(text, len(self.equivalents) + 1)}"

    def _find(self, label: str) -> int:
        found = self._index.get(label)
        return self._index[label.upper()] if found is None else found

    def _chiral(self, request: RestraintRequest) -> list[str]:
        """CHIV of a centre, whose three neighbours SHELXL takes in the order of their names; an odd
        permutation changes the sign of the volume."""
        assert request.target is not None
        neighbours = Neighbours(self._structure, self._disorder)
        labels = [scatterer.label for scatterer in self._structure.scatterers()]
        indices = [self._find(atom.label) for atom in request.atoms]
        if request.kind == "chiral_centre":
            groups = [
                [i, *sorted(neighbours.bonded_to(i), key=lambda n: labels[n].upper())]
                for i in indices
            ]
        else:
            groups = [indices[k : k + 4] for k in range(0, len(indices), 4)]
        by_target: dict[float, list[str]] = {}
        for centre, *others in groups:
            if sorted(others) != neighbours.bonded_to(centre):
                return []  # not the bonds that SHELXL would take
            order = sorted(others, key=lambda n: self._names[n].upper())
            target = request.target * _parity([order.index(i) for i in others])
            by_target.setdefault(target, []).append(self._names[centre])
        if any(not sgtbx.rt_mx(atom.operation).is_unit_mx() for atom in request.atoms):
            return []
        return [
            f"CHIV {target:g} {request.sigma:g} {' '.join(centres)}"
            for target, centres in by_target.items()
        ]


def _parity(permutation: Sequence[int]) -> int:
    """1 for an even permutation, -1 for an odd one."""
    inversions = sum(
        permutation[i] > permutation[j] for j in range(len(permutation)) for i in range(j)
    )
    return -1 if inversions % 2 else 1
