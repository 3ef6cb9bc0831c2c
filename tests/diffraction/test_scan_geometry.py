"""g(phi) = S R(phi) F A(phi) h against dxtbx's and DIALS' own geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dials.algorithms.spot_prediction import (
    ScanStaticReflectionPredictor,
    ScanVaryingReflectionPredictor,
)
from dials.array_family import flex
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, Goniometer, ScanFactory
from dxtbx.model.experiment_list import ExperimentList
from scitbx import matrix

from dials_hybrid_refine.diffraction.beams import nominal_excitation_errors
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.experiments import scan_geometry

Array = NDArray[np.float64]
WAVELENGTH = 0.0250793
FIRST_IMAGE, N_IMAGES = 3, 24
FIXED = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
SETTING = Rotation.from_rotvec([-0.1, 0.4, 0.2]).as_matrix()
AXIS = np.array([0.8, 0.6, 0.0])
B = np.linalg.inv(np.array([[4.61, 0.0, 0.0], [-0.69, 5.32, 0.0], [-1.0, 0.9, 4.0]]))


def setting_at(point: int) -> Array:
    """A of the crystal, turning by 0.02 degrees and growing by 1e-5 per image."""
    turn = Rotation.from_rotvec(np.radians(0.02) * point * np.array([0.36, 0.48, 0.8]))
    return (1 + 1e-5 * point) * turn.as_matrix() @ Rotation.from_euler("xyz", [1, 2, 3]).as_matrix() @ B  # fmt: skip


def make_experiment(
    direction: int = 1, scan_varying: bool = True, trivial_goniometer: bool = False
) -> Experiment:
    """24 images of 0.5 degrees from image 3, first angle 12.3 degrees.

    ``direction`` -1 turns the other way: dxtbx forbids negative widths and reverses the axis.
    """
    beam = BeamFactory.make_beam(sample_to_source=(0.01, -0.02, 1.0), wavelength=WAVELENGTH)
    detector = DetectorFactory.simple(
        "PAD", 1500.0, (140.0, 140.0), "+x", "-y", (0.05, 0.05), (5600, 5600)
    )
    identity = tuple(np.eye(3).ravel())
    goniometer = Goniometer(
        tuple(direction * AXIS),
        identity if trivial_goniometer else tuple(FIXED.ravel()),
        identity if trivial_goniometer else tuple(SETTING.ravel()),
    )
    scan = ScanFactory.make_scan(
        image_range=(FIRST_IMAGE, FIRST_IMAGE + N_IMAGES - 1),
        exposure_times=1.0,
        oscillation=(12.3, 0.5),
        epochs=list(range(N_IMAGES)),
    )
    real = np.linalg.inv(setting_at(0))
    crystal = Crystal(*(tuple(row) for row in real), space_group_symbol="P 1")
    if scan_varying:
        crystal.set_A_at_scan_points([tuple(setting_at(i).ravel()) for i in range(N_IMAGES + 1)])
    return Experiment(
        beam=beam, detector=detector, goniometer=goniometer, scan=scan, crystal=crystal
    )


def of_dxtbx(experiment: Experiment, point: int) -> Array:
    """S R F A at a scan point, from dxtbx's own models and scitbx' rotations."""
    goniometer, scan = experiment.goniometer, experiment.scan
    phi = scan.get_angle_from_array_index(scan.get_array_range()[0] + point, deg=False)
    axis = matrix.col(goniometer.get_rotation_axis_datum())
    rotation = axis.axis_and_angle_as_r3_rotation_matrix(phi, deg=False)
    crystal = experiment.crystal
    varying = crystal.num_scan_points > 0
    a = matrix.sqr(crystal.get_A_at_scan_point(point) if varying else crystal.get_A())
    s, f = (
        matrix.sqr(m) for m in (goniometer.get_setting_rotation(), goniometer.get_fixed_rotation())
    )
    # dxtbx and scitbx only, so that no formula is shared with the package
    return np.array((s * rotation * f * a).elems).reshape(3, 3)


@pytest.mark.parametrize("scan_varying", [True, False])
@pytest.mark.parametrize("direction", [1, -1])
def test_basis_at_scan_points(direction: int, scan_varying: bool) -> None:
    experiment = make_experiment(direction, scan_varying)
    scan = scan_geometry(experiment)
    assert scan.phi_range == pytest.approx((12.3, 24.3))
    assert scan.image_width == pytest.approx(0.5)
    angles = 12.3 + 0.5 * np.arange(N_IMAGES + 1)
    expected = np.array([of_dxtbx(experiment, i) for i in range(N_IMAGES + 1)])
    found = scan.reciprocal_bases(angles)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_between_scan_points_a_is_interpolated_not_the_rotation() -> None:
    """Half way: R at half the angle, A the mean of its neighbours (second order: 1e-8)."""
    scan = scan_geometry(make_experiment())
    (found,) = scan.reciprocal_bases(np.array([12.3 + 0.5 * 7.5]))
    turn = Rotation.from_rotvec(np.radians(12.3 + 0.5 * 7.5) * AXIS).as_matrix()
    a = (setting_at(7) + setting_at(8)) / 2
    np.testing.assert_allclose(found, SETTING @ turn @ FIXED @ a, rtol=0, atol=1e-14)


def test_beam_direction_and_axis() -> None:
    scan = scan_geometry(make_experiment())
    s0 = np.array([-0.01, 0.02, -1.0])
    np.testing.assert_allclose(scan.beam_direction, s0 / np.linalg.norm(s0), atol=1e-15)
    np.testing.assert_allclose(scan.rotation_axis, AXIS, atol=1e-15)  # the datum, not S axis


def test_a_moving_beam_is_moved_out() -> None:
    """Excitation errors are those of the real beam at each point: K^2 - |K + g|^2."""
    experiment = make_experiment()
    tilt = [Rotation.from_rotvec([1e-4 * i, -5e-5 * i, 0]) for i in range(N_IMAGES + 1)]
    s0 = [tilt[i].apply(np.array(experiment.beam.get_s0())) for i in range(N_IMAGES + 1)]
    experiment.beam.set_s0_at_scan_points([tuple(s) for s in s0])
    scan = scan_geometry(experiment)
    hkl = np.array([[1, 2, 0], [-3, 1, 1], [0, -2, 3]])
    angles = 12.3 + 0.5 * np.arange(N_IMAGES + 1)
    found = nominal_excitation_errors(
        scan.reciprocal_bases(angles), hkl, scan.beam_direction, 1 / WAVELENGTH
    )
    for i in range(N_IMAGES + 1):
        g = hkl @ of_dxtbx(experiment, i).T
        expected = (s0[i] @ s0[i] - ((s0[i] + g) ** 2).sum(axis=1)) / (2 * np.linalg.norm(s0[i]))
        np.testing.assert_allclose(found[:, i], expected, rtol=0, atol=1e-11)


def errors_at_predictions(scan: ScanGeometry, table: flex.reflection_table) -> tuple[Array, Array]:
    """S_g of each reflection at its predicted angle, and dS/dphi per degree."""
    hkl = np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3).round().astype(int)
    phi = np.degrees(np.array(table["xyzcal.mm"]).reshape(-1, 3)[:, 2])

    def errors(angles: Array) -> Array:
        g = np.einsum("nij,nj->ni", scan.reciprocal_bases(angles), hkl)
        return -(g @ scan.beam_direction + (g**2).sum(axis=1) * scan.wavelength / 2)

    return errors(phi), (errors(phi + 0.01) - errors(phi - 0.01)) / 0.02


@pytest.mark.parametrize("direction", [1, -1])
def test_dials_predicts_reflections_on_the_ewald_sphere_static(direction: int) -> None:
    """DIALS solves the Laue equation for phi to round-off; setting and fixed rotation included."""
    experiment = make_experiment(direction, scan_varying=False)
    predictor = ScanStaticReflectionPredictor(experiment, dmin=0.8)
    crystal = experiment.crystal
    table = predictor.for_ub(crystal.get_A())
    assert len(table) > 50
    errors, slope = errors_at_predictions(scan_geometry(experiment), table)
    assert np.abs(errors).max() < 1e-9
    assert np.median(np.abs(slope)) > 1e-3


@pytest.mark.parametrize("trivial", [False, True])
def test_dials_predicts_reflections_on_the_ewald_sphere_scan_varying(trivial: bool) -> None:
    """DIALS interpolates r, this code A, linearly between image edges: differences of second order.

    The chord of the arc of half a degree is off by |g| (0.0087)^2 / 8 = 1e-5 1/Angstrom at |g| = 1,
    of which the part along the beam is S.
    """
    experiment = make_experiment(trivial_goniometer=trivial)
    predictor = ScanVaryingReflectionPredictor(experiment, dmin=0.8)
    crystal = experiment.crystal
    table = predictor.for_ub(
        flex.mat3_double([crystal.get_A_at_scan_point(i) for i in range(N_IMAGES + 1)])
    )
    assert len(table) > 50
    errors, _ = errors_at_predictions(scan_geometry(experiment), table)
    assert np.abs(errors).max() < 5e-6


def test_quartz_is_predicted_on_the_ewald_sphere(quartz: Path) -> None:
    """All reflections of the DIALS file: 2e-6 1/Angstrom is 1/500 of the width at 500 Angstrom."""
    experiment = ExperimentList.from_file(str(quartz / "integrated.expt"), check_format=False)[0]
    table = flex.reflection_table.from_file(str(quartz / "integrated.refl"))
    errors, slope = errors_at_predictions(scan_geometry(experiment), table)
    assert len(errors) == 1653
    assert np.abs(errors).max() < 2e-6
    # and that is a sharp statement: 0.01 degrees off would show
    assert np.median(np.abs(slope)) * 0.01 > 2e-5


def test_the_mean_setting_of_quartz_is_farther_off(quartz: Path) -> None:
    """The scan-varying setting matters, although this crystal hardly moved: 6.7e-6."""
    experiment = ExperimentList.from_file(str(quartz / "integrated.expt"), check_format=False)[0]
    table = flex.reflection_table.from_file(str(quartz / "integrated.refl"))
    experiment.crystal.reset_scan_points()
    errors, _ = errors_at_predictions(scan_geometry(experiment), table)
    assert np.abs(errors).max() > 4e-6
