"""PETS2 files that cannot be used: one sentence that says what and what to do."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from pets_files import PetsFile
from pets_runs import OUTPUT, load, refused, run, without

from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import import_pets


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


def item(name, value):
    """A change of the value of an item, or of an item whose name begins so."""
    return lambda text: re.sub(rf"(?m)^({re.escape(name)}\S*) .*", rf"\g<1> {value}", text)


def _column(header, i, value, row=None):
    """A change of the values in a column of the last loop before or after a header line."""

    def change(text):
        start, rows = text.split(header + "\n")
        end = rows.find("loop_")
        lines = (rows if end < 0 else rows[:end]).splitlines()
        for n, line in enumerate(lines):
            words = line.split()
            if row in (None, n):
                words[i] = value(words[i]) if callable(value) else value
            lines[n] = " ".join(words)
        return start + header + "\n" + "\n".join(lines) + "\n" + ("" if end < 0 else rows[end:])

    return change


def frames(i, value, row=None):
    return _column("_diffrn_zone_axis_scale", i, value, row)


def rows(i, value, row=None):
    return _column("_refln_zone_axis_id", i, value, row)


def _lattice(factor):
    return lambda text: re.sub(
        r"(_UB_\d\d) (.*)", lambda m: f"{m[1]} {factor * float(m[2]):.6g}", text
    )


AGAIN = "again"
CELL = ["the unit cell", "is impossible", "correct it"]
NO_NUMBER = ["not a number", AGAIN]
NOT_FINITE = ["not a finite number", AGAIN]
ELSEWHERE = ["its reflections cross the Ewald sphere", "export the data again"]
ZONE_AXES = ["its zone axes are", "export the data again"]
#: columns of the frames: id u v w semi-angle alpha beta omega scale; of the rows: h k l I sigma frame
IMPOSSIBLE = {
    "wavelength in nm": (item("_diffrn_radiation_wavelength", 0.00251), ["0.00251", "correct"]),
    "wavelength negative": (item("_diffrn_radiation_wavelength", -0.0251), ["-0.0251", "correct"]),
    "wavelength tiny": (item("_diffrn_radiation_wavelength", 1e-300), ["1e-300", "correct"]),
    "wavelength in pm": (item("_diffrn_radiation_wavelength", 2.51), ["2.51", "X-rays"]),
    "cell zero": (item("_cell_length_a", 0), CELL),
    "cell negative": (item("_cell_length_a", -5), CELL),
    "cell no number": (item("_cell_length_a", "x"), NO_NUMBER),
    "cell nan": (item("_cell_length_a", "nan"), NOT_FINITE),
    "cell in nm": (item("_cell_length_", 0.6), ["differs by", "correct one", "unit_cell=UB"]),
    "cell of 1000 A": (item("_cell_length_a", 1000), ["differs by", "unit_cell=UB"]),
    "angle 180": (item("_cell_angle_alpha", 180), CELL),
    "angles that do not close": (item("_cell_angle_alpha", 1), CELL),
    "UB in 1/nm": (_lattice(10), ["differs by", "correct one", "unit_cell=UB"]),
    "UB mirrored": (_lattice(-1), ["left-handed", AGAIN]),
    "UB zero": (_lattice(0), ["singular", AGAIN]),
    "UB infinite": (item("_diffrn_orient_matrix_UB_11", "1e400"), NOT_FINITE),
    "semi-angle zero": (frames(4, "0"), ["precession_angle", "not positive"]),
    "semi-angle huge": (frames(4, "1e9"), ["precession_angle", "1e+09", AGAIN]),
    "semi-angle nan": (frames(4, "nan"), NOT_FINITE),
    "alpha in radians": (frames(5, lambda a: str(np.radians(float(a)))), ZONE_AXES),
    "alpha huge": (frames(5, "1e9"), ZONE_AXES),
    "alpha unknown": (frames(5, "?"), NO_NUMBER),
    "beta nan": (frames(6, "nan"), NOT_FINITE),
    "omega infinite": (frames(7, "1e400"), NOT_FINITE),
    "zone axes elsewhere": (frames(1, "90"), ZONE_AXES),
    "number of a frame": (frames(0, "1.5", 3), ["not an index", AGAIN]),
    "intensity nan": (rows(3, "nan", 3), NOT_FINITE),
    "intensity beyond range": (rows(3, "1e300", 3), ["intensity_meas", "1e+300", AGAIN]),
    "sigma negative": (rows(4, "-1", 3), ["intensity_sigma is negative in row 4", AGAIN]),
    "sigma beyond range": (rows(4, "1e300"), ["intensity_sigma", "1e+300", AGAIN]),
    "sigma unknown": (rows(4, "?"), NO_NUMBER),
    "index beyond range": (rows(0, "5000", 3), ["Miller index 5000", "correct"]),
    "index no integer": (rows(0, "1.5"), ["not an index", AGAIN]),
    "indices zero": (lambda t: rows(0, "0")(rows(1, "0")(rows(2, "0")(t))), ELSEWHERE),
    "indices of another": (rows(2, lambda l: str(int(l) + 3)), ELSEWHERE),
    "UTF-16": (lambda t: "\0".join(t), ["no PETS2 file", "give"]),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_values(text, case):
    edit, parts = IMPOSSIBLE[case]
    assert edit(text) != text
    refused(edit(text), *parts)


def test_sigma_of_zero(text, capsys):
    """Read, since PETS2 may write it, with a warning that it is of no use."""
    run(rows(4, "0")(text))
    assert "have a sigma of zero" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["window.excitation_error=0"], ["window.excitation_error", "0.0001"]),
        (["window.excitation_error=nan"], ["window.excitation_error", "nan"]),
        (["unit_cell=x"], ["unit_cell", "x", "UB"]),
        (["frames.rsg=0.9"], ["frames.rsg", "whole passages", "intensities=frames"]),
        (["intensities=frames", "frames.dsg=1"], ["no reflection", "frames.dsg"]),
        (["intensities=frames", "frames.rsg=-1"], ["frames.rsg", "-1"]),
        (["output.experiments=x", "output.reflections=y"], ["output.experiments=x", ".expt"]),
        (["output.experiments=x.expt", "output.reflections=x.expt"], ["the same file", "choose"]),
        (["output.reflections=/dev/null"], ["output.reflections=/dev/null", "device"]),
        (["output.log=data.cif_pets"], ["output.log=data.cif_pets", "input file"]),
        (["data.cif_pets"], ["2 PETS2 files", "give one"]),
        (["folder"], ["folder is a directory", "give a file"]),
    ],
)
def test_arguments(text, arguments, parts):
    os.mkdir("folder")
    with pytest.raises(Sorry) as raised:
        run(text, *arguments)
    for part in parts:
        assert part in str(raised.value)
    assert not set(os.listdir()) & OUTPUT


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
