"""A whole refinement: from data and a starting structure to a Result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.workers import one_torch_thread
from dials_hybrid_refine.models.choose import (
    AbsorptionOptions,
    OrientationOptions,
    ThicknessOptions,
    absorption_model,
    orientation_model,
    thickness_model,
)
from dials_hybrid_refine.models.effects import NamedEffect
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.mosaicity import Mosaicity
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.base import ThicknessModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.refinement.convergence import (
    ConvergenceRow,
    converged_selection,
    convergence_rows,
)
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.frames import FrameFilter, Frames, choose_frames
from dials_hybrid_refine.refinement.held_out import (
    choose_held_out,
    choose_held_out_stretches,
    scan_stretches,
)
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.refine import (
    Controls,
    Refinement,
    RefinementState,
    Schedule,
    loss_weights,
)
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.settings import (
    LARGEST_SCANNED,
    coarse_selection,
    derivative_selection,
    fine_selection,
    largest_node,
    node_spacing,
    scan_nodes,
    thickness_nodes,
)
from dials_hybrid_refine.refinement.summarise import summarise
from dials_hybrid_refine.refinement.thickness_start import (
    ThicknessScan,
    normal_distribution,
    search_thickness,
)
from dials_hybrid_refine.refinement.weights import Weighting

logger = logging.getLogger("dials.hybrid_refine.program")

#: coarse steps after which the thickness is scanned again
STEPS_BEFORE_RESCAN = 4

#: a given thickness further than this factor from the best of the scan may lie in another basin
_SAME_BASIN = 1.5

#: a distribution whose three thickest nodes hold more than the first of these has run into them; where
#: it has in more than the second, a share of the scan, the crystal may be thicker than was thought
_FULL_WEIGHT, _FULL_SHARE = 0.2, 0.1

#: nodes whose weight is smaller than the first of these along the whole scan are not used; nodes are
#: kept up to so many times the thickest that is
_NEGLIGIBLE, _ROOM_ABOVE = 1e-3, 1.15

#: fewest reflections for each structural parameter
_MIN_DATA_PER_PARAMETER = 2


@dataclass(frozen=True)
class BeamOptions:
    """Limits of the many-beam calculation; None: chosen from the data (``convergence``).

    ``accuracy`` is the largest change of amplitudes that raising a chosen limit may cause.
    """

    g_max: float | None = None
    s_max: float | None = None
    tilt_step: float | None = None
    accuracy: float = 0.02


@dataclass(frozen=True)
class RefinementOptions:
    """Everything a refinement can be told, beside its data.

    ``thickness_start`` (Angstrom) stands for the first scan for the basin. ``mosaicity`` is where its
    standard deviation starts, in degrees; None: a perfect crystal. ``scale_variation`` is the prior on
    the relative change of scale over one degree. ``held_out_by``: "reflections" (unique ones) or
    "frames" (stretches of the scan, ``held_out_width`` degrees wide).
    """

    thickness: ThicknessOptions = field(default_factory=ThicknessOptions)
    thickness_start: float | None = None
    beams: BeamOptions = field(default_factory=BeamOptions)
    orientation: OrientationOptions = field(default_factory=OrientationOptions)
    structure: RefinedParameters = field(default_factory=RefinedParameters)
    absorption: AbsorptionOptions = field(default_factory=AbsorptionOptions)
    mosaicity: float | None = None
    scale_variation: float = 0.05
    weighting: Weighting = field(default_factory=Weighting)
    held_out_fraction: float = 0.05
    held_out_by: str = "reflections"
    held_out_width: float = 2.0
    frame_filter: FrameFilter = field(default_factory=FrameFilter)
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    propagation: PropagationSettings = field(default_factory=PropagationSettings)
    convergence: bool = False


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

    Raises:
        ValueError: for too few reflections or stretches of the scan, or data that no beam of the
            calculation reaches.
    """
    started = time.monotonic()
    phi_ranges = [scan.phi_range for scan in scans]
    model = HybridModel(
        StructureModel(structure, options.structure, shelx_constraints),
        ConstantThickness(options.thickness_start or 500.0, len(scans)),
        orientation_model(options.orientation, phi_ranges),
        absorption_model(options.absorption),
        [named.effect for named in effects],
        Mosaicity(options.mosaicity) if options.mosaicity is not None else None,
    )
    data = _set_aside(scans, observations, options)
    _check_amount(int((~data.held_out).sum()), model.structure.n_parameters)
    g_data = _largest_g(scans, observations)
    # a block has one thickness
    is_per_image = options.thickness.model == "per_image"
    block_width = min(scan.image_width for scan in scans) if is_per_image else None

    def coarse(thickness: float) -> BeamSelection:
        return replace(coarse_selection(g_data, thickness), block_width=block_width)

    scan = _scan(model, data, options, coarse)
    spread = float(np.sqrt(scan.chi_square.min() / (~data.held_out).sum()))
    refinement = Refinement(
        data,
        model,
        options.propagation,
        options.weighting,
        options.scale_variation,
        options.schedule,
        controls or Controls(),
        spread,
        replace(derivative_selection(g_data), block_width=block_width),
    )
    setup_seconds = time.monotonic() - started
    convergence: list[ConvergenceRow] = []
    mean, width = _coarse_start(refinement, data, options, coarse, scan.best)
    if refinement.state.status != "interrupted":
        mean, width = _coarse_end(refinement, data, options, coarse, mean, width)
    if refinement.state.status != "interrupted":
        if options.thickness.largest is None:
            assert refinement.state.objective is not None
            _trim_thickness(model, refinement.state.objective)
        fine = _full_selection(data, model, g_data, mean + 2 * width, options, block_width)
        refinement.fine_cycles(fine)
        if options.convergence and refinement.state.status != "interrupted":
            logger.info("Raising the limits of the calculation to see what changes")
            convergence = convergence_rows(data, model, fine, options.propagation)
    return summarise(
        refinement,
        data,
        options.weighting,
        options.propagation,
        setup_seconds,
        coarse(mean),
        choose_frames(frames, phi_ranges),
        options.frame_filter,
        convergence,
        effects,
    )


