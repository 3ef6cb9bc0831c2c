# LIBTBX_SET_DISPATCHER_NAME dials.hybrid_refine
"""Refine a crystal structure against 3D electron diffraction data integrated by DIALS.

Electrons are scattered so strongly that intensities follow many-beam (dynamical) theory. This
program simulates them by the Bloch-wave equations, together with a neural network that learns
the distribution of the crystal's thickness as a function of the rotation angle, and refines the
structure, thickness, orientation and scales together by one gradient.

It reads the experiments and reflections that dials.integrate or dials.scale has written (raw
intensities are used in both cases) and a starting structure as CIF, SHELX .ins or .res, or PDB.
It writes the refined structure with standard uncertainties, the experiments with the refined
orientation, the reflections with calculated intensities, and a summary as JSON; on request a SHELX model
(output.res) and merged intensities freed of dynamical effects (output.hkl, output.mtz).

The hand of the structure is used as given: the space group of the experiments is no evidence
of it and is never used to invert or reindex anything. Where the space group has no centre of
symmetry the inverse of the structure is refined too, and the log says which of them the data favour.

Examples::

  dials.hybrid_refine integrated.expt integrated.refl model.cif

  dials.hybrid_refine scaled.expt scaled.refl model.ins d_min=0.7 nproc=4

  dials.hybrid_refine integrated.expt integrated.refl model.cif thickness.model=constant
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import torch

import iotbx.phil
from dials.array_family import flex
from dials.util import show_mail_handle_errors
from dials.util.version import dials_version
from dxtbx.model import Experiment, ExperimentList
from smtbx.refinement.constraints import InvalidConstraint

from dials_hybrid_refine.command_line.refine_files import (
    Writer,
    check_formats,
    structure_writers,
)
from dials_hybrid_refine.command_line.refine_options import (
    auto,
    model_choices,
    refinement_options,
)
from dials_hybrid_refine.command_line.start import errors_for_users, start
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.cif_experiment import DIALS, PETS2, Measurement, measured_cell
from dials_hybrid_refine.io.command_input import (
    CommandInput,
    check_belonging,
    exactly_one,
    naming,
    read_experiment,
    read_reflections,
)
from dials_hybrid_refine.io.difference_map_files import write_map, write_map_coefficients
from dials_hybrid_refine.io.effect_plugins import (
    make_effects,
    parse_with_effects,
    warn_of_broken,
)
from dials_hybrid_refine.io.experiments import cell_uncertainties, scan_geometry
from dials_hybrid_refine.io.output_files import check_folder, check_outputs, write_atomically
from dials_hybrid_refine.io.pets_frames import pets_frames
from dials_hybrid_refine.io.refine_phil import REFINE_PHIL
from dials_hybrid_refine.io.refined_experiments import follow_hand, with_orientation_correction
from dials_hybrid_refine.io.refined_reflections import with_calculated
from dials_hybrid_refine.io.reflections import (
    Exclusion,
    ReflectionFilter,
    check_positions,
    read_observations,
)
from dials_hybrid_refine.io.restraints_phil import requested_restraints
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.io.summary_json import InputFiles, as_text, input_files, summary
from dials_hybrid_refine.io.symmetry import check_compatible, unique_indices
from dials_hybrid_refine.models.effects import EffectContext
from dials_hybrid_refine.models.prepare import Model, prepare
from dials_hybrid_refine.refinement.frames import Frames, choose_frames
from dials_hybrid_refine.refinement.geometry import (
    Geometry,
    cell_covariance,
    structure_geometry,
)
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.refine import Controls
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.thickness_course import STEPS_BEFORE_RESCAN
from dials_hybrid_refine.report import log_tables
from dials_hybrid_refine.report.absolute_structure_table import absolute_structure_table
from dials_hybrid_refine.report.html_report import ReportContext, plotly_javascript
from dials_hybrid_refine.report.progress import show_iterations, stop_on_signal
from dials_hybrid_refine.report.restraint_table import restraint_table
from dials_hybrid_refine.report.write_report import ReportFiles, report_writers, write_plot_files

logger = logging.getLogger("dials.hybrid_refine")

phil_scope = iotbx.phil.parse(REFINE_PHIL, process_includes=True)


@dataclass(frozen=True)
class InputData:
    """What the files hold, checked."""

    experiment: Experiment
    table: flex.reflection_table
    model: Model
    scan: ScanGeometry
    observations: Observations
    exclusion: Exclusion
    files: InputFiles


def prepared_structure(path: str, params: Any) -> tuple[Model, list[str]]:
    """The model of a file as the parameters want it described, and sentences about it.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    file = read_structure(path, params.structure.data_block)
    model = Model(
        file.structure,
        file.shelx_constraints,
        file.disorder,
        file.riding,
        file.restraints,
    )
    with naming(path):
        model, notes = prepare(model, model_choices(params))
    return model, [*file.warnings, *notes]


