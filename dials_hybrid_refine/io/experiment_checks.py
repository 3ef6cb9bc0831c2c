"""Whether the numbers of an experiment are those of a diffraction experiment.

dxtbx checks little of what it reads: zeros and NaN in a matrix, an angle in other units or a lattice of the
wrong hand pass, and would come out as a wrong refinement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dxtbx.model import Experiment

#: wavelengths in Angstrom taken for electrons: those of 2 MV and 10 kV; X-rays start above, and
#: wavelengths of 80-300 kV in nm lie below
SHORTEST_WAVELENGTH, LONGEST_WAVELENGTH = 0.005, 0.13
#: wider images in degrees, more of them, and longer scans in degrees are errors
_WIDEST_IMAGE, _MOST_IMAGES, _LONGEST_SCAN = 90.0, 100_000, 36_000.0
#: largest deviation of R^T R from 1 in a rotation R that was rounded in a file
_ROUNDING = 1e-3
#: relative change of the cell's volume along the scan that is too much for one crystal
_LARGEST_CHANGE = 0.1

_REMEDY = "give the .expt file that dials.integrate has written"


def check_wavelength(wavelength: float) -> None:
    """Whether a wavelength in Angstrom is that of an electron beam.

    Raises:
        ValueError: says of what it is, and what is needed.
    """
    if not (np.isfinite(wavelength) and wavelength > 0):
        raise ValueError(
            f"the wavelength is {wavelength:.5g} Angstrom, which is impossible: correct it (electrons: "
            "0.0197-0.0370 at 300-100 kV)"
        )
    if wavelength < SHORTEST_WAVELENGTH:
        raise ValueError(
            f"the wavelength is {wavelength:.5g} Angstrom, which is that of electrons of more than 2 MV: "
            "correct it (0.0197-0.0370 at 300-100 kV), it may be in nm"
        )
    if wavelength > LONGEST_WAVELENGTH:
        raise ValueError(
            f"the wavelength is {wavelength:.5g} Angstrom, which is not that of an electron beam "
            "(0.0197-0.0370 at 300-100 kV): many-beam refinement needs electron diffraction data"
        )


def check_numbers(experiment: Experiment) -> None:
    """Whether the numbers of beam, scan, goniometer and crystal can be meant.

    Args:
        experiment: has these four models.

    Raises:
        ValueError: says which cannot.
    """
    check_wavelength(experiment.beam.get_wavelength())
    _check_scan(experiment.scan)
    n_points = experiment.scan.get_num_images() + 1
    for s0 in _settings(experiment.beam, "get_s0", n_points, "the beam"):
        if not np.isfinite(s0).all() or not np.linalg.norm(s0) > 0:
            raise ValueError(f"the direction of the beam is not usable: {_REMEDY}")
    _check_rotation(experiment.goniometer.get_fixed_rotation(), "fixed")
    turns = _settings(experiment.goniometer, "get_setting_rotation", n_points, "the goniometer")
    for turn in turns:
        _check_rotation(turn, "setting")
    _check_crystal(experiment.crystal, n_points)


def _check_scan(scan: Any) -> None:
    start, width = scan.get_oscillation()
    n_images = scan.get_num_images()
    if not (np.isfinite(start) and np.isfinite(width)):
        raise ValueError(f"the angles of the scan are not numbers: {_REMEDY}")
    length = abs(width) * n_images
    if (
        abs(width) > _WIDEST_IMAGE
        or n_images > _MOST_IMAGES
        or max(length, abs(start)) > _LONGEST_SCAN
    ):
        raise ValueError(
            f"the scan has {n_images} images of {abs(width):g} degrees from {start:g} degrees on, "
            "which is impossible: correct the oscillation, in degrees"
        )


def _settings(model: Any, getter: str, n_points: int, name: str) -> Iterator[NDArray[np.float64]]:
    """The static value of a model and those at all scan points, if it has such."""
    yield np.array(getattr(model, getter)())
    n = model.num_scan_points
    if n not in (0, n_points):
        raise ValueError(
            f"{name} has {n} orientations for the {n_points} ends of images: {_REMEDY}"
        )
    for i in range(n):
        yield np.array(getattr(model, f"{getter}_at_scan_point")(i))


def _check_rotation(elements: Any, name: str) -> None:
    matrix = np.array(elements).reshape(3, 3)
    if (
        not (np.abs(matrix) < 2).all()
        or np.abs(matrix.T @ matrix - np.eye(3)).max() > _ROUNDING
        or np.linalg.det(matrix) < 0
    ):
        raise ValueError(f"the {name} rotation of the goniometer is no rotation: {_REMEDY}")


def _check_crystal(crystal: Any, n_points: int) -> None:
    matrices = np.array(list(_settings(crystal, "get_A", n_points, "the crystal")))
    matrices = matrices.reshape(-1, 3, 3)
    volumes = np.linalg.det(matrices) if np.isfinite(matrices).all() else np.zeros(1)
    if (volumes < 0).any():
        raise ValueError(
            "the axes of the crystal are left-handed, so that the hand of the structure would come out "
            "wrong: reindex the data with dials.reindex change_of_basis_op=-a,-b,-c"
        )
    if not (volumes > 0).all() or np.abs(volumes / volumes[0] - 1).max() > _LARGEST_CHANGE:
        raise ValueError(
            f"the unit cell or orientation of the crystal is not usable, or changes by more than "
            f"{100 * _LARGEST_CHANGE:.0f} % along the scan: {_REMEDY}"
        )
