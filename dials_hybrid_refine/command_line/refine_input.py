"""What dials.hybrid_refine reads, and whether it fits together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from dials.array_family import flex
from dxtbx.model import Experiment

from dials_hybrid_refine.command_line.refine_options import auto, model_choices
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
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.pets_frames import pets_frames
from dials_hybrid_refine.io.reflection_checks import check_signal
from dials_hybrid_refine.io.reflections import (
    Exclusion,
    ReflectionFilter,
    check_positions,
    read_observations,
)
from dials_hybrid_refine.io.restraints_phil import requested_restraints
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.io.summary_json import InputFiles, input_files
from dials_hybrid_refine.io.symmetry import check_compatible, unique_indices
from dials_hybrid_refine.models.prepare import Model, prepare
from dials_hybrid_refine.refinement.frames import Frames, choose_frames
from dials_hybrid_refine.report import log_tables

logger = logging.getLogger("dials.hybrid_refine")


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
    """The model of a file as the parameters want it described and restrained, and sentences about it.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    file = read_structure(path, params.structure.data_block)
    of_file = file.restraints if params.restraints.from_file else ()
    model = Model(
        file.structure,
        file.shelx_constraints,
        file.disorder,
        file.riding,
        (*of_file, *requested_restraints(params.restraints)),
        file.cell_su,
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
        check_signal(observations)
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


def check_limits(params: Any) -> None:
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