def _set_aside(
    scans: Sequence[ScanGeometry], observations: Observations, options: RefinementOptions
) -> Dataset:
    """The data, with the chosen share held out."""
    fraction, seed = options.held_out_fraction, options.seed
    if options.held_out_by == "reflections":
        held_out = choose_held_out(observations.unique_index, fraction, seed)
        return Dataset(scans, observations, held_out)
    # by the window's middle, so that all intensities of one frame's range stay together
    middle = (observations.phi_start + observations.phi_end) / 2
    stretch = scan_stretches(
        observations.experiment, middle, [scan.phi_range for scan in scans], options.held_out_width
    )
    held_out = choose_held_out_stretches(stretch, fraction, seed)
    return Dataset(scans, observations, held_out, np.where(held_out, stretch, -1))


def _full_selection(
    data: Dataset,
    model: HybridModel,
    g_data: float,
    thickness: float,
    options: RefinementOptions,
    block_width: float | None,
) -> BeamSelection:
    beams = options.beams
    given = {"g_max": beams.g_max, "s_max": beams.s_max, "tilt_step": beams.tilt_step}
    fine = fine_selection(g_data, thickness, beams.g_max, beams.s_max, beams.tilt_step)
    fine = replace(fine, block_width=block_width)
    free = [name for name, value in given.items() if value is None]
    fine = converged_selection(data, model, fine, free, beams.accuracy, options.propagation)
    logger.info(
        "Beams to g_max %.2f 1/Angstrom, s_max %.3f 1/Angstrom, tilts every %.3f degrees",
        fine.g_max,
        fine.s_max,
        fine.tilt_step,
    )
    return fine


def _check_amount(n_used: int, n_structural: int) -> None:
    if n_used < _MIN_DATA_PER_PARAMETER * n_structural or n_used < 10:
        raise ValueError(
            f"only {n_used} reflections are left for {n_structural} structural parameters: give "
            "more data, or refine fewer parameters (structure.displacements=False)"
        )


def _largest_g(scans: Sequence[ScanGeometry], observations: Observations) -> float:
    """Largest |g| of the observations in 1/Angstrom."""
    lengths = [
        np.linalg.norm(observations.hkl[members] @ scan.crystal_settings[0].T, axis=1).max()
        for i, scan in enumerate(scans)
        if (members := observations.experiment == i).any()
    ]
    return float(max(lengths))


def _scan(
    model: HybridModel,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
) -> ThicknessScan:
    """Scan the thickness with the atoms as they are.

    Args:
        coarse: the coarse calculation for crystals of a thickness in Angstrom.
    """
    largest, distance = options.thickness.largest, options.thickness.node_distance
    ranges = [scan_nodes(reach, distance) for reach in ([largest] if largest else LARGEST_SCANNED)]
    scan = search_thickness(
        lambda reach: build_simulator(data, model, coarse(reach), options.propagation),
        model,
        data.observations,
        loss_weights(data.observations, ~data.held_out, options.weighting, 1.0),
        ranges,
    )
    logger.info("Thickness scan: best at %.0f +- %.0f Angstrom", *scan.best)
    if scan.best[0] == ranges[-1][-1]:
        logger.warning("The thickest crystal scanned fits best: raise thickness.max")
    return scan


def _set_thickness(
    model: HybridModel, data: Dataset, options: RefinementOptions, mean: float, width: float
) -> None:
    """Give the model its thickness; mean and standard deviation in Angstrom."""
    largest = options.thickness.largest or largest_node(mean, width)
    nodes = thickness_nodes(largest, node_spacing(mean, largest, options.thickness.node_distance))
    model.thickness = thickness_model(
        options.thickness,
        nodes,
        normal_distribution(nodes, mean, width),
        [scan.phi_range for scan in data.scans],
        data.scans[0].image_width,
        options.seed,
    )


