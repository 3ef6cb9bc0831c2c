"""The loss, its gradient and its Gauss-Newton matrix; an effect added from outside the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from examples import (
    EXACT,
    Array,
    crossing_reflections,
    make_scan,
    plan,
    quartz_structure,
)

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.parts import IntensityParts
from dials_hybrid_refine.diffraction.ranks import Ranks
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.effects import (
    CurveEffect,
    Effect,
    IntensityEffect,
    ProportionalAbsorption,
)
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.tabulated_absorption import TabulatedAbsorption
from dials_hybrid_refine.models.thickness.base import ThicknessModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.refinement.minimise import (
    Function,
    levenberg_marquardt_steps,
    quasi_newton_steps,
)
from dials_hybrid_refine.refinement.objective import Evaluation, Objective
from dials_hybrid_refine.refinement.summarise import absorption_strengths

RANGE = [(-3.0, 3.0)]


def true_scales(n_segments: int) -> Array:
    """Counts per incident electron and degree of each segment."""
    return 1e6 * (1 + 0.1 * np.sin(np.arange(n_segments)))


class ResolutionFilter(CurveEffect):
    """A toy effect, unknown to the package: beams lose exp(-strength |g|^2), |g| of the beam.

    The refined number is in units of 0.1 Angstrom^2.
    """

    def __init__(self, strength: float = 0.0) -> None:
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(strength, dtype=torch.float64))

    def forward(self, curves: torch.Tensor, batch: BlockBatch) -> torch.Tensor:
        hkl = batch.geometry.hkl[:, 1 : 1 + batch.n_rows]
        g_sq = torch.einsum("bij,brj->bri", batch.bases[:, 0], hkl).square().sum(-1)
        return curves * torch.exp(-0.1 * self.strength * g_sq)[:, :, None]

    def prior_residuals(self) -> torch.Tensor:
        return self.strength[None] / 100


class Saturation(IntensityEffect):
    """A toy effect that is not linear: each part x degrees becomes x / (1 + strength x),
    and a share of 0.001 strength degrees is added."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(strength, dtype=torch.float64))

    def forward(self, values: torch.Tensor, parts: IntensityParts) -> torch.Tensor:
        return values / (1 + self.strength * values) + 0.001 * self.strength * parts.share


