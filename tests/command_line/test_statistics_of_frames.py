"""Statistics over virtual frames and whole stretches held out, from the files of a refinement."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_runs import FAST, INPUT

import iotbx.cif
from dials.array_family import flex
from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine

HELD_OUT = 1


def refine(*arguments):
    hybrid_refine.run([*INPUT, *FAST, *arguments])
    with open("dials.hybrid_refine.json") as file:
        summary = json.load(file)
    return summary, flex.reflection_table.from_file("hybrid_refined.refl")


def numpy(column):
    return np.array(column.as_numpy_array())


def test_frames_of_the_summary(refined):
    """Twenty degrees hold 19 frames; the means follow from the rows."""
    summary = json.loads((refined / "dials.hybrid_refine.json").read_text())
    means, rows = summary["statistics"]["frames"], summary["frames"]
    assert [row["phi"] for row in rows] == pytest.approx(rows[0]["phi"] + np.arange(19))
    assert (means["semi_angle"], means["step"]) == (1.0, 1.0)
    assert (means["rsg"], means["dsg"]) == (0.66, 0.0015)
    counting = [row for row in rows if row["n_observed"]]
    assert means["n_frames"] == len(counting) > 10
    assert means["n_observed"] == sum(row["n_observed"] for row in rows)
    assert means["n_reflections"] == sum(row["n_reflections"] for row in rows)
    for key in ("r_obs", "wr2"):
        assert means[f"{key}_mean"] == pytest.approx(np.mean([row[key] for row in counting]))
    # simulated data, scales of the frames relative to those of the fit
    assert 0 < means["r_obs_mean"] < 0.1
    assert all(0.8 < row["scale"] < 1.2 for row in counting if row["n_observed"] > 5)


def test_log_and_cif_print_the_definition(refined):
    log = (refined / "dials.hybrid_refine.log").read_text()
    cif = iotbx.cif.reader(file_path=str(refined / "hybrid_refined.cif")).model()
    details = " ".join(cif["hybrid_refined"]["_refine_special_details"].split())
    for text in (log, details):
        for part in ("mean R_obs of frames = ", "mean wR2 of frames = ", "MwR_all = ", "rsg 0.66"):
            assert part in text


def test_held_out_stretches(files):
    """Wholly held out and drawn by the seed; their factors follow from the reflections."""
    options = ["held_out.by=frames", "held_out.fraction=0.2", "seed=2"]
    summary, table = refine(*options)
    statistics = summary["statistics"]
    status = numpy(table["hybrid_refine.status"])
    held = status == HELD_OUT
    middle = (numpy(table["phi_start"]) + numpy(table["phi_end"])) / 2
    # 20 degrees in ten stretches; scan from the first angle of the demo
    edges = np.round(summary["scale"][0]["phi"] - 0.5 + 2.0 * np.arange(11), 6)
    stretch = np.digitize(middle, edges)
    in_use = status != 3
    for number in np.unique(stretch[in_use]):
        assert len(set(held[in_use & (stretch == number)])) == 1
    assert held.sum() == statistics["n_held_out"] >= 0.2 * in_use.sum()
    assert statistics["held_out_by"] == "frames"
    # one scale each: what is left of I_o - I_c is at right angles to I_c
    observed = numpy(table["intensity.prf.value"])
    calculated = numpy(table["hybrid_refine.intensity.calc"])
    sigma = np.sqrt(numpy(table["intensity.prf.variance"]))
    weight = 1 / (sigma**2 + (0.03 * np.maximum(observed, 0)) ** 2)
    for number in np.unique(stretch[held]):
        part = held & (stretch == number)
        product = (weight * (observed - calculated) * calculated)[part].sum()
        assert abs(product) < 1e-9 * (weight * calculated**2)[part].sum()
    strong = held & (observed > 3 * sigma)
    f_o, f_c = np.sqrt(observed[strong]), np.sqrt(calculated[strong])
    r_obs = np.abs(f_o - f_c).sum() / f_o.sum()
    assert statistics["r_obs_held_out"] == pytest.approx(r_obs)
    assert r_obs < 0.1

    _, same = refine(*options)
    np.testing.assert_array_equal(numpy(same["hybrid_refine.status"]), status)
    _, other = refine(*options[:2], "seed=3")
    assert (numpy(other["hybrid_refine.status"]) == HELD_OUT).tolist() != held.tolist()


def test_held_out_stretches_are_never_in_the_loss(files):
    """Other intensities there change their factor and nothing else."""
    before, table = refine("held_out.by=frames")
    held = numpy(table["hybrid_refine.status"]) == HELD_OUT
    data = flex.reflection_table.from_file("data.refl")
    factor = np.where(held, np.random.default_rng(0).uniform(0.2, 5, len(held)), 1.0)
    for name in ("intensity.prf.value", "intensity.sum.value"):
        if name in data:
            data[name] = flex.double(numpy(data[name]) * factor)
    data.as_file("data.refl")
    after, _ = refine("held_out.by=frames")
    for key in ("structure", "thickness", "orientation", "scale"):
        assert after[key] == before[key]
    for key in ("r_obs", "loss_final", "n_rejected", "n_held_out"):
        assert after["statistics"][key] == before["statistics"][key]
    for key in ("r_obs_mean", "wr2_mean", "n_reflections"):
        assert after["statistics"]["frames"][key] == before["statistics"]["frames"][key]
    assert after["statistics"]["r_obs_held_out"] > 2 * before["statistics"]["r_obs_held_out"]


def test_too_few_stretches(files):
    with pytest.raises(Sorry, match="held_out.frame_width smaller"):
        refine("held_out.by=frames", "held_out.frame_width=12")
