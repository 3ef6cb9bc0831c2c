"""The chemical formula of a structure and how many of it the cell holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cctbx import xray
from cctbx.eltbx import tiny_pse

#: an occupancy may miss a whole number of atoms by so much
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Formula:
    """counts: atoms of each element in one formula unit. z: formula units in the cell."""

    counts: dict[str, float]
    z: int

    @property
    def elements(self) -> list[str]:
        """In Hill's order: C and H first where there is C, the others by name."""
        return sorted(self.counts, key=lambda e: ("C" not in self.counts or e not in ("C", "H"), e))

    def __str__(self) -> str:
        return " ".join(f"{element}{_count(self.counts[element])}" for element in self.elements)

    @property
    def weight(self) -> float:
        """In unified atomic mass units."""
        return float(sum(tiny_pse.table(e).weight() * n for e, n in self.counts.items()))


def _count(n: float) -> str:
    return "" if abs(n - 1) < _ROUNDING else f"{round(n, 2):g}"


def formula_of(structure: xray.structure) -> Formula:
    """The formula unit that the contents of the cell suggest.

    Organic crystals (C and H): the asymmetric unit, where that holds whole numbers of atoms; others,
    the smallest unit in whole numbers (where occupancies make broken ones, of sites). Nothing is
    known of molecules: Z' other than 1 is for the author to say.
    """
    content: dict[str, float] = {}
    sites: dict[str, float] = {}
    for scatterer in structure.scatterers():
        element, n = scatterer.element_symbol(), scatterer.multiplicity()
        content[element] = content.get(element, 0.0) + scatterer.occupancy * n
        sites[element] = sites.get(element, 0.0) + n
    whole = content if all(map(_is_whole, content.values())) else sites
    order = structure.space_group().order_z()
    if {"C", "H"} <= set(content) and all(_is_whole(n / order) for n in whole.values()):
        z = order
    else:
        z = math.gcd(*(round(n) for n in whole.values()))
    return Formula({element: n / z for element, n in content.items()}, z)


def _is_whole(n: float) -> bool:
    return n > 0.5 and abs(n - round(n)) < _ROUNDING
