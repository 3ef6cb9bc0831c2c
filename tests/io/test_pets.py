"""PETS2 files become experiments and observations of the same diffraction experiment."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pets_files import WAVELENGTH, PetsFile
from scipy.spatial.transform import Rotation

from cctbx import uctbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid_refine.diffraction.beams import BeamSelection, nominal_excitation_errors
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.pets import read_pets
from dials_hybrid_refine.io.pets_geometry import (
    axis_at,
    frame_angles,
    frame_rotations,
    lattice_of_cell,
    passage_turns,
)
from dials_hybrid_refine.io.pets_import import import_pets
from dials_hybrid_refine.io.pets_reflections import (
    neighbouring_rows,
    passage_spread,
    row_passages,
)
from dials_hybrid_refine.io.reflections import (
    ReflectionFilter,
    check_positions,
    read_observations,
)
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.thickness.given import GivenThickness

ALL = ReflectionFilter(min_zeta=0, max_window=1e3)


@lru_cache(maxsize=None)
def read(path):
    return read_pets(str(path))


def imported(data, metric="cell"):
    return import_pets(data, 0.01, "identifier", metric)


def written(tmp_path, file, *replacements):
    """The data of a made-up file, after replacements in its text."""
    text = file.text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "made.cif_pets").write_text(text)
    return read_pets(str(tmp_path / "made.cif_pets"))


def numpy(column):
    return np.array(column.as_numpy_array())


def indices(table):
    return np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3).round().astype(int)


def angles(table):
    return np.degrees(numpy(table["xyzcal.mm"].parts()[2]))


def errors_at(scan, hkl, phi):
    """S of each reflection at its angle, 1/Angstrom."""
    return np.array(
        [
            nominal_excitation_errors(b[None], h[None], scan.beam_direction, 1 / scan.wavelength)[
                0, 0
            ]
            for b, h in zip(scan.reciprocal_bases(phi), hkl)
        ]
    )


# -- the files of the paper ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, rows, repeated, different, observations",
    [
        ("quartz/experimental", 6666, 5161, 0, 1505),
        ("cspbbr3/experimental", 32669, 14778, 0, 17891),
        ("quartz/synthetic", 3270, 1, 1404, 3270),
        ("cspbbr3/synthetic", 29871, 0, 29, 29871),
    ],
)
def test_what_an_intensity_stands_for(shared, name, rows, repeated, different, observations):
    """Counts of project's notes on the files; a few reflections near the axis never pass."""
    data = read(shared / "paper" / f"{name}.cif_pets")
    pairs = neighbouring_rows(data)
    assert (len(data.hkl), pairs.n_repeated, pairs.n_different) == (rows, repeated, different)
    result = imported(data)
    assert observations - 5 < len(result.reflections) <= observations
    text = " ".join(result.messages)
    assert ("the whole passage" in text) == (repeated > different)
    assert (f"{observations} measurements" in text) or repeated < different


def test_orientation_of_irregular_frames(shared):
    """In the middle of a frame the interpolated orientation is the frame's, to 0.02 degrees."""
    data = read(shared / "paper/quartz/experimental.cif_pets")
    scan = scan_geometry(imported(data, "UB").experiment)
    expected = frame_rotations(data.frames)
    found = scan.reciprocal_bases(data.frames.alpha) @ np.linalg.inv(data.setting)
    difference = Rotation.from_matrix(found).inv() * expected
    assert np.degrees(difference.magnitude()).max() < 0.02
    assert scan.phi_range == pytest.approx((-50.197, 50.079), abs=0.002)


def test_hybrid_refine_reads_them(shared):
    result = imported(read(shared / "paper/quartz/experimental.cif_pets"))
    scan = scan_geometry(result.experiment)
    observations, excluded = read_observations(
        result.reflections, result.experiment, scan, ReflectionFilter()
    )
    assert len(observations) > 1400
    assert set(excluded.counts) <= {
        "near the rotation axis",
        "window leaves the scan",
        "window too wide",
    }
    check_positions(observations, scan, "imported_pets.expt")
    assert np.abs(errors_at(scan, observations.hkl, observations.phi)).max() < 1e-7


def r_obs(calculated, observations):
    """R of observed reflections on F, with the best scale for each four degrees."""
    total = 0.0
    f_obs = np.sqrt(np.maximum(observations.intensity, 0))
    f_calc = np.sqrt(calculated)
    observed = observations.intensity > 3 * observations.sigma
    block = np.floor(observations.phi / 4)
    for number in np.unique(block[observed]):
        part = observed & (block == number)
        scales = np.median(f_obs[part] / f_calc[part]) * np.linspace(0.7, 1.4, 200)
        total += min(np.abs(f_obs[part] - k * f_calc[part]).sum() for k in scales)
    return total / f_obs[observed].sum()


