"""A spread of orientations: its moments, and the intensities of a mosaic crystal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import EXACT, crossing_reflections, make_scan, plan, quartz_structure

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.mosaicity import Mosaicity
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.neural import NeuralThickness

RANGE = [(-2.0, 2.0)]


def mosaic(width: float) -> HybridModel:
    nodes = np.arange(100.0, 601.0, 100.0)
    thickness = NeuralThickness(nodes, np.exp(-(((nodes - 400) / 150) ** 2)), RANGE, width=3)
    return HybridModel(
        StructureModel(quartz_structure(), RefinedParameters(False, False, False)),
        thickness,
        SmoothOrientation(RANGE, knot_distance=2.0),
        mosaicity=Mosaicity(width),
    )


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    structure = quartz_structure()
    scan = make_scan(structure, *RANGE[0])
    observations = crossing_reflections(scan, 1.3, 0.004)
    selection = BeamSelection(g_max=1.3, s_max=0.008, tilt_step=0.1)
    return plan(structure, scan, observations, selection).simulator(EXACT)


def test_moments_of_the_spread() -> None:
    """No mean turn; the variance about every axis is the square of the width."""
    turns = np.degrees(Mosaicity(0.3)().detach().numpy())
    np.testing.assert_allclose(turns.mean(0), 0, atol=1e-15)
    np.testing.assert_allclose(turns.T @ turns / len(turns), 0.09 * np.eye(3), atol=1e-15)


def test_intensities_are_the_mean_over_the_blocks(simulator: Simulator) -> None:
    model = mosaic(0.2)
    models = model.physical_models()
    assert models.spread is not None
    with torch.no_grad():
        found = simulator(model.atoms(), models).value
        single = []
        for turn in models.spread():
            turned = replace(models, spread=lambda experiment, turn=turn: turn[None])
            single.append(simulator(model.atoms(), turned).value)
    torch.testing.assert_close(found, torch.stack(single).mean(0), rtol=1e-10, atol=1e-14)
    spread = (torch.stack(single).std(0) / found)[found > 0]
    assert spread.max() > 0.1, "the width is too small for the test to mean anything"


def test_thickness_derivatives_are_means_too(simulator: Simulator) -> None:
    """The intensities are linear in the weights: derivatives times weights give them back, but
    for the tails, which do not depend on thickness."""
    model = mosaic(0.2)
    models = model.physical_models()
    with torch.no_grad():
        by_weight, _ = simulator.thickness_derivatives(model.atoms(), models, slopes=False)
        value = simulator(model.atoms(), models).value
        experiment, phi = simulator.block_positions()
        weight = model.thickness(experiment, phi).weight
        block = simulator(model.atoms(), models).block
        sums = (by_weight * weight[block]).sum(1)
    of_curves = sums > 0
    assert of_curves.sum() > 50
    torch.testing.assert_close(sums[of_curves], value[of_curves], rtol=1e-9, atol=0)


def test_gradient_of_the_width(simulator: Simulator) -> None:
    model = mosaic(0.1)
    assert model.mosaicity is not None
    weight = torch.linspace(0.5, 1.5, len(simulator(model.atoms(), model.physical_models()).value))
    logarithm = model.mosaicity.log_width

    def total() -> torch.Tensor:
        return (weight * simulator(model.atoms(), model.physical_models()).value).sum()

    (gradient,) = torch.autograd.grad(total(), logarithm)
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            logarithm.add_(sign * 1e-4)
            sides.append(total().item())
            logarithm.add_(-sign * 1e-4)
    assert gradient.item() == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-5)
