# LIBTBX_SET_DISPATCHER_NAME dials.hybrid_refine
"""Refine a crystal structure against 3D electron diffraction data integrated by DIALS.

Electrons are scattered so strongly that intensities follow many-beam (dynamical) theory. This
program simulates them by the Bloch-wave equations, together with a neural network that learns
the distribution of the crystal's thickness as a function of the rotation angle, and refines the
structure, thickness, orientation and scales together by one gradient.

It reads the experiments and reflections that dials.integrate or dials.scale has written (raw
intensities are used in both cases) and a starting structure as CIF, SHELX .ins or .res, or PDB.
It writes the refined structure with standard uncertainties, the experiments with the refined
orientation, the reflections with calculated intensities, and a summary as JSON.

The hand of the structure is used as given: the space group of the experiments is no evidence
of it and is never used to invert or reindex anything.

Examples::

  dials.hybrid_refine integrated.expt integrated.refl model.cif

  dials.hybrid_refine scaled.expt scaled.refl model.ins d_min=0.7 nproc=4

  dials.hybrid_refine integrated.expt integrated.refl model.cif thickness.model=constant
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import torch

import iotbx.phil
from dials.array_family import flex
from dials.util import log, show_mail_handle_errors
from dials.util.version import dials_version
from dxtbx.model import Experiment, ExperimentList
from libtbx.utils import Sorry
from smtbx.refinement.constraints import InvalidConstraint

from dials_hybrid_refine import __version__
from dials_hybrid_refine.command_line.refine_options import auto, refinement_options
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.command_input import (
    CommandInput,
    check_belonging,
    exactly_one,
    naming,
    read_experiment,
    read_reflections,
)
from dials_hybrid_refine.io.effect_plugins import (
    make_effects,
    parse_with_effects,
    warn_of_broken,
)
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.output_files import check_folder, check_outputs, write_atomically
from dials_hybrid_refine.io.pets_frames import pets_frames
from dials_hybrid_refine.io.refine_phil import REFINE_PHIL
from dials_hybrid_refine.io.refined_cif import CifContext, refined_cif
from dials_hybrid_refine.io.refined_experiments import with_orientation_correction
from dials_hybrid_refine.io.refined_reflections import with_calculated
from dials_hybrid_refine.io.reflections import (
    Exclusion,
    ReflectionFilter,
    check_positions,
    read_observations,
)
from dials_hybrid_refine.io.structure import StructureFile, read_structure
from dials_hybrid_refine.io.summary_json import InputFiles, as_text, input_files, summary
from dials_hybrid_refine.io.symmetry import check_compatible, unique_indices
from dials_hybrid_refine.models.effects import EffectContext
from dials_hybrid_refine.refinement.frames import Frames, choose_frames
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.refine import Controls
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.thickness_course import STEPS_BEFORE_RESCAN
from dials_hybrid_refine.report import log_tables
from dials_hybrid_refine.report.html_report import ReportContext, plotly_javascript
from dials_hybrid_refine.report.progress import show_iterations, stop_on_signal
from dials_hybrid_refine.report.write_report import ReportFiles, report_writers, write_plot_files

logger = logging.getLogger("dials.hybrid_refine")

phil_scope = iotbx.phil.parse(REFINE_PHIL, process_includes=True)


@dataclass(frozen=True)
class InputData:
    """What the files hold, checked."""

    experiment: Experiment
    table: flex.reflection_table
    model: StructureFile
    scan: ScanGeometry
    observations: Observations
    exclusion: Exclusion
    files: InputFiles


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
    model = read_structure(cif)
    for warning in model.warnings:
        logger.warning("%s: %s", cif, warning)
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


def log_result(result: Result) -> None:
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
    logger.info("\nRefined structure:\n%s", log_tables.structure_table(result))
    logger.info("\nStatus: %s\n%s", result.status, log_tables.statistics_table(result))
    logger.info("%s", log_tables.definitions())


def write_output(params: Any, data: InputData, result: Result, changed: str) -> None:
    """Write the files of the ``output`` scope.

    Args:
        changed: the parameters that were changed, for the report.

    Raises:
        ValueError: if a file cannot be written.
    """
    output = params.output
    writers: list[tuple[str, str | None, Callable[[str], object]]] = []
    context = CifContext(data.scan.wavelength, params.weighting.instability)

    def write_cif(path: str) -> None:
        with open(path, "w") as stream:
            refined_cif(result, context).show(out=stream)

    content = summary(result, data.files, data.exclusion.counts, params.seed)
    report = ReportFiles(output.html, output.plots_json, output.plots, output.plots_format)
    date = datetime.now().strftime("%Y-%m-%d %H:%M")
    report_context = ReportContext(changed, len(data.table), dials_version(), date)

    def write_json(path: str) -> None:
        with open(path, "w") as stream:
            stream.write(as_text(content))

    correction = _correction_at(result, data.scan)
    refined = ExperimentList([with_orientation_correction(data.experiment, data.scan, correction)])
    writers = [
        ("structure", output.structure, write_cif),
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
    """Limits that contradict each other.

    Raises:
        ValueError: names the two parameters.
    """
    thickness = params.thickness
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
    try:
        command, plugins = parse_with_effects(phil, usage, __doc__, arguments or ["-h"])
        _check_limits(command.params)
        check_output(command.params.output)
        log.config(verbosity=command.verbosity, logfile=command.params.output.log)
        logger.info("%s, dials.hybrid_refine %s", dials_version(), __version__)
        if command.changed:
            logger.info("The following parameters have been modified:\n\n%s", command.changed)
        warn_of_broken(plugins)
        data = read_input(command)
        options = refinement_options(command.params)
        effects = make_effects(plugins, command.params, EffectContext([data.scan]))
        frames = virtual_frames(command.params, data)
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
                data.model.shelx_constraints,
                effects,
                frames=frames,
            )
        log_result(result)
        write_output(command.params, data, result, command.changed)
    except ValueError as error:
        raise Sorry(str(error)) from None
    except KeyboardInterrupt:  # before or after the refinement, which handles it itself
        sys.exit(130)
    if result.status == "interrupted":
        sys.exit(130)


if __name__ == "__main__":
    run()
