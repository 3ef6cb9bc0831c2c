"""Sums whose terms may come in any order."""

from __future__ import annotations

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
