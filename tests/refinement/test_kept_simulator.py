"""Lists of beams are made anew where the crystal has turned, and only there."""

from __future__ import annotations

import numpy as np
import torch
from examples import quartz_structure
from small_refinement import OPTIONS, data

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.kept_simulator import KeptSimulator

LIMITS = BeamSelection(1.0, 0.012, 0.1)


def test_lists_follow_the_crystal() -> None:
    scan, observations = data()
    dataset = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    model = HybridModel(
        StructureModel(quartz_structure(), OPTIONS.structure),
        ConstantThickness(250.0, 1),
        SmoothOrientation([scan.phi_range]),
    )
    kept = KeptSimulator(dataset, OPTIONS.propagation)

    def turned_by(degrees: float) -> None:
        """About x: 0.012 * 0.05 / 1.0 radians, 0.034 degrees, are allowed."""
        with torch.no_grad():
            knots = model.orientation.knots
            knots.zero_()
            knots[..., 0] = 1.0
            unit = model.orientation(torch.tensor([0]), torch.zeros(1, 1, dtype=torch.float64))
            knots *= float(np.radians(degrees) / unit[0, 0, 0])

    first = kept.get(model, LIMITS)
    turned_by(0.03)
    assert kept.get(model, LIMITS) is first
    turned_by(-0.03)
    assert kept.get(model, LIMITS) is first  # as far from where it was made, not from the last
    turned_by(0.04)
    second = kept.get(model, LIMITS)
    assert second is not first
    assert kept.get(model, LIMITS) is second
    assert kept.get(model, BeamSelection(1.0, 0.012, 0.2)) is not second
