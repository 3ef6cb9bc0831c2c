"""What is said of a batch: cells, outliers, hands, reasons."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dials_hybrid_refine.collection.agreement import high_outliers, joint_hands
from dials_hybrid_refine.collection.cells import cell_clusters
from dials_hybrid_refine.collection.failures import failure_groups
from dials_hybrid_refine.collection.run import FAILED, SORT_KEYS, Hand, Run, RunResult, sort_runs

QUARTZ = (4.913, 4.913, 5.405, 90.0, 90.0, 120.0)
PEROVSKITE = (8.2, 11.8, 8.3, 90.0, 90.0, 90.0)


def scaled(cell, factor):
    return (*(factor * length for length in cell[:3]), *cell[3:])


def groups_of(cells, tolerance, groups=None):
    found = cell_clusters(cells, groups or ["P 1"] * len(cells), tolerance)
    return [cluster.members for cluster in found]


def test_compounds_are_apart_and_errors_are_not():
    """Lengths with 0.2 % errors, a compound with another cell, and one that is 3 % larger."""
    generator = np.random.default_rng(1)
    cells = [tuple(np.array(QUARTZ) * generator.normal(1, [0.002] * 3 + [0] * 3)) for _ in range(6)]
    cells[2] = PEROVSKITE
    cells[4] = scaled(QUARTZ, 1.03)
    assert groups_of(cells, 0.01) == [(0, 1, 3, 5), (2,), (4,)]


@pytest.mark.parametrize("difference, together", [(0.008, True), (0.012, False)])
@pytest.mark.parametrize("size", [1, 10, 40])
def test_the_tolerance_is_that_of_lengths(difference, together, size):
    """A share, the same for small and large cells; a chain of two."""
    cell = scaled((1.0, 1.1, 1.3, 90.0, 90.0, 90.0), size * 5)
    assert len(groups_of([cell, scaled(cell, 1 + difference)], 0.01)) == (1 if together else 2)


def test_settings_of_one_lattice_are_one():
    """A C-centred cell and its primitive one, and axes in another order."""
    a, b, c = 8.0, 10.0, 6.0
    half = math.hypot(a, b) / 2
    primitive = (half, half, c, 90.0, 90.0, 2 * math.degrees(math.atan2(b, a)))
    cells = [(a, b, c, 90.0, 90.0, 90.0), primitive, (c, a, b, 90.0, 90.0, 90.0)]
    assert groups_of(cells, 0.01, ["C 2 2 2", "P 1", "A 2 2 2"]) == [(0, 1, 2)]


def test_cells_without_the_symmetry_of_the_structure():
    """Indexed in P 1 a hexagonal cell is not exactly one."""
    cells = [QUARTZ, (4.91, 4.92, 5.40, 90.1, 89.9, 120.05)]
    assert groups_of(cells, 0.01, ["P 32 2 1"] * 2) == [(0, 1)]


@pytest.mark.parametrize("n", [0, 1])
def test_few_cells(n):
    assert groups_of([QUARTZ] * n, 0.01) == [(0,)] * n


def test_median_and_spread():
    (cluster,) = cell_clusters([QUARTZ, scaled(QUARTZ, 1.002)], ["P 1"] * 2, 0.01)
    assert cluster.median[0] == pytest.approx(4.913 * 1.001)
    assert cluster.spread[0] == pytest.approx(4.913 * 0.001)


def test_outliers():
    factors = [0.080, 0.084, None, 0.079, 0.081, 0.14, 0.03]
    assert high_outliers(factors) == [5]
    assert high_outliers([0.08, 0.081, 0.2]) == []  # too few to tell
    assert high_outliers([0.08] * 5 + [0.081]) == []  # equal but for round-off


def test_hands_together():
    """Stouffer: four z-scores of 2 have z = 4 together, though none is clear."""
    (joint,) = joint_hands([("a", Hand(2.0, False))] * 4 + [("a", None)])
    assert (joint.n_tested, joint.z_score) == (4, pytest.approx(4.0))
    assert "favour the structure as given" in joint.verdict
    (joint,) = joint_hands([("a", Hand(-5.0, True)), ("a", Hand(0.1, False))])
    assert "favour the inverse (1 of 2 clearly)" in joint.verdict
    (joint,) = joint_hands([("a", Hand(1.0, False)), ("a", Hand(-1.0, False))])
    assert "do not determine" in joint.verdict


def test_hands_of_different_models_are_not_added():
    hands = [("a", Hand(5.0, True)), ("b", Hand(-5.0, True)), ("a", Hand(4.0, True))]
    found = joint_hands(hands)
    assert [(joint.model, joint.n_tested) for joint in found] == [("a", 2), ("b", 1)]
    (mixed,) = joint_hands([("a", hand) for _, hand in hands])
    assert "both hands" in mixed.verdict


def test_reasons_that_differ_by_numbers_and_folders_are_one():
    reasons = [
        "/data/a/integrated.expt: the wavelength is 0.7107 Angstrom: not electrons",
        "b/integrated.expt: the wavelength is 1.54 Angstrom: not electrons",
        "no reflection is left",
    ]
    runs = [Run(f"{i}", FAILED, reason) for i, reason in enumerate(reasons)]
    groups = failure_groups(runs)
    assert [group.runs for group in groups] == [("0", "1"), ("2",)]
    assert groups[0].reason == reasons[0]


def run_with(name, **changed):
    values = {
        "r_obs": 0.1, "r_obs_held_out": 0.1, "n_reflections": 9, "n_observed": 9, "n_rejected": 0,
        "d_min": 1.0, "completeness": 0.5, "unit_cell": QUARTZ, "space_group": "P 1",
        "thickness": 300.0, "thickness_range": (1.0, 2.0), "hand": None, "model": "m", "seconds": 1.0,
    }  # fmt: skip
    return Run(name, "converged", result=RunResult(**{**values, **changed}))


@pytest.mark.parametrize("key", list(SORT_KEYS))
def test_the_best_is_the_first(key):
    low = {key: 0.2} if key != "name" else {}
    high = {key: 0.4} if key != "name" else {}
    unknown = {key: None} if key != "name" else {}
    runs = [
        Run("a failure", FAILED),
        run_with("y", **unknown),
        run_with("c", **high),
        run_with("b", **low),
    ]
    found = [run.name for run in sort_runs(runs, key).runs]
    expected = ["c", "b"] if key == "completeness" else ["b", "c"]
    assert found == [*expected, "y", "a failure"]
