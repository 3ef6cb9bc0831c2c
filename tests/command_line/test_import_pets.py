"""dials.import_pets: the files it writes, who can read them, and what it says to bad input."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest
from pets_runs import LOG, OUTPUT, load, run

from dials_hybrid_refine.command_line import import_pets
from dials_hybrid_refine.io.command_input import check_belonging


def test_files(text, capsys):
    run(text)
    assert set(os.listdir()) == OUTPUT | {"data.cif_pets", LOG}
    experiments, table = load()
    check_belonging(table, experiments[0], ("imported_pets.refl", "imported_pets.expt"))
    assert experiments[0].identifier and not table.get_flags(table.flags.bad_for_refinement).count(
        1
    )
    assert {"phi_start", "phi_end", "pets_frame", "pets_n_frames", "zeta", "d"} <= set(table.keys())
    printed = capsys.readouterr().out
    assert "repeat" in printed and "Saving" in printed
    with open(LOG) as log:
        assert "semi-angles 1 to 1 degrees" in log.read()


def test_positions_are_dials_own(text):
    """Predictions by DIALS from the models: indices from positions, positions from indices."""
    run(text)
    experiments, table = load()
    panel = experiments[0].detector[0]
    size = np.array(panel.get_image_size())
    pixels = np.array(table["xyzcal.px"])
    assert (pixels[:, :2] > 0).all() and (pixels[:, :2] < size).all()
    table.centroid_px_to_mm(experiments)
    table.map_centroids_to_reciprocal_space(experiments, calculated=True)
    crystal = experiments[0].crystal
    hkl = np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3)
    frames = np.clip(pixels[:, 2].round().astype(int), 0, crystal.num_scan_points - 1)
    expected = [
        np.array(crystal.get_A_at_scan_point(int(i))).reshape(3, 3) @ h for i, h in zip(frames, hkl)
    ]
    # half an image of missetting, which changes by less than 0.1 degrees per degree
    assert np.abs(np.array(table["rlp"]) - expected).max() < 0.002


def test_output_parameters(text):
    run(text, "output.experiments=None", "output.reflections=other.refl", "output.log=None")
    assert set(os.listdir()) == {"data.cif_pets", "other.refl"}


def test_window(text):
    run(text)
    _, wide = load()
    run(text, "window.excitation_error=0.002")
    _, narrow = load()
    widths = [np.array(t["phi_end"] - t["phi_start"]) for t in (wide, narrow)]
    assert (widths[1] < widths[0] + 1e-9).all() and widths[1].mean() < 0.5 * widths[0].mean()


def test_intensities_of_frames(text, capsys):
    """The limits have their usual values unless they are given."""
    counts = []
    for limits in (["frames.rsg=1"], [], ["frames.dsg=0.0015"], ["frames.rsg=0.66"]):
        run(text, "intensities=frames", *limits)
        _, table = load()
        assert np.ptp(np.array(table["phi_end"] - table["phi_start"])) < 1e-9
        counts.append(len(table))
    assert counts[0] > counts[1] == counts[2] == counts[3] > 0
    assert "side by side" in capsys.readouterr().out


def test_dials_show(text):
    dials_show = shutil.which("dials.show")
    if dials_show is None:
        pytest.skip("this test needs the command dials.show")
    run(text)
    process = subprocess.run([dials_show, *sorted(OUTPUT)], capture_output=True, text=True)
    assert process.returncode == 0 and not process.stderr
    assert "phi_start" in process.stdout and "Rotation axis:   {1,0,0}" in process.stdout


def test_help(capsys):
    with pytest.raises(SystemExit) as raised:
        import_pets.run([])
    assert not raised.value.code
    assert "dials.import_pets [options] data.cif_pets" in capsys.readouterr().out
