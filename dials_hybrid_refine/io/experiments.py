"""dxtbx experiment models to plain geometry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dxtbx.model import Experiment

from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.experiment_checks import check_numbers


def _matrix(elements: tuple[float, ...]) -> NDArray[np.float64]:
    return np.array(elements, dtype=float).reshape(3, 3)


def check_experiment(experiment: Experiment) -> None:
    """Whether an experiment can be described by dynamical diffraction of a rotating crystal.

    Raises:
        ValueError: for missing models, still images, an X-ray wavelength or impossible numbers.
    """
    for name in ("beam", "crystal", "goniometer", "scan"):
        if getattr(experiment, name) is None and name in ("beam", "crystal"):
            raise ValueError(
                f"the experiments file has no {name} model: give the .expt file that "
                "dials.integrate has written"
            )
    if experiment.goniometer is None or experiment.scan is None or experiment.is_still():
        raise ValueError(
            "the experiments are still images: integrated rotation data (a goniometer and a scan "
            "with an oscillation width) are needed"
        )
    if experiment.scan.get_oscillation()[1] == 0:
        raise ValueError(
            "the scan has an oscillation width of zero: integrated rotation data are needed"
        )
    check_numbers(experiment)


def scan_geometry(experiment: Experiment) -> ScanGeometry:
    """The geometry of a scan, with scan-varying crystal, beam and goniometer where present.

    Raises:
        ValueError: see ``check_experiment``.
    """
    check_experiment(experiment)
    crystal, beam = experiment.crystal, experiment.beam
    goniometer, scan = experiment.goniometer, experiment.scan
    first_image, last_image = scan.get_array_range()
    n_points = last_image - first_image + 1
    start, width = scan.get_oscillation()
    fixed = _matrix(goniometer.get_fixed_rotation())

    if crystal.num_scan_points == n_points:
        settings = [_matrix(crystal.get_A_at_scan_point(i)) for i in range(n_points)]
    else:
        settings = [_matrix(crystal.get_A())] * n_points
    if goniometer.num_scan_points == n_points:
        turns = [_matrix(goniometer.get_setting_rotation_at_scan_point(i)) for i in range(n_points)]
    else:
        turns = [_matrix(goniometer.get_setting_rotation())] * n_points
    direction = np.array(beam.get_unit_s0())
    if beam.num_scan_points == n_points:
        moved = [np.array(beam.get_s0_at_scan_point(i)) for i in range(n_points)]
        turns = [_turn_onto(s0, direction) @ turn for s0, turn in zip(moved, turns)]
    points = start + width * np.arange(n_points)
    order = np.argsort(points)  # a scan may run backwards
    return ScanGeometry(
        wavelength=beam.get_wavelength(),
        beam_direction=direction,
        rotation_axis=np.array(goniometer.get_rotation_axis_datum()),
        phi_points=points[order],
        crystal_settings=np.array([fixed @ a for a in settings])[order],
        setting_rotations=np.array(turns)[order],
        image_width=abs(width),
    )


def _turn_onto(vector: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest rotation that takes the direction of one vector to that of another."""
    unit = vector / np.linalg.norm(vector)
    axis = np.cross(unit, target)
    sine = np.linalg.norm(axis)
    if sine == 0:
        return np.eye(3)
    angle = np.arctan2(sine, unit @ target)
    return np.asarray(Rotation.from_rotvec(angle * axis / sine).as_matrix())