def _coarse_end(
    refinement: Refinement,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    mean: float,
    width: float,
) -> tuple[float, float]:
    """The last coarse steps, repeated with thicker nodes where a distribution ran into its thickest.

    Args:
        mean, width: where the thickness starts; Angstrom, as what is returned.
    """
    model, state = refinement.state.model, refinement.state
    kept, spread, rejected = None, state.spread, state.rejected
    while True:
        refinement.coarse_stage(coarse(mean), options.schedule.coarse_steps)
        if state.status == "interrupted":
            return mean, width
        if kept is not None and state.spread > kept.spread:
            kept.restore(model, state)
            return kept.mean, kept.width
        assert state.objective is not None
        if options.thickness.largest or not _is_full(model, state.objective):
            return mean, width
        kept = _CoarseResult.of(model, state, mean, width)
        mean, width = 1.5 * mean, 1.5 * width
        logger.info(
            "The thickest crystals considered have weight: again from %.0f +- %.0f Angstrom",
            mean,
            width,
        )
        _set_thickness(model, data, options, mean, width)
        # those of a wrong thickness would let the priors hold the new one
        state.spread, state.rejected = spread, rejected


@dataclass(frozen=True)
class _CoarseResult:
    """The end of a coarse stage, to go back to."""

    mean: float
    width: float
    spread: float
    rejected: NDArray[np.bool_]
    thickness: ThicknessModel
    parameters: Mapping[str, torch.Tensor]

    @classmethod
    def of(
        cls, model: HybridModel, state: RefinementState, mean: float, width: float
    ) -> _CoarseResult:
        parameters = {name: value.clone() for name, value in model.state_dict().items()}
        return cls(mean, width, state.spread, state.rejected, model.thickness, parameters)

    def restore(self, model: HybridModel, state: RefinementState) -> None:
        model.thickness = self.thickness
        model.load_state_dict(self.parameters)
        state.spread, state.rejected = self.spread, self.rejected


def _is_full(model: HybridModel, objective: Objective) -> bool:
    """Whether a neural distribution has run into its thickest nodes."""
    if not isinstance(model.thickness, NeuralThickness):
        return False
    with torch.no_grad():
        distribution = model.thickness(*objective.simulator.segment_positions())
    if float(distribution.thickness.max()) >= LARGEST_SCANNED[-1]:
        return False
    thickest = distribution.weight[:, -3:].sum(1)
    return float((thickest > _FULL_WEIGHT).double().mean()) > _FULL_SHARE


def _trim_thickness(model: HybridModel, objective: Objective) -> None:
    """Drop thicknesses far beyond what the crystal has; the time is proportional to the largest."""
    if not isinstance(model.thickness, NeuralThickness):
        return
    with torch.no_grad():
        distribution = model.thickness(*objective.simulator.segment_positions())
    nodes = distribution.thickness[0]
    used = nodes[(distribution.weight > _NEGLIGIBLE).any(0)].max()
    model.thickness.drop_nodes_beyond(_ROOM_ABOVE * float(used))


def _coarse_start(
    refinement: Refinement,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    found: tuple[float, float],
) -> tuple[float, float]:
    """The first coarse steps and the second scan; returns its mean and standard deviation (Angstrom).

    A given thickness that is wrong brings the atoms where they fit it, and the second scan is as
    wrong as they are. Where it is far from what the first scan has found both are tried, each from
    the starting atoms, and the better goes on.

    Args:
        found: mean and standard deviation of the first scan, Angstrom.
    """
    model, state, given = refinement.state.model, refinement.state, options.thickness_start
    starts = [found]
    if given is not None:
        near = 1 / _SAME_BASIN < given / found[0] < _SAME_BASIN
        starts = [(given, 0.25 * given)] if near else [(given, 0.25 * given), found]
    others = [name for name in model.state_dict() if not name.startswith("thickness.")]
    unchanged = {name: model.state_dict()[name].clone() for name in others}
    best = None
    for mean, width in starts:
        model.load_state_dict(unchanged, strict=False)
        state.rejected = np.zeros_like(state.rejected)
        _set_thickness(model, data, options, mean, width)
        refinement.coarse_stage(coarse(mean), STEPS_BEFORE_RESCAN, "start")
        if state.status == "interrupted":
            return mean, width
        scan = _scan(model, data, options, coarse)
        if best is None or scan.chi_square.min() < best.chi_square.min():
            best, rejected, spread = scan, state.rejected, state.spread
            refined = {name: model.state_dict()[name].clone() for name in others}
    assert best is not None
    model.load_state_dict(refined, strict=False)
    state.rejected, state.spread = rejected, spread
    _set_thickness(model, data, options, *best.best)
    return best.best
