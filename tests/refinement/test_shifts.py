"""Shifts over standard uncertainties, which tell whether the structure has come to rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import quartz_structure

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.shifts import shifts, structure_su, structure_vector


def test_largest_and_mean() -> None:
    found = shifts(np.array([0.0, 1.0, 5.0]), np.array([0.3, 0.8, 9.0]), np.array([1.0, 0.1, 0.0]))
    # the third is not determined
    assert (found.largest, found.mean) == (pytest.approx(2.0), pytest.approx(1.15))


def test_nothing_is_refined() -> None:
    found = shifts(np.zeros(0), np.zeros(0), np.zeros(0))
    assert (found.largest, found.mean) == (0, 0)


def test_standard_uncertainties_are_those_of_the_structure() -> None:
    """Wherever it stands among the refined numbers, and marginalised over the others."""
    model = HybridModel(
        StructureModel(quartz_structure(), RefinedParameters()),
        ConstantThickness(300.0),
        SmoothOrientation([(0.0, 10.0)]),
    )
    names = [n for n, p in model.named_parameters() if p.requires_grad for _ in range(p.numel())]
    root = torch.randn(len(names), len(names), generator=torch.Generator().manual_seed(1)).double()
    matrix = root @ root.T + torch.eye(len(names))
    found = structure_su(model, GaussNewton(matrix, torch.zeros_like(matrix), 0.0))
    own = [i for i, name in enumerate(names) if name.startswith("structure.")]
    expected = torch.linalg.inv(matrix).diagonal()[own].sqrt()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(structure_vector(model)) == len(own) == model.structure.n_parameters
