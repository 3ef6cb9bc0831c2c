"""Sums that do not depend on the order of their terms, or on who adds which."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from dials_hybrid_refine.diffraction.twofold_sum import TwofoldSum


def terms(n: int = 200) -> torch.Tensor:
    """Numbers (n, 5) over 12 decades, most of which cancels."""
    generator = torch.Generator().manual_seed(2)
    size = 10 ** (12 * torch.rand(n, 5, generator=generator, dtype=torch.float64) - 6)
    values = size * torch.randn(n, 5, generator=generator, dtype=torch.float64)
    values[n // 2 :] = -values[: n // 2] * (1 + 1e-6)
    return values


def sum_of(rows: torch.Tensor) -> TwofoldSum:
    found = TwofoldSum(torch.zeros(rows.shape[1], dtype=torch.float64))
    for row in rows:
        found.add(row)
    return found


def exact(rows: torch.Tensor) -> list[float]:
    """Rounded once."""
    return [float(sum(Fraction(x) for x in column.tolist())) for column in rows.T]


def test_the_sum_is_exact_in_any_order() -> None:
    values = terms()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(1))
    assert sum_of(values).value.tolist() == sum_of(values[order]).value.tolist() == exact(values)
    assert values.sum(0).tolist() != values[order].sum(0).tolist()  # a plain sum is not


@pytest.mark.parametrize("n", [2, 3, 4, 64])
def test_sums_on_a_grid_add_up_without_rounding(n: int) -> None:
    """Those of n processes, in any order, give the bits of one."""
    values = terms()
    sums = [sum_of(values[k::n]) for k in range(n)]
    largest = max(float(s.value.abs().max()) for s in sums)
    grids = [s.on_grid(largest, n) for s in sums]
    for some in (grids, grids[::-1]):
        coarse, fine = (sum(part) for part in zip(*some))
        assert (coarse + fine).tolist() == exact(values)
