"""Input that is odd but can be meant: the same numbers as without the oddness, and none that is NaN."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
from command_runs import FAST, INPUT, STATUS, numpy

from dials.array_family import flex

from dials_hybrid_refine.command_line import hybrid_refine

VALUE, VARIANCE = "intensity.prf.value", "intensity.prf.variance"
NAN, INFINITE = float("nan"), float("inf")
#: rows of data.refl, what is put into which column, and the reason for which that excludes the row
SPOILT = {
    3: (VALUE, NAN, "intensity or variance not usable"),
    5: (VALUE, INFINITE, "intensity or variance not usable"),
    8: (VALUE, 1e300, "intensity or variance not usable"),
    11: (VARIANCE, NAN, "intensity or variance not usable"),
    14: (VARIANCE, 0.0, "intensity or variance not usable"),
    17: (VARIANCE, -1.0, "intensity or variance not usable"),
    20: (VARIANCE, INFINITE, "intensity or variance not usable"),
    23: ("phi_start", NAN, "window of rotation not usable"),
    26: ("phi_end", -1e9, "window of rotation not usable"),
    29: ("phi_end", 1e9, "window leaves the scan"),
    32: ("partiality", NAN, "partially recorded"),
    35: ("zeta", NAN, "near the rotation axis"),
    38: ("miller_index", (0, 0, 0), "Miller index 0 0 0"),
    41: ("miller_index", (2000, 0, 0), "spacing below 0.1 Angstrom"),
    44: ("miller_index", (9, -9, 9), "far from the Ewald sphere"),
}


def assert_finite(folder):
    """No file in a folder holds a number that is none."""
    for name in ("dials.hybrid_refine.json", "hybrid_refined.cif", "hybrid_refined.expt"):
        assert not re.search(
            r"(?i)(?<![a-z_])(nan|-?inf|infinity)(?![a-z])", (folder / name).read_text()
        )
    table = flex.reflection_table.from_file(str(folder / "hybrid_refined.refl"))
    used = numpy(table["hybrid_refine.status"]) == STATUS["used"]
    for name in table.keys():
        if name.startswith("hybrid_refine") and isinstance(table[name], flex.double):
            assert np.isfinite(numpy(table[name])[used]).all(), name


def refine(folder, *more):
    hybrid_refine.run([*INPUT, *FAST, "absolute_structure.test=False", "output.html=None", *more])
    assert_finite(folder)
    summary = json.loads((folder / "dials.hybrid_refine.json").read_text())
    return summary["statistics"], summary["structure"]


@pytest.fixture(scope="module")
def plain(simulated, tmp_path_factory):
    """Statistics and structure without the rows that are spoilt."""
    folder = tmp_path_factory.mktemp("plain")
    for name in INPUT:
        (folder / name).write_bytes((simulated / name).read_bytes())
    table = flex.reflection_table.from_file(str(folder / "data.refl"))
    kept = flex.bool([row not in SPOILT for row in range(len(table))])
    table.select(kept).as_file(str(folder / "data.refl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return refine(folder)


def test_rows_that_are_spoilt(files, plain, change_experiments):
    """Left out and counted; the rest give the same bits, although the rows are given twice, and models that
    are not needed lack or are written otherwise."""
    table = flex.reflection_table.from_file("data.refl")
    for row, (name, value, _) in SPOILT.items():
        column = table[name]
        column[row] = value
        table[name] = column
    twice = copy.deepcopy(table)
    twice.extend(table)
    twice.as_file("data.refl")

    def edit(content):
        content["beam"][0]["direction"] = [0, 0, 2]
        content["goniometer"][0]["rotation_axis"] = [3, 0, 0]
        del content["experiment"][0]["detector"]
        content["detector"] = []

    change_experiments(edit)
    statistics, structure = refine(files)
    expected, expected_structure = plain
    assert structure == expected_structure
    for name in ("n_reflections", "r_obs", "wr_all", "gof", "loss_final", "r_obs_held_out"):
        assert statistics[name] == expected[name], name
    counts = statistics["n_excluded"]
    for reason in {reason for _, _, reason in SPOILT.values()}:
        n = 2 * sum(why == reason for _, _, why in SPOILT.values())
        assert counts[reason] - expected["n_excluded"].get(reason, 0) * 2 == n, reason
    assert (
        counts["same measurement repeated"]
        == expected["n_reflections"] + expected["n_held_out"] + (expected["n_rejected"])
    )


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_intensities_in_another_unit(files, refined, summary, factor):
    """Counts or anything else: the scale is refined, and nothing else depends on it."""
    table = flex.reflection_table.from_file("data.refl")
    table[VALUE] *= factor
    table[VARIANCE] *= factor**2
    table.as_file("data.refl")
    statistics, structure = refine(files)
    # single precision, and Levenberg-Marquardt has not converged: 1e-4 of R, 1e-5 of a cell edge
    assert statistics["r_obs"] == pytest.approx(summary["statistics"]["r_obs"], rel=1e-3)
    for atom, expected in zip(structure["atoms"], summary["structure"]["atoms"]):
        assert atom["site"] == pytest.approx(expected["site"], abs=1e-5)
