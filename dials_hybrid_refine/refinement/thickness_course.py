"""How a refinement comes to its thickness: the basin, room for the distribution, no more than needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.choose import thickness_model
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.thickness.base import ThicknessModel
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.journal import Entry, Journal
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.refine import Refinement
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
from dials_hybrid_refine.refinement.weights import loss_weights

logger = logging.getLogger("dials.hybrid_refine.thickness_course")

#: thicknesses further than this factor from each other may lie in different basins
_SAME_BASIN = 1.5

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
    """Scan the thickness, the same for all crystals with data, with the atoms as they are.

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


def scan_crystals(
    model: HybridModel,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
) -> list[ThicknessScan]:
    """A ``scan_basin`` for each crystal."""
    experiment = data.observations.experiment
    return [
        scan_basin(model, data.select(experiment == i), options, coarse)
        for i in range(len(data.scans))
    ]


def remembered_scan(
    journal: Journal,
    model: HybridModel,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
) -> list[ThicknessScan]:
    """``scan_crystals``, if no earlier run has done it."""

    def scan() -> dict[str, Any]:
        found = scan_crystals(model, data, options, coarse)
        return {"crystals": [asdict(scan) for scan in found]}

    found = journal.remembered("thickness scan", scan)
    return [_thickness_scan(part) for part in found.parts("crystals")]


def _thickness_scan(entry: Entry) -> ThicknessScan:
    mean = entry.array("mean", (None,))
    return ThicknessScan(mean, *(entry.array(key, mean.shape) for key in ("width", "chi_square")))


@dataclass(frozen=True)
class StartingThickness:
    """Mean and standard deviation (n_experiments,) of each crystal's thickness in Angstrom."""

    mean: NDArray[np.float64]
    width: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> StartingThickness:
        """From mean and standard deviation of each."""
        mean, width = np.array(pairs, dtype=float).T
        return cls(mean, width)

    @property
    def largest(self) -> float:
        """The largest mean."""
        return float(self.mean.max())

    @property
    def thick_part(self) -> float:
        """The largest mean plus two standard deviations."""
        return float((self.mean + 2 * self.width).max())

    def thicker(self, factor: NDArray[np.float64]) -> StartingThickness:
        """Means and widths times a factor for each crystal."""
        return StartingThickness(factor * self.mean, factor * self.width)

    def is_elsewhere(self, other: StartingThickness) -> bool:
        """Whether a crystal may be in another basin."""
        ratio = self.mean / other.mean
        return bool((np.maximum(ratio, 1 / ratio) > _SAME_BASIN).any())

    def __str__(self) -> str:
        return ", ".join(f"{m:.0f} +- {w:.0f}" for m, w in zip(self.mean, self.width))


def set_thickness(
    model: HybridModel, data: Dataset, options: RefinementOptions, start: StartingThickness
) -> None:
    """Give the model its thickness: nodes that suit all crystals."""
    reaches = [largest_node(mean, width) for mean, width in zip(start.mean, start.width)]
    largest = options.thickness.largest or max(reaches)
    distance = options.thickness.node_distance
    nodes = thickness_nodes(largest, node_spacing(float(start.mean.min()), largest, distance))
    pairs = zip(start.mean, start.width)
    model.thickness = thickness_model(
        options.thickness,
        nodes,
        np.stack([normal_distribution(nodes, mean, width) for mean, width in pairs]),
        [scan.phi_range for scan in data.scans],
        [scan.image_width for scan in data.scans],
        options.seed,
    )


def coarse_end(
    refinement: Refinement,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    start: StartingThickness,
) -> StartingThickness:
    """The last coarse steps, repeated with thicker nodes where a distribution ran into its thickest.

    Returns where the thickness started in the end.
    """
    model, state = refinement.state.model, refinement.state
    kept, spread, rejected = None, state.spread, state.rejected
    while True:
        refinement.stage(coarse(start.largest), options.schedule.coarse_steps, "coarse")
        if state.status == "interrupted" or (state.breakdown is not None and kept is None):
            return start
        if kept is not None and (state.breakdown is not None or state.spread > kept.spread):
            state.breakdown = None
            kept.restore(model, state)
            return kept.start
        assert state.objective is not None
        full = _are_full(model, state.objective)
        if options.thickness.largest or not full.any():
            return start
        kept = _CoarseResult.of(model, state, start)
        start = start.thicker(np.where(full, 1.5, 1.0))
        logger.info("The thickest crystals considered have weight: again from %s Angstrom", start)
        set_thickness(model, data, options, start)
        # those of a wrong thickness would let the priors hold the new one
        state.spread, state.rejected = spread, rejected


@dataclass(frozen=True)
class _CoarseResult:
    """The end of a coarse stage, to go back to."""

    start: StartingThickness
    spread: float
    rejected: NDArray[np.bool_]
    thickness: ThicknessModel
    parameters: Mapping[str, torch.Tensor]

    @classmethod
    def of(
        cls, model: HybridModel, state: RefinementState, start: StartingThickness
    ) -> _CoarseResult:
        parameters = {name: value.clone() for name, value in model.state_dict().items()}
        return cls(start, state.spread, state.rejected, model.thickness, parameters)

    def restore(self, model: HybridModel, state: RefinementState) -> None:
        model.thickness = self.thickness
        model.load_state_dict(self.parameters)
        state.spread, state.rejected = self.spread, self.rejected


def _are_full(model: HybridModel, objective: Objective) -> NDArray[np.bool_]:
    """Which crystals' neural distributions (n_experiments,) have run into their thickest nodes."""
    experiment, phi = objective.simulator.segment_positions()
    none = np.zeros(1 + int(experiment.max()), dtype=bool)
    if not isinstance(model.thickness, NeuralThickness):
        return none
    with torch.no_grad():
        distribution = model.thickness(experiment, phi)
    if float(distribution.thickness.max()) >= LARGEST_SCANNED[-1]:
        return none
    thickest = distribution.weight[:, -3:].sum(1)
    shares = [
        float((thickest[experiment == i] > _FULL_WEIGHT).double().mean()) for i in range(len(none))
    ]
    return np.array(shares) > _FULL_SHARE


def trim_thickness(model: HybridModel, objective: Objective) -> None:
    """Drop thicknesses far beyond what the crystal has; the time is proportional to the largest."""
    if not isinstance(model.thickness, NeuralThickness):
        return
    with torch.no_grad():
        distribution = model.thickness(*objective.simulator.segment_positions())
    nodes = distribution.thickness[0]
    used = nodes[(distribution.weight > _NEGLIGIBLE).any(0)].max()
    model.thickness.drop_nodes_beyond(_ROOM_ABOVE * float(used))