def read_input(command: CommandInput) -> InputData:
    """Read the three files and check that they fit each other; notes go to the log.

    Raises:
        ValueError: one sentence that names the file or parameter and the remedy.
    """
    remedy = "dials.hybrid_refine needs an .expt, a .refl and a structure file"
    expt = exactly_one(command.experiments, "experiments file", remedy)
    refl = exactly_one(command.reflections, "reflection file", remedy)
    cif = exactly_one(command.structures, "structure file", remedy)
    params = command.params
    experiment = read_experiment(expt)
    with naming(expt):
        scan = scan_geometry(experiment)
    model, notes = prepared_structure(cif, params)
    for note in notes:
        logger.warning("%s: %s", cif, note)
    with naming(f"{expt} and {cif}"):
        messages = check_compatible(model.structure, experiment.crystal.get_crystal_symmetry())
    for message in messages:
        logger.info("%s", message)
    table = read_reflections(refl)
    check_belonging(table, experiment, (refl, expt))
    selection = ReflectionFilter(
        intensity=params.intensity,
        min_zeta=params.reflections.min_zeta,
        max_window=params.reflections.max_window,
        min_partiality=params.reflections.min_partiality,
        d_min=params.d_min,
        d_max=params.d_max,
    )
    with naming(refl):
        observations, exclusion = read_observations(table, experiment, scan, selection)
        check_positions(observations, scan, expt)
        unique_index = unique_indices(observations.hkl, model.structure)
    logger.info("\n%s", log_tables.exclusion_table(len(table), exclusion.counts, len(observations)))
    return InputData(
        experiment,
        table,
        model,
        scan,
        replace(observations, unique_index=unique_index),
        exclusion,
        input_files([expt], [refl], cif),
    )


def virtual_frames(params: Any, data: InputData) -> Frames:
    """The frames of the statistics, of the PETS2 file that was imported or regular ones.

    Raises:
        ValueError: for parameters that do not suit the data.
    """
    angles = auto(params.frames.semi_angle), auto(params.frames.step)
    return choose_frames(pets_frames(data.table), [data.scan.phi_range], *angles)


@contextmanager
def explained_failures(structure: str) -> Iterator[None]:
    """Turn what libraries raise for an unsuitable model into sentences.

    Args:
        structure: name of the structure file.

    Raises:
        ValueError: instead of their errors.
    """
    try:
        yield
    except InvalidConstraint as error:
        raise ValueError(
            f"{structure}: {error}: correct its AFIX instructions or remove them"
        ) from error
    except (ArithmeticError, torch.linalg.LinAlgError) as error:
        raise ValueError(
            f"the refinement of {structure} broke down ({error}): start from a better model, or "
            "refine fewer parameters first"
        ) from error


def refined_geometry(result: Result, experiment: Experiment) -> Geometry:
    """Bonds and angles of the refined structure, the s.u. of the experiment's cell included."""
    su = cell_uncertainties(experiment)
    of_cell = None if su is None else cell_covariance(result.structure, su)
    return structure_geometry(result.structure, result.covariance, of_cell)


def log_result(result: Result, geometry: Geometry) -> None:
    """The final tables and warnings."""
    for warning in result.warnings:
        logger.warning("Warning: %s", warning)
    if result.rejected.any():
        logger.info("\nRejected as outliers (worst first):\n%s", log_tables.outlier_table(result))
    logger.info("\nExperiment along the scan:\n%s", log_tables.profile_table(result))
    if result.convergence:
        logger.info("\nLimits of the calculation:\n%s", log_tables.convergence_table(result))
    if result.absorption is not None:
        logger.info("%s", log_tables.absorption_line(result.absorption))
    if result.mosaicity is not None:
        logger.info("Mosaicity: %.4f degrees, s.u. %.4f", *result.mosaicity)
    if result.effects:
        logger.info("\nEffects of other packages:\n%s", log_tables.effects_table(result))
    if result.restraints is not None:
        table = restraint_table(result.restraints)
        logger.info("\nRestraints (worst first):\n%s", table)
    logger.info("\nRefined structure:\n%s", log_tables.structure_table(result))
    if result.absolute_structure is not None:
        table = absolute_structure_table(result.absolute_structure)
        logger.info("\nAbsolute structure:\n%s", table)
    if geometry.bonds:
        logger.info("\nBonds:\n%s", log_tables.bond_table(geometry))
    if result.difference_map is not None:
        logger.info(
            "\nDifference map of the electrostatic potential:\n%s",
            log_tables.difference_map_table(result.difference_map),
        )
    logger.info("\nStatus: %s\n%s", result.status, log_tables.statistics_table(result))
    logger.info("%s", log_tables.definitions())


