"""The first images of the demo's crystal, as small data for tests and benchmarks."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from dials.util.slice import slice_experiments
from dxtbx.model.experiment_list import ExperimentListFactory


def write_demo(folder: Path, n_images: int) -> tuple[Path, Path]:
    """Write small.expt, with so many images, and truth.cif, its structure; returns their paths."""
    shipped = resources.files("dials_hybrid_refine") / "data"
    experiments, structure = folder / "small.expt", folder / "truth.cif"
    whole = ExperimentListFactory.from_json_file(
        str(shipped / "quartz_demo.expt"), check_format=False
    )
    slice_experiments(whole, [(1, n_images)]).as_file(str(experiments))
    shutil.copy(str(shipped / "quartz_demo.cif"), structure)
    return experiments, structure
