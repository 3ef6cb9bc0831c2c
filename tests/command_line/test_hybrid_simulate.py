"""dials.hybrid_simulate: which reflections, with what intensity, and who can read them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid_refine.command_line import hybrid_simulate

QUIET = ["small.expt", "truth.cif", "d_min=0.9", "thickness.mean=300", "nproc=1"]


@pytest.fixture
def simulate(demo, run_in_tmp_path, capsys):
    """A function that simulates and returns the table and what the command prints."""
    for name in ("small.expt", "truth.cif"):
        shutil.copy(demo / name, run_in_tmp_path)

    def run(*arguments):
        capsys.readouterr()
        hybrid_simulate.run([*QUIET, *arguments])
        return flex.reflection_table.from_file("hybrid_simulated.refl"), capsys.readouterr().out

    return run


def numpy(column):
    return np.array(column.as_numpy_array())


def intensities(table):
    return numpy(table["intensity.prf.value"])


def scale_in(text):
    """Counts per incident electron and degree, which the log states."""
    return float(re.search(r"Scale: (\S+) counts", text)[1])


def geometry():
    """Wave vector of the beam, rotation axis, and the other matrices of the experiment."""
    experiment = ExperimentListFactory.from_json_file("small.expt", check_format=False)[0]
    goniometer = experiment.goniometer
    setting, fixed, a = (
        np.array(m).reshape(3, 3)
        for m in (
            goniometer.get_setting_rotation(),
            goniometer.get_fixed_rotation(),
            experiment.crystal.get_A(),
        )
    )
    axis = np.array(goniometer.get_rotation_axis_datum())
    return np.array(experiment.beam.get_s0()), axis, setting, fixed @ a


def turned(axis, degrees, vectors):
    """Rodrigues' formula: vectors (n, 3), each turned by its angle (n,)."""
    angle = np.radians(degrees)[:, None]
    along = vectors @ axis
    return (
        vectors * np.cos(angle)
        + np.cross(axis, vectors) * np.sin(angle)
        + np.outer(along, axis) * (1 - np.cos(angle))
    )


def excitation_errors(hkl, phi):
    """|k| - |k + g| in 1/Angstrom."""
    s0, axis, setting, settled = geometry()
    g = turned(axis, phi, hkl @ settled.T) @ setting.T
    return np.linalg.norm(s0) - np.linalg.norm(s0 + g, axis=1)


def indices(table):
    return np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3).round().astype(int)


def test_reflections_are_on_the_ewald_sphere(simulate):
    table, _ = simulate()
    phi = np.degrees(numpy(table["xyzcal.mm"].parts()[2]))
    assert np.abs(excitation_errors(indices(table), phi)).max() < 1e-6
    start, end = numpy(table["phi_start"]), numpy(table["phi_end"])
    assert (start < phi).all() and (phi < end).all()
    assert start.min() >= -30 and end.max() <= -10


def test_all_reflections_are_predicted(simulate):
    """As many as change sides of the Ewald sphere while the crystal turns."""
    table, _ = simulate("window.delta_m=0.01", "window.min_zeta=0.001")
    s0, axis, setting, settled = geometry()
    hkl = np.array([h for h in itertools.product(range(-7, 8), repeat=3) if any(h)])
    hkl = hkl[np.linalg.norm(hkl @ settled.T, axis=1) <= 1 / 0.9]
    angles = np.linspace(-29.9, -10.1, 400)
    sides = np.array([excitation_errors(hkl, np.full(len(hkl), phi)) > 0 for phi in angles])
    expected = {tuple(hkl[i]) for i in np.flatnonzero((sides[1:] != sides[:-1]).any(axis=0))}
    found = {tuple(h) for h in indices(table)}
    assert len(expected) > 50
    assert len(found ^ expected) <= 0.05 * len(expected)  # those that pass at the ends of the scan
    phi = np.degrees(numpy(table["xyzcal.mm"].parts()[2]))
    inside = {tuple(h) for h, p in zip(indices(table), phi) if -29.5 < p < -10.5}
    assert inside <= expected


def test_windows_follow_zeta(simulate):
    table, _ = simulate("window.delta_m=0.3", "window.min_zeta=0.2")
    zeta = np.abs(numpy(table["zeta"]))
    assert zeta.min() >= 0.2
    assert_allclose(numpy(table["phi_end"]) - numpy(table["phi_start"]), 0.6 / zeta)
    s0, axis, setting, settled = geometry()
    phi = np.degrees(numpy(table["xyzcal.mm"].parts()[2]))
    s1 = s0 + turned(axis, phi, indices(table) @ settled.T) @ setting.T
    normal = np.cross(s1, s0)
    expected = normal @ setting @ axis / np.linalg.norm(normal, axis=1)
    assert_allclose(numpy(table["zeta"]), expected, atol=1e-4)


def test_resolution(simulate):
    table, _ = simulate("d_min=1.2")
    hkl = indices(table)
    d = 1 / np.linalg.norm(hkl @ geometry()[3].T, axis=1)
    assert 1.2 <= d.min() < 1.4
    assert_allclose(numpy(table["d"]), d, rtol=1e-6)


def test_mean_intensity(simulate):
    first, _ = simulate()
    assert intensities(first).mean() == pytest.approx(1000)
    second, _ = simulate("mean_intensity=50")
    assert_allclose(intensities(second), intensities(first) / 20, rtol=1e-6)
    assert (intensities(first) > 0).all()