def measurement_of(params: Any, data: InputData) -> Measurement:
    """What the files state of the experiment."""
    return Measurement(
        wavelength=data.scan.wavelength,
        cell=measured_cell(data.experiment.crystal),
        phi_range=data.scan.phi_range,
        image_width=data.scan.image_width,
        intensity=params.intensity,
        n_excluded=data.exclusion.counts,
        steps=params.beams.tilts_per_window,
        reduction=PETS2 if "pets_frame_phi" in data.table else DIALS,
    )


def write_output(
    command: CommandInput,
    options: RefinementOptions,
    data: InputData,
    result: Result,
    geometry: Geometry,
) -> None:
    """Write the files of the ``output`` scope.

    Raises:
        ValueError: if a file cannot be written.
    """
    params = command.params
    output = params.output
    content = summary(result, data.files, data.exclusion.counts, params.seed, geometry)
    report = ReportFiles(output.html, output.plots_json, output.plots, output.plots_format)
    date = datetime.now().strftime("%Y-%m-%d %H:%M")
    report_context = ReportContext(command.changed, len(data.table), dials_version(), date)

    def write_json(path: str) -> None:
        with open(path, "w") as stream:
            stream.write(as_text(content))

    correction = _correction_at(result, data.scan)
    refined = ExperimentList([with_orientation_correction(data.experiment, data.scan, correction)])
    if result.absolute_structure is not None and result.absolute_structure.applied:
        follow_hand(refined[0].crystal, result.structure)
    writers: list[Writer] = [
        *structure_writers(
            params, data.model, options, measurement_of(params, data), result, geometry
        ),
        # written from here so that dxtbx records this program in the history of the file
        ("experiments", output.experiments, lambda path: refined.as_file(path)),
        (
            "reflections",
            output.reflections,
            lambda path: with_calculated(data.table, result, data.exclusion).as_file(path),
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


def check_output(output: Any) -> None:
    """Whether all output can be written, found out before hours of computing.

    Raises:
        ValueError: names the parameter and the remedy.
    """
    names = {f"output.{n}": p for n, p in vars(output).items() if not n.startswith("_")}
    check_folder("output.plots", names.pop("output.plots"))
    names.pop("output.plots_format")
    check_outputs(names)
    if output.html is not None:
        plotly_javascript()


def _correction_at(result: Result, scan: ScanGeometry) -> np.ndarray:
    """Orientation correction (p, 3) in radians at the scan points, from the block centres."""
    profiles = result.profiles
    columns = [
        np.interp(scan.phi_points, profiles.phi, profiles.orientation[:, k]) for k in range(3)
    ]
    return np.radians(np.stack(columns, axis=-1))


def _check_limits(params: Any) -> None:
    """Parameters that contradict each other.

    Raises:
        ValueError: names the two parameters.
    """
    thickness = params.thickness
    for name in ("map", "map_coefficients"):
        if getattr(params.output, name) is not None and not params.difference_map:
            raise ValueError(
                f"output.{name} needs the difference map: leave out difference_map=False"
            )
    for lower, smallest, upper, largest in (
        ("d_min", params.d_min, "d_max", params.d_max),
        ("thickness.start", auto(thickness.start), "thickness.max", auto(thickness.max)),
    ):
        if smallest is not None and largest is not None and smallest >= largest:
            raise ValueError(
                f"{lower}={smallest:g} is not below {upper}={largest:g}: change one of them"
            )


@show_mail_handle_errors()
def run(args: Sequence[str] | None = None, phil: Any = phil_scope) -> None:
    """Run the program with command-line arguments (default: those of the process)."""
    usage = "dials.hybrid_refine [options] integrated.expt integrated.refl model.cif"
    arguments = list(sys.argv[1:] if args is None else args)
    with errors_for_users():
        command, plugins = parse_with_effects(phil, usage, __doc__, arguments or ["-h"])
        _check_limits(command.params)
        start(command, "dials.hybrid_refine", check_output)
        warn_of_broken(plugins)
        data = read_input(command)
        check_formats(command.params, data.model)
        options = refinement_options(command.params)
        effects = make_effects(plugins, command.params, EffectContext([data.scan]))
        frames = virtual_frames(command.params, data)
        restraints = requested_restraints(command.params.restraints)
        if command.params.restraints.from_file:
            restraints = [*data.model.restraints, *restraints]
        most = (
            STEPS_BEFORE_RESCAN
            + options.schedule.coarse_steps
            + options.schedule.cycles * options.schedule.steps_per_cycle
        )
        with (
            stop_on_signal() as should_stop,
            show_iterations(most) as observer,
            explained_failures(data.files.structure),
        ):
            result = run_refinement(
                [data.scan],
                data.observations,
                data.model.structure,
                options,
                Controls(observer, should_stop),
                data.model.constraints,
                effects,
                frames=frames,
                disorder=data.model.disorder,
                restraints=restraints,
            )
        geometry = refined_geometry(result, data.experiment)
        log_result(result, geometry)
        write_output(command, options, data, result, geometry)
    if result.status == "interrupted":
        sys.exit(130)


if __name__ == "__main__":
    run()
