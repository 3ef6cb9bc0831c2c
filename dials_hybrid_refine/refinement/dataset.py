"""The data of a refinement, and the calculation planned for them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.blocks import BeamBlock, BlockPlan, plan_blocks
from dials_hybrid_refine.diffraction.memory import (
    RESERVE,
    list_bytes,
    peak_bytes,
    planning_bytes,
    require,
    table_bytes,
    usual_terms,
    working_bytes,
)
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.potential import CrystalComposition
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.ranks import Ranks
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import composition_of
from dials_hybrid_refine.refinement.held_out import with_own_scales
from dials_hybrid_refine.refinement.weights import variances

logger = logging.getLogger("dials.hybrid_refine.dataset")

#: degrees of a stretch of the scan in a sample of the data
_STRETCH = 3.0

#: parts of the scan that represent it: their number, and their width in degrees
_N_PARTS, _PART_WIDTH = 6, 3.0


@dataclass(frozen=True)
class Dataset:
    """The data of a refinement: the geometry of each experiment and all observations.

    Attributes:
        held_out: shape (n,), observations that are set aside.
        held_out_stretch: shape (n,), number of the stretch of the scan an observation is set
            aside with, -1 for others; None: unique reflections are set aside.
    """

    scans: Sequence[ScanGeometry]
    observations: Observations
    held_out: NDArray[np.bool_]
    held_out_stretch: NDArray[np.int64] | None = None

    def select(self, chosen: NDArray[np.bool_]) -> Dataset:
        """The observations of a mask (n,)."""
        stretch = self.held_out_stretch
        return Dataset(
            self.scans,
            self.observations.select(chosen),
            self.held_out[chosen],
            None if stretch is None else stretch[chosen],
        )

    def inverse_spacings(self) -> NDArray[np.float64]:
        """|g| = 1/d of each observation, shape (n,), in 1/Angstrom, by the cell of its experiment."""
        lengths = np.zeros(len(self.observations))
        for i, scan in enumerate(self.scans):
            mine = self.observations.experiment == i
            vectors = self.observations.hkl[mine] @ scan.crystal_settings[0].T
            lengths[mine] = np.linalg.norm(vectors, axis=1)
        return lengths

    def representative_part(self) -> Dataset:
        """The observations in a few stretches of each scan."""
        observations = self.observations
        chosen = np.zeros(len(observations), dtype=bool)
        for i, scan in enumerate(self.scans):
            first, last = scan.phi_range
            for k in range(_N_PARTS):
                start = first + (k + 0.5) / _N_PARTS * (last - first) - _PART_WIDTH / 2
                near = _passing_within(observations, start, start + _PART_WIDTH)
                chosen |= near & (observations.experiment == i)
        return self.select(chosen) if chosen.any() else self

    def sample(self, most: int) -> Dataset:
        """Stretches of the scans, evenly spread, with about so many observations; all if there are
        not clearly more.

        Those that pass for long reach far out of their stretch, and a few of them would have the whole scan
        calculated: they are left out.
        """
        spacing = len(self.observations) // most
        if spacing < 2:
            return self
        starts = np.array([scan.phi_range[0] for scan in self.scans])
        experiment = self.observations.experiment
        middle = (self.observations.phi_start + self.observations.phi_end) / 2
        stretch = ((middle - starts[experiment]) // _STRETCH).astype(int)
        first = starts[experiment] + _STRETCH * stretch
        chosen = (stretch % spacing == spacing // 2) & _passing_within(
            self.observations, first, first + _STRETCH
        )
        for i in np.setdiff1d(experiment, experiment[chosen]):
            # short scans: their middle
            own = np.unique(stretch[experiment == i])
            chosen |= (experiment == i) & (stretch == own[len(own) // 2])
        return self.select(chosen)

    def comparable(
        self, calculated: NDArray[np.float64], instability: float
    ) -> NDArray[np.float64]:
        """Calculated intensities (n,), stretches that are held out each on a scale of its own.

        ``instability``: of ``weights.Weighting``.
        """
        if self.held_out_stretch is None:
            return calculated
        data = self.observations
        weight = 1 / variances(data.intensity, data.sigma, instability)
        return with_own_scales(calculated, data.intensity, weight, self.held_out_stretch)


def _passing_within(
    observations: Observations,
    first: float | NDArray[np.float64],
    last: float | NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Those (n,) with the middle of their window in a stretch (degrees; one, or one for each), and its ends
    no further out than those of a usual window may be."""
    start, end = observations.phi_start, observations.phi_end
    middle, reach = (start + end) / 2, 0.5 * float(np.median(end - start)) + 1e-6
    inside = (middle >= first) & (middle <= last)
    return np.asarray(inside & (start >= first - reach) & (end <= last + reach))