def test_noise(simulate):
    expected, _ = simulate()
    noisy, _ = simulate("noise.poisson=True", "noise.background=9", "seed=5")
    again, _ = simulate("noise.poisson=True", "noise.background=9", "seed=5")
    other, _ = simulate("noise.poisson=True", "noise.background=9", "seed=6")
    assert_array_equal(intensities(noisy), intensities(again))
    assert (intensities(noisy) != intensities(other)).mean() > 0.5
    difference = intensities(noisy) - intensities(expected)
    standardised = difference / np.sqrt(intensities(expected) + 9)
    assert 0.7 < standardised.std() < 1.3 and abs(standardised.mean()) < 0.4
    counts = intensities(noisy) + 9
    assert_allclose(counts, counts.round())
    assert_allclose(numpy(noisy["intensity.prf.variance"]), np.maximum(counts, 1) + 9)


def test_thickness_along_the_scan(simulate):
    def misfit(first, second, part):
        x, y = intensities(first)[part], intensities(second)[part]
        return np.abs(x * (x @ y) / (x @ x) - y).sum() / y.sum()

    thin, _ = simulate("thickness.mean=200")
    thick, _ = simulate("thickness.mean=700")
    constant, _ = simulate("thickness.mean=200,200")
    wedge, _ = simulate("thickness.mean=200,700")
    assert_allclose(intensities(constant), intensities(thin), rtol=1e-5)
    phi = np.degrees(numpy(thin["xyzcal.mm"].parts()[2]))
    begin, end = phi < -26, phi > -14
    assert begin.sum() > 5 and end.sum() > 5
    assert misfit(thin, wedge, begin) < 0.5 * misfit(thick, wedge, begin)
    assert misfit(thick, wedge, end) < 0.5 * misfit(thin, wedge, end)


def test_a_distribution_of_thickness_is_an_average(simulate):
    sharp, _ = simulate()
    spread, _ = simulate("thickness.std=80")
    assert np.abs(intensities(spread) / intensities(sharp) - 1).max() > 0.05


def test_absorption_takes_intensity_away(simulate):
    _, without = simulate()
    _, little = simulate("absorption.model=proportional", "absorption.ratio=0.02")
    _, much = simulate("absorption.model=proportional", "absorption.ratio=0.1")
    # the same mean intensity asks for more electrons
    assert scale_in(much) > 1.2 * scale_in(without)
    assert scale_in(without) < scale_in(little) < scale_in(much)


def test_thermal_diffuse_scattering_takes_intensity_away(simulate):
    _, without = simulate()
    _, tabulated = simulate("absorption.model=tabulated")
    _, more = simulate("absorption.model=tabulated", "absorption.factor=5")
    assert scale_in(without) < scale_in(tabulated) < scale_in(more)
    # of light atoms a few per cent in 500 Angstrom
    assert 1.01 < scale_in(tabulated) / scale_in(without) < 1.2


def test_no_absorption_can_be_asked_for(simulate):
    """PHIL takes an unquoted none for None."""
    default, _ = simulate()
    without, _ = simulate("absorption.model=none")
    assert_array_equal(intensities(without), intensities(default))


def test_atoms_beyond_the_absorption_table_are_named(simulate):
    text = Path("truth.cif").read_text()
    Path("truth.cif").write_text(text.replace("0.0125 Uiso", "0.0525 Uiso"))
    _, log = simulate("absorption.model=tabulated")
    assert "truth.cif: absorption is tabulated" in log and "for O1\n" in log
    _, log = simulate("absorption.model=proportional")
    assert "tabulated for B" not in log


def test_output(simulate):
    table, _ = simulate()
    written = ExperimentListFactory.from_json_file("hybrid_simulated.expt", check_format=False)
    read = ExperimentListFactory.from_json_file("small.expt", check_format=False)
    for name in ("beam", "detector", "goniometer", "scan", "crystal"):
        assert getattr(written[0], name) == getattr(read[0], name)
    assert dict(table.experiment_identifiers()) == {0: read[0].identifier}
    for flag in (table.flags.integrated_prf, table.flags.integrated_sum):
        assert table.get_flags(flag).count(False) == 0


def test_none_disables(simulate, run_in_tmp_path):
    before = set(os.listdir(run_in_tmp_path))
    arguments = ["output.experiments=None", "output.reflections=None", "output.log=None"]
    hybrid_simulate.run([*QUIET, *arguments])
    assert set(os.listdir(run_in_tmp_path)) == before


def test_dials_reads_the_files(simulated):
    dials_show = shutil.which("dials.show")
    if dials_show is None:
        pytest.skip("this test needs the command dials.show")
    process = subprocess.run(
        [dials_show, "hybrid_simulated.expt", "hybrid_simulated.refl"],
        cwd=simulated,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0 and not process.stderr
    assert "intensity.prf.value" in process.stdout and "phi_start" in process.stdout


def test_the_installed_command(call, demo, run_in_tmp_path):
    for name in ("small.expt", "truth.cif"):
        shutil.copy(demo / name, run_in_tmp_path)
    process = call("dials.hybrid_simulate", *QUIET)
    assert (process.returncode, process.stderr) == (0, "")
    assert set(os.listdir(run_in_tmp_path)) == {
        "small.expt",
        "truth.cif",
        "hybrid_simulated.expt",
        "hybrid_simulated.refl",
        "dials.hybrid_simulate.log",
    }


def test_intensities_of_thick_crystals_do_not_depend_on_the_tilts(simulate):
    # few reflections of high angle, where rocking curves are narrowest; aliasing doubles some of them
    thick = ["d_min=0.6", "thickness.mean=1200", "thickness.std=100", "window.min_zeta=0.8"]
    found, finer = (
        intensities(simulate(*thick, *more)[0]) for more in ([], ["beams.tilt_step=0.01"])
    )
    well_above = finer > 0.01 * finer.mean()
    # what is left is of the ends of windows, where a rocking curve is cut off
    assert_allclose(found[well_above], finer[well_above], rtol=0.05)
