"""Before several crystals are refined together: in which setting each is indexed, and whether it fits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from cctbx import sgtbx, xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.workers import one_torch_thread
from dials_hybrid_refine.models.choose import absorption_model, orientation_model
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.crystal_fit import Misfit, misfit
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.journal import Journal
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.reindexing import before_reindexing, better_setting
from dials_hybrid_refine.refinement.settings import coarse_selection
from dials_hybrid_refine.refinement.thickness_course import (
    StartingThickness,
    scan_basin,
    set_thickness,
)
from dials_hybrid_refine.refinement.weights import loss_weights

logger = logging.getLogger("dials.hybrid_refine.crystal_settings")

#: reflections of a crystal that are enough to see whether it fits
_REFLECTIONS = 600


@dataclass(frozen=True)
class StartingFit:
    """How a crystal fits the starting structure, by itself.

    Attributes:
        operator: the change of basis of its data that fits clearly better than none, in the notation of
            cctbx, or empty.
        misfit: in that setting, with the best thickness.
    """

    operator: str
    misfit: Misfit


@one_torch_thread()
def starting_fits(
    scans: Sequence[ScanGeometry],
    observations: Observations,
    structure: xray.structure,
    options: RefinementOptions,
    journal: Journal,
) -> list[StartingFit]:
    """The setting and the misfit of each crystal, on its own, without refinement.

    Args:
        scans: geometry of each experiment.
        observations: of all experiments.
        structure: starting structure.
    """
    found = []
    for i, scan in enumerate(scans):
        mine = observations.select(observations.experiment == i)
        alone = replace(mine, experiment=np.zeros(len(mine), dtype=np.int64))
        data = Dataset([scan], alone, np.zeros(len(alone), dtype=bool)).sample(_REFLECTIONS)

        def fit(data: Dataset = data) -> dict[str, object]:
            return asdict(_starting_fit(data, structure, options))

        entry = journal.remembered(f"crystal {i}", fit)
        of_fit = entry.part("misfit")
        operator = entry.content.get("operator")
        found.append(
            StartingFit(
                operator if isinstance(operator, str) else "",
                Misfit(of_fit.number("r_obs"), of_fit.number("share")),
            )
        )
        logger.info(
            "Experiment %d fits the starting structure with R_obs %.3f, %.0f %% of that of intensities "
            "in another order",
            i,
            found[-1].misfit.r_obs,
            100 * found[-1].misfit.share,
        )
    return found


def _starting_fit(
    data: Dataset, structure: xray.structure, options: RefinementOptions
) -> StartingFit:
    scan = data.scans[0]
    g_data = float(data.inverse_spacings().max())

    def coarse(thickness: float) -> BeamSelection:
        return coarse_selection(g_data, thickness)

    def model_of(given: xray.structure) -> HybridModel:
        return HybridModel(
            StructureModel(given, RefinedParameters(False, False, False)),
            ConstantThickness(options.thickness_start or 500.0),
            orientation_model(options.orientation, [scan.phi_range]),
            absorption_model(options.absorption),
        )

    model, operator = model_of(structure), ""
    found = scan_basin(model, data, options, coarse)
    if options.test_setting:
        better = better_setting(model, data, structure, options, coarse, found.best[0])
        if better is not None:
            operator = better.operator
            model = model_of(before_reindexing(structure, sgtbx.change_of_basis_op(operator)))
            found = scan_basin(model, data, options, coarse)
    set_thickness(model, data, options, StartingThickness.of([found.best]))
    observations, used = data.observations, ~data.held_out
    objective = Objective(
        model,
        build_simulator(data, model, coarse(found.best[0]), options.propagation),
        observations,
        loss_weights(observations, used, options.weighting, 1.0),
        options.scale_variation,
    )
    calculated = objective.evaluate().calculated.numpy()
    return StartingFit(operator, misfit(observations.intensity, observations.sigma, calculated))
