"""Virtual frames of PETS2 files after import, and how many reflections belong to them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pets_files import PetsFile

from dials.array_family import flex

from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.pets import PetsData, read_pets
from dials_hybrid_refine.io.pets_frames import pets_frames
from dials_hybrid_refine.io.pets_geometry import axis_at, frame_rotations, lattice_of_cell
from dials_hybrid_refine.io.pets_import import ImportedPets, import_pets
from dials_hybrid_refine.io.reflections import ReflectionFilter, read_observations
from dials_hybrid_refine.refinement.frames import FrameFilter, choose_frames, frame_members


def imported(path, **choices) -> tuple[PetsData, ImportedPets]:
    data = read_pets(str(path))
    return data, import_pets(data, 0.01, "some identifier", **choices)


def made_up(tmp_path, **options):
    (tmp_path / "data.cif_pets").write_text(PetsFile(**options).text())
    return imported(tmp_path / "data.cif_pets")


def members_of(result: ImportedPets, limits: FrameFilter, selection: ReflectionFilter):
    scan = scan_geometry(result.experiment)
    observations, excluded = read_observations(
        result.reflections, result.experiment, scan, selection
    )
    frames = pets_frames(result.reflections)
    return observations, frame_members(frames, [scan], observations, limits), excluded.counts


def listed_rows(data: PetsData, limits: FrameFilter) -> set[tuple[int, ...]]:
    """h k l and frame of the rows of the file that the filter keeps, with each frame's own
    orientation; rotation axis x, beam along -z."""
    assert data.cell is not None
    setting = lattice_of_cell(data.setting, data.cell).setting
    matrices = frame_rotations(data.frames).as_matrix() @ setting
    g = np.einsum("nij,nj->ni", matrices[data.frame], data.hkl)
    s = np.abs(g[:, 2] - data.wavelength / 2 * (g**2).sum(axis=1))
    reach = np.hypot(g[:, 1], g[:, 2]) * np.radians(data.frames.semi_angle[data.frame])
    kept = (s / reach < limits.rsg) & (reach - s > limits.dsg)
    return {(*h, f) for h, f in zip(data.hkl[kept].tolist(), data.frame[kept].tolist())}


ALL = ReflectionFilter(min_zeta=0.0, max_window=400.0)


@pytest.mark.parametrize(
    "name, rsg, n_frames, others, found, rows",
    [("quartz", 0.9, 99, 1001, 1101, 2546), ("cspbbr3", 0.66, 59, 2734, 2696, 17134)],
)
def test_as_many_reflections_as_other_programs_use(
    shared, name, rsg, n_frames, others, found, rows
):
    """diffBloch counts 1001 observed of 2519 rows, and 2734 of 17376 (arXiv 2602.08935)."""
    _, result = imported(shared / f"paper/{name}/experimental.cif_pets")
    assert len(pets_frames(result.reflections)) == n_frames
    observations, members, _ = members_of(result, FrameFilter(rsg), ReflectionFilter())
    observed = observations.intensity > 3 * observations.sigma
    n_observed = sum(int(observed[index].sum()) for index in members)
    assert n_observed >= 0.95 * others
    # a few pairs hang on the last digits of an angle
    assert n_observed == pytest.approx(found, abs=3)
    assert sum(map(len, members)) == pytest.approx(rows, abs=10)


def test_members_are_the_rows_of_the_file(shared):
    """Quartz: what the interpolated orientation and frames find is listed, and nothing is lost but
    what is near the rotation axis, at the ends of the scan or at the filter's limits."""
    data, result = imported(shared / "paper/quartz/experimental.cif_pets")
    limits = FrameFilter(0.9)
    observations, members, _ = members_of(result, limits, ALL)
    found = {(*observations.hkl[i].tolist(), f) for f, rows in enumerate(members) for i in rows}
    listed = listed_rows(data, limits)
    every_row = {(*h, f) for h, f in zip(data.hkl.tolist(), data.frame.tolist())}
    assert found <= every_row
    assert len(found - listed) <= 0.002 * len(listed)
    assert len(listed - found) <= 0.01 * len(listed)


