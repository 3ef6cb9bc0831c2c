"""What the tests of the commands share: arguments, and readers of what was written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from cctbx import sgtbx
from dxtbx.model.experiment_list import ExperimentListFactory

#: the files of the fixture ``files``
INPUT = ["data.expt", "data.refl", "model.cif"]
#: with these a refinement takes about two seconds, and does not converge: beams beyond those of the coarse
#: calculation move the atoms
FAST = [
    "refinement.max_cycles=1",
    "refinement.coarse_steps=2",
    "refinement.max_steps=2",
    "beams.g_max=1.64",
    "thickness.max=600",
    "orientation.scan=False",
    "nproc=1",
]
#: files that are written on request only
FORMATS = [f"output.{name}=hybrid_refined.{name}" for name in ("res", "hkl", "mtz")]


def path_of(command: str) -> str:
    """An installed command, as a user's shell finds it."""
    beside = Path(sys.executable).with_name(command)
    found = str(beside) if beside.exists() else shutil.which(command)
    assert found, f"{command} is not installed: pip install -e ."
    return found


#: values of the column hybrid_refine.status
STATUS = {"used": 0, "held out": 1, "rejected": 2, "excluded": 3}


def numpy(column):
    return np.array(column.as_numpy_array())


def equivalents(hkl, space_group):
    """A number for each set of reflections that the Laue group makes equivalent."""
    laue = sgtbx.space_group_info(space_group).group().build_derived_laue_group()
    rotations = np.array([op.r().num() for op in laue.all_ops()]).reshape(-1, 3, 3)
    images = np.einsum("nj,mji->nmi", hkl, rotations)
    keys = [max(tuple(h) for h in mates) for mates in images]
    return np.unique(keys, axis=0, return_inverse=True)[1].ravel()


def experiment_of(path):
    return ExperimentListFactory.from_json_file(str(path), check_format=False)[0]


def rotation(vector):
    """Rodrigues' formula for a rotation vector in radians."""
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle if angle else (0, 0, 1)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def laboratory_setting(experiment, i):
    """S R(phi) F A at a scan point."""
    goniometer = experiment.goniometer
    setting, fixed = (
        np.array(m).reshape(3, 3)
        for m in (goniometer.get_setting_rotation(), goniometer.get_fixed_rotation())
    )
    start, width = experiment.scan.get_oscillation()
    turn = rotation(np.radians(start + i * width) * np.array(goniometer.get_rotation_axis_datum()))
    crystal = experiment.crystal
    a = crystal.get_A_at_scan_point(i) if crystal.num_scan_points else crystal.get_A()
    return setting @ turn @ fixed @ np.array(a).reshape(3, 3)
