"""Experiments and integrated reflections of DIALS become a geometry and observations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from dials.array_family import flex
from dxtbx.model import ExperimentList, Scan
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid_refine.io.experiments import check_experiment, scan_geometry
from dials_hybrid_refine.io.reflections import ReflectionFilter, read_observations

ALL = ReflectionFilter(min_zeta=0, max_window=1e3, min_partiality=0)


def load(folder, name="integrated"):
    experiments = ExperimentListFactory.from_json_file(
        str(folder / f"{name}.expt"), check_format=False
    )
    return experiments[0], flex.reflection_table.from_file(str(folder / f"{name}.refl"))


@pytest.fixture
def data(quartz):
    """Experiment and reflections of the quartz data."""
    return load(quartz)


def read(experiment, table, selection=ReflectionFilter()):
    return read_observations(table, experiment, scan_geometry(experiment), selection)


def numpy(column):
    return np.array(column.as_numpy_array())


def z_of_boxes(table):
    return np.array([box[4:] for box in table["bbox"]], dtype=float)


def changed(experiment, **models):
    """A copy of an experiment with other models."""
    other = copy.deepcopy(ExperimentList([experiment]))[0]
    for name, model in models.items():
        setattr(other, name, model)
    return other


def profile_with(experiment, sigma_m):
    """The profile model of an experiment with another sigma_m, a number or one per image."""
    values = experiment.profile.to_dict()
    sigma_b = values["sigma_b"] if np.ndim(sigma_m) == 0 else [values["sigma_b"]] * len(sigma_m)
    values.update(sigma_m=sigma_m, sigma_b=sigma_b)
    return type(experiment.profile).from_dict(values)


pytestmark = pytest.mark.filterwarnings("error")

# -- which reflections -------------------------------------------------------------------------


@pytest.mark.parametrize("intensity", ["profile", "sum"])
def test_every_reflection_is_used_or_has_a_reason(data, intensity):
    experiment, table = data
    observations, exclusion = read(experiment, table, ReflectionFilter(intensity=intensity))
    assert len(table) == 1653
    assert len(observations) + sum(exclusion.counts.values()) == 1653
    rows = np.concatenate([observations.row, *exclusion.rows.values()])
    assert_array_equal(np.sort(rows), np.arange(1653))
    assert len(observations) > 1000
    if intensity == "profile":
        assert exclusion.counts["not integrated"] == 66
        assert exclusion.counts["window leaves the scan"] > 0
    else:  # a box of pixels ends with the scan
        assert exclusion.counts["partially recorded"] > 0


def test_intensities_are_raw(quartz, data):
    """dials.scale adds scales and the like; the intensities refined against do not change."""
    experiment, table = data
    for intensity, column in (("profile", "prf"), ("sum", "sum")):
        selection = ReflectionFilter(intensity=intensity)
        observations, _ = read(experiment, table, selection)
        value = numpy(table[f"intensity.{column}.value"])[observations.row]
        variance = numpy(table[f"intensity.{column}.variance"])[observations.row]
        assert_array_equal(observations.intensity, value)
        assert_array_equal(observations.sigma, np.sqrt(variance))

        scaled, _ = read(*load(quartz, "scaled"), selection)
        found = {
            (*h, round(p, 3)): y
            for h, p, y in zip(observations.hkl, observations.phi, observations.intensity)
        }
        assert len(scaled) > 900
        for h, p, y in zip(scaled.hkl, scaled.phi, scaled.intensity):
            assert found[(*h, round(p, 3))] == y


def test_intensity_plays_no_part_in_the_selection(data):
    experiment, table = data
    expected, _ = read(experiment, table)
    table["intensity.prf.value"] = -1e6 * table["intensity.prf.value"]
    assert_array_equal(read(experiment, table)[0].row, expected.row)


@pytest.mark.parametrize(
    "flag, reason",
    [
        ("bad_for_refinement", "flagged bad by DIALS"),
        ("user_excluded_in_scaling", "excluded by the user"),
    ],
)
def test_flags_are_honoured(data, flag, reason):
    experiment, table = data
    observations, before = read(experiment, table)
    assert reason not in before.counts
    marked = observations.row[10:17]
    mask = flex.bool(len(table), flex.size_t([int(i) for i in marked]))
    table.set_flags(mask, getattr(table.flags, flag))
    after, exclusion = read(experiment, table)
    assert_array_equal(exclusion.rows[reason], marked)
    assert_array_equal(np.sort(np.append(after.row, marked)), observations.row)


@pytest.mark.parametrize("flag", ["outlier_in_scaling", "excluded_for_scaling"])
def test_what_dials_scale_rejects_stays(data, flag):
    """Its outliers disagree with kinematical theory; it excludes where I/sigma(I) < -5."""
    experiment, table = data
    expected, _ = read(experiment, table)
    table.set_flags(flex.bool(len(table), True), getattr(table.flags, flag))
    assert_array_equal(read(experiment, table)[0].row, expected.row)


def test_scaled_and_integrated_files_give_the_same_observations(quartz):
    """dials.scale has left reflections out of its file, but flags none of those that are there."""
    integrated, _ = read(*load(quartz, "integrated"))
    scaled, _ = read(*load(quartz, "scaled"))
    known = {(*h, round(p, 3)) for h, p in zip(integrated.hkl, integrated.phi)}
    found = {(*h, round(p, 3)) for h, p in zip(scaled.hkl, scaled.phi)}
    assert found <= known
    rows_in_file = {tuple(h) for h in load(quartz, "scaled")[1]["miller_index"]}
    assert {key for key in known if key[:3] in rows_in_file} == found


def test_each_reason(data):
    experiment, table = data
    observations, before = read(experiment, table)
    rows = [int(i) for i in observations.row]
    cases = iter(rows[::50])
    expected = {}

    def spoil(reason, column, value):
        row = next(cases)
        values = table[column]
        values[row] = value
        table[column] = values
        expected.setdefault(reason, set()).add(row)

    spoil("Miller index 0 0 0", "miller_index", (0, 0, 0))
    spoil("intensity or variance not usable", "intensity.prf.value", float("nan"))
    spoil("intensity or variance not usable", "intensity.prf.variance", 0.0)
    spoil("intensity or variance not usable", "intensity.prf.variance", float("inf"))
    spoil("near the rotation axis", "zeta", -0.049)
    spoil("window too wide", "zeta", 0.15)  # 2 * 3 * 0.332 / 0.15 = 13 degrees
    spoil("window leaves the scan", "xyzcal.mm", (0.0, 0.0, np.radians(-49.5)))
    spoil("window leaves the scan", "xyzcal.mm", (0.0, 0.0, np.radians(49.5)))
    spoil("window of rotation not usable", "xyzcal.mm", (0.0, 0.0, float("nan")))
    spoil("partially recorded", "partiality", 0.98)
    after, exclusion = read(experiment, table)
    for reason, added in expected.items():
        assert set(exclusion.rows[reason]) - set(before.rows.get(reason, ())) == added, reason
    assert len(after) == len(observations) - 10


def test_resolution_limits(data):
    experiment, table = data
    d = numpy(table["d"])
    observations, exclusion = read(experiment, table, ReflectionFilter(d_min=0.8, d_max=2.0))
    assert d[observations.row].min() >= 0.8 and d[observations.row].max() <= 2.0
    assert (d[exclusion.rows["beyond d_min"]] < 0.8).all()
    assert (d[exclusion.rows["below d_max"]] > 2.0).all()
    everything, _ = read(experiment, table)
    assert len(everything) == len(observations) + sum(
        exclusion.counts[reason] for reason in ("beyond d_min", "below d_max")
    )


def test_a_measurement_is_used_once(data):
    experiment, table = data
    observations, _ = read(experiment, table)
    again = flex.size_t([int(i) for i in observations.row[5:12]])
    doubled = copy.deepcopy(table)
    doubled.extend(table.select(again))
    after, exclusion = read(experiment, doubled)
    assert_array_equal(exclusion.rows["same measurement repeated"], np.arange(1653, 1660))
    assert_array_equal(after.row, observations.row)


def test_same_reflection_at_two_angles_is_two_measurements(data):
    experiment, table = data
    observations, _ = read(experiment, table)
    hkl = table["miller_index"]
    first, second = int(observations.row[3]), int(observations.row[900])
    hkl[second] = hkl[first]
    table["miller_index"] = hkl
    # a degree on, where it is still within 0.05 1/Angstrom of the Ewald sphere
    positions = table["xyzcal.mm"]
    x, y, phi = positions[first]
    positions[second] = (x, y, phi + np.radians(1))
    table["xyzcal.mm"] = positions
    assert_array_equal(read(experiment, table)[0].row, observations.row)


def test_nothing_left(data):
    experiment, table = data
    with pytest.raises(ValueError, match="no reflection is left after filtering .*beyond d_min"):
        read(experiment, table, ReflectionFilter(d_min=100.0))
    with pytest.raises(ValueError, match="no reflection is left .*empty"):
        read(experiment, table[:0])


# -- windows ------------------------------------------------------------------------------------


def test_window_of_profile_fitting(data):
    experiment, table = data
    observations, _ = read(experiment, table)
    phi = np.degrees(numpy(table["xyzcal.mm"].parts()[2]))[observations.row]
    half = experiment.profile.delta_m() / np.abs(numpy(table["zeta"])[observations.row])
    assert half.min() == pytest.approx(3 * 0.33204309859884035, rel=0.01)
    assert_allclose(observations.phi, phi)
    assert_allclose(observations.phi_start, phi - half)
    assert_allclose(observations.phi_end, phi + half)


def test_window_of_summation(data):
    experiment, table = data
    observations, _ = read(experiment, table, ReflectionFilter(intensity="sum"))
    z = z_of_boxes(table)[observations.row]
    assert_allclose(observations.phi_start, -50 + z[:, 0])
    assert_allclose(observations.phi_end, -50 + z[:, 1])
    assert (
        (observations.phi > observations.phi_start) & (observations.phi < observations.phi_end)
    ).mean() > 0.99


def test_sigma_m_that_varies_along_the_scan(data):
    experiment, table = data
    sigma_m = np.linspace(0.1, 0.5, 100)
    varying = changed(experiment, profile=profile_with(experiment, list(sigma_m)))
    observations, _ = read(varying, table)
    zeta = np.abs(numpy(table["zeta"])[observations.row])
    image = np.floor(observations.phi + 50).astype(int)
    assert_allclose(
        observations.phi_end - observations.phi_start, 2 * 3 * sigma_m[image] / zeta, rtol=1e-9
    )


@pytest.mark.parametrize("intensity", ["profile", "sum"])
def test_window_columns_win(data, intensity):
    experiment, table = data
    middle = np.degrees(numpy(table["xyzcal.mm"].parts()[2]))
    table["phi_start"] = flex.double(middle - 0.3)
    table["phi_end"] = flex.double(middle + 0.2)
    without = changed(experiment, profile=None)
    observations, _ = read(without, table, ReflectionFilter(intensity=intensity))
    assert_allclose(observations.phi_end - observations.phi_start, 0.5)
    assert_allclose(observations.phi - observations.phi_start, 0.3)
    del table["xyzcal.mm"], table["bbox"]
    observations, _ = read(without, table, ReflectionFilter(intensity=intensity))
    assert_allclose(observations.phi - observations.phi_start, 0.25)


def test_zeta_is_computed_where_it_is_missing(data):
    experiment, table = data
    expected, _ = read(experiment, table, ALL)
    del table["zeta"]
    found, _ = read(experiment, table, ALL)
    assert_array_equal(found.row, expected.row)
    assert_allclose(found.phi_start, expected.phi_start, rtol=1e-5)


def renumbered(experiment, table, first_image):
    """The same scan as if its images were counted from another number."""
    other = copy.deepcopy(ExperimentList([experiment]))[0]
    shift = first_image - other.scan.get_image_range()[0]
    other.scan.set_image_range(tuple(i + shift for i in other.scan.get_image_range()))
    other.scan.set_oscillation((-50.0, 1.0))
    moved = copy.deepcopy(table)
    moved["bbox"] = flex.int6([(*b[:4], b[4] + shift, b[5] + shift) for b in table["bbox"]])
    x, y, z = table["xyzcal.px"].parts()
    moved["xyzcal.px"] = flex.vec3_double(x, y, z + shift)
    return other, moved


@pytest.mark.parametrize("intensity", ["profile", "sum"])
def test_scan_whose_images_do_not_start_at_one(data, intensity):
    experiment, table = data
    selection = ReflectionFilter(intensity=intensity)
    expected, _ = read(experiment, table, selection)
    other, moved = renumbered(experiment, table, 101)
    assert other.scan.get_array_range() == (100, 200)
    # as DIALS has it: bbox and xyzcal.px count as the array range does
    z = numpy(moved["xyzcal.px"].parts()[2])
    angles = [other.scan.get_angle_from_array_index(float(v)) for v in z[:20]]
    assert_allclose(angles, np.degrees(numpy(moved["xyzcal.mm"].parts()[2]))[:20], atol=1e-6)
    found, _ = read(other, moved, selection)
    assert_array_equal(found.row, expected.row)
    assert_allclose(found.phi_start, expected.phi_start)
    assert_allclose(found.phi_end, expected.phi_end)


@pytest.mark.parametrize("intensity", ["profile", "sum"])
def test_scan_that_runs_backwards(data, intensity):
    """Angle and axis with the opposite sign describe the same measurement."""
    experiment, table = data
    selection = ReflectionFilter(intensity=intensity)
    expected, _ = read(experiment, table, selection)
    sigma_m = list(np.linspace(0.1, 0.5, 100))
    other = changed(experiment, scan=Scan((1, 100), (50.0, -1.0)))
    other.goniometer.set_rotation_axis(tuple(-v for v in other.goniometer.get_rotation_axis()))
    moved = copy.deepcopy(table)
    x, y, z = table["xyzcal.mm"].parts()
    moved["xyzcal.mm"] = flex.vec3_double(x, y, -z)
    found, _ = read(other, moved, selection)
    assert_array_equal(found.row, expected.row)
    assert_allclose(found.phi, -expected.phi)
    assert_allclose(found.phi_start, -expected.phi_end)
    assert_allclose(found.phi_end, -expected.phi_start)

    forwards, backwards = scan_geometry(experiment), scan_geometry(other)
    angles = np.array([-49.7, -3.2, 0.0, 20.8])
    assert (np.diff(backwards.phi_points) > 0).all()
    assert_allclose(backwards.reciprocal_bases(-angles), forwards.reciprocal_bases(angles))

    if intensity == "profile":
        widths = []
        for scan, reflections in ((experiment, table), (other, moved)):
            varying = changed(scan, profile=profile_with(scan, sigma_m))
            observations, _ = read(varying, reflections)
            widths.append(observations.phi_end - observations.phi_start)
        assert_allclose(widths[1], widths[0])


# -- the geometry --------------------------------------------------------------------------------


def test_predictions_of_dials_are_reproduced(data):
    """s0 + g is s1 at the predicted angle, with the scan-varying orientation."""
    experiment, table = data
    geometry = scan_geometry(experiment)
    hkl = np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3)
    phi = np.degrees(numpy(table["xyzcal.mm"].parts()[2]))
    g = np.einsum("nij,nj->ni", geometry.reciprocal_bases(phi), hkl)
    s1 = np.array(experiment.beam.get_s0()) + g
    assert_allclose(s1, np.array(table["s1"]).reshape(-1, 3), atol=2e-4)
    assert_allclose(geometry.beam_direction / geometry.wavelength, experiment.beam.get_s0())
    assert geometry.phi_range == (-50.0, 50.0) and geometry.image_width == 1.0


def matrix(values):
    return np.array(values).reshape(3, 3)


@pytest.mark.parametrize("varying", [False, True])
def test_all_rotations_of_the_goniometer(data, varying):
    experiment = changed(data[0])
    setting, fixed = (
        Rotation.from_rotvec(v).as_matrix() for v in ([0.3, -0.2, 0.5], [-0.1, 0.7, 0.4])
    )
    goniometer = experiment.goniometer
    goniometer.set_fixed_rotation(fixed.ravel().tolist())
    goniometer.set_setting_rotation(setting.ravel().tolist())
    if varying:
        wobble = [Rotation.from_rotvec([0, 0, 1e-4 * i]).as_matrix() @ setting for i in range(101)]
        goniometer.set_setting_rotation_at_scan_points([w.ravel().tolist() for w in wobble])
    axis = np.array(goniometer.get_rotation_axis_datum())
    geometry = scan_geometry(experiment)
    for i in (0, 17, 100):
        phi = -50.0 + i
        s = matrix(goniometer.get_setting_rotation_at_scan_point(i)) if varying else setting
        turn = Rotation.from_rotvec(np.radians(phi) * axis).as_matrix()
        expected = s @ turn @ fixed @ matrix(experiment.crystal.get_A_at_scan_point(i))
        assert_allclose(geometry.reciprocal_bases(np.array([phi]))[0], expected, atol=1e-12)


def test_beam_that_moves_along_the_scan(data):
    """Only the angle between beam and crystal counts: |s0 + g| must not change."""
    experiment = changed(data[0])
    s0 = np.array(experiment.beam.get_s0())
    moved = [Rotation.from_rotvec([1e-4 * i, -2e-4 * i, 0]).apply(s0) for i in range(101)]
    experiment.beam.set_s0_at_scan_points([tuple(v) for v in moved])
    geometry, still = scan_geometry(experiment), scan_geometry(data[0])
    hkl = np.array([3, -2, 4])
    for i in (0, 40, 100):
        phi = np.array([-50.0 + i])
        g, g_still = (x.reciprocal_bases(phi)[0] @ hkl for x in (geometry, still))
        incident = geometry.beam_direction / geometry.wavelength
        assert np.linalg.norm(incident + g) == pytest.approx(
            np.linalg.norm(moved[i] + g_still), rel=1e-12
        )


def test_static_crystal(data):
    experiment = changed(data[0])
    experiment.crystal.reset_scan_points()
    geometry = scan_geometry(experiment)
    assert_allclose(
        geometry.crystal_settings[[0, 50, 100]], [matrix(experiment.crystal.get_A())] * 3
    )


# -- what is refused -------------------------------------------------------------------------------


def test_x_rays(data):
    experiment = changed(data[0])
    experiment.beam.set_wavelength(0.9795)
    with pytest.raises(ValueError, match="wavelength is 0.9795 Angstrom.*needs electron"):
        scan_geometry(experiment)


@pytest.mark.parametrize("kilovolts, wavelength", [(60, 0.0487), (100, 0.0370), (1000, 0.0087)])
def test_wavelengths_of_electron_microscopes(data, kilovolts, wavelength):
    experiment = changed(data[0])
    experiment.beam.set_wavelength(wavelength)
    check_experiment(experiment)


@pytest.mark.parametrize("name", ["crystal", "beam"])
def test_missing_models(data, name):
    with pytest.raises(ValueError, match=f"no {name} model: give the .expt file"):
        scan_geometry(changed(data[0], **{name: None}))


@pytest.mark.parametrize("name", ["goniometer", "scan"])
def test_still_images(data, name):
    with pytest.raises(ValueError, match="still images: integrated rotation data"):
        scan_geometry(changed(data[0], **{name: None}))


def test_scan_without_rotation(data):
    experiment = changed(data[0])
    experiment.scan.set_oscillation((0.0, 0.0))
    with pytest.raises(ValueError, match="still images|oscillation width of zero"):
        scan_geometry(experiment)


def test_missing_columns(data):
    experiment, table = data
    for missing, selection, sentence in (
        (["intensity.prf.value"], "profile", "no column intensity.prf.value: use intensity=sum"),
        (["intensity.prf.variance"], "profile", "no column intensity.prf.variance"),
        (["intensity.sum.value"], "sum", "no column intensity.sum.value: use intensity=profile"),
        (["xyzcal.mm"], "profile", "neither predicted positions"),
        (["miller_index"], "profile", "no integrated reflections: give the .refl"),
        (["intensity.prf.value", "intensity.sum.value"], "sum", "no integrated reflections"),
    ):
        other = copy.deepcopy(table)
        for name in missing:
            del other[name]
        with pytest.raises(ValueError, match=sentence):
            read(experiment, other, ReflectionFilter(intensity=selection))


def test_no_profile_model(data):
    experiment, table = data
    without = changed(experiment, profile=None)
    with pytest.raises(ValueError, match="no profile model.*phi_start and phi_end"):
        read(without, table)
    assert len(read(without, table, ReflectionFilter(intensity="sum"))[0]) > 1000
    del table["bbox"]
    with pytest.raises(ValueError, match="no profile model"):
        read(without, table, ReflectionFilter(intensity="sum"))


@pytest.mark.parametrize("intensity", ["profile", "sum"])
def test_reflections_that_were_only_found(quartz, intensity):
    """Spot finding leaves a column intensity.sum.value, too."""
    experiment, table = load(quartz, "indexed")
    assert "intensity.sum.value" in table
    with pytest.raises(ValueError, match="no integrated reflections: give the .refl"):
        read(experiment, table, ReflectionFilter(intensity=intensity))
