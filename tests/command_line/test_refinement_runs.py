"""Further runs of dials.hybrid_refine: its own output, seeds, names of files, models of the experiment."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_runs import FAST, INPUT, STATUS, equivalents, numpy
from numpy.testing import assert_allclose, assert_array_equal

from dials.array_family import flex

from dials_hybrid_refine.command_line import hybrid_refine


@pytest.mark.parametrize(
    "arguments, model, value",
    [
        (["absorption.model=proportional"], "proportional", None),
        (["absorption.model=tabulated"], "tabulated", None),
        (["absorption.model=tabulated", "absorption.factor=2"], "tabulated", 2),
    ],
)
def test_absorption_is_stated(files, capsys, arguments, model, value):
    fixed = [] if value is None else ["absorption.refine=False"]
    hybrid_refine.run([*INPUT, *FAST, *arguments, *fixed])
    summary = json.loads(Path("dials.hybrid_refine.json").read_text())
    found = summary["absorption"]
    assert found["model"] == model
    (line,) = re.findall("Absorption: .*", capsys.readouterr().out)
    assert f"= {found['value']:.4f}" in line
    if value is None:
        assert found["su"] > 0 and f"s.u. {found['su']:.4f}" in line
    else:
        assert (found["value"], found["su"]) == (value, None) and "fixed" in line
    ratio = found["value"] if model == "proportional" else None
    assert summary["absorption_ratio"] == ratio


def test_its_own_output_is_good_input(refined, summary, run_in_tmp_path):
    own = [f"hybrid_refined.{suffix}" for suffix in ("expt", "refl", "cif")]
    for name in own:
        shutil.copy(refined / name, run_in_tmp_path)
    digests = {n: hashlib.sha256((run_in_tmp_path / n).read_bytes()).hexdigest() for n in own}
    hybrid_refine.run(own + FAST)
    again = json.loads((run_in_tmp_path / "dials.hybrid_refine.json").read_text())
    assert again["input"]["sha256"] == digests  # of what was read, although it is written over
    assert again["statistics"]["r_obs"] < 1.1 * summary["statistics"]["r_obs"]
    assert_allclose(again["structure"]["unit_cell"], summary["structure"]["unit_cell"], rtol=2e-6)


def test_none_disables(files):
    before = set(os.listdir(files))
    names = ("structure", "experiments", "reflections", "json", "log", "html", "res", "hkl", "mtz")
    known = [n for n in names if hasattr(hybrid_refine.phil_scope.extract().output, n)]
    nothing = [f"output.{name}=None" for name in known]
    hybrid_refine.run([*INPUT, *FAST, *nothing, "checkpoint.file=None"])
    assert set(os.listdir(files)) == before


def test_names_in_any_script(files):
    os.mkdir("données 石英")
    os.rename("data.expt", "données 石英/my data.expt")
    os.rename("model.cif", "données 石英/α quartz.cif")
    before = set(os.listdir("données 石英"))
    hybrid_refine.run(
        ["données 石英/my data.expt", "data.refl", "données 石英/α quartz.cif", *FAST]
        + [
            f"output.{name}=données 石英/out put {name}.{suffix}"
            for name, suffix in (
                ("structure", "cif"), ("experiments", "expt"), ("reflections", "refl"),
                ("json", "json"), ("log", "log"),
            )
        ]
    )  # fmt: skip
    assert set(os.listdir("données 石英")) - before == {
        f"out put {name}"
        for name in (
            "structure.cif", "experiments.expt", "reflections.refl", "json.json", "log.log"
        )
    }  # fmt: skip
    content = json.loads((files / "données 石英/out put json.json").read_text())
    assert content["input"]["structure"] == "données 石英/α quartz.cif"
    assert "données 石英/α quartz.cif" in content["input"]["sha256"]


def without_timing(path):
    content = json.loads(path.read_text())
    del content["timing"], content["parameters"]
    return content


@pytest.mark.parametrize("nproc", [1, 2])
def test_same_seed_same_result(refined, files, nproc):
    hybrid_refine.run([*INPUT, *FAST, f"nproc={nproc}"])
    name = "dials.hybrid_refine.json"
    assert without_timing(files / name) == without_timing(refined / name)
    for name in ("hybrid_refined.cif", "hybrid_refined.expt"):
        assert (files / name).read_text() == (refined / name).read_text()


def test_another_seed_holds_out_others(refined, files, table):
    hybrid_refine.run([*INPUT, *FAST, "seed=1"])
    other = flex.reflection_table.from_file("hybrid_refined.refl")
    first, second = (numpy(t["hybrid_refine.status"]) == STATUS["held out"] for t in (table, other))
    assert first.any() and second.any() and (first != second).any()
    assert json.loads((files / "dials.hybrid_refine.json").read_text())["seed"] == 1


def test_held_out_mates_are_together(table):
    status = numpy(table["hybrid_refine.status"])
    hkl = np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3).round().astype(int)
    groups = equivalents(hkl, "P 32 2 1")
    in_use = status != STATUS["excluded"]
    held = set(groups[in_use & (status == STATUS["held out"])])
    others = set(groups[in_use & (status != STATUS["held out"])])
    assert held and not held & others
    assert_array_equal(np.unique(status[in_use]) <= 2, True)


def test_a_shape_is_chosen_by_name(files):
    """A plate-like cylinder: thickness of one shape at all angles, its width refined with its mean."""
    hybrid_refine.run(
        [*INPUT, *FAST, "thickness.model=cylinder", "thickness.tilt_correction=True", "d_min=1.0"]
    )
    profile = json.loads((files / "dials.hybrid_refine.json").read_text())["thickness"]
    relative = np.sqrt(2 / 3 - np.pi**2 / 16) / (np.pi / 4)
    for entry in profile:
        assert entry["std"] == pytest.approx(relative * entry["mean"], rel=5e-3)
        assert entry["std_su"] == pytest.approx(relative * entry["mean_su"], rel=5e-3)
        assert entry["mean_su"] > 0
    # in the log as mean(s.u.)
    number = r"\d+(\.\d+)?\(\d+\)"
    assert re.search(rf"^\| 0 +\| +-?\d+\.\d \| {number} +\| {number} +\|", _log(files), re.M)
    assert "include its priors" in _log(files)


def _log(folder):
    return (folder / "dials.hybrid_refine.log").read_text()


@pytest.mark.parametrize("model", ["neural_mean", "per_image"])
def test_models_of_one_thickness_have_no_width(files, model):
    hybrid_refine.run([*INPUT, *FAST, f"thickness.model={model}", "d_min=1.0"])
    profile = json.loads((files / "dials.hybrid_refine.json").read_text())["thickness"]
    assert all(entry["std"] == entry["std_su"] == 0 for entry in profile)
    assert all(entry["mean_su"] > 0 for entry in profile)
