"""Make the files that a row is refined from, with the commands that users have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dials_data.download
import numpy as np
from scipy.spatial.transform import Rotation

from cctbx import xray
from dxtbx.model import Crystal, ExperimentList

from benchmarks.validation.perturb import SmoothRotation, turn_file
from benchmarks.validation.rows import Dataset, Row, Simulation
from benchmarks.validation.structures import (
    nitrobenzene,
    package_file,
    source_files,
    start_structure,
    true_structure,
)
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.models.thickness.given import GivenThickness

#: runs a command of the package with arguments in the folder of the row
Program = Callable[[str, list[str]], None]


@dataclass(frozen=True)
class Prepared:
    """Files in the folder of a row, and what is known to be true.

    Attributes:
        files: experiments, reflections and structure to start from.
        structure: the true one, or one from X-rays to compare with.
        turn: by which the orientation is wrong, or None.
        thickness: None where unknown.
    """

    files: list[str]
    structure: xray.structure
    turn: SmoothRotation | None
    thickness: GivenThickness | None


def inputs(row: Row, paper: Path) -> list[Path]:
    """All files from outside that a row depends on.

    Raises:
        FileNotFoundError: names the first that is missing.
    """
    data = row.dataset
    if data.pets is not None:
        files = [paper / data.pets]
    elif data.simulation is not None:
        files = [package_file("quartz_demo.expt")]
    else:
        files = _quartz_processed()
    files += source_files(data, row.start, paper)
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: give the folder that holds it (--paper)")
    return files


def _quartz_processed() -> list[Path]:
    folder = Path(dials_data.download.DataFetcher()("quartz_processed"))
    return [folder / f"integrated.{suffix}" for suffix in ("expt", "refl")]


def prepare(row: Row, folder: Path, paper: Path, run: Program) -> Prepared:
    """Import or simulate the data of a row, turn its orientation, displace its structure.

    Args:
        folder: that of the row, where files are written.
        paper: folder with the files of the paper.
    """
    data = row.dataset
    truth, thickness = true_structure(data, paper), None
    if data.simulation is not None:
        thickness = _simulate(data, data.simulation, truth, folder, paper, run)
    elif data.pets is not None:
        _import(paper / data.pets, "data", run, data.import_arguments)
    else:
        for path in _quartz_processed():
            shutil.copyfile(path, folder / f"data{path.suffix}")
    turn = None
    if row.turn:
        turn = turn_file(folder / "data.expt", folder / "turned.expt", row.turn, row.seed)
    _write(start_structure(data, row.start, paper), folder / "start.cif")
    experiments = "turned.expt" if turn else "data.expt"
    return Prepared([experiments, "data.refl", "start.cif"], truth, turn, thickness)


def _write(structure: xray.structure, path: Path) -> None:
    with path.open("w") as stream:
        structure.as_cif_simple(out=stream)


def _import(source: Path, name: str, run: Program, arguments: tuple[str, ...] = ()) -> None:
    outputs = [f"output.experiments={name}.expt", f"output.reflections={name}.refl"]
    run("import_pets", [str(source.resolve()), *outputs, *arguments])


def _simulate(
    data: Dataset,
    simulation: Simulation,
    truth: xray.structure,
    folder: Path,
    paper: Path,
    run: Program,
) -> GivenThickness:
    """Write data.expt and data.refl; the true thickness is returned."""
    _write(truth, folder / "truth.cif")
    if data.pets is not None:
        _import(paper / data.pets, "scan", run)
    elif data.crystal == "molecule":
        with_molecule(package_file("quartz_demo.expt"), folder / "scan.expt")
    else:
        shutil.copyfile(package_file("quartz_demo.expt"), folder / "scan.expt")
    thickness = ",".join(map(str, simulation.thickness))
    arguments = [f"thickness.mean={thickness}", f"thickness.std={simulation.width}"]
    arguments += ["output.experiments=data.expt", "output.reflections=data.refl"]
    run("hybrid_simulate", ["scan.expt", "truth.cif", *arguments, *simulation.arguments])
    (experiment,) = ExperimentList.from_file(str(folder / "data.expt"), check_format=False)
    phi_range = scan_geometry(experiment).phi_range
    return GivenThickness(simulation.thickness, simulation.width, phi_range)


def with_molecule(source: Path, target: Path) -> None:
    """Put the molecular crystal into an experiment, away from zone axes."""
    (experiment,) = ExperimentList.from_file(str(source), check_format=False)
    structure = nitrobenzene()
    axes = np.array(structure.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    turned = Rotation.from_rotvec([0.4, -0.7, 1.1]).apply(axes.T)
    experiment.crystal = Crystal(*map(tuple, turned), structure.space_group())
    ExperimentList([experiment]).as_file(str(target))
