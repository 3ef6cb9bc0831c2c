"""Derivatives by the structure serve as long as they are about the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import quartz_structure
from small_refinement import OPTIONS

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.refinement_state import RefinementState
from dials_hybrid_refine.refinement.shared_columns import SharedColumns


@pytest.mark.parametrize(
    ("shift", "thickness", "is_new"),
    [(0.14, 505.0, False), (0.16, 505.0, True), (0.14, 515.0, True)],
    ids=["hardly changed", "atoms moved", "thicker"],
)
def test_columns_are_made_anew_where_they_differ(
    shift: float, thickness: float, is_new: bool
) -> None:
    """0.015 Angstrom are a shift of 0.15, and 2 % of 500 Angstrom 10; both only after they have served."""
    model = HybridModel(
        StructureModel(quartz_structure(), OPTIONS.structure),
        ConstantThickness(500.0, 1),
        SmoothOrientation([(-5.0, 5.0)]),
    )
    state = RefinementState(model, np.zeros(3, dtype=bool), 1.0)
    made = []

    def calculate() -> torch.Tensor:
        made.append(model.structure.shifts.detach().clone())
        return torch.zeros(3, len(made))

    columns = SharedColumns(calculate)
    columns.get(state, 500.0, 2)
    with torch.no_grad():
        model.structure.shifts[0] += shift
    assert (columns.still_good(state, thickness) is None) == is_new
    assert columns.get(state, thickness, 2).shape == (3, 1)
    assert columns.get(state, thickness, 2).shape == (3, 1 + is_new)
    assert len(made) == 1 + is_new
