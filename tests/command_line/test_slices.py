"""dials.hybrid_refine against the intensities of single images, simulated ones standing in for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_runs import FAST, STATUS, experiment_of, numpy
from refusals import refused

from dials.array_family import flex

from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.reflections import ReflectionFilter, read_observations
from dials_hybrid_refine.refinement.held_out import choose_held_out

INPUT = ["sliced.expt", "sliced.refl", "model.cif"]
SIMULATE = (
    "fine.expt truth.cif d_min=0.8 thickness.mean=300 nproc=1 output.experiments=sliced.expt "
    "output.log=None"
).split()
#: of the images, in degrees: windows are 1 degree wide and more
WIDTH = 0.25
NOISY = ["slices=True", "noise.poisson=True", "output.reflections=sliced.refl"]


@pytest.fixture
def sliced(simulated, run_in_tmp_path) -> Path:
    """The working folder with files of INPUT."""
    for name in ("truth.cif", "model.cif"):
        shutil.copy(simulated / name, run_in_tmp_path)
    content = json.loads((simulated / "small.expt").read_text())
    (scan,) = content["scan"]
    n = round(scan["image_range"][1] * scan["oscillation"][1] / WIDTH)
    scan["image_range"], scan["oscillation"][1] = [1, n], WIDTH
    for name in ("exposure_time", "epochs"):
        scan[name] = [0.0] * n
    Path("fine.expt").write_text(json.dumps(content))
    hybrid_simulate.run([*SIMULATE, *NOISY])
    return run_in_tmp_path


def observations_of(kind):
    experiment = experiment_of("sliced.expt")
    table = flex.reflection_table.from_file("sliced.refl")
    found, _ = read_observations(
        table, experiment, scan_geometry(experiment), ReflectionFilter(intensity=kind)
    )
    return table, found


def test_slices_are_read_with_the_windows_of_their_images(sliced):
    _, whole = observations_of("sum")
    _, slices = observations_of("slices")
    number = np.searchsorted(whole.row, slices.row)
    assert (whole.row[number] == slices.row).all()
    assert slices.phi_end - slices.phi_start == pytest.approx(np.full(len(slices), WIDTH))
    edges = slices.phi_start / WIDTH
    assert edges == pytest.approx(edges.round())
    # they cover the window of the reflection, once
    covered = np.bincount(number, weights=slices.phi_end - slices.phi_start)
    assert covered == pytest.approx(whole.phi_end - whole.phi_start)
    assert np.bincount(number).min() >= 4
    # single precision of the pixels
    assert np.bincount(number, weights=slices.intensity) == pytest.approx(
        whole.intensity, rel=1e-5, abs=1e-3
    )
    assert (slices.phi == whole.phi[number]).all() and (slices.hkl == whole.hkl[number]).all()
    assert slices.sigma.min() >= 1


def test_slices_of_a_reflection_are_held_out_together(sliced):
    _, slices = observations_of("slices")
    unique = np.unique(np.abs(slices.hkl), axis=0, return_inverse=True)[1].reshape(-1)
    held_out = choose_held_out(unique, 0.2, seed=0)
    assert 0 < held_out.sum() < len(slices)
    for row in np.unique(slices.row):
        assert len(np.unique(held_out[slices.row == row])) == 1


def test_parts_of_the_simulated_intensity_add_up(sliced):
    """Without noise: the windows on whole images hold at least those without slices."""
    hybrid_simulate.run([*SIMULATE, "slices=True", "output.reflections=sliced.refl"])
    table, slices = observations_of("slices")
    value, variance = (numpy(table[f"intensity.sum.{n}"]) for n in ("value", "variance"))
    assert value.mean() == pytest.approx(1000)  # the counts that are asked for
    total = np.bincount(slices.row, weights=slices.intensity, minlength=len(table))
    read = np.unique(slices.row)
    assert total[read] == pytest.approx(value[read], rel=1e-5, abs=1e-3)
    assert variance == pytest.approx(value + 20, abs=1)  # at least 1 for each image
    # the rocking curve is highest in the image in which the reflection passes
    strong = np.flatnonzero(value > 2000)
    for row in strong:
        own = slices.row == row
        peak = np.flatnonzero(own)[np.argmax(slices.intensity[own])]
        assert abs((slices.phi_start + slices.phi_end)[peak] / 2 - slices.phi[peak]) < 2 * WIDTH
    assert len(strong) > 5


@pytest.mark.parametrize("by", ["reflections", "frames"])
def test_refinement_against_slices(sliced, by):
    """Whole reflections are what is reported, and they fit as well as counting statistics allow.

    1000 counts on average: amplitudes are good to 2 %, those of slices, a sixth of it each, to 5 %.
    """
    hybrid_refine.run(
        [*INPUT, *FAST, "intensity=slices", f"held_out.by={by}", "held_out.frame_width=2"]
    )
    summary = json.loads(Path("dials.hybrid_refine.json").read_text())
    statistics, slices = summary["statistics"], summary["statistics"]["slices"]
    total = statistics["n_reflections"] + statistics["n_held_out"] + statistics["n_rejected"]
    table, whole = observations_of("sum")
    assert total == len(whole)
    assert slices["n_slices"] + slices["n_held_out"] + slices["n_rejected"] > 4 * total
    assert statistics["r_obs"] < 0.03 and slices["r_obs"] < 0.07
    refined = flex.reflection_table.from_file("hybrid_refined.refl")
    status = numpy(refined["hybrid_refine.status"])
    used = status == STATUS["used"]
    assert used.sum() == statistics["n_reflections"]
    observed, calculated = (
        numpy(refined[n])[used] for n in ("intensity.sum.value", "hybrid_refine.intensity.calc")
    )
    assert calculated.sum() == pytest.approx(observed.sum(), rel=0.02)
    assert "R_obs of slices" in Path("dials.hybrid_refine.log").read_text()
    assert "R<sub>obs</sub> of slices" in Path("dials.hybrid_refine.html").read_text()
    assert "summed image by image" in " ".join(Path("hybrid_refined.cif").read_text().split())


def test_files_without_slices(simulated, run_in_tmp_path):
    for name in ("data.expt", "data.refl", "model.cif"):
        shutil.copy(simulated / name, run_in_tmp_path)
    arguments = ["data.expt", "data.refl", "model.cif", *FAST, "intensity=slices"]
    refused(run_in_tmp_path, arguments, "data.refl", "frame_sliced_shoebox", "intensity=sum")
