"""A whole refinement: from data and a starting structure to a Result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.workers import one_torch_thread
from dials_hybrid_refine.models.choose import (
    absorption_model,
    orientation_model,
)
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.effects import NamedEffect
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.mosaicity import Mosaicity
from dials_hybrid_refine.models.restraints.build import StructureRestraints
from dials_hybrid_refine.models.restraints.request import RestraintRequest
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.breakdown import BREAKDOWNS, sentence_of, unless_broken
from dials_hybrid_refine.refinement.convergence import (
    ConvergenceRow,
    converged_selection,
    convergence_rows,
)
from dials_hybrid_refine.refinement.crystal_fit import crystal_warnings, exclude_bad
from dials_hybrid_refine.refinement.dataset import Dataset, check_memory
from dials_hybrid_refine.refinement.diagnosis import Diagnosis, is_poor, poor_fit
from dials_hybrid_refine.refinement.first_steps import coarse_start, least_chi_square
from dials_hybrid_refine.refinement.frames import Frames, choose_frames
from dials_hybrid_refine.refinement.held_out import (
    choose_held_out,
    choose_held_out_stretches,
    scan_stretches,
)
from dials_hybrid_refine.refinement.journal import Journal
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.orientation_course import start_orientation
from dials_hybrid_refine.refinement.other_hand import HandTest, check_test, with_hand
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.reindexing import check_setting
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.schedule import Controls
from dials_hybrid_refine.refinement.settings import (
    coarse_selection,
    derivative_selection,
    fine_selection,
)
from dials_hybrid_refine.refinement.statistics import OBSERVED_LIMIT
from dials_hybrid_refine.refinement.summarise import summarise
from dials_hybrid_refine.refinement.thickness_course import (
    coarse_end,
    remembered_scan,
    trim_thickness,
)
from dials_hybrid_refine.refinement.thickness_start import ThicknessScan
from dials_hybrid_refine.refinement.whole_reflections import whole_windows

logger = logging.getLogger("dials.hybrid_refine.program")

#: reflections that are enough for a coarse calculation
_COARSE_REFLECTIONS = 5000

#: a sample smaller than this share of the data is refined against with the full calculation too. A third of
#: the CsPbBr3 data was of no use: the first cycle with all of them took two steps with and without it.
_SMALL_SHARE = 0.25

#: Angstrom, for the memory to be expected; only the number of tilts depends on it
_USUAL = 500.0

#: errors of the calculation by this share of R_obs raise it by 4 % of itself, in quadrature
_SHARE_OF_MISFIT = 0.3
#: the fit is poor where it is content with an accuracy so many times that asked for
_POOR = 1.5
#: the calculation is chosen anew where it should be more accurate by this factor
_MUCH_BETTER = 1.5

#: fewest reflections for each structural parameter
_MIN_DATA_PER_PARAMETER = 2


@one_torch_thread()
def run_refinement(
    scans: Sequence[ScanGeometry],
    observations: Observations,
    structure: xray.structure,
    options: RefinementOptions,
    controls: Controls | None = None,
    shelx_constraints: Sequence[Any] = (),
    effects: Sequence[NamedEffect] = (),
    frames: Frames | None = None,
    disorder: Disorder = Disorder(),  # noqa: B008  immutable
    restraints: Sequence[RestraintRequest] = (),
) -> Result:
    """Refine a structure and the unknowns of the experiment together.

    Args:
        scans: geometry of each experiment.
        observations: the data of all experiments.
        structure: starting structure; it is not changed.
        options: see there.
        controls: who hears of each step and may stop the refinement.
        shelx_constraints: constraints of ``smtbx.refinement.constraints``.
        effects: further experimental effects, refined with the rest.
        frames: virtual frames for the statistics; None: regular ones.
        disorder: which atoms are alternatives of each other.
        restraints: of the structure.

    Raises:
        ValueError: for too few reflections or stretches of the scan, data that no beam of the
            calculation reaches or that are indexed in another setting than the structure (of several
            crystals: ``settings_of_crystals``), restraints that do not suit the structure, or a test of
            the hand of a structure that has none.
        CrystalsDoNotFit: for crystals to be left out (``options.exclude_bad``).
    """
    started = time.monotonic()
    controls = controls or Controls()
    check_test(structure, options.absolute_structure)
    phi_ranges = [scan.phi_range for scan in scans]
    model = HybridModel(
        StructureModel(structure, options.structure, shelx_constraints, disorder),
        ConstantThickness(options.thickness_start or 500.0, len(scans)),
        orientation_model(options.orientation, phi_ranges),
        absorption_model(options.absorption, len(scans)),
        [named.effect for named in effects],
        Mosaicity(options.mosaicity, len(scans)) if options.mosaicity is not None else None,
        _restraints(structure, restraints, disorder),
    )
    data = _set_aside(scans, observations, options)
    _check_amount(int((~data.held_out).sum()), model.structure.n_parameters)
    g_data = float(data.inverse_spacings().max())
    sampling = _sampling(scans, observations, options)
    expected = _starting_limits(g_data, options.thickness_start or _USUAL, options, sampling)
    check_memory(data, model, expected, options.propagation)

    def coarse(thickness: float) -> BeamSelection:
        return replace(coarse_selection(g_data, thickness), **sampling)

    def derivatives(thickness: float) -> BeamSelection:
        return replace(derivative_selection(g_data, thickness), **sampling)

    sample = data.sample(_COARSE_REFLECTIONS)
    if sample is not data:
        logger.info(
            "The coarse calculation takes %d of %d reflections, in stretches of the scan",
            len(sample.observations),
            len(data.observations),
        )
    journal = controls.journal
    first = remembered_scan(journal, model, sample, options, coarse)
    if options.test_setting and len(scans) == 1:

        def test_setting() -> dict[str, Any]:
            check_setting(model, sample, structure, options, coarse, first[0].best[0])
            return {}

        journal.remembered("test of the setting", test_setting)
    may_turn = options.orientation.scan and options.orientation.refine

    def is_turned(scans: Sequence[ThicknessScan]) -> bool:
        thickest = max(scan.best[0] for scan in scans)
        return may_turn and start_orientation(journal, model, sample, options, coarse, thickest)

    if is_turned(first):
        first = remembered_scan(journal, model, sample, options, coarse)
    spread = float(np.sqrt(least_chi_square(first) / (~sample.held_out).sum()))
    refinement = Refinement(
        sample,
        model,
        options.propagation,
        options.weighting,
        options.scale_variation,
        options.schedule,
        controls,
        spread,
        derivatives,
    )
    setup_seconds = time.monotonic() - started
    convergence: list[ConvergenceRow] = []
    start = coarse_start(refinement, sample, options, coarse, first, is_turned)
    if not refinement.state.is_over:
        start = coarse_end(refinement, sample, options, coarse, start)
    if not refinement.state.is_over:
        if options.exclude_bad:
            evaluation = refinement.with_data(data).evaluate(coarse(start.largest))
            exclude_bad(data, evaluation.calculated.numpy())
        if options.thickness.largest is None:
            assert refinement.state.objective is not None
            trim_thickness(model, refinement.state.objective)
        refinement, fine = _fine_cycles(
            refinement, data, g_data, start.thick_part, options, sampling
        )
        if options.convergence and fine is not None and not refinement.state.is_over:
            limits = fine
            logger.info("Raising the limits of the calculation to see what changes")
            rows, _ = unless_broken(
                "the table of limits",
                lambda: convergence_rows(data, model, limits, options.propagation),
            )
            convergence = rows or []
    refinement = _with_all(refinement, data, coarse(start.largest))

    def summary_of(refinement: Refinement) -> Result:
        return summarise(
            refinement,
            data,
            options.weighting,
            options.propagation,
            setup_seconds,
            coarse(start.largest),
            choose_frames(frames, phi_ranges),
            options.frame_filter,
            convergence,
            effects,
            options.difference_map,
        )

    result = replace(summary_of(refinement), start=structure)
    if refinement.state.is_over:
        return result
    questions, said = unless_broken(
        "why the fit is poor",
        lambda: _questions(refinement, data, structure, options, coarse, result),
    )
    of_crystals = crystal_warnings(result.observations, result.held_out, result.calculated)
    result = replace(result, warnings=(*result.warnings, *of_crystals, *(questions or said)))
    assert fine is not None
    hand_test = HandTest(refinement, data, fine, options.weighting.instability)
    return with_hand(result, options.absolute_structure, hand_test, summary_of)


def _questions(
    refinement: Refinement,
    data: Dataset,
    start: xray.structure,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    result: Result,
) -> tuple[str, ...]:
    """Why the fit may be bad, if it is."""
    used = ~result.held_out & ~result.rejected
    observations = result.observations
    observed = used & (observations.intensity > OBSERVED_LIMIT * observations.sigma)
    intensity, sigma = observations.intensity[observed], observations.sigma[observed]
    r_obs = result.statistics.used.r_obs
    if r_obs is None or result.status == "interrupted" or not is_poor(r_obs, intensity, sigma):
        return ()
    logger.info("The fit is poor: trying other hands, settings, thicknesses, cells and absorption")
    thickness = float(result.profiles.thickness_mean.mean())
    rejected = refinement.state.rejected
    diagnosis = Diagnosis(data, refinement.state.model, start, options, coarse, thickness, rejected)
    return (poor_fit(r_obs, intensity, sigma), *diagnosis.sentences())


def _sampling(
    scans: Sequence[ScanGeometry], observations: Observations, options: RefinementOptions
) -> dict[str, Any]:
    """What of the ``BeamSelection`` is the same at all stages.

    Raises:
        ValueError: if data that are not in frames are said to be recorded in steps.
    """
    steps = options.beams.tilts_per_window
    if steps is not None:
        windows = np.stack([observations.phi_start, observations.phi_end], axis=1)
        n_windows = len(np.unique(windows, axis=0))
        n_images = sum(len(scan.phi_points) - 1 for scan in scans)
        if n_windows > n_images:
            raise ValueError(
                "beams.tilts_per_window is for intensities of frames, but the "
                f"{len(observations)} reflections have {n_windows} different windows of rotation: "
                "leave it out"
            )
    # a block has one thickness
    is_per_image = options.thickness.model == "per_image"
    width = options.thickness.frame_width or min(scan.image_width for scan in scans)
    return {
        "block_width": width if is_per_image else None,
        "tilts_per_window": steps,
    }


def _restraints(
    structure: xray.structure, requests: Sequence[RestraintRequest], disorder: Disorder
) -> StructureRestraints:
    restraints = StructureRestraints(structure, requests, disorder)
    for warning in restraints.warnings:
        logger.warning("Warning: %s", warning)
    if restraints.restraints:
        logger.info("%d equations restrain the structure", restraints.n_equations)
    return restraints


def _set_aside(
    scans: Sequence[ScanGeometry], observations: Observations, options: RefinementOptions
) -> Dataset:
    """The data, with the chosen share held out."""
    fraction, seed = options.held_out_fraction, options.seed
    if options.held_out_by == "reflections":
        held_out = choose_held_out(observations.unique_index, fraction, seed)
        return Dataset(scans, observations, held_out)
    # by the window's middle, so that all intensities of one frame's range stay together, and all slices
    start, end = whole_windows(observations)
    middle = (start + end) / 2
    stretch = scan_stretches(
        observations.experiment, middle, [scan.phi_range for scan in scans], options.held_out_width
    )
    held_out = choose_held_out_stretches(stretch, fraction, seed)
    return Dataset(scans, observations, held_out, np.where(held_out, stretch, -1))


def _with_all(refinement: Refinement, data: Dataset, selection: BeamSelection) -> Refinement:
    """The same with all data after a sample of them, and their outliers."""
    if refinement.data is data:
        return refinement
    refinement = refinement.with_data(data)
    refinement.judge_outliers(selection)
    return refinement


def _fine_cycles(
    refinement: Refinement,
    data: Dataset,
    g_data: float,
    thickness: float,
    options: RefinementOptions,
    sampling: Mapping[str, Any],
) -> tuple[Refinement, BeamSelection | None]:
    """Refine with the full calculation, made more accurate as the fit gets better.

    Most of the way is cheaper with the sample that the refinement has come with, if it is a small one.

    Returns the refinement, of all data unless it ended before, and its limits, None if none could be had.
    """
    model, schedule = refinement.state.model, options.schedule

    def needed() -> float:
        history = refinement.state.history
        r_obs = history[-1].r_obs if history else None
        return max(options.beams.accuracy, _SHARE_OF_MISFIT * (r_obs or 0.0))

    def choose() -> BeamSelection | None:
        try:
            return _remembered_selection(
                refinement.journal,
                lambda: _full_selection(
                    data, model, g_data, thickness, options, needed(), sampling
                ),
                sampling,
            )
        except BREAKDOWNS as error:
            refinement.state.breakdown = sentence_of("the choice of the full calculation", error)
            return None

    def is_much_better() -> bool:
        better = needed() < accuracy / _MUCH_BETTER
        if better:
            logger.info("The fit is much better now and deserves a more accurate calculation")
        return better

    accuracy, fine = needed(), choose()
    share = len(refinement.data.observations) / len(data.observations)
    if share < _SMALL_SHARE and fine is not None:
        refinement.stage(fine, schedule.steps_per_cycle, "sample")
        if refinement.state.is_over:
            return refinement, fine
        if is_much_better():
            accuracy, fine = needed(), choose()
    if fine is not None:
        refinement = _with_all(refinement, data, fine)
    while fine is not None:
        refinement.fine_cycles(fine)
        if refinement.state.is_over or not is_much_better():
            break
        accuracy, fine = needed(), choose()
    return refinement, fine


def _remembered_selection(
    journal: Journal, choose: Callable[[], BeamSelection], sampling: Mapping[str, Any]
) -> BeamSelection:
    """The full calculation, chosen anew if no earlier run has."""
    entry = journal.remembered("limits of the calculation", lambda: asdict(choose()))
    return BeamSelection(
        entry.number("g_max"),
        entry.number("s_max"),
        entry.number("tilt_step"),
        segment_width=entry.number("segment_width"),
        **sampling,
    )


def _starting_limits(
    g_data: float,
    thickness: float,
    options: RefinementOptions,
    sampling: Mapping[str, Any],
    is_poor: bool = False,
) -> BeamSelection:
    """The full calculation as it is given, or where its choice starts."""
    beams = options.beams
    given = beams.g_max, beams.s_max, beams.tilt_step
    fine = fine_selection(g_data, thickness, *given, is_poor)
    return replace(fine, **sampling)


def _full_selection(
    data: Dataset,
    model: HybridModel,
    g_data: float,
    thickness: float,
    options: RefinementOptions,
    accuracy: float,
    sampling: Mapping[str, Any],
) -> BeamSelection:
    beams = options.beams
    given = {"g_max": beams.g_max, "s_max": beams.s_max, "tilt_step": beams.tilt_step}
    is_poor = accuracy > _POOR * beams.accuracy
    fine = _starting_limits(g_data, thickness, options, sampling, is_poor)
    if fine.tilts_per_window is not None:
        del given["tilt_step"]
    free = [name for name, value in given.items() if value is None]
    fine = converged_selection(data, model, fine, free, accuracy, options.propagation)
    logger.info(
        "Beams to g_max %.2f 1/Angstrom, s_max %.3f 1/Angstrom, %s",
        fine.g_max,
        fine.s_max,
        f"tilts every {fine.tilt_step:.3f} degrees"
        if fine.tilts_per_window is None
        else f"{fine.tilts_per_window} tilts in each window",
    )
    return fine


def _check_amount(n_used: int, n_structural: int) -> None:
    if n_used < _MIN_DATA_PER_PARAMETER * n_structural or n_used < 10:
        raise ValueError(
            f"only {n_used} reflections are left for {n_structural} structural parameters: give "
            "more data, or refine fewer parameters (structure.displacements=False)"
        )
