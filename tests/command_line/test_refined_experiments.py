"""The experiments with refined orientation and the reflections with calculated intensities."""

from __future__ import annotations

import json

import numpy as np
from command_runs import FAST, experiment_of, laboratory_setting, rotation
from numpy.testing import assert_allclose

from dials.array_family import flex

from dials_hybrid_refine.command_line import hybrid_refine


def test_orientation_is_applied(refined, summary):
    """g' = R(c) g in the laboratory, at every scan point."""
    before, after = (experiment_of(refined / f"{n}.expt") for n in ("data", "hybrid_refined"))
    assert after.crystal.num_scan_points == 21
    for name in ("get_setting_rotation", "get_fixed_rotation"):
        matrix = np.array(getattr(before.goniometer, name)()).reshape(3, 3)
        assert np.abs(matrix - np.eye(3)).max() > 0.1
    phi = [item["phi"] for item in summary["orientation"]]
    corrections = np.array([item["correction"] for item in summary["orientation"]])
    assert np.abs(corrections).max() > 1e-3
    for i in range(21):
        at_point = [np.interp(-30 + i, phi, corrections[:, k]) for k in range(3)]
        expected = rotation(np.radians(at_point)) @ laboratory_setting(before, i)
        assert_allclose(laboratory_setting(after, i), expected, rtol=0, atol=1e-9)


def test_the_rest_of_the_experiment_is_as_before(refined):
    before, after = (experiment_of(refined / f"{n}.expt") for n in ("data", "hybrid_refined"))
    assert after.identifier == before.identifier != ""
    for name in ("beam", "detector", "goniometer", "scan"):
        assert getattr(after, name) == getattr(before, name), name
    assert_allclose(
        after.crystal.get_unit_cell().parameters(), before.crystal.get_unit_cell().parameters()
    )


def test_all_rows_and_columns_are_kept(refined, table):
    before = flex.reflection_table.from_file(str(refined / "data.refl"))
    assert len(table) == len(before)
    assert set(table.keys()) - set(before.keys()) == {
        f"hybrid_refine.{name}" for name in ("intensity.calc", "scale", "weight", "status")
    }
    for name in before.keys():
        assert list(table[name]) == list(before[name]), name
    assert dict(table.experiment_identifiers()) == dict(before.experiment_identifiers()) != {}


def test_data_from_a_microscope(quartz, shared, run_in_tmp_path):
    """A scan-varying crystal, a profile model, and reflections without windows of their own."""
    model = shared / "paper" / "quartz" / "kinematical.cif"
    names = [str(quartz / f"integrated.{suffix}") for suffix in ("expt", "refl")]
    hybrid_refine.run([*names, str(model), *FAST, "d_min=1.2", "thickness.start=400"])
    summary = json.loads((run_in_tmp_path / "dials.hybrid_refine.json").read_text())
    counted = summary["statistics"]
    assert 1653 == sum(
        counted[name] for name in ("n_reflections", "n_held_out", "n_rejected")
    ) + sum(counted["n_excluded"].values())
    before, after = (experiment_of(n) for n in (names[0], "hybrid_refined.expt"))
    assert before.crystal.num_scan_points == after.crystal.num_scan_points == 101
    phi = [item["phi"] for item in summary["orientation"]]
    corrections = np.array([item["correction"] for item in summary["orientation"]])
    for i in range(0, 101, 10):
        at_point = [np.interp(-50 + i, phi, corrections[:, k]) for k in range(3)]
        expected = rotation(np.radians(at_point)) @ laboratory_setting(before, i)
        assert_allclose(laboratory_setting(after, i), expected, rtol=0, atol=1e-9)
    table = flex.reflection_table.from_file("hybrid_refined.refl")
    assert len(table) == 1653 and "s1" in table and "bbox" in table
