"""What dials.hybrid_refine writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from dials.array_family import flex
from dials.util.version import dials_version
from dxtbx.model import ExperimentList

from dials_hybrid_refine.command_line.refine_files import Writer, structure_writers
from dials_hybrid_refine.command_line.refine_input import InputData
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.checkpoint import decisive_parameters
from dials_hybrid_refine.io.cif_atoms import riding_atoms
from dials_hybrid_refine.io.cif_experiment import (
    DIALS,
    PETS2,
    MeasuredCell,
    MeasuredScan,
    Measurement,
    measured_cell,
    stated_cell,
)
from dials_hybrid_refine.io.command_input import CommandInput
from dials_hybrid_refine.io.crystal_files import together
from dials_hybrid_refine.io.difference_map_files import write_map, write_map_coefficients
from dials_hybrid_refine.io.output_files import TEXT, check_folder, check_outputs, write_atomically
from dials_hybrid_refine.io.refined_experiments import follow_hand, with_orientation_correction
from dials_hybrid_refine.io.refined_reflections import with_calculated
from dials_hybrid_refine.io.reflection_file import write_reflections
from dials_hybrid_refine.io.summary_json import as_text, experiment_entry, summary
from dials_hybrid_refine.io.versions import described_origin
from dials_hybrid_refine.models.refined_flags import in_effect
from dials_hybrid_refine.refinement.geometry import Geometry, cell_covariance, structure_geometry
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.report.html_report import ReportContext
from dials_hybrid_refine.report.page import plotly_javascript
from dials_hybrid_refine.report.write_report import ReportFiles, report_writers, write_plot_files

logger = logging.getLogger("dials.hybrid_refine")


def check_output(output: Any, inputs: Sequence[str] = (), checkpoint: str | None = None) -> None:
    """Whether all output can be written, found out before hours of computing.

    Raises:
        ValueError: names the parameter and the remedy.
    """
    names = {f"output.{n}": p for n, p in vars(output).items() if not n.startswith("_")}
    check_folder("output.plots", names.pop("output.plots"))
    names.pop("output.plots_format")
    check_outputs({**names, "checkpoint.file": checkpoint}, inputs)
    if output.html is not None:
        plotly_javascript()


def refined_geometry(result: Result, data: InputData) -> Geometry:
    """Bonds and angles of the refined structure, the s.u. of the cell included."""
    model = data.model
    riding = riding_atoms(in_effect(result.structure, model.constraints))
    cell = _cell(data)
    of_cell = None if cell is None else cell_covariance(result.structure, np.array(cell.su))
    return structure_geometry(result.structure, result.covariance, of_cell, model.disorder, riding)


def _cell(data: InputData) -> MeasuredCell | None:
    """The cell with s.u., as DIALS refined that of the first crystal or, if it did not, as the model's file states it."""
    of_model = stated_cell(data.model.structure, data.model.cell_su)
    return measured_cell(data.crystals[0].experiment.crystal) or of_model


def measurement_of(command: CommandInput, data: InputData) -> Measurement:
    """What the files state of the experiment."""
    params = command.params
    first = data.crystals[0]
    return Measurement(
        scans=tuple(
            MeasuredScan(scan.wavelength, scan.phi_range, scan.image_width) for scan in data.scans
        ),
        cell=_cell(data),
        intensity=params.intensity,
        n_excluded=data.n_excluded,
        steps=params.beams.tilts_per_window,
        reduction=PETS2 if "pets_frame_phi" in first.table else DIALS,
        origin=described_origin(
            data.files.digests,
            decisive_parameters(command.changed, stages_only=False),
            params.seed,
        ),
    )


def refined_data(data: InputData, result: Result) -> tuple[ExperimentList, flex.reflection_table]:
    """The experiments with refined orientations and the hand of the refined structure, and the
    reflections with calculated intensities."""
    refined = []
    for i, crystal in enumerate(data.crystals):
        correction = _correction_at(result, crystal.scan, i)
        experiment = with_orientation_correction(crystal.experiment, crystal.scan, correction)
        if result.absolute_structure is not None and result.absolute_structure.applied:
            follow_hand(experiment.crystal, result.structure)
        table = with_calculated(crystal.table, result, crystal.exclusion, i)
        refined.append((experiment, table))
    if len(refined) == 1:
        return ExperimentList([refined[0][0]]), refined[0][1]
    return together(refined)


def write_output(
    command: CommandInput,
    options: RefinementOptions,
    data: InputData,
    result: Result,
    geometry: Geometry,
    reflections: flex.reflection_table,
    write_experiments: Callable[[str], object],
) -> None:
    """Write the files of the ``output`` scope.

    Args:
        reflections: of ``refined_data``.
        write_experiments: to a path, called in the program's own module: dxtbx records the caller in
            the history of the file.

    Raises:
        ValueError: if a file cannot be written.
    """
    params = command.params
    output = params.output
    content = summary(
        result,
        data.files,
        data.n_excluded,
        params.seed,
        geometry,
        command.changed,
        [experiment_entry(one.experiment, i) for i, one in enumerate(data.crystals)],
        [crystal.record for crystal in data.crystals],
        data.excluded,
    )
    report = ReportFiles(output.html, output.plots_json, output.plots, output.plots_format)
    date = datetime.now().strftime("%Y-%m-%d %H:%M")
    report_context = ReportContext(command.changed, data.n_read, dials_version(), date)

    def write_json(path: str) -> None:
        with open(path, "w", **TEXT) as stream:
            stream.write(as_text(content))

    writers: list[Writer] = [
        *structure_writers(
            params, data.model, options, measurement_of(command, data), result, geometry
        ),
        ("experiments", output.experiments, write_experiments),
        (
            "reflections",
            output.reflections,
            lambda path: write_reflections(reflections, path),
        ),
        ("summary", output.json, write_json),
        *report_writers(report, result, content, report_context),
    ]
    lacking = result.difference_map
    if lacking is not None:
        writers += [
            ("difference map", output.map, lambda path: write_map(lacking, path)),
            (
                "map coefficients",
                output.map_coefficients,
                lambda path: write_map_coefficients(lacking, path),
            ),
        ]
    for what, path, write in writers:
        if path is not None:
            logger.info("Saving the %s to %s", what, path)
            write_atomically(path, write)
    if report.plots is not None:
        logger.info("Saving the plots to %s", report.plots)
        write_plot_files(report, result)


def _correction_at(result: Result, scan: ScanGeometry, experiment: int) -> np.ndarray:
    """Orientation correction (p, 3) in radians at the scan points, from the block centres."""
    mine = result.profiles.experiment == experiment
    phi, orientation = result.profiles.phi[mine], result.profiles.orientation[mine]
    columns = [np.interp(scan.phi_points, phi, orientation[:, k]) for k in range(3)]
    return np.radians(np.stack(columns, axis=-1))