def test_intensities_fit_the_structure_and_not_its_mirror_image(shared):
    """One thickness, nothing refined: R_obs is 0.097 with the structure, 0.113 with its image."""
    data = read(shared / "paper/quartz/experimental.cif_pets")
    structure = read_structure(str(shared / "paper/quartz/kinematical.cif")).structure
    result = imported(data)
    scan = scan_geometry(result.experiment)
    observations, _ = read_observations(
        result.reflections, result.experiment, scan, ReflectionFilter(min_zeta=0.3)
    )

    def misfit(xray_structure):
        calculated = simulate_intensities(
            scan,
            observations,
            xray_structure,
            GivenThickness([550.0], 0.0, scan.phi_range),
            None,
            BeamSelection(g_max=1.8, s_max=0.012, tilt_step=0.1, block_width=1.0),
            PropagationSettings(dtype=torch.complex64, n_threads=1),
        )
        return r_obs(calculated, observations)

    right, wrong = misfit(structure), misfit(structure.change_hand())
    assert right < 0.11
    assert wrong > right + 0.008


def test_signs_of_the_frame(shared):
    """Reversing beam or rotation takes the passages out of the frames that list them."""
    data = read(shared / "paper/cspbbr3/synthetic.cif_pets")
    half = data.frames.semi_angle[0]
    turns = row_passages(data, axis_at(0))
    assert np.abs(turns).max() < half  # lists were made with the same geometry
    g = np.einsum(
        "nij,nj->ni",
        (frame_rotations(data.frames).as_matrix() @ data.setting)[data.frame],
        data.hkl,
    )
    other_beam = passage_turns(g * [1, 1, -1], data.wavelength, axis_at(0))
    inverted = passage_turns(-g, data.wavelength, axis_at(0))
    for wrong in (other_beam, inverted):
        assert (np.nan_to_num(np.abs(wrong), nan=180) > half).mean() > 0.5
    pairs = neighbouring_rows(read(shared / "paper/quartz/experimental.cif_pets"))
    quartz = read(shared / "paper/quartz/experimental.cif_pets")
    spread = passage_spread(quartz, pairs, axis_at(0))
    assert spread < 0.05
    assert passage_spread(quartz, pairs, axis_at(0), sense=-1) > 20 * spread


# -- dials.export format=pets and back ---------------------------------------------------------------