def test_frames_are_read_back(tmp_path):
    data, result = made_up(tmp_path, semi_angle=0.8)
    frames = pets_frames(result.reflections)
    centres = np.degrees(
        (frame_rotations(data.frames).as_rotvec() @ axis_at(0.0))
    )  # small angles: a turn about x but for 0.1 degrees
    assert_allclose(frames.phi, centres, atol=0.01)
    assert_array_equal(frames.semi_angle, [0.8] * 13)
    assert not frames.apart.any()


def test_frames_without_rows_of_their_own(tmp_path):
    """Frames that only repeat: linear in the number between and after those that start rows."""
    _, result = made_up(tmp_path)
    table = result.reflections
    whole = pets_frames(table)
    first = np.array(table["pets_frame"].as_numpy_array())
    thinned = table.select(flex.bool(first <= 9) & flex.bool(first != 4))
    frames = pets_frames(thinned)
    assert 9 < len(frames) <= len(whole)
    steps = np.diff(whole.phi)
    assert np.ptp(steps) < 0.1
    assert_allclose(frames.phi, whole.phi[: len(frames)], atol=0.05)
    assert frames.phi[3] == pytest.approx((whole.phi[2] + whole.phi[4]) / 2, abs=1e-12)


def test_intensities_of_ranges_belong_to_their_frames(tmp_path):
    data, result = made_up(tmp_path, repeated=False)
    frames = pets_frames(result.reflections)
    assert frames.apart.all() and len(frames) == 13
    observations, members, _ = members_of(result, FrameFilter(1.0, 0.0), ALL)
    number = np.array(result.reflections["pets_frame"].as_numpy_array())[observations.row]
    assert sum(map(len, members)) > 0.9 * len(observations)
    for k, index in enumerate(members):
        assert len(index) and (number[index] == k + 1).all()
    with pytest.raises(ValueError, match="frames.semi_angle"):
        choose_frames(frames, [(-7.0, 7.0)], semi_angle=2.0)


def test_repeated_intensities_as_those_of_frames(shared):
    """For comparison: just the rows that frame-wise programs take, each in its frame."""
    limits = FrameFilter(0.9)
    data, result = imported(
        shared / "paper/quartz/experimental.cif_pets", intensities="frames", limits=limits
    )
    table = result.reflections
    number = np.array(table["pets_frame"].as_numpy_array())
    hkl = np.array(table["miller_index"].as_vec3_double(), dtype=int)
    index = {int(n): i for i, n in enumerate(data.frames.number)}
    found = [(*h, index[n]) for h, n in zip(hkl.tolist(), number.tolist())]
    assert len(set(found)) == len(found) and set(found) == listed_rows(data, limits)
    assert np.unique(np.array(table["pets_n_frames"])).tolist() == [1]
    assert any("count in each of them" in warning for warning in result.warnings)
    observations, members, _ = members_of(result, limits, ALL)
    assert sum(map(len, members)) == len(observations) == len(found)


def test_ranges_of_frames_as_whole_passages(tmp_path):
    """Rows that state different intensities stay measurements of their own."""
    data, whole = made_up(tmp_path, repeated=False)
    _, forced = imported(tmp_path / "data.cif_pets", intensities="whole_passages")
    assert len(forced.reflections) == len(whole.reflections) == len(data.hkl)
    assert not pets_frames(forced.reflections).apart.any()
    assert any("each counts as a measurement" in warning for warning in forced.warnings)


def test_other_tables_have_no_frames(tmp_path):
    _, result = made_up(tmp_path)
    table = result.reflections
    del table["pets_frame_phi"]
    assert pets_frames(table) is None
    assert pets_frames(flex.reflection_table()) is None
