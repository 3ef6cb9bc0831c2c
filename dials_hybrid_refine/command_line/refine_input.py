"""What dials.hybrid_refine reads, and whether it fits together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dials.array_family import flex
from dxtbx.model import Experiment

from dials_hybrid_refine.command_line.refine_options import auto, model_choices
from dials_hybrid_refine.diffraction.observations import Observations, joined
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.command_input import (
    CommandInput,
    at_least_one,
    exactly_one,
    naming,
)
from dials_hybrid_refine.io.crystal_files import Recorded, read_recorded
from dials_hybrid_refine.io.experiments import check_experiment, scan_geometry
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
from dials_hybrid_refine.io.symmetry import check_compatible, setting_operator, unique_indices
from dials_hybrid_refine.models.prepare import Model, prepare
from dials_hybrid_refine.refinement.frames import Frames, choose_frames, joined_frames
from dials_hybrid_refine.refinement.result import CrystalRecord, ExcludedCrystal
from dials_hybrid_refine.report import log_tables

logger = logging.getLogger("dials.hybrid_refine")


@dataclass(frozen=True)
class Crystal:
    """One experiment, checked.

    Attributes:
        name, reflections: as ``Recorded``. observations: their experiment is 0.
        exclusion: rows of the table that are not among the observations.
        reindexed: the change of basis that was applied to the data, or None.
    """

    name: str
    reflections: str
    experiment: Experiment
    table: flex.reflection_table
    scan: ScanGeometry
    observations: Observations
    exclusion: Exclusion
    reindexed: str | None = None

    @property
    def record(self) -> CrystalRecord:
        """What the summary states of it."""
        return CrystalRecord(
            self.name,
            self.experiment.identifier,
            self.scan.wavelength,
            self.scan.phi_range,
            self.reindexed,
        )


@dataclass(frozen=True)
class InputData:
    """What the files hold, checked.

    Attributes:
        crystals: what is refined together; the position is the index of the experiment.
        excluded: experiments that were left out.
    """

    crystals: tuple[Crystal, ...]
    model: Model
    files: InputFiles
    excluded: tuple[ExcludedCrystal, ...] = ()

    @property
    def scans(self) -> list[ScanGeometry]:
        """Geometry of each experiment."""
        return [crystal.scan for crystal in self.crystals]

    @property
    def observations(self) -> Observations:
        """Those of all experiments; the rows are in the table of each."""
        return joined([crystal.observations for crystal in self.crystals])

    @property
    def n_read(self) -> int:
        """Rows of all tables."""
        return sum(len(crystal.table) for crystal in self.crystals)

    @property
    def n_excluded(self) -> dict[str, int]:
        """Reflections left out before the refinement, by reason."""
        counts: dict[str, int] = {}
        for crystal in self.crystals:
            for reason, number in crystal.exclusion.counts.items():
                counts[reason] = counts.get(reason, 0) + number
        return counts

    def without(self, reasons: Mapping[int, str]) -> InputData:
        """Without some experiments, for reasons by their index."""
        left_out = tuple(ExcludedCrystal(self.crystals[i].name, why) for i, why in reasons.items())
        kept = tuple(c for i, c in enumerate(self.crystals) if i not in reasons)
        return replace(self, crystals=kept, excluded=(*self.excluded, *left_out))


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
    """Read all files and check that they fit each other; notes go to the log.

    Raises:
        ValueError: one sentence that names the file or parameter and the remedy.
    """
    remedy = "dials.hybrid_refine needs an .expt, a .refl and a structure file"
    at_least_one(command.experiments, "experiments file", remedy)
    at_least_one(command.reflections, "reflection file", remedy)
    cif = exactly_one(command.structures, "structure file", remedy)
    params = command.params
    chosen = params.dataset_selection
    recorded = read_recorded(
        command.experiments, command.reflections, chosen.use_datasets, chosen.exclude_datasets
    )
    model, notes = prepared_structure(cif, params)
    for note in notes:
        logger.warning("%s: %s", cif, note)
    crystals: list[Crystal] = []
    excluded: list[ExcludedCrystal] = []
    for one in recorded:
        try:
            crystals.append(_crystal(one, model, cif, params, resettle=len(recorded) > 1))
        except ValueError as error:
            if not params.crystals.exclude_bad:
                raise
            excluded.append(ExcludedCrystal(one.name, str(error)))
    if not crystals:
        raise ValueError(excluded[0].reason)
    for left_out in excluded:
        tell_excluded(left_out)
    files = input_files(command.experiments, command.reflections, cif)
    return InputData(tuple(crystals), model, files, tuple(excluded))


def tell_excluded(crystal: ExcludedCrystal) -> None:
    """Note in the log that an experiment is left out."""
    logger.warning("Warning: %s is left out: %s", crystal.name, crystal.reason)


def _crystal(one: Recorded, model: Model, cif: str, params: Any, resettle: bool) -> Crystal:
    """An experiment that suits the structure.

    Args:
        resettle: whether data whose cell agrees after a change of basis are reindexed.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    experiment, operator = one.experiment, None
    with naming(one.name):
        check_experiment(experiment)
    if resettle:
        operator = setting_operator(model.structure, experiment.crystal.get_crystal_symmetry())
    if operator is not None:
        logger.info("%s is reindexed by %s to the structure's setting", one.name, operator)
        return replace(
            _crystal(one.reindexed(operator), model, cif, params, False), reindexed=operator
        )
    with naming(one.name):
        scan = scan_geometry(experiment)
    with naming(f"{one.name} and {cif}"):
        messages = check_compatible(model.structure, experiment.crystal.get_crystal_symmetry())
    for message in messages:
        logger.info("%s", message)
    selection = ReflectionFilter(
        intensity=params.intensity,
        min_zeta=params.reflections.min_zeta,
        max_window=params.reflections.max_window,
        min_partiality=params.reflections.min_partiality,
        d_min=params.d_min,
        d_max=params.d_max,
    )
    with naming(one.reflections):
        observations, exclusion = read_observations(one.table, experiment, scan, selection)
        check_positions(observations, scan, one.name)
        check_signal(observations)
        unique_index = unique_indices(observations.hkl, model.structure)
    table = log_tables.exclusion_table(len(one.table), exclusion.counts, len(observations))
    logger.info("\n%s", table)
    observations = replace(observations, unique_index=unique_index)
    return Crystal(one.name, one.reflections, experiment, one.table, scan, observations, exclusion)


def reindexed(data: InputData, operators: Mapping[int, str], cif: str, params: Any) -> InputData:
    """The data after changes of basis of some experiments, by their index."""
    crystals = list(data.crystals)
    for i, operator in operators.items():
        old = crystals[i]
        logger.info("%s is reindexed by %s, which fits the structure better", old.name, operator)
        one = Recorded(old.name, old.reflections, old.experiment, old.table).reindexed(operator)
        new = _crystal(one, data.model, cif, params, resettle=False)
        before = "" if old.reindexed is None else f"{old.reindexed}, then "
        crystals[i] = replace(new, reindexed=before + operator)
    return replace(data, crystals=tuple(crystals))


def virtual_frames(params: Any, data: InputData) -> Frames:
    """The frames of the statistics, of the PETS2 file that was imported or regular ones.

    Raises:
        ValueError: for parameters that do not suit the data.
    """
    angles = auto(params.frames.semi_angle), auto(params.frames.step)
    return joined_frames(
        [
            choose_frames(pets_frames(crystal.table), [crystal.scan.phi_range], *angles)
            for crystal in data.crystals
        ]
    )


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
