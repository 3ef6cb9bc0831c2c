"""Which atoms are bonded or near, for restraints of displacement parameters.

As in ``smtbx.refinement.restraints.adp_restraints`` hydrogen is left out and only pairs within the
asymmetric unit, as given, are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable

from cctbx import xray

from dials_hybrid_refine.models.connectivity import Disorder, bonds_of

Pair = tuple[int, int]


class Neighbours:
    """Bonds between the atoms of a structure other than hydrogen."""

    def __init__(self, structure: xray.structure, disorder: Disorder) -> None:
        self._structure = structure
        self._heavy = [s.element_symbol() != "H" for s in structure.scatterers()]
        self._bonded: list[set[int]] = []
        self._degree: list[int] = []
        for i, bonds in enumerate(bonds_of(structure, disorder)):
            heavy = [bond for bond in bonds if self._heavy[i] and self._heavy[bond.atom]]
            self._degree.append(len(heavy))
            self._bonded.append({b.atom for b in heavy if b.operation.is_unit_mx() and b.atom != i})

    def heavy(self) -> list[int]:
        """All atoms but hydrogen."""
        return [i for i, heavy in enumerate(self._heavy) if heavy]

    def bonded_to(self, atom: int) -> list[int]:
        """The atoms bonded to one."""
        return sorted(self._bonded[atom])

    def is_terminal(self, atom: int) -> bool:
        """Whether an atom has at most one bond, those to images counted."""
        return self._degree[atom] <= 1

    def bonds(self, among: Iterable[int]) -> list[Pair]:
        """Bonded pairs of the given atoms."""
        atoms = set(among)
        return [(i, j) for i in sorted(atoms) for j in self.bonded_to(i) if j in atoms and i < j]

    def one_three(self, among: Iterable[int]) -> list[Pair]:
        """Pairs bonded to the same atom and not to each other; all three are of the given atoms."""
        atoms = set(among)
        found = set()
        for middle in atoms:
            ends = [i for i in self.bonded_to(middle) if i in atoms]
            found |= {(i, j) for i in ends for j in ends if i < j and j not in self._bonded[i]}
        return sorted(found)

    def near(self, among: Iterable[int], distance: float) -> list[Pair]:
        """Pairs of the given atoms that are closer than a distance in Angstrom."""
        atoms = sorted(set(among))
        cell, scatterers = self._structure.unit_cell(), self._structure.scatterers()
        return [
            (i, j)
            for n, i in enumerate(atoms)
            for j in atoms[n + 1 :]
            if cell.distance(scatterers[i].site, scatterers[j].site) < distance
        ]
