"""Sums whose terms may come in any order."""

from __future__ import annotations

import math

import torch


class TwofoldSum:
    """A sum as if calculated with twice the digits and then rounded.

    Algorithm Sum2 of Ogita, Rump & Oishi (2005), SIAM J. Sci. Comput. 26, 1955. Its value depends on
    the order of the terms only where the exact sum lies within about 1e-16 of a unit in the
    last place from the middle between two numbers of double precision.

    Attributes:
        parts: the rounded sum and what rounding took away, float64.
    """

    def __init__(self, start: torch.Tensor) -> None:
        self.parts = (start, torch.zeros_like(start))

    def add(self, term: torch.Tensor) -> None:
        """Add a term of the shape of the sum."""
        high, low = self.parts
        total = high + term
        # Knuth's TwoSum: the error of this addition, exactly
        change = total - high
        error = (high - (total - change)) + (term - change)
        self.parts = (total, low + error)

    @property
    def value(self) -> torch.Tensor:
        """The sum so far."""
        return self.parts[0] + self.parts[1]

    def on_grid(self, largest: float, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two numbers, coarse and fine, for each of the sum's, which add up to it.

        Those of n sums can be added without any rounding: multiples of one power of two, small enough for 53 digits
        (Demmel & Nguyen (2015), IEEE Trans. Comput. 64, 2060). What is beyond 100 - 2 log2(n) binary digits of
        ``largest`` is left out.

        Args:
            largest: no element of any of the sums is larger; not zero.
            n: at most some thousands, or the digits that are left do not suffice.
        """
        high, low = self.parts
        spare = math.ceil(math.log2(n))
        unit = 2.0 ** (math.frexp(largest)[1] + spare - 50)
        coarse = torch.round(high / unit) * unit
        fine_unit = unit * 2.0 ** (spare - 51)
        fine = torch.round(((high - coarse) + low) / fine_unit) * fine_unit
        return coarse, fine
