"""Processes that share a calculation have the numbers of one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shared_objective
from several_processes import outcomes, started

from dials_hybrid_refine.diffraction.ranks import Ranks, longest_first


@pytest.fixture(scope="module")
def alone() -> dict[str, np.ndarray]:
    return shared_objective.calculate(Ranks())


@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_shares_are_even(n: int) -> None:
    """Within Graham's bound of the mean or the largest task, whichever is more."""
    costs = np.random.default_rng(n).lognormal(size=50)
    shares = longest_first(list(costs), n)
    assert sorted(i for share in shares for i in share) == list(range(50))
    assert all(share == sorted(share) for share in shares)
    largest = max(costs[share].sum() for share in shares)
    assert largest <= 4 / 3 * max(costs.sum() / n, costs.max())


@pytest.mark.parametrize("n, width", [(2, 1.0), (4, 2.0)])
def test_processes_have_the_numbers_of_one(
    n: int, width: float, alone: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Intensities, gradients and the normal matrix, with effects on curves and intensities, bit for
    bit; also where one of four processes has no blocks."""
    command = [shared_objective.__file__, str(tmp_path), str(width)]
    with started(n * [command]) as processes:
        for code, _, errors in outcomes(processes):
            assert code == 0, errors
    found = [dict(np.load(tmp_path / f"{k}.npz")) for k in range(n)]
    n_batches = int(found[0][f"batches {width}"])
    assert n_batches > n if width == 1.0 else n_batches == n - 1
    wanted = {name: values for name, values in alone.items() if name.endswith(f" {width}")}
    assert len(wanted) == 11
    for name, expected in wanted.items():
        for each in found:
            np.testing.assert_array_equal(each[name], expected, err_msg=name)
    assert [str(each["failure"]) for each in found] == [
        *(n - 1) * ["the calculation of another process failed"],
        "bad",
    ]
    for each in found:
        assert each["flags"].tolist() == [True, False]
        assert each["agree"].tolist() == [True, False]
