"""Standard uncertainties of the thickness profile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_objective import (
    RANGE,
    function_of,
    get_vector,
    make_model,
    make_objective,
    neural_thickness,
)

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.geometric import GeometricThickness
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.models.thickness.neural_mean import NeuralMeanThickness
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.minimise import levenberg_marquardt_steps
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.profile_uncertainty import (
    covariance_of,
    orientation_uncertainty,
    profile_uncertainty,
)

EXPERIMENT = torch.zeros(7, dtype=torch.int64)
PHI = torch.linspace(-3, 3, 7, dtype=torch.float64)


def test_delta_method_agrees_with_sampling() -> None:
    """4000 draws leave 1.1 % of a standard deviation; curvature over steps of 0.01 is less."""
    model = neural_thickness()
    parameters = list(model.parameters())
    n = sum(p.numel() for p in parameters)
    generator = torch.Generator().manual_seed(3)
    root = 0.01 * torch.randn(n, n, generator=generator).double() / n**0.5
    found = profile_uncertainty(model, root @ root.T, EXPERIMENT, PHI)
    centre = torch.nn.utils.parameters_to_vector(parameters).detach()
    means, widths = [], []
    with torch.no_grad():
        for draw in torch.randn(4000, n, generator=generator).double() @ root.T:
            torch.nn.utils.vector_to_parameters(centre + draw, parameters)
            distribution = model(EXPERIMENT, PHI)
            means.append(distribution.mean())
            widths.append(distribution.standard_deviation())
    torch.testing.assert_close(found[0], torch.stack(means).std(0), rtol=0.05, atol=0)
    torch.testing.assert_close(found[1], torch.stack(widths).std(0), rtol=0.05, atol=0)


def test_uncertainty_of_one_thickness() -> None:
    """That of its logarithm times the thickness; its width is not free, nor is a given one."""
    covariance = torch.tensor([[0.02**2]], dtype=torch.float64)
    mean, std = profile_uncertainty(ConstantThickness(300.0), covariance, EXPERIMENT, PHI)
    assert mean.tolist() == pytest.approx([6.0] * 7, rel=1e-5)
    assert std.tolist() == [0.0] * 7
    given = GivenThickness([300.0], 30.0, RANGE[0])
    for su in profile_uncertainty(given, covariance[:0, :0], EXPERIMENT, PHI):
        assert su.tolist() == [0.0] * 7


def test_other_parameters_are_marginalised() -> None:
    """The inverse of the whole matrix, bounds included."""
    model = make_model(ConstantThickness(300.0))
    names = [n for n, p in model.named_parameters() for _ in range(p.numel())]
    place = names.index("thickness.log_thickness")
    generator = torch.Generator().manual_seed(4)
    root = torch.randn(len(names), len(names), generator=generator).double()
    matrix = root @ root.T
    bounds = torch.zeros(len(names), dtype=torch.float64)
    bounds[place] = 0.01
    zero = torch.zeros_like(matrix)
    found = covariance_of(model.thickness, model, GaussNewton(matrix, zero, 0.0, bounds=bounds))
    matrix[place, place] += 0.01
    expected = torch.linalg.inv(matrix)[place, place]
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.item() > 1.5 / matrix[place, place].item()


def refined(objective: Objective, n_steps: int = 12) -> tuple[torch.Tensor, ...]:
    """Refine; mean, width and their s.u. for chi^2 of unit weight."""
    steps = levenberg_marquardt_steps(
        function_of(objective),
        lambda: objective.gauss_newton_matrix().normal,
        get_vector(objective),
    )
    parameters = get_vector(objective)
    for _, step in zip(range(n_steps), steps):
        parameters = step.parameters
    free = [p for p in objective.model.parameters() if p.requires_grad]
    torch.nn.utils.vector_to_parameters(parameters, free)
    model = objective.model
    covariance = covariance_of(model.thickness, model, objective.gauss_newton_matrix())
    with torch.no_grad():
        distribution = model.thickness(EXPERIMENT, PHI)
    uncertainty = profile_uncertainty(model.thickness, covariance, EXPERIMENT, PHI)
    return distribution.mean(), distribution.standard_deviation(), *uncertainty


def fixed(model: HybridModel) -> HybridModel:
    """Thickness alone is refined."""
    model.structure.requires_grad_(False)
    model.orientation.requires_grad_(False)
    return model


def test_the_truth_lies_within_the_uncertainty() -> None:
    """Mean and width of a crystal that grows from 280 to 340 Angstrom, from noisy data.

    Of 14 deviations in units of their s.u. none should exceed 3, and they are of the order of 1.
    """
    truth = make_model(GivenThickness([280.0, 340.0], 60.0, RANGE[0]), absorption=None)
    model = fixed(make_model(neural_thickness(), absorption=None))
    mean, std, mean_su, std_su = refined(make_objective(model, truth, noise=1.0))
    with torch.no_grad():
        given = truth.thickness(EXPERIMENT, PHI)
    deviations = torch.cat(
        [(mean - given.mean()) / mean_su, (std - given.standard_deviation()) / std_su]
    )
    assert (mean_su < 100).all() and (mean_su > 0.5).all()
    assert deviations.abs().max() < 3, deviations
    assert 0.1 < float(deviations.square().mean()) < 3, deviations


def test_uncertainties_shrink_with_the_noise() -> None:
    """Proportionally, for a model without priors."""
    found = []
    for factor in (1.0, 0.25):
        truth = make_model(GeometricThickness("wedge", 300.0, 24), absorption=None)
        model = fixed(make_model(GeometricThickness("wedge", 320.0, 24), absorption=None))
        objective = make_objective(model, truth, scale_variation=1e3)
        objective.weights /= factor**2
        found.append(refined(objective)[2:])
    np.testing.assert_allclose(found[1][0], 0.25 * found[0][0], rtol=0.02)
    np.testing.assert_allclose(found[1][1], 0.25 * found[0][1], rtol=0.02)


@pytest.mark.parametrize("shape", ["wedge", "cylinder", "lens"])
def test_a_shape_is_recovered(shape: str) -> None:
    """From a start 20 % off, exact data; a single thickness cannot fit them."""
    truth = make_model(GeometricThickness(shape, 300.0, 24), absorption=None)
    objective = make_objective(
        fixed(make_model(GeometricThickness(shape, 240.0, 24), absorption=None)),
        truth,
        scale_variation=1.0,
    )
    mean, std, _, _ = refined(objective)
    with torch.no_grad():
        given = truth.thickness(EXPERIMENT, PHI)
    np.testing.assert_allclose(mean, given.mean(), rtol=2e-3)
    np.testing.assert_allclose(std, given.standard_deviation(), rtol=2e-3)
    good = objective.evaluate().chi_square
    other = make_objective(
        fixed(make_model(ConstantThickness(300.0), absorption=None)), truth, scale_variation=1.0
    )
    refined(other)
    assert other.evaluate().chi_square > 10 * max(1.0, good)


def test_a_mean_that_changes_is_recovered() -> None:
    """A network of the mean, exact data; the prior allows a mean that changes linearly."""
    truth = make_model(GivenThickness([280.0, 340.0], 0.0, RANGE[0]), absorption=None)
    model = fixed(make_model(NeuralMeanThickness(300.0, RANGE), absorption=None))
    mean, _, _, _ = refined(make_objective(model, truth, scale_variation=1.0), n_steps=20)
    np.testing.assert_allclose(mean, np.interp(PHI, RANGE[0], [280, 340]), rtol=0.01)


def test_uncertainty_of_the_orientation() -> None:
    """At a knot the correction is the knot, in units of 0.05 degrees; half way, 9/16 of either side's."""
    orientation = SmoothOrientation([(0.0, 12.0)], knot_distance=4.0)
    variance = torch.arange(1.0, 13.0).double() ** 2  # four knots of three components
    phi = torch.tensor([4.0, 6.0], dtype=torch.float64)
    at_knot, between = orientation_uncertainty(
        orientation, torch.diag(variance), torch.zeros(2, dtype=torch.int64), phi
    )
    knots = variance.sqrt().view(4, 3)
    torch.testing.assert_close(at_knot, 0.05 * knots[1], rtol=1e-5, atol=0)
    share = torch.tensor([-1, 9, 9, -1], dtype=torch.float64)[:, None] / 16
    expected = 0.05 * (share * knots).square().sum(0).sqrt()
    torch.testing.assert_close(between, expected, rtol=1e-5, atol=0)
