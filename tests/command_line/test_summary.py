"""The summary as JSON: its keys, and its numbers recomputed from the reflections."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from command_runs import INPUT, STATUS, equivalents, numpy
from numpy.testing import assert_allclose

import iotbx.cif
from dials.array_family import flex

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.io.checkpoint import decisive_parameters

NUMBER, COUNT, TEXT, LIST = (int, float), int, str, list
KEYS = {
    "program": TEXT, "version": TEXT, "status": TEXT, "seed": COUNT, "versions": dict, "parameters": TEXT,
    "input": {"experiments": LIST, "reflections": LIST, "structure": TEXT, "sha256": dict},
    "statistics": {
        "n_reflections": COUNT, "n_observed": COUNT, "n_rejected": COUNT, "n_excluded": dict,
        "n_parameters": COUNT, "r_obs": NUMBER, "r_all": NUMBER, "wr_all": NUMBER, "gof": NUMBER,
        "mr_obs": NUMBER, "mr_all": NUMBER, "r_obs_held_out": NUMBER, "n_held_out": COUNT,
        "loss_start": NUMBER, "loss_final": NUMBER, "n_iterations": COUNT,
        "shift_over_su_max": (int, float, type(None)), "shift_over_su_mean": (int, float, type(None)),
        "mwr_all": NUMBER, "held_out_by": TEXT, "d_min": NUMBER, "completeness": NUMBER,
        "slices": (dict, type(None)),
        "frames": {
            "n_frames": COUNT, "n_reflections": COUNT, "n_observed": COUNT, "r_obs_mean": NUMBER,
            "wr2_mean": NUMBER, "r_obs_mean_used": NUMBER, "wr2_mean_used": NUMBER, "rsg": NUMBER,
            "dsg": NUMBER, "semi_angle": NUMBER, "step": NUMBER,
        },
    },
    "structure": {"space_group": TEXT, "unit_cell": LIST, "atoms": LIST},
    "thickness": LIST, "orientation": LIST, "scale": LIST, "frames": LIST,
    "experiments": LIST,
    "absorption": (dict, type(None)), "mosaicity": (dict, type(None)),
    "absolute_structure": (dict, type(None)), "warnings": LIST, "data_checks": LIST,
    "timing": {
        "setup_s": NUMBER, "refine_s": NUMBER, "per_iteration_s": NUMBER, "device": TEXT,
        "dtype": TEXT, "n_beams_mean": NUMBER, "n_beams_max": COUNT,
    },
}  # fmt: skip


def check_keys(expected, found, path=""):
    for key, kind in expected.items():
        assert key in found, path + key
        if isinstance(kind, dict):
            check_keys(kind, found[key], f"{path}{key}.")
        else:
            assert isinstance(found[key], kind) and not isinstance(found[key], bool), path + key


def test_keys(summary):
    check_keys(KEYS, summary)
    assert summary["status"] in ("converged", "max_iterations")
    assert summary["program"] == "dials.hybrid_refine"
    for name, entry in {
        "thickness": {
            "experiment": COUNT,
            "phi": NUMBER,
            "mean": NUMBER,
            "std": NUMBER,
            "mean_su": NUMBER,
            "std_su": NUMBER,
        },
        "orientation": {
            "experiment": COUNT,
            "phi": NUMBER,
            "correction": LIST,
            "correction_su": LIST,
        },
        "scale": {"experiment": COUNT, "phi": NUMBER, "scale": NUMBER},
    }.items():
        assert len(summary[name]) == 20, name
        for item in summary[name]:
            check_keys(entry, item, f"{name}.")
    for atom in summary["structure"]["atoms"]:
        expected = {"label": TEXT, "element": TEXT, "site": LIST, "site_su": LIST}
        check_keys({**expected, "occupancy": NUMBER, "u_iso": NUMBER, "u_su": NUMBER}, atom)


def test_numbers_are_finite_numbers(refined):
    def refuse(text):
        raise AssertionError(text)

    text = (refined / "dials.hybrid_refine.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    del content["version"], content["versions"]

    def strings(value, path=""):
        if isinstance(value, dict):
            for key, item in value.items():
                if key != "symmetry":  # codes of operations
                    strings(item, f"{path}.{key}")
        elif isinstance(value, list):
            for item in value:
                strings(item, path)
        elif isinstance(value, str):
            assert not re.fullmatch(r"[-+]?\.?\d[\d.]*(e[-+]?\d+)?|nan|inf", value.lower()), path

    strings(content)


def test_the_run_can_be_repeated(refined, summary):
    """Versions and changed parameters in the summary; with the hashes of the input in the CIF too."""
    assert summary["versions"]["dials_hybrid_refine"] == summary["version"]
    assert {"dials", "torch", "numpy", "python"} < set(summary["versions"])
    assert re.search(r"coarse_steps = 2", summary["parameters"])
    cif = iotbx.cif.reader(file_path=str(refined / "hybrid_refined.cif")).model()
    text = " ".join(cif["hybrid_refined"]["_audit_creation_method"].split())
    assert f"torch {summary['versions']['torch']}" in text and "seed 0" in text
    assert "refinement.coarse_steps = 2" in text and "output." not in text
    assert all(digest in text for digest in summary["input"]["sha256"].values())


def test_what_a_repeated_run_needs():
    """Cycles and the choice of the hand are none of a checkpoint's concern, but of the result's."""
    changed = "refinement.max_cycles = 2\nabsolute_structure.apply = True\nd_min = 1\nnproc = 3\n"
    assert set(decisive_parameters(changed)) == {"d_min"}
    assert decisive_parameters(changed, stages_only=False) == {
        "refinement.max_cycles": "2",
        "absolute_structure.apply": "True",
        "d_min": "1",
    }


def test_input_is_identified(refined, summary):
    assert summary["input"]["experiments"] == ["data.expt"]
    assert summary["input"]["reflections"] == ["data.refl"]
    assert summary["input"]["structure"] == "model.cif"
    for name in INPUT:
        digest = hashlib.sha256((refined / name).read_bytes()).hexdigest()
        assert summary["input"]["sha256"][name] == digest


def test_every_reflection_is_counted(refined, summary, table):
    rows = len(flex.reflection_table.from_file(str(refined / "data.refl")))
    counted = summary["statistics"]
    excluded = sum(counted["n_excluded"].values())
    assert (
        counted["n_reflections"] + counted["n_held_out"] + counted["n_rejected"] + excluded == rows
    )
    status = numpy(table["hybrid_refine.status"])
    assert (status == STATUS["used"]).sum() == counted["n_reflections"] > 50
    assert (status == STATUS["held out"]).sum() == counted["n_held_out"] > 0
    assert (status == STATUS["rejected"]).sum() == counted["n_rejected"]
    assert (status == STATUS["excluded"]).sum() == excluded


def r_factors(observed, sigma, calculated):
    """R_obs, R_all, wR_all and the weighted sum of squares, on F = sqrt(I)."""
    f_o, f_c = (np.sqrt(np.maximum(x, 0)) for x in (observed, calculated))
    weak = observed < 0.01 * sigma
    sigma_f = np.where(weak, 5 * np.sqrt(sigma), sigma / (2 * np.where(weak, 1, f_o)))
    w = 1 / (sigma_f**2 + (0.01 * f_o) ** 2)
    strong = observed > 3 * sigma
    sums = (w * (f_o - f_c) ** 2).sum()
    return (
        np.abs(f_o - f_c)[strong].sum() / f_o[strong].sum(),
        np.abs(f_o - f_c).sum() / f_o.sum(),
        np.sqrt(sums / (w * f_o**2).sum()),
        sums,
        strong.sum(),
    )


def test_r_factors_follow_from_the_reflections(summary, table):
    statistics = summary["statistics"]
    observed, calculated = (
        numpy(table[n]) for n in ("intensity.prf.value", "hybrid_refine.intensity.calc")
    )
    sigma = np.sqrt(numpy(table["intensity.prf.variance"]))
    status, scale = (numpy(table[f"hybrid_refine.{n}"]) for n in ("status", "scale"))
    used, held = status == STATUS["used"], status == STATUS["held out"]

    r_obs, r_all, wr_all, sums, n_observed = r_factors(
        observed[used], sigma[used], calculated[used]
    )
    found = [statistics[name] for name in ("r_obs", "r_all", "wr_all", "n_observed")]
    assert_allclose(found, [r_obs, r_all, wr_all, n_observed], rtol=1e-9)
    freedom = used.sum() - statistics["n_parameters_effective"]
    assert statistics["gof"] == pytest.approx(np.sqrt(sums / freedom))
    r_held_out = r_factors(observed[held], sigma[held], calculated[held])[0]
    assert statistics["r_obs_held_out"] == pytest.approx(r_held_out)

    groups = equivalents(
        np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3).round().astype(int)[used],
        summary["structure"]["space_group"],
    )
    o, s, c = (x[used] / scale[used] for x in (observed, sigma, calculated))
    members = [groups == g for g in range(groups.max() + 1)]
    assert len(members) < used.sum()
    merged = r_factors(
        np.array([o[m].mean() for m in members]),
        np.array([np.sqrt((s[m] ** 2).sum()) / m.sum() for m in members]),
        np.array([c[m].mean() for m in members]),
    )
    found = [statistics[name] for name in ("mr_obs", "mr_all", "mwr_all")]
    assert_allclose(found, merged[:3], rtol=1e-9)


def test_weights(table):
    status = numpy(table["hybrid_refine.status"])
    used = status == STATUS["used"]
    weight = numpy(table["hybrid_refine.weight"])
    intensity = np.maximum(numpy(table["intensity.prf.value"]), 0)
    instability = hybrid_refine.phil_scope.extract().weighting.instability
    variance = numpy(table["intensity.prf.variance"]) + (instability * intensity) ** 2
    product = (weight * variance)[used]
    assert_allclose(product, product[0], rtol=1e-9)
    assert (weight[status == STATUS["excluded"]] == 0).all()


def test_the_refinement_did_something(summary):
    """Oxygen goes back to where it was simulated; the thickness is that of the simulation."""
    oxygen = summary["structure"]["atoms"][1]["site"]
    assert np.abs(np.array(oxygen) - [0.8534, 0.5865, 0.6191]).max() < 0.003
    assert all(250 < item["mean"] < 350 for item in summary["thickness"])
