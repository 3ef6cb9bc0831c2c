"""Integrated intensities of a known crystal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.blocks import plan_blocks
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.effects import Absorption, Effect
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel, composition_of
from dials_hybrid_refine.models.thickness.base import ThicknessModel


def simulate_intensities(
    scan: ScanGeometry,
    observations: Observations,
    structure: xray.structure,
    thickness: ThicknessModel,
    absorption: Absorption | None,
    selection: BeamSelection,
    settings: PropagationSettings,
    effects: Sequence[Effect] = (),
) -> NDArray[np.float64]:
    """Integrated intensities (n,) in fractions of the incident beam times degrees.

    Args:
        observations: which reflections and over which windows; their intensities are not used.
        effects: further experimental effects at their starting points.
    """
    model = HybridModel(
        StructureModel(structure, RefinedParameters(False, False, False)),
        thickness,
        SmoothOrientation([scan.phi_range]),
        absorption,
        effects,
    )
    plan = plan_blocks(
        0,
        scan,
        observations,
        composition_of(structure),
        selection,
        1 / scan.wavelength,
        lambda phi: np.zeros((len(phi), 3)),
    )
    simulator = Simulator([scan], [plan], composition_of(structure), settings)
    with torch.no_grad():
        parts = simulator(model.atoms(), model.physical_models())
    total = torch.zeros(len(observations), dtype=torch.float64)
    return total.index_add_(0, parts.observation, parts.value).numpy()