@pytest.fixture(scope="session")
def exported(quartz, tmp_path_factory):
    pytest.importorskip("gemmi")
    folder = tmp_path_factory.mktemp("export")
    files = [str(quartz / f"integrated.{suffix}") for suffix in ("expt", "refl")]
    subprocess.run(
        [sys.executable, "-m", "dials.command_line.export", "format=pets", *files],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return folder / "dials_dyn.cif_pets"


def test_export_and_import(quartz, exported):
    """Passages and excitation errors are the original's to 0.01 degrees."""
    original = ExperimentListFactory.from_json_file(
        str(quartz / "integrated.expt"), check_format=False
    )[0]
    table = flex.reflection_table.from_file(str(quartz / "integrated.refl"))
    result = imported(read(exported))
    hkl, phi = indices(table), angles(table)
    again, found = indices(result.reflections), angles(result.reflections)
    intensity = numpy(table["intensity.sum.value"])
    rows = []
    for h, value in zip(again, numpy(result.reflections["intensity.sum.value"])):
        candidates = np.flatnonzero((hkl == h).all(axis=1) & (np.abs(intensity - value) < 0.006))
        assert len(candidates) == 1
        rows.append(candidates[0])
    assert len(rows) == len(set(rows)) == 1492  # 1653 without 161 partial ones
    assert np.abs(found - phi[rows]).max() < 0.01
    zeta = numpy(table["zeta"])[rows]
    assert_allclose(np.abs(numpy(result.reflections["zeta"])), np.abs(zeta), atol=2e-4)

    before, after = scan_geometry(original), scan_geometry(result.experiment)
    lengths = np.linalg.norm(again @ after.crystal_settings[0].T, axis=1)
    for offset in (-0.5, 0.0, 0.5):
        difference = errors_at(after, again, phi[rows] + offset)
        difference -= errors_at(before, again, phi[rows] + offset)
        # S changes by |g| times the angle, at most
        assert (np.abs(difference) < np.radians(0.01) * lengths).all()
    first, last = result.experiment.scan.get_oscillation_range()
    assert (first, last) == pytest.approx(original.scan.get_oscillation_range())


# -- made-up files -----------------------------------------------------------------------------------


def test_whole_passages(tmp_path):
    file = PetsFile()
    result = imported(written(tmp_path, file))
    table = result.reflections
    rows = np.array([row[:3] for row in file.rows])
    assert len(table) == len(np.unique(rows, axis=0))  # each passes once
    assert numpy(table["pets_n_frames"]).sum() == len(rows)
    for h, first, n in list(zip(indices(table), table["pets_frame"], table["pets_n_frames"]))[:50]:
        frames = [row[5] for row in file.rows if row[:3] == tuple(h)]
        assert frames == list(range(first, first + n))
    scan = scan_geometry(result.experiment)
    phi, start, end = angles(table), numpy(table["phi_start"]), numpy(table["phi_end"])
    assert_allclose((start + end) / 2, phi, atol=1e-9)
    fast = end - start < 1.5  # where S grows linearly enough
    at_end = np.abs(errors_at(scan, indices(table)[fast], end[fast]))
    assert fast.sum() > 50
    assert_allclose(at_end, 0.01, rtol=0.05)
    assert_array_equal(numpy(table["intensity.prf.value"]), numpy(table["intensity.sum.value"]))
    assert_allclose(numpy(table["intensity.sum.variance"]), 100)


def test_slow_reflections_have_shorter_windows(tmp_path):
    table = imported(written(tmp_path, PetsFile())).reflections
    width = numpy(table["phi_end"]) - numpy(table["phi_start"])
    assert ((width > 3.97) & (width < 4)).sum() > 5


def test_one_reflection_measured_twice(tmp_path):
    """Frames far apart may list the same hkl: it passes the sphere on its way in and out."""
    file = PetsFile()
    h, k, l, intensity, sigma, _ = next(row for row in file.rows if row[5] == 1)
    file.rows.append((h, k, l, intensity, sigma, 11))
    table = imported(written(tmp_path, file)).reflections
    assert (indices(table) == (h, k, l)).all(axis=1).sum() == 2


def test_ranges_of_frames(tmp_path):
    """Each frame has a stretch of the scan, in which the orientation is exactly the frame's."""
    file = PetsFile(repeated=False)
    result = imported(written(tmp_path, file), "UB")
    table = result.reflections
    assert len(table) == len(file.rows)
    assert_allclose(numpy(table["phi_end"]) - numpy(table["phi_start"]), 2.0)
    assert_array_equal(numpy(table["pets_frame"]), [row[5] for row in file.rows])
    scan = scan_geometry(result.experiment)
    centre = (numpy(table["phi_start"]) + numpy(table["phi_end"])) / 2
    for number, matrix in enumerate(file.matrices(), start=1):
        middle = centre[numpy(table["pets_frame"]) == number][0]
        for theta in (-1, -0.3, 0, 0.7, 1):
            expected = Rotation.from_euler("x", theta, degrees=True).as_matrix() @ matrix
            assert_allclose(
                scan.reciprocal_bases(np.array([middle + theta]))[0], expected, atol=1e-9
            )
    phi = angles(table)
    inside = np.abs(phi - centre) < 0.999
    assert np.abs(errors_at(scan, indices(table)[inside], phi[inside])).max() < 1e-9
    ends = np.unique(
        np.stack([numpy(table["phi_start"]), numpy(table["phi_end"])], axis=1).round(6), axis=0
    )
    assert (ends[1:, 0] > ends[:-1, 1]).all()  # no angle belongs to two frames


def test_the_stated_cell_in_the_orientation_of_ub(shared):
    """The metric is hexagonal to the digit; no rotation brings it nearer to UB."""
    data = read(shared / "paper/quartz/experimental.cif_pets")
    result = imported(data)
    assert_allclose(result.experiment.crystal.get_unit_cell().parameters(), data.cell, rtol=1e-9)
    assert any("1.2 %" in text and "the cell is used" in text for text in result.warnings)

    lattice = lattice_of_cell(data.setting, data.cell)
    basis = np.array(uctbx.unit_cell(data.cell).fractionalization_matrix()).reshape(3, 3).T

    def distance(rotation):
        written = data.setting @ np.linalg.inv(basis)
        return np.linalg.norm(
            rotation.as_matrix() @ lattice.setting @ np.linalg.inv(basis) - written
        )

    at_best = distance(Rotation.identity())
    for axis in np.eye(3):
        for angle in (-1e-3, 1e-3):  # a rotation by a adds a^2 to the square of the distance
            assert distance(Rotation.from_rotvec(angle * axis)) ** 2 > at_best**2 + 0.9e-6
    # UB as written breaks the symmetry
    as_written = imported(data, "UB").experiment.crystal.get_unit_cell().parameters()
    assert abs(as_written[4] - 90) > 0.05


def test_a_cell_of_another_setting_is_not_used(tmp_path):
    """A cell with the axes in another order would turn the indices: UB is kept."""
    file = PetsFile()
    data = written(tmp_path, file)
    a, b, c, *angles_ = data.cell
    data = dataclasses.replace(data, cell=(c, a, b, *angles_))
    result = imported(data)
    assert any("used as written" in text for text in result.warnings)
    used = result.experiment.crystal.get_unit_cell().parameters()[:3]
    assert_allclose(used, (a, b, c), rtol=2e-3)


def test_rotation_axis_in_another_direction(tmp_path):
    """Neighbouring frames, which agree on passages for one axis only, tell where it is."""
    file = PetsFile(azimuth=22.0)
    data = written(tmp_path, file)
    result = imported(data)
    axis = np.array(result.experiment.goniometer.get_rotation_axis())
    assert np.degrees(np.arctan2(axis[1], axis[0])) == pytest.approx(22, abs=0.6)  # it wanders
    assert "22.000 degrees (the rotation axis position)" in " ".join(result.messages)
    scan = scan_geometry(result.experiment)
    found = scan.reciprocal_bases(frame_angles(data.frames, axis))
    assert_allclose(found, file.matrices(), atol=2e-4)
    assert scan.phi_range == pytest.approx((-7, 7), abs=0.1)


def test_falling_alpha(tmp_path):
    """A scan in the other direction is the same geometry."""
    up, down = PetsFile(), PetsFile(alpha=np.arange(6.0, -7.0, -1.0))
    table = imported(written(tmp_path, down)).reflections
    scan = scan_geometry(imported(written(tmp_path, down)).experiment)
    assert_allclose(scan.reciprocal_bases(down.angles[:, 0]), down.matrices(), atol=2e-4)
    assert len(table) == pytest.approx(len(imported(written(tmp_path, up)).reflections), rel=0.1)


def test_same_file_same_result(tmp_path):
    data = written(tmp_path, PetsFile())
    one, other = imported(data), imported(data)
    assert_array_equal(angles(one.reflections), angles(other.reflections))
    assert one.experiment.crystal == other.experiment.crystal


def test_beam(tmp_path):
    beam = imported(written(tmp_path, PetsFile())).experiment.beam
    assert_allclose(beam.get_s0(), [0, 0, -1 / WAVELENGTH])


@pytest.mark.parametrize("change", ["alpha", "inverted"])
def test_wrong_hand_is_found(tmp_path, change):
    file = PetsFile(alpha=np.arange(30.0, 43.0))
    if change == "alpha":  # the zone axes, as written, contradict the orientations
        text = file.text()
        for alpha, beta, omega in file.angles:
            old = f"{file.semi_angle:9.5f} {alpha:9.5f} {beta:9.5f}"
            assert old in text
            text = text.replace(old, f"{file.semi_angle:9.5f} {-alpha:9.5f} {beta:9.5f}")
        match = "zone axes are"
    else:
        text = file.text()
        for line in [l for l in text.splitlines() if l.startswith("_diffrn_orient_matrix_UB_")]:
            name, value = line.split()
            text = text.replace(line, f"{name} {-float(value):.5f}")
        match = "left-handed"
    (tmp_path / "made.cif_pets").write_text(text)
    with pytest.raises(ValueError, match=match):
        imported(read_pets(str(tmp_path / "made.cif_pets")))


def test_alpha_reversed_without_zone_axes(tmp_path):
    file = PetsFile(alpha=np.arange(30.0, 43.0))
    file.angles[:, 0] *= -1
    text = file.text().replace("_diffrn_zone_axis_u", "_diffrn_zone_axis_x_u")
    (tmp_path / "made.cif_pets").write_text(text)
    with pytest.raises(ValueError, match="from the frames that list them"):
        imported(read_pets(str(tmp_path / "made.cif_pets")))