def build_simulator(
    data: Dataset, model: HybridModel, selection: BeamSelection, settings: PropagationSettings
) -> Simulator:
    """Blocks of rotation for the current orientation, ready to compute.

    Raises:
        ValueError: if no observed reflection crosses the Ewald sphere inside its window.
        MemoryError: if there is too little memory.
    """
    composition = composition_of(model.structure.current_structure())
    plans = plan_calculation(data, model, composition, selection, settings.ranks)
    blocks = [block for plan in plans for block in plan.blocks]
    require(
        table_bytes(blocks)
        + list_bytes(blocks)
        + _working_bytes(blocks, model, composition, selection, settings),
        "the calculation",
        selection,
        settings.ranks,
    )
    return Simulator(data.scans, plans, composition, settings)


def plan_calculation(
    data: Dataset,
    model: HybridModel,
    composition: CrystalComposition,
    selection: BeamSelection,
    ranks: Ranks = Ranks(),  # noqa: B008  immutable
) -> list[BlockPlan]:
    """The blocks of rotation of each experiment, for the current orientation.

    Raises:
        MemoryError: if there is too little memory.
    """
    require(
        planning_bytes(composition.volume, selection.g_max),
        "the choice of the beams",
        selection,
        ranks,
    )
    plans = []
    for i, scan in enumerate(data.scans):

        def correction(phi: NDArray[np.float64], experiment: int = i) -> NDArray[np.float64]:
            with torch.no_grad():
                vectors = model.orientation(torch.tensor([experiment]), torch.from_numpy(phi)[None])
            return np.asarray(vectors[0].numpy())

        plan = plan_blocks(
            i, scan, data.observations, composition, selection, 1 / scan.wavelength, correction
        )
        plans.append(plan)
    return plans


def _working_bytes(
    blocks: Sequence[BeamBlock],
    model: HybridModel,
    composition: CrystalComposition,
    selection: BeamSelection,
    settings: PropagationSettings,
) -> int:
    is_real = composition.inversion_centre() is not None and model.absorption is None
    n_bytes = settings.real_dtype.itemsize
    with torch.no_grad():
        first = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
        thickest = float(model.thickness(*first).thickness.max())
    n_terms = usual_terms(selection.s_max, thickest)
    return working_bytes(blocks, 1 if is_real else 2, n_bytes, settings.n_threads, n_terms)


def _most_beams(blocks: Sequence[BeamBlock], n_experiments: int) -> str:
    """The largest number of beams, with the experiment that has it where there are several."""
    largest = max(blocks, key=lambda block: len(block.hkl), default=None)
    if largest is None:
        return "0 beams"
    which = f" (experiment {largest.experiment})" if n_experiments > 1 else ""
    return f"{len(largest.hkl)} beams{which}"


def check_memory(
    data: Dataset, model: HybridModel, selection: BeamSelection, settings: PropagationSettings
) -> None:
    """Whether a calculation will find the memory it needs, from parts of the scan; says how much.

    Raises:
        MemoryError: if there is too little.
    """
    part = data.representative_part()
    composition = composition_of(model.structure.current_structure())
    plans = plan_calculation(part, model, composition, selection, settings.ranks)
    blocks = [block for plan in plans for block in plan.blocks]
    lists = list_bytes(blocks) * len(data.observations) // len(part.observations)
    n_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    derivatives = 3 * 8 * len(data.observations) * n_parameters
    needed = (
        table_bytes(blocks)
        + lists
        + _working_bytes(blocks, model, composition, selection, settings)
    )
    require(needed + derivatives, "the full calculation", selection, settings.ranks)
    n_processes = settings.ranks.n_on_machine
    total = n_processes * (peak_bytes() + needed + derivatives + RESERVE)
    logger.info(
        "Memory: at least %.1f GB, for up to %s", total / 1e9, _most_beams(blocks, len(data.scans))
    )
    if settings.memory is not None and total > 1e9 * n_processes * settings.memory:
        logger.warning(
            "memory=%g cannot be kept: the calculation needs %.1f GB. Give memory=%.1f or more, or lower "
            "beams.g_max, or take fewer threads (nproc)",
            n_processes * settings.memory,
            total / 1e9,
            math.ceil(total / 1e8) / 10,
        )
