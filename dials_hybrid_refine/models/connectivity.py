"""Which atoms are bound to each other, by covalent radii (smtbx)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cctbx import xray
from cctbx.array_family import flex
from smtbx import utils as smtbx_utils


@dataclass(frozen=True)
class Disorder:
    """Which atoms are alternatives of each other, a number for each atom, or none of both.

    Attributes:
        conformers: atoms of different conformers (other than 0) are not bound to each other: PART 1, 2...
        exclusions: atoms with such a number (other than 0) are not bound to symmetry-equivalent ones:
            PART -1...
    """

    conformers: tuple[int, ...] = ()
    exclusions: tuple[int, ...] = ()

    def part(self, i: int) -> int:
        """The number of PART of an atom, 0 for none."""
        if self.exclusions and self.exclusions[i]:
            return -self.exclusions[i]
        return self.conformers[i] if self.conformers else 0

    def extended(self, parents: Sequence[int]) -> Disorder:
        """With further atoms, each an alternative like its parent (index)."""
        return Disorder(
            self.conformers + tuple(self.conformers[i] for i in parents) if self.conformers else (),
            self.exclusions + tuple(self.exclusions[i] for i in parents) if self.exclusions else (),
        )


@dataclass(frozen=True)
class Bond:
    """A bond of an atom to another (index), or to an image of it; length in Angstrom.

    ``operation`` (sgtbx.rt_mx) takes the other atom to the bond's end, ``site``.
    """

    atom: int
    operation: Any
    site: tuple[float, float, float]
    length: float


def connectivity(structure: xray.structure, disorder: Disorder) -> Any:
    """The connectivity table of smtbx."""
    return smtbx_utils.connectivity_table(
        structure,
        conformer_indices=flex.size_t(disorder.conformers) if disorder.conformers else None,
        sym_excl_indices=flex.size_t(disorder.exclusions) if disorder.exclusions else None,
    )


def bonds_of(structure: xray.structure, disorder: Disorder) -> list[list[Bond]]:
    """The bonds of each atom, symmetry included."""
    cell, scatterers = structure.unit_cell(), structure.scatterers()
    table = connectivity(structure, disorder).pair_asu_table.extract_pair_sym_table(
        skip_j_seq_less_than_i_seq=False, all_interactions_from_inside_asu=True
    )
    found: list[list[Bond]] = []
    for i, neighbours in enumerate(table):
        found.append([])
        for j, operations in neighbours.items():
            for operation in operations:
                site = operation * scatterers[j].site
                length = cell.distance(scatterers[i].site, site)
                found[-1].append(Bond(j, operation, site, length))
    return found
