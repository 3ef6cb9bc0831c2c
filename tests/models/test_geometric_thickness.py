"""Crystals of a known shape, tilted plates, and the network that gives the mean alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from examples import atoms_of, no_rotation, small_example

from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.models.choose import ThicknessOptions, thickness_model
from dials_hybrid_refine.models.thickness.base import ThicknessModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.geometric import SHAPES, GeometricThickness
from dials_hybrid_refine.models.thickness.neural_mean import NeuralMeanThickness
from dials_hybrid_refine.models.thickness.plate import TiltedPlate

RANGES = [(-50.0, 50.0), (-30.0, 60.0)]
PHI = torch.linspace(-50, 50, 11, dtype=torch.float64)
FIRST = torch.zeros(11, dtype=torch.int64)
NODES = np.arange(50.0, 1001.0, 50.0)
NAMES = ("neural", "neural_mean", "constant", "per_image", "wedge", "cylinder", "lens")

#: fraction thinner than tau, mean and variance of tau
CLOSED_FORMS = {
    "wedge": (lambda tau: tau, 1 / 2, 1 / 12),
    "cylinder": (lambda tau: 1 - np.sqrt(1 - tau**2), np.pi / 4, 2 / 3 - np.pi**2 / 16),
    "lens": (lambda tau: tau**2, 2 / 3, 1 / 18),
}


def chosen(name: str, mean: float = 400.0, **options: object) -> ThicknessModel:
    start = np.exp(-(((NODES - mean) / 100) ** 2))
    settings = ThicknessOptions(model=name, **options)
    return thickness_model(settings, NODES, start, RANGES, 1.0, seed=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_quantiles_invert_the_fraction_thinner(shape: str) -> None:
    fraction, _, _ = CLOSED_FORMS[shape]
    x = np.linspace(0, 1, 11)
    np.testing.assert_allclose(fraction(SHAPES[shape].quantile(x)), x, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_are_those_of_the_shape(shape: str) -> None:
    """Closed forms; the quadrature of tau with its square root at an edge is good to 1e-3."""
    _, mean, variance = CLOSED_FORMS[shape]
    model = GeometricThickness(shape, 600 * mean, n_nodes=16)
    distribution = model(FIRST, PHI)
    assert distribution.mean().tolist() == pytest.approx([600 * mean] * 11, rel=1e-3)
    width = 600 * np.sqrt(variance)
    assert distribution.standard_deviation().tolist() == pytest.approx([width] * 11, rel=2e-3)
    torch.testing.assert_close(distribution.weight.sum(1), torch.ones(11).double())
    assert distribution.thickness.max() < 600


def test_shapes_follow_from_their_outlines() -> None:
    """Points scattered over the illuminated area, and the thickness of the body above each.

    A million points leave 0.001 of a fraction.
    """
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 1_000_000))
    disc = x**2 + y**2 < 1
    outlines = {
        "wedge": (1 + x) / 2,
        "cylinder": np.sqrt(1 - x**2),
        "lens": np.sqrt(1 - x[disc] ** 2 - y[disc] ** 2),
    }
    for shape, tau in outlines.items():
        for x_k in (0.1, 0.5, 0.9):
            thinner = (tau < SHAPES[shape].quantile(np.array(x_k))).mean()
            assert thinner == pytest.approx(x_k, abs=0.002), shape


def test_quadrature_is_fine_enough() -> None:
    """Intensities of a 900 Angstrom thick wedge and cylinder with 50 Angstrom per node.

    Against four times as many nodes; the worst reflection to half a per cent of the mean.
    """
    example = small_example()
    for shape in SHAPES:
        found = []
        for n_nodes in (18, 72):
            model = GeometricThickness(shape, 900 * SHAPES[shape].mean, n_nodes)
            distribution = model(torch.zeros(1, dtype=torch.int64), PHI[:1])
            t, w = distribution.thickness[0].detach(), distribution.weight[0]
            models = PhysicalModels(
                lambda e, phi: (t.expand(len(phi), -1), w.expand(len(phi), -1)), no_rotation
            )
            with torch.no_grad():
                found.append(example.simulator()(atoms_of(example.structure), models).value)
        difference = (found[0] - found[1]).abs().max() / found[1].mean()
        assert difference < 5e-3, shape


@pytest.mark.parametrize("name", NAMES)
def test_models_start_at_the_given_mean(name: str) -> None:
    """All in one interface, in both experiments; the quadrature of the shapes is good to 1e-3."""
    model = chosen(name)
    for experiment in (0, 1):
        mean = model(FIRST + experiment, PHI).mean().detach().numpy()
        np.testing.assert_allclose(mean, mean[0])
        # of the neural distribution a thousandth is spread over all nodes, 525 Angstrom on average
        assert mean[0] == pytest.approx(400, rel=2e-3)


@pytest.mark.parametrize("name", ["neural_mean", "wedge", "cylinder", "lens", "plate"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    """Of a number that sees thicknesses, weights and priors, in double precision."""
    model = chosen("cylinder", tilt_correction=True) if name == "plate" else chosen(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).double())

    def value() -> torch.Tensor:
        distribution = model(FIRST, PHI)
        part = (distribution.weight * torch.cos(distribution.thickness / 200)).sum()
        return part + model.prior_residuals().square().sum()

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(value(), parameters)
    for parameter, gradient in zip(parameters, gradients):
        for index in np.ndindex(*parameter.shape):
            sides = []
            with torch.no_grad():
                for step in (1e-5, -2e-5):
                    parameter[index] += step
                    sides.append(float(value()))
                parameter[index] += 1e-5
            difference = (sides[0] - sides[1]) / 2e-5
            assert float(gradient[index]) == pytest.approx(difference, rel=1e-6, abs=1e-7)


def test_prior_of_the_mean_network_vanishes_where_the_mean_changes_linearly() -> None:
    """The logarithm of a line is not a line: the prior is on the mean itself."""

    class Line(NeuralMeanThickness):
        def mean(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
            return 400 + 3 * phi

    class Bent(NeuralMeanThickness):
        def mean(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
            return 400 + 3 * phi + 0.1 * phi**2

    assert Line(400.0, RANGES).prior_residuals().abs().max() < 1e-9
    # centres 10 degrees apart: second differences 20; a quarter of the mean, root of 30
    model = Bent(400.0, [(-50.0, 50.0)], smoothness=30.0)
    middle = model.bumps.centres[0, 1:-1]
    expected = math.sqrt(30) * 20 / (0.25 * model.mean(FIRST, middle))
    torch.testing.assert_close(model.prior_residuals(), expected)


def test_mean_network_depends_on_the_angle() -> None:
    model = NeuralMeanThickness(400.0, RANGES, seed=3)
    with torch.no_grad():
        model.output.normal_(generator=torch.Generator().manual_seed(1))
    distribution = model(FIRST, PHI)
    assert np.ptp(distribution.mean().detach().numpy()) > 20
    assert distribution.weight.unique().tolist() == [1.0]


def test_path_through_a_tilted_plate() -> None:
    """1 / cos(phi - phi_0), up to 80 degrees; phi_0 of each experiment by itself."""
    model = TiltedPlate(ConstantThickness(200.0, 2), 2)
    with torch.no_grad():
        model.angle[1] = math.radians(10)
    phi = torch.tensor([0.0, 60.0, 70.0, 89.0, 120.0], dtype=torch.float64)
    experiment = torch.tensor([0, 0, 1, 0, 0])
    found = model(experiment, phi).mean().tolist()
    edge = 200 / math.cos(math.radians(80))
    assert found == pytest.approx([200, 400, 400, edge, edge])
    assert model.prior_residuals().tolist() == pytest.approx([0, 0.5])


def test_a_tilted_plate_starts_at_the_given_mean() -> None:
    """Its mean over both scans, not its thickness seen along the normal."""
    model = chosen("wedge", tilt_correction=True)
    means = []
    for experiment, (first, last) in enumerate(RANGES):
        phi = torch.linspace(first, last, 1001, dtype=torch.float64)
        means.append(model(torch.full((1001,), experiment), phi).mean().mean().item())
    assert np.mean(means) == pytest.approx(400, rel=2e-3)


@pytest.mark.parametrize("name", ["neural", "neural_mean", "per_image"])
def test_models_that_follow_the_angle_take_no_tilt_correction(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"thickness.tilt_correction=True .*{name}.*choose constant"
    ):
        ThicknessOptions(model=name, tilt_correction=True)


def test_unknown_model() -> None:
    with pytest.raises(ValueError, match="no thickness model 'sphere'"):
        chosen("sphere")