class Blurring(CurveEffect):
    """A toy effect that is not linear: curves x become x - strength x^2."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(strength, dtype=torch.float64))

    def forward(self, curves: torch.Tensor, batch: BlockBatch) -> torch.Tensor:
        return curves - self.strength * curves**2


def toy_effects() -> list[Effect]:
    return [ResolutionFilter(0.3), Blurring(0.5), Saturation(1.0)]


def neural_thickness() -> NeuralThickness:
    nodes = np.arange(100.0, 601.0, 100.0)
    model = NeuralThickness(nodes, np.exp(-(((nodes - 300) / 150) ** 2)), RANGE, width=3)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for parameter in (model.moments, model.shape):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def make_model(
    thickness: ThicknessModel | None = None,
    absorption: float | None = 0.05,
    effects: Sequence[Effect] = (),
    seed: int | None = None,
) -> HybridModel:
    """All groups of parameters; with a seed all but thickness are moved a little."""
    model = HybridModel(
        StructureModel(quartz_structure(), RefinedParameters(occupancies=False)),
        thickness or ConstantThickness(300.0),
        SmoothOrientation(RANGE, knot_distance=2.0),
        None if absorption is None else ProportionalAbsorption(absorption),
        effects,
    )
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in (model.structure.shifts, model.orientation.knots):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@lru_cache(maxsize=None)
def simulation(block_width: float, ranks: Ranks = Ranks()) -> tuple[Simulator, Observations]:
    structure = quartz_structure()
    scan = make_scan(structure, *RANGE[0])
    observations = crossing_reflections(scan, 1.3, 0.004)
    selection = BeamSelection(g_max=1.3, s_max=0.008, tilt_step=0.2, block_width=block_width)
    simulator = plan(structure, scan, observations, selection).simulator(
        replace(EXACT, ranks=ranks)
    )
    assert len(observations) > 40
    return simulator, observations


def make_objective(
    model: HybridModel,
    truth: HybridModel,
    noise: float = 0.0,
    scale_variation: float = 0.1,
    block_width: float = 1.0,
    ranks: Ranks = Ranks(),
) -> Objective:
    """A model against the intensities of a true model, one in seven held out.

    ``noise``: in units of sigma, which is 2 % of the intensity and 0.2 % of the strongest.
    """
    simulator, observations = simulation(block_width, ranks)
    with torch.no_grad():
        parts = simulator(truth.atoms(), truth.physical_models())
    scales = true_scales(len(simulator.segment_positions()[0]))
    intensity = np.zeros(len(observations))
    np.add.at(intensity, parts.observation.numpy(), parts.value.numpy() * scales[parts.segment])
    sigma = 0.02 * intensity + 0.002 * intensity.max()
    errors = noise * sigma * np.random.default_rng(1).normal(size=len(sigma))
    weights = torch.from_numpy(1 / sigma**2)
    weights[::7] = 0
    measured = replace(observations, intensity=intensity + errors)
    return Objective(model, simulator, measured, weights, scale_variation)


def get_vector(objective: Objective) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in objective.parameters()])


def set_vector(objective: Objective, vector: torch.Tensor) -> None:
    with torch.no_grad():
        start = 0
        for parameter in objective.parameters():
            parameter.copy_(vector[start : start + parameter.numel()].reshape(parameter.shape))
            start += parameter.numel()


def function_of(objective: Objective) -> Function:
    def function(vector: torch.Tensor) -> tuple[Evaluation, Callable[[], torch.Tensor]]:
        set_vector(objective, vector)
        return objective.evaluate_for_gradient()

    return function


def take_steps(objective: Objective, most: int) -> None:
    """Levenberg-Marquardt; the model is left at the last step."""
    steps = levenberg_marquardt_steps(
        function_of(objective),
        lambda: objective.gauss_newton_matrix().normal,
        get_vector(objective),
    )
    for _ in zip(range(most), steps):
        pass


def test_loss_is_its_definition() -> None:
    """chi^2 of the used reflections + scale prior + priors; scales at their optimum."""
    objective = make_objective(make_model(seed=1), make_model(), noise=1.0)
    fit = objective.evaluate()
    residuals = objective._intensity - fit.calculated
    assert fit.chi_square == pytest.approx(float((objective.weights * residuals**2).sum()))
    torch.testing.assert_close(fit.calculated, fit.design @ fit.scales)
    priors = objective.model.prior_residuals().square().sum().item()
    roughness = 0.0
    total = fit.design.sum(1)
    weights, intensity = objective.weights, objective._intensity
    overall = float((weights * intensity * total).sum() / (weights * total**2).sum())
    for one, other in zip(fit.scales, fit.scales[1:]):  # centres are one degree apart
        roughness += float((one - other) / (0.1 * overall)) ** 2
    assert fit.loss == pytest.approx(fit.chi_square + priors + roughness, rel=1e-9)


def test_truth_has_no_residual_and_scales_are_recovered() -> None:
    """With hardly any prior on the scales: chi^2 0, those of observed segments as simulated."""
    objective = make_objective(make_model(), make_model(), scale_variation=1e4)
    fit = objective.evaluate()
    assert fit.chi_square < 1e-8
    np.testing.assert_allclose(fit.scales, true_scales(6), rtol=1e-4)


def test_reflections_of_no_weight_do_not_count() -> None:
    objective = make_objective(make_model(seed=1), make_model(), noise=1.0)
    before, gradient = objective.evaluate_with_gradient()
    objective._intensity[::7] *= 3
    after, same = objective.evaluate_with_gradient()
    assert after.loss == before.loss
    assert torch.equal(gradient, same)
    assert (after.calculated[::7] > 0).any()  # but they are calculated


@pytest.mark.parametrize("thickness", ["constant", "neural"])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "absorption and effects"])
def test_gradient_agrees_with_finite_differences(thickness: str, extras: bool) -> None:
    """Each parameter by itself; the loss solves for the scales anew at each point.

    So the closed-form scale may indeed be taken as constant in the gradient. Central differences
    of step 1e-4 in parameters whose unit is a large step: third derivatives leave 1e-6.
    """
    model = make_model(
        neural_thickness() if thickness == "neural" else None,
        0.05 if extras else None,
        toy_effects() if extras else [],
        seed=2,
    )
    objective = make_objective(model, make_model(), noise=1.0)
    vector = get_vector(objective)
    _, gradient = objective.evaluate_with_gradient()
    assert len(vector) == len(gradient) > 20
    differences = torch.zeros_like(gradient)
    for i in range(len(vector)):
        step = torch.zeros_like(vector)
        step[i] = 1e-4
        losses = []
        for sign in (1, -1):
            set_vector(objective, vector + sign * step)
            losses.append(objective.evaluate().loss)
        differences[i] = (losses[0] - losses[1]) / 2e-4
    set_vector(objective, vector)
    torch.testing.assert_close(
        gradient, differences, rtol=1e-5, atol=1e-6 * float(gradient.abs().max())
    )


def residuals(objective: Objective) -> torch.Tensor:
    """All weighted residuals, priors included, of the loss with its scales solved."""
    fit = objective.evaluate()
    data = objective.weights.sqrt() * (fit.calculated - objective._intensity)
    # P = D^T D: with the Cholesky-like root from its eigenvectors
    values, vectors = torch.linalg.eigh(objective._roughness)
    scale_prior = (vectors * values.clamp_min(0).sqrt()).T @ fit.scales
    return torch.cat([data, scale_prior, objective.model.prior_residuals().detach()])


def test_structural_derivatives_can_be_given() -> None:
    """Those of the same parameters give the same matrix; others stand where the structure is."""
    truth = make_model(seed=1)
    objective = make_objective(make_model(seed=2), truth)
    columns = objective.structure_columns()
    fresh = objective.gauss_newton_matrix()
    given = objective.gauss_newton_matrix(columns)
    torch.testing.assert_close(given.normal, fresh.normal, rtol=1e-12, atol=0)
    doubled = objective.gauss_newton_matrix(2 * columns)
    n = columns.shape[1]
    data = (fresh.normal - fresh.prior)[:n, :n]
    torch.testing.assert_close(
        (doubled.normal - doubled.prior)[:n, :n], 4 * data, rtol=1e-9, atol=0
    )
    torch.testing.assert_close(doubled.normal[n:, n:], fresh.normal[n:, n:], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "thickness, extras",
    [("constant", False), ("neural", False), ("constant", True)],
    ids=["constant", "neural", "effects"],
)
def test_gauss_newton_matrix_agrees_with_finite_differences(thickness: str, extras: bool) -> None:
    """Half the Hessian at zero residual: J^T J of all residuals with the scales re-solved.

    The matrix takes forward differences of a fiftieth of a unit: a per cent of the diagonal. It
    takes the orientation as constant inside a block, hence the blocks of a single tilt.
    """
    make = {"constant": lambda: None, "neural": neural_thickness}[thickness]
    model, truth = (
        make_model(make(), effects=toy_effects() if extras else [], seed=3) for _ in range(2)
    )
    objective = make_objective(model, truth, block_width=0.2)
    vector = get_vector(objective)
    equations = objective.gauss_newton_matrix()
    found = equations.normal
    torch.testing.assert_close(get_vector(objective), vector, rtol=0, atol=0)
    columns = []
    for i in range(len(vector)):
        step = torch.zeros_like(vector)
        step[i] = 1e-4
        sides = []
        for sign in (1, -1):
            set_vector(objective, vector + sign * step)
            sides.append(residuals(objective))
        columns.append((sides[0] - sides[1]) / 2e-4)
    set_vector(objective, vector)
    jacobian = torch.stack(columns, dim=1)
    expected = jacobian.T @ jacobian
    size = expected.diagonal().sqrt()
    relative = (found - expected) / size[:, None] / size[None]
    assert relative.abs().max() < 0.02
    torch.testing.assert_close(found, found.T, rtol=1e-9, atol=1e-9 * float(found.abs().max()))
    assert torch.linalg.eigvalsh(found).min() > -1e-9 * found.diagonal().max()
    # what the scales' prior says is a prior's part and none of the data's
    of_data = jacobian[: len(objective.weights)]
    relative = (found - equations.prior - of_data.T @ of_data) / size[:, None] / size[None]
    assert relative.abs().max() < 0.02


def test_effective_number_of_scales() -> None:
    """All six without a prior, one (the mean) with a prior that allows no difference."""
    for variation, number in ((1e3, 6.0), (1e-3, 1.0)):
        objective = make_objective(make_model(), make_model(), scale_variation=variation)
        assert objective.gauss_newton_matrix().n_scales == pytest.approx(number, abs=0.02)


def test_refinement_recovers_a_moved_structure() -> None:
    """From noise-free data: Levenberg-Marquardt, then quasi-Newton on its last matrix."""
    truth = make_model(absorption=None)
    model = make_model(ConstantThickness(260.0), absorption=None, seed=4)
    objective = make_objective(model, truth, scale_variation=1.0)
    for module in (model.orientation, truth.orientation):
        module.requires_grad_(False)
    with torch.no_grad():
        model.orientation.knots.zero_()
    function = function_of(objective)
    start = objective.evaluate()
    steps = levenberg_marquardt_steps(
        function, lambda: objective.gauss_newton_matrix().normal, get_vector(objective)
    )
    losses = [step.evaluation.loss for _, step in zip(range(12), steps)]
    assert losses == sorted(losses, reverse=True)
    hessian = 2 * objective.gauss_newton_matrix().normal
    for _, step in zip(range(15), quasi_newton_steps(function, get_vector(objective), hessian)):
        losses.append(step.evaluation.loss)
    # but for round-off where the second begins
    assert all(b < a * (1 + 1e-12) for a, b in zip(losses, losses[1:]))
    end = objective.evaluate()
    assert end.chi_square < 1e-3 * start.chi_square
    # the weak prior on the scales, which are not all equal, pulls a little
    sites, expected = model.atoms().sites, truth.atoms().sites
    assert (sites - expected).abs().max().item() * 5 < 0.01  # Angstrom
    assert model.thickness.log_thickness.exp().item() == pytest.approx(300, abs=3)


def test_the_factor_of_tabulated_absorption_is_recovered_within_its_uncertainty() -> None:
    """From noisy data of factor 1 and atoms that scatter much between the beams, U fixed.

    The s.u. is that of the normal matrix, chi^2 per observation being 1. The start is many s.u.
    away.
    """
    models = []
    for factor in (1.0, 3.0):
        model = make_model(ConstantThickness(900.0), absorption=None)
        model.absorption = TabulatedAbsorption(factor)
        model.orientation.requires_grad_(False)
        model.structure.requires_grad_(False)
        models.append(model)
    truth, model = models
    objective = make_objective(model, truth, noise=0.3, scale_variation=0.1)
    take_steps(objective, 15)
    covariance = 0.3**2 * objective.gauss_newton_matrix().covariance().numpy()
    (found,) = absorption_strengths(model, covariance)
    assert found is not None and found.su is not None
    assert abs(found.value - 1) < 2.5 * found.su
    assert found.su < 0.4


def test_an_effect_from_outside_the_package_is_refined_with_the_rest() -> None:
    """The toy effect's strength is found beside thickness, scales and structure."""
    effect, truth = ResolutionFilter(), make_model(absorption=None, effects=[ResolutionFilter(3.0)])
    model = make_model(ConstantThickness(280.0), absorption=None, effects=[effect])
    model.orientation.requires_grad_(False)
    model.structure.requires_grad_(False)
    objective = make_objective(model, truth, scale_variation=1.0)
    assert any(p is effect.strength for p in objective.parameters())
    take_steps(objective, 15)
    assert effect.strength.item() == pytest.approx(3.0, abs=0.1)
    assert model.thickness.log_thickness.exp().item() == pytest.approx(300, abs=3)
    assert objective.evaluate().chi_square < 0.5
    # without the effect the same data cannot be fitted
    with torch.no_grad():
        effect.strength.zero_()
    assert objective.evaluate().chi_square > 20


def test_scales_of_segments_without_used_reflections() -> None:
    """Between others they lie on a straight line, at the end they are that of the neighbour.

    As for a random walk along the scan, whose prior is all there is for stretches held out.
    """
    objective = make_objective(make_model(seed=1), make_model(), noise=1.0)
    design = objective.evaluate().design
    for unused in (0, 2, 3):
        objective.weights[design[:, unused] > 0] = 0
    assert (objective.weights > 0).sum() > 4
    scales = objective.evaluate().scales
    assert abs(scales[4] - scales[1]) > 1e-3 * scales[1]  # noise and the true scales differ
    line = scales[1] + (scales[4] - scales[1]) * torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    torch.testing.assert_close(scales[2:4], line, rtol=1e-6, atol=0)
    torch.testing.assert_close(scales[0], scales[1], rtol=1e-6, atol=0)
