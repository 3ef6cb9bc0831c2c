"""The refined orientation, written back into dxtbx models."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cctbx import xray
from dxtbx.model import Crystal, Experiment

from dials_hybrid_refine.diffraction.scan import ScanGeometry


def with_orientation_correction(
    experiment: Experiment, scan: ScanGeometry, correction: NDArray[np.float64]
) -> Experiment:
    """A copy of an experiment whose scan-varying crystal includes the correction.

    g' = C g in the laboratory frame asks for A' = F^-1 (S R)^-1 C (S R) F A at each scan point.

    Args:
        experiment: as read.
        scan: its geometry (``experiments.scan_geometry``).
        correction: shape (p, 3), rotation vectors in radians at ``scan.phi_points``.
    """
    refined = Experiment(
        beam=experiment.beam,
        detector=experiment.detector,
        goniometer=experiment.goniometer,
        scan=experiment.scan,
        crystal=copy.deepcopy(experiment.crystal),
        imageset=experiment.imageset,
        profile=experiment.profile,
        scaling_model=experiment.scaling_model,
        identifier=experiment.identifier,
    )
    fixed = np.array(experiment.goniometer.get_fixed_rotation()).reshape(3, 3)
    turns = Rotation.from_rotvec(
        np.radians(scan.phi_points)[:, None] * scan.rotation_axis
    ).as_matrix()
    to_laboratory = scan.setting_rotations @ turns
    corrections = Rotation.from_rotvec(correction).as_matrix()
    moved = np.linalg.inv(to_laboratory) @ corrections @ to_laboratory @ scan.crystal_settings
    settings = fixed.T @ moved
    if experiment.scan.get_oscillation()[1] < 0:
        settings = settings[::-1]
    refined.crystal.set_A_at_scan_points([tuple(a.ravel()) for a in settings])
    return refined


def follow_hand(crystal: Crystal, structure: xray.structure) -> None:
    """Label a crystal by the space group of a structure, if its label is that or the enantiomorph.

    Neither cell nor orientation change. Other labels, such as P 1, are no claim of a hand.
    """
    info = structure.space_group_info()
    label = crystal.get_space_group().type().number()
    if label in (info.type().number(), info.change_hand().type().number()):
        crystal.set_space_group(info.group())
