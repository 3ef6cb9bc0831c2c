"""How a refinement comes to its thickness: the basin, room for the distribution, no more than needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.choose import thickness_model
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.thickness.base import ThicknessModel
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.journal import Journal
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.refine import Refinement, loss_weights
from dials_hybrid_refine.refinement.refinement_state import RefinementState
from dials_hybrid_refine.refinement.settings import (
    LARGEST_SCANNED,
    largest_node,
    node_spacing,
    scan_nodes,
    thickness_nodes,
)
from dials_hybrid_refine.refinement.thickness_start import (
    ThicknessScan,
    normal_distribution,
    search_thickness,
)

logger = logging.getLogger("dials.hybrid_refine.thickness_course")

#: coarse steps after which the thickness is scanned again
STEPS_BEFORE_RESCAN = 4

#: thicknesses further than this factor from each other may lie in different basins
_SAME_BASIN = 1.5

#: mean and standard deviation in Angstrom of a crystal for electrons; it is tried where chi^2 of a scan
#: falls by less than this share. With the atoms of quartz moved by 0.06 and 0.12 Angstrom it fell by 0.28
#: and 0.12, with atoms that were about right by 0.5.
_USUAL_THICKNESS = (500.0, 175.0)
_CLEAR_CONTRAST = 0.4

#: a distribution whose three thickest nodes hold more than the first of these has run into them; where
#: it has in more than the second, a share of the scan, the crystal may be thicker than was thought
_FULL_WEIGHT, _FULL_SHARE = 0.2, 0.1

#: nodes whose weight is smaller than the first of these along the whole scan are not used; nodes are
#: kept up to so many times the thickest that is
_NEGLIGIBLE, _ROOM_ABOVE = 1e-3, 1.15


def scan_basin(
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


def remembered_scan(
    journal: Journal,
    model: HybridModel,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
) -> ThicknessScan:
    """``scan_basin``, if no earlier run has done it."""
    name = "thickness scan"
    found = journal.remembered(name, lambda: asdict(scan_basin(model, data, options, coarse)))
    mean = found.array("mean", (None,))
    return ThicknessScan(mean, *(found.array(key, mean.shape) for key in ("width", "chi_square")))


def set_thickness(
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


def coarse_end(
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
        if state.status == "interrupted" or (state.breakdown is not None and kept is None):
            return mean, width
        if kept is not None and (state.breakdown is not None or state.spread > kept.spread):
            state.breakdown = None
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
        set_thickness(model, data, options, mean, width)
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


def trim_thickness(model: HybridModel, objective: Objective) -> None:
    """Drop thicknesses far beyond what the crystal has; the time is proportional to the largest."""
    if not isinstance(model.thickness, NeuralThickness):
        return
    with torch.no_grad():
        distribution = model.thickness(*objective.simulator.segment_positions())
    nodes = distribution.thickness[0]
    used = nodes[(distribution.weight > _NEGLIGIBLE).any(0)].max()
    model.thickness.drop_nodes_beyond(_ROOM_ABOVE * float(used))


def coarse_start(
    refinement: Refinement,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    first: ThicknessScan,
) -> tuple[float, float]:
    """The first coarse steps and the second scan; returns its mean and standard deviation (Angstrom).

    A thickness that is wrong brings the atoms where they fit it, and the second scan is as wrong as
    they are. So several are tried where they are far from each other, each from the starting atoms, and
    the better goes on: one that is given, the best of the first scan, and, where the scan says little
    because the atoms are wrong, a usual one.
    """
    model, state, given = refinement.state.model, refinement.state, options.thickness_start
    candidates = [] if given is None else [(given, 0.25 * given)]
    candidates.append(first.best)
    if first.contrast < _CLEAR_CONTRAST:
        candidates.append(_USUAL_THICKNESS)
    starts: list[tuple[float, float]] = []
    for mean, width in candidates:
        if all(max(mean / m, m / mean) > _SAME_BASIN for m, _ in starts):
            starts.append((mean, width))
    others = [name for name in model.state_dict() if not name.startswith("thickness.")]
    unchanged = {name: model.state_dict()[name].clone() for name in others}
    best, first_spread, failure = None, state.spread, None
    for mean, width in starts:
        model.load_state_dict(unchanged, strict=False)
        state.rejected, state.spread = np.zeros_like(state.rejected), first_spread
        set_thickness(model, data, options, mean, width)
        refinement.coarse_stage(coarse(mean), STEPS_BEFORE_RESCAN, "start")
        if state.status == "interrupted":
            return mean, width
        if state.breakdown is not None:
            failure, state.breakdown = state.breakdown, None
            logger.warning("Starting from %.0f Angstrom fails: %s", mean, failure)
            continue
        scan = remembered_scan(refinement.journal, model, data, options, coarse)
        if best is None or scan.chi_square.min() < best.chi_square.min():
            best, rejected, spread = scan, state.rejected, state.spread
            refined = {name: model.state_dict()[name].clone() for name in others}
    if best is None:
        state.breakdown = failure
        return mean, width
    model.load_state_dict(refined, strict=False)
    state.rejected, state.spread = rejected, spread
    set_thickness(model, data, options, *best.best)
    return best.best
