"""Several crystals in one refinement: two wedges of quartz, at different wavelengths, and what may be wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from command_runs import FAST, numpy
from numpy.testing import assert_allclose
from refusals import refused
from several_processes import outcomes, started
from working_directory import working_in

import iotbx.cif
from dials.array_family import flex
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from benchmarks.several_crystals import write_crystal, write_structures
from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate
from dials_hybrid_refine.io.crystal_files import Recorded, together
from dials_hybrid_refine.refinement.crystal_fit import CrystalsDoNotFit
from dials_hybrid_refine.refinement.program import run_refinement

#: mean thickness in Angstrom along the scan of each crystal
PROFILES = [(250, 330), (420, 380)]
#: of 200 and 300 kV
WAVELENGTHS = [0.0250793, 0.0196875]
SIMULATE = [
    "d_min=0.9",
    "noise.poisson=True",
    "slices=True",
    "beams.g_max=1.2",
    "beams.s_max=0.01",
    "nproc=1",
]
PAIRS = ["0.expt", "0.refl", "1.expt", "1.refl", "model.cif"]
QUICK = [*FAST, "beams.g_max=1.2", "beams.s_max=0.01", "beams.tilt_step=0.1",
         "absolute_structure.test=False", "difference_map=False", "output.html=None"]  # fmt: skip
JOINT = [*QUICK, "absorption.model=tabulated", "difference_map=True", "convergence=True"]
EXCLUDE = "crystals.exclude_bad=True"


def experiments_of(path) -> ExperimentList:
    return ExperimentListFactory.from_json_file(str(path), check_format=False)


def summary_of(folder) -> dict:
    return json.loads((Path(folder) / "dials.hybrid_refine.json").read_text())


def plain(summary: dict) -> dict:
    """A summary without times and parameters."""
    return {k: v for k, v in summary.items() if k not in ("timing", "parameters")}


@pytest.fixture(scope="module")
def wedges(tmp_path_factory) -> Path:
    """A folder with 0, 1 (quartz) and 2 (another compound), each .expt and .refl, and model.cif."""
    folder = tmp_path_factory.mktemp("wedges")
    write_structures(folder)
    with working_in(folder):
        for k in range(3):
            write_crystal(folder, k, 12)
            experiments = experiments_of(f"{k}.expt")
            experiments[0].beam.set_wavelength(WAVELENGTHS[k % 2])
            experiments.as_file(f"{k}.expt")
            means = ",".join(map(str, PROFILES[k % 2]))
            truth = "truth.cif" if k < 2 else "other.cif"
            written = [f"output.experiments={k}.expt", f"output.reflections={k}.refl"]
            hybrid_simulate.run(
                [f"{k}.expt", truth, f"thickness.mean={means}", f"seed={k}", *SIMULATE, *written]
            )
    return folder


@pytest.fixture
def crystals(wedges, run_in_tmp_path) -> Path:
    """The working folder with copies of these files, to be spoilt."""
    for name in [*PAIRS, "2.expt", "2.refl"]:
        shutil.copy(wedges / name, run_in_tmp_path)
    return run_in_tmp_path


@pytest.fixture(scope="module")
def joint(wedges, tmp_path_factory) -> Path:
    """A folder with the refinement of 0 and 1 together, of everything that can be refined."""
    folder = tmp_path_factory.mktemp("joint")
    for name in PAIRS:
        shutil.copy(wedges / name, folder)
    with working_in(folder):
        more = ["output.res=a.res", "output.hkl=a.hkl", "output.mtz=a.mtz", "output.plots=plots",
                "output.html=dials.hybrid_refine.html", "cif.reflections=merged"]  # fmt: skip
        hybrid_refine.run([*PAIRS, *JOINT, *more])
    return folder


def test_each_crystal_has_its_figures(joint):
    """R of both, their thickness and absorption; the numbers of all are their sums."""
    summary = summary_of(joint)
    crystals, all_together = summary["crystals"], summary["statistics"]
    assert [c["name"] for c in crystals] == ["0.expt", "1.expt"]
    assert [c["identifier"] for c in crystals] == ["crystal-0", "crystal-1"]
    assert [c["wavelength"] for c in crystals] == pytest.approx(WAVELENGTHS)
    for key in ("n_reflections", "n_observed", "n_rejected", "n_held_out"):
        assert sum(c[key] for c in crystals) == all_together[key]
    assert all(c["r_obs"] < 0.06 for c in crystals)
    low, high = sorted(c["r_obs"] for c in crystals)
    assert low <= all_together["r_obs"] <= high
    for row in summary["thickness"]:
        first, last = crystals[row["experiment"]]["phi_range"]
        truth = np.interp(row["phi"], [first, last], PROFILES[row["experiment"]])
        assert abs(row["mean"] - truth) < 3 * row["mean_su"] < 450
    values = [c["absorption"]["value"] for c in crystals]
    assert values[0] != values[1] and all(c["absorption"]["su"] > 0 for c in crystals)
    assert summary["absorption"] is None
    assert summary["excluded_crystals"] == []
    assert {row["experiment"] for row in summary["thickness"]} == {0, 1}


def test_one_cif_of_several_scans(joint):
    block = iotbx.cif.reader(file_path=str(joint / "hybrid_refined.cif")).model()["hybrid_refined"]
    found = [float(w) for w in block["_diffrn_radiation_wavelength"]]
    assert found == pytest.approx(WAVELENGTHS, abs=1e-6)
    method = " ".join(block["_diffrn_measurement_method"].split())
    assert "2 crystals" in method and "from -13 to -1 degrees" in method
    details = " ".join(block["_refine_special_details"].split())
    for i, crystal in enumerate(summary_of(joint)["crystals"], start=1):
        assert f"Crystal {i}: {crystal['n_reflections']} reflections" in details
        assert f"R_obs {crystal['r_obs']:.4f}" in details
    assert "?" not in block["_refine_ls.sample_thickness"]


def test_refined_experiments_and_reflections_of_all(joint):
    experiments = experiments_of(joint / "hybrid_refined.expt")
    table = flex.reflection_table.from_file(str(joint / "hybrid_refined.refl"))
    assert list(experiments.identifiers()) == ["crystal-0", "crystal-1"]
    table.assert_experiment_identifiers_are_consistent(experiments)
    summary = summary_of(joint)
    for i, crystal in enumerate(summary["crystals"]):
        mine = table.select(table["id"] == i)
        status = numpy(mine["hybrid_refine.status"])
        assert (status == 0).sum() == crystal["n_reflections"]
        given = flex.reflection_table.from_file(str(joint / f"{i}.refl"))
        assert list(mine["miller_index"]) == list(given["miller_index"])
        used = status == 0
        observed = numpy(mine["intensity.prf.value"])[used]
        calculated = numpy(mine["hybrid_refine.intensity.calc"])[used]
        assert np.corrcoef(observed, calculated)[0, 1] > 0.98


def test_all_other_files_are_written(joint):
    for name in ("a.res", "a.hkl", "a.mtz", "dials.hybrid_refine.html", "plots"):
        assert (joint / name).exists()
    page = (joint / "dials.hybrid_refine.html").read_text()
    assert "thickness_profile_1" in page and ">1.expt<" in page
    log = (joint / "dials.hybrid_refine.log").read_text()
    assert "Crystals:" in log and "crystals are" not in log


def test_limits_and_difference_map_of_all(joint):
    """Raising the limits changes the amplitudes by less than 5 %; a map is made."""
    summary = summary_of(joint)
    assert [row["setting"] for row in summary["convergence"]][:3] == ["g_max", "s_max", "tilt_step"]
    assert all(row["change"] < 0.05 for row in summary["convergence"])
    assert summary["difference_map"]["rms"] > 0


def test_two_processes_have_the_result_of_one(joint, run_in_tmp_path):
    """To the last digit, of two crystals at two wavelengths that absorb."""
    for name in PAIRS:
        shutil.copy(joint / name, run_in_tmp_path)
    command = ["-m", "dials_hybrid_refine.command_line.hybrid_refine", *PAIRS, *JOINT]
    with started(2 * [command]) as processes:
        assert [code for code, *_ in outcomes(processes)] == [0, 0]
    assert plain(summary_of(run_in_tmp_path)) == plain(summary_of(joint))


def test_image_by_image(crystals):
    """Slices of both crystals: whole reflections are reported, as many as there are."""
    hybrid_refine.run([*PAIRS, *QUICK, "intensity=slices"])
    summary = summary_of(crystals)
    together, both = summary["statistics"], summary["crystals"]
    for i, crystal in enumerate(both):
        n = len(flex.reflection_table.from_file(f"{i}.refl"))
        found = sum(crystal[key] for key in ("n_reflections", "n_rejected", "n_held_out"))
        assert 0.9 * n < found <= n
        assert crystal["r_obs"] < 0.06
    assert together["slices"]["n_slices"] > 2 * together["n_reflections"]


def test_a_refinement_goes_on_with_what_a_checkpoint_has(joint, run_in_tmp_path):
    """All its stages are taken from there, to the same numbers."""
    for name in [*PAIRS, "hybrid_refine.checkpoint"]:
        shutil.copy(joint / name, run_in_tmp_path)
    hybrid_refine.run([*PAIRS, *JOINT, "checkpoint.resume=hybrid_refine.checkpoint"])
    assert plain(summary_of(run_in_tmp_path)) == plain(summary_of(joint))


def test_files_of_one_experiment_or_of_both_give_the_same(crystals, stop_before_refinement):
    """Copied into one pair in the other order, too: the identifiers say what belongs together."""
    with pytest.raises(Sorry, match="the input was good"):
        hybrid_refine.run([*PAIRS, *QUICK])
    recorded = [
        (experiments_of(f"{k}.expt")[0], flex.reflection_table.from_file(f"{k}.refl"))
        for k in (0, 1)
    ]
    experiments, _ = together(recorded)
    experiments.as_file("both.expt")
    together(recorded[::-1])[1].as_file("both.refl")
    with pytest.raises(Sorry, match="the input was good"):
        hybrid_refine.run(["both.expt", "both.refl", "model.cif", *QUICK])
    (scans, one, *_), (same_scans, same, *_) = stop_before_refinement
    for field in fields(one):
        assert_allclose(getattr(same, field.name), getattr(one, field.name), rtol=1e-12)
    for scan, again in zip(scans, same_scans):
        # dxtbx writes real-space vectors, whose inverse differs by round-off
        assert_allclose(again.crystal_settings, scan.crystal_settings, atol=1e-12)
        assert (again.wavelength, again.phi_range) == (scan.wavelength, scan.phi_range)


def test_second_crystal_in_another_setting(crystals):
    """Quartz has two settings in its lattice: the second crystal is brought to that of the structure."""
    right = experiments_of("1.expt")[0]
    table = flex.reflection_table.from_file("1.refl")
    wrong = Recorded("1.expt", "1.refl", right, table).reindexed("-a,-b,c")
    assert list(wrong.table["miller_index"]) != list(table["miller_index"])
    ExperimentList([wrong.experiment]).as_file("1.expt")
    wrong.table.as_file("1.refl")
    hybrid_refine.run([*PAIRS, *QUICK])
    summary = summary_of(crystals)
    assert [c["reindexed"] for c in summary["crystals"]] == [None, "-a,-b,c"]
    assert summary["statistics"]["r_obs"] < 0.06
    written = flex.reflection_table.from_file("hybrid_refined.refl")
    assert list(written.select(written["id"] == 1)["miller_index"]) == list(table["miller_index"])
    refined = np.array(experiments_of("hybrid_refined.expt")[1].crystal.get_A())
    assert refined == pytest.approx(np.array(right.crystal.get_A()), abs=1e-3)


def test_another_compound_is_named_and_left_out(crystals):
    """The rest is what the refinement of the first alone gives."""
    files = ["0.expt", "0.refl", "2.expt", "2.refl", "model.cif"]
    hybrid_refine.run([*files, *QUICK, EXCLUDE])
    summary = summary_of(crystals)
    (left_out,) = summary["excluded_crystals"]
    assert left_out["name"] == "2.expt" and "little in common" in left_out["reason"]
    assert any("2.expt was left out" in warning for warning in summary["warnings"])
    assert [c["name"] for c in summary["crystals"]] == ["0.expt"]
    assert len(experiments_of("hybrid_refined.expt")) == 1
    hybrid_refine.run([*files[:2], "model.cif", *QUICK])
    alone = summary_of(crystals)
    assert alone["structure"] == summary["structure"]
    assert alone["statistics"] == summary["statistics"]


def test_a_crystal_that_fits_no_better_when_refined(crystals, stop_before_refinement):
    """Data in disorder, unnoticed at the start, stop a refinement that is to leave bad crystals out."""
    with pytest.raises(Sorry, match="the input was good"):
        hybrid_refine.run([*PAIRS, *QUICK, EXCLUDE])
    ((scans, observations, *others),) = stop_before_refinement
    second = observations.experiment == 1
    intensity = observations.intensity.copy()
    intensity[second] = np.random.default_rng(1).permutation(intensity[second])
    with pytest.raises(CrystalsDoNotFit) as raised:
        run_refinement(scans, replace(observations, intensity=intensity), *others)
    assert set(raised.value.reasons) == {1}


def test_another_compound_is_reported(crystals, capsys):
    files = ["0.expt", "0.refl", "2.expt", "2.refl", "model.cif"]
    hybrid_refine.run([*files, *QUICK])
    summary = summary_of(crystals)
    assert len(summary["crystals"]) == 2 and summary["excluded_crystals"] == []
    assert summary["crystals"][1]["r_obs"] > 0.3 > summary["crystals"][0]["r_obs"]
    assert any("experiment 1 may not belong" in warning for warning in summary["warnings"])
    # the checks of the data are made for each crystal, which they name
    assert {e["experiment"] for e in summary["experiments"]} == {0, 1}
    for finding in summary["data_checks"]:
        of_one = finding["sentence"].startswith(("0.expt: ", "2.expt: "))
        assert of_one == (finding["name"] != "low_completeness")
    assert "low_completeness" in [finding["name"] for finding in summary["data_checks"]]
    assert "Warning: 2.expt may not be of this structure" in capsys.readouterr().out


def _spoil(name: str, edit) -> None:
    content = json.loads(Path(name).read_text())
    edit(content)
    Path(name).write_text(json.dumps(content))


def test_a_broken_experiment_is_named_or_left_out(crystals, stop_before_refinement, capsys):
    _spoil("1.expt", lambda c: c["beam"][0].update(wavelength=0.9795))
    refused(crystals, [*PAIRS, *QUICK], "1.expt: the wavelength is 0.9795 Angstrom")
    refused(crystals, [*PAIRS, *QUICK, EXCLUDE], "the input was good")
    ((scans, *_),) = stop_before_refinement
    assert [scan.wavelength for scan in scans] == pytest.approx(WAVELENGTHS[:1])
    assert (
        "Warning: 1.expt is left out: 1.expt: the wavelength is 0.9795" in capsys.readouterr().out
    )


def test_a_cell_that_differs_is_named(crystals):
    experiments = experiments_of("1.expt")
    a = np.array(experiments[0].crystal.get_A())
    experiments[0].crystal.set_A(tuple(1.1 * a))
    experiments.as_file("1.expt")
    refused(crystals, [*PAIRS, *QUICK], "1.expt and model.cif", "differ by")


def _other_identifier(crystals):
    _spoil("1.expt", lambda c: c["experiment"][0].update(identifier="another"))


REFUSED = {
    "identifiers": (
        PAIRS, _other_identifier, ["no reflections belong to 1.expt", "identifiers differ", "together"]
    ),
    "too few tables": (
        ["0.expt", "0.refl", "1.expt", "model.cif"], None,
        ["no reflections belong to 1.expt"],
    ),
    "both selections": (
        [*PAIRS, "dataset_selection.use_datasets=0", "dataset_selection.exclude_datasets=1"], None,
        ["use_datasets", "exclude_datasets", "give one"],
    ),
    "no such number": (
        [*PAIRS, "dataset_selection.use_datasets=2"], None,
        ["dataset_selection.use_datasets=2", "numbered 0 to 1"],
    ),
    "nothing left": (
        [*PAIRS, "dataset_selection.exclude_datasets=0,1"], None, ["exclude_datasets leaves no experiment"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(crystals, case):
    arguments, edit, parts = REFUSED[case]
    if edit is not None:
        edit(crystals)
    refused(crystals, [*arguments, *QUICK], *parts)


def test_selection_of_datasets(crystals, stop_before_refinement):
    """As for dials.scale, by number from 0."""
    refused(
        crystals, [*PAIRS, *QUICK, "dataset_selection.exclude_datasets=0"], "the input was good"
    )
    ((scans, observations, *_),) = stop_before_refinement
    assert [scan.wavelength for scan in scans] == pytest.approx(WAVELENGTHS[1:])
    assert set(observations.experiment) == {0}
