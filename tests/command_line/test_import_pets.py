"""dials.import_pets: the files it writes, who can read them, and what it says to bad input."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from pets_files import PetsFile

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import import_pets
from dials_hybrid_refine.io.command_input import check_belonging

OUTPUT = {"imported_pets.expt", "imported_pets.refl"}
LOG = "dials.import_pets.log"


@pytest.fixture
def text(run_in_tmp_path):
    """The text of a good file; the working folder is empty."""
    return PetsFile().text()


def load():
    experiments = ExperimentListFactory.from_json_file("imported_pets.expt", check_format=False)
    return experiments, flex.reflection_table.from_file("imported_pets.refl")


def run(text, *arguments):
    with open("data.cif_pets", "w") as file:
        file.write(text)
    import_pets.run(["data.cif_pets", *arguments])


def refused(text, *parts):
    """A Sorry of one line that names the file and holds all parts, and no output."""
    with pytest.raises(Sorry) as raised:
        run(text)
    message = str(raised.value)
    assert "\n" not in message and message.startswith("data.cif_pets: ")
    assert not re.search(r"Error\b|Traceback|<class|report this", message), message
    for part in parts:
        assert part in message, message
    assert set(os.listdir()) == {"data.cif_pets", LOG}
    return message


def without(text, name):
    """The text without the column of a loop."""
    lines, names, values = [], [], False
    for line in text.splitlines():
        if line == "loop_":
            names, values = [], False
        elif line.startswith("_"):
            names.append(line.split()[0])
        elif name in names and not values:
            values = True
        if name in names and not line.startswith("_"):
            words = line.split()
            del words[names.index(name)]
            line = " ".join(words)
        if line.split()[:1] != [name]:
            lines.append(line)
    return "\n".join(lines) + "\n"


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


# -- bad input -----------------------------------------------------------------------------------


def test_no_pets_file(run_in_tmp_path):
    refused("hello\n", "no PETS2 file", "give the .cif_pets file")
    refused("data_x\n_cell_length_a 5\n", "no PETS2 file")
    refused("", "no PETS2 file")
    refused("data_x\0\0", "no PETS2 file")


def test_wrong_files(text):
    with pytest.raises(Sorry, match="no PETS2 file was given"):
        import_pets.run(["output.log=None", "window.excitation_error=0.01"])
    with pytest.raises(Sorry, match="missing.cif_pets does not exist"):
        import_pets.run(["missing.cif_pets"])
    run(text)
    with pytest.raises(Sorry, match="imported_pets.expt is not needed"):
        import_pets.run(["data.cif_pets", "imported_pets.expt"])
    with pytest.raises(Sorry, match="there is no parameter windw"):
        import_pets.run(["data.cif_pets", "windw=3"])


def test_truncated_anywhere(text):
    """Never a traceback; a file cut off within the reflections is refused or warned about."""
    start = text.index("_refln_zone_axis_id")
    cuts = [*range(20, start, 97), *range(start, start + 60), *range(start, len(text) - 1, 1499)]
    for cut in cuts:
        try:
            run(text[:cut])
        except Sorry as error:
            assert str(error).startswith("data.cif_pets: ") and "\n" not in str(error)
            assert not set(os.listdir()) & OUTPUT
        else:
            raise AssertionError(f"imported a file cut at {cut} of {len(text)}")


def test_truncated_within_the_last_frame(text, capsys):
    run(text[: text.rindex("\n", 0, -1)])
    assert "may be truncated" in capsys.readouterr().out


def test_truncated_between_frames(text, capsys):
    lines = text.splitlines(keepends=True)
    run("".join(line for line in lines if not line.endswith("    13\n")))
    assert "the last 1 of 13 frames have no reflections" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    ["_diffrn_zone_axis_precession_angle", "_diffrn_zone_axis_alpha", "_diffrn_zone_axis_id"]
    + ["_refln_index_l", "_refln_intensity_meas", "_refln_intensity_sigma", "_refln_zone_axis_id"],
)
def test_missing_columns(text, name):
    refused(without(text, name), f"lack {name}", "again")


@pytest.mark.parametrize("name", ["_diffrn_zone_axis_scale", "_diffrn_zone_axis_u"])
def test_columns_not_needed(text, name):
    run(without(text, name))
    assert len(load()[1]) > 100


def test_no_orientation_matrix(text):
    lines = text.splitlines(keepends=True)
    refused("".join(l for l in lines if "_UB_" not in l), "orientation matrix", "missing")
    refused("".join(l for l in lines if "_UB_2" not in l), "incomplete (3 of 9 missing)")
    refused(re.sub(r"(_UB_\d\d) .*", r"\1 0.1", text), "singular")
    negated = re.sub(r"(_UB_\d1) +(\S+)", lambda m: f"{m[1]} {-float(m[2])}", text)
    refused(negated, "left-handed")


def test_no_frames(text):
    start, end = text.index("loop_\n_diffrn_zone"), text.index("loop_\n_refln")
    refused(text[:start] + text[end:], "the virtual frames lack _diffrn_zone_axis_id")


def test_no_reflections(text):
    end = text.index("loop_\n_refln")
    refused(text[:end], "the reflections lack _refln_index_h")
    refused(text[: text.index("_refln_zone_axis_id\n") + 20], "truncated")


@pytest.mark.parametrize(
    "wavelength, parts",
    [
        ("0.71073", ["the wavelength is 0.71073 Angstrom", "X-rays"]),
        ("0", ["the wavelength is 0 Angstrom"]),
        ("nan", ["_diffrn_radiation_wavelength holds nan"]),
        ("?", ["_diffrn_radiation_wavelength holds '?'"]),
    ],
)
def test_wavelength(text, wavelength, parts):
    refused(re.sub(r"(wavelength) .*", rf"\1 {wavelength}", text), *parts)


def test_no_wavelength(text):
    refused(re.sub(r"_diffrn_radiation_wavelength .*", "", text), "wavelength", "is missing")


def test_numbers(text):
    row = next(l for l in text.splitlines() if l.endswith("       10.00     1"))
    for new, part in [
        (row.replace("10.00", "nan"), "_refln_intensity_sigma holds nan"),
        (row.replace("10.00", "inf"), "_refln_intensity_sigma holds inf"),
        (row.replace("10.00", "-3.0"), "_refln_intensity_sigma is negative in row 1"),
        (row.replace("10.00", "abc"), "_refln_intensity_sigma holds 'abc'"),
        (row[:-1] + "77", "reflections name frame 77"),
        (row[:-1] + "1.5", "_refln_zone_axis_id holds 1.5, which is not an index"),
    ]:
        refused(text.replace(row, new, 1), part)


def test_frames(text):
    row = next(l for l in text.splitlines() if l.startswith("   2 "))
    refused(text.replace(row, row.replace("   2 ", "   1 ", 1)), "the same _diffrn_zone_axis_id")
    refused(text.replace("  1.00000  -5.0", " -1.00000  -5.0"), "precession_angle of frame 2")


def test_several_sweeps(text):
    file = PetsFile(alpha=np.concatenate([np.arange(6.0), np.arange(6.0)]))
    refused(file.text(), "turn back at frame 7", "split it")


def test_frames_at_one_angle(text):
    file = PetsFile(alpha=np.zeros(4))
    refused(file.text(), "turn back at frame")


def test_one_frame(text):
    run(PetsFile(alpha=np.array([12.0])).text())
    _, table = load()
    assert len(table) > 10
    assert np.abs(np.array(table["phi_end"] - table["phi_start"]) - 2).max() < 1e-9


def test_precession(text):
    refused(text.replace("continuous rotation", "precession"), "geometry is 'precession'")


def test_several_blocks(text):
    refused(text + text.replace("data_pets", "data_other"), "2 data blocks")


def test_modulated(text):
    part = "modulated or composite crystal"
    refused(
        text.replace(
            "_diffrn_radiation_wav", "_cell_modulation_dimension 1\n_diffrn_radiation_wav", 1
        ),
        part,
    )
    satellite = text.replace("_refln_index_l\n", "_refln_index_l\n_refln_index_m_1\n")
    start = satellite.index("_refln_zone_axis_id\n") + len("_refln_zone_axis_id\n")
    rows = [
        re.sub(r"^((?:\s*-?\d+){3})", rf"\1 {n % 3 - 1}", row)
        for n, row in enumerate(satellite[start:].splitlines())
    ]
    refused(satellite[:start] + "\n".join(rows) + "\n", part, "_refln_index_m_1")
