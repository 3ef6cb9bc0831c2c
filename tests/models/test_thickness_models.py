"""Distributions of thickness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dials_hybrid_refine.models.choose import ThicknessOptions, thickness_model
from dials_hybrid_refine.models.thickness.base import ThicknessDistribution
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.models.thickness.per_image import PerImageThickness

NODES = np.arange(50.0, 1001.0, 50.0)
START = np.exp(-(((NODES - 400) / 200) ** 2)) + 0.01
RANGES = [(-50.0, 50.0), (-30.0, 60.0)]
PHI = torch.linspace(-50, 60, 23, dtype=torch.float64)
FIRST = torch.zeros(23, dtype=torch.int64)


def neural(seed: int = 0, trained: bool = True) -> NeuralThickness:
    """A network; trained: with output layers that are not zero."""
    model = NeuralThickness(NODES, START, RANGES, seed=seed)
    if trained:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in (model.moments, model.shape, model.embedding):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator).double())
    return model


def test_weights_of_the_network_are_a_distribution() -> None:
    distribution = neural()(FIRST, PHI)
    assert distribution.weight.shape == distribution.thickness.shape == (23, len(NODES))
    assert (distribution.weight > 0).all()
    torch.testing.assert_close(distribution.weight.sum(-1), torch.ones(23).double())
    np.testing.assert_array_equal(distribution.thickness[5], NODES)
    # it does depend on the angle and on the crystal
    assert np.ptp(distribution.mean().detach().numpy()) > 10
    other = neural()(FIRST + 1, PHI)
    assert (other.weight - distribution.weight).abs().max() > 0.01


def test_network_starts_as_the_given_normal_distribution_at_all_angles() -> None:
    """Discrete nodes and their ends change the moments by less than a per cent."""
    start = np.exp(-0.5 * ((NODES - 450) / 110) ** 2)
    distribution = NeuralThickness(NODES, start, RANGES)(FIRST, PHI)
    weight = distribution.weight.detach().numpy()
    np.testing.assert_array_equal(weight, np.tile(weight[:1], (23, 1)))
    np.testing.assert_allclose(weight[0], start / start.sum(), rtol=0.01, atol=1e-5)


def test_network_never_falls_between_its_nodes() -> None:
    """However narrow, the distribution feels where its middle is (to a quarter of the slope)."""
    model = NeuralThickness(NODES, np.exp(-0.5 * ((NODES - 450) / 5) ** 2) + 1e-300, RANGES)
    with torch.no_grad():
        model.moments_bias[:, 0] += 0.05
    mean = model(FIRST, PHI).mean()
    assert mean[0].item() == pytest.approx(450 * np.exp(0.05), rel=0.01)
    (slope,) = torch.autograd.grad(mean[0], model.moments_bias)
    assert slope[0, 0].item() == pytest.approx(450 * np.exp(0.05), rel=0.25)


def test_seeds_are_reproducible() -> None:
    """The starting weights depend on the seed alone, not on torch's global generator."""
    torch.manual_seed(1)
    first = neural(seed=3)(FIRST, PHI).weight
    torch.manual_seed(2)
    assert torch.equal(neural(seed=3)(FIRST, PHI).weight, first)
    assert not torch.equal(neural(seed=4)(FIRST, PHI).weight, first)


def test_network_cannot_follow_changes_faster_than_its_resolution() -> None:
    """Its features are bumps of 10 degrees: over 1 degree little of the whole change happens."""
    phi = torch.linspace(-45, 45, 91, dtype=torch.float64)
    mean = neural()(torch.zeros(91, dtype=torch.int64), phi).mean().detach()
    assert mean.diff().abs().max() < 0.25 * np.ptp(mean.numpy())


def test_prior_of_the_network_vanishes_for_what_it_prefers() -> None:
    """A normal distribution that is the same at all angles costs nothing; all else does."""
    assert neural(trained=False).prior_residuals().square().sum() < 1e-20
    for name in ("moments", "shape"):
        model = neural()
        with torch.no_grad():
            getattr(model, name).zero_()
        assert model.prior_residuals().square().sum() > 1e-3


def test_prior_scales_with_smoothness() -> None:
    """Each of its two weights scales its part."""

    def prior(smoothness: float, shape_smoothness: float) -> float:
        model = neural()
        model._smoothness, model._shape_smoothness = smoothness, shape_smoothness
        return float(model.prior_residuals().square().sum().detach())

    along_phi, shape = prior(1.0, 0.0), prior(0.0, 1.0)
    assert along_phi > 1e-3 and shape > 1e-3
    assert prior(9.0, 4.0) == pytest.approx(9 * along_phi + 4 * shape)


def test_prior_along_the_scan_is_on_bends_of_mean_and_width() -> None:
    """Parabolas of the angle: second differences of both over a quarter of the mean."""
    model = neural(trained=False)
    centres = model.bumps.centres.reshape(-1)
    mean, width = 500 + 0.05 * centres**2, 80 + 0.01 * centres**2
    model._outputs = lambda experiment, phi: (  # type: ignore[method-assign]
        mean, width, torch.zeros(len(centres), len(NODES), dtype=torch.float64)
    )  # fmt: skip
    spacing = float(centres[1] - centres[0])
    bends = torch.tensor([0.1, 0.02], dtype=torch.float64)[:, None, None] * spacing**2
    inner = mean.reshape(2, -1)[:, 1:-1]
    expected = 3 * (bends / (0.25 * inner)).square().sum()
    found = model.prior_residuals().square().sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


def test_mean_and_width_of_a_distribution() -> None:
    thickness = torch.tensor([[100.0, 300.0]], dtype=torch.float64)
    distribution = ThicknessDistribution(thickness, torch.tensor([[0.25, 0.75]]).double())
    assert distribution.mean().tolist() == [250.0]
    assert distribution.standard_deviation().tolist() == pytest.approx([np.sqrt(7500)])
    single = ThicknessDistribution(thickness[:, :1], torch.ones(1, 1).double())
    assert single.standard_deviation().tolist() == [0.0]


def test_constant_thickness() -> None:
    model = ConstantThickness(350.0, n_experiments=2)
    with torch.no_grad():
        model.log_thickness[1] = np.log(500.0)
    distribution = model(torch.tensor([0, 1, 0]), torch.tensor([0.0, 10.0, 20.0]))
    assert distribution.thickness.ravel().tolist() == pytest.approx([350, 500, 350])
    assert distribution.weight.ravel().tolist() == [1, 1, 1]


def test_thickness_of_each_image() -> None:
    model = PerImageThickness(300.0, [(-5.0, 5.0)], image_width=1.0)
    with torch.no_grad():
        model.log_thickness.copy_(
            torch.log(100 + 10 * torch.arange(10.0, dtype=torch.float64))[None]
        )
    phi = torch.tensor([-4.99, -4.01, -3.99, 0.5, 4.99, 5.0])
    found = model(torch.zeros(6, dtype=torch.int64), phi).thickness.ravel()
    assert found.tolist() == pytest.approx([100, 100, 110, 150, 190, 190])
    assert model.prior_residuals().shape == (9,)
    expected = np.diff(np.log(100 + 10 * np.arange(10))) / 0.2
    np.testing.assert_allclose(model.prior_residuals().detach(), expected, rtol=1e-6)


def test_frames_with_a_thickness_of_their_own_fill_the_scan() -> None:
    options = ThicknessOptions(model="per_image", frame_width=1.5)
    model = thickness_model(options, NODES, START, [(-5.0, 5.0)], [0.25], seed=0)
    assert isinstance(model, PerImageThickness)
    assert model.log_thickness.shape == (1, 7)
    with torch.no_grad():
        model.log_thickness.copy_(torch.log(torch.arange(100.0, 800.0, 100.0))[None])
    # the third of seven begins at -5 + 2 * 10 / 7 = -2.143
    phi = torch.tensor([-2.15, -2.14, 5.0], dtype=torch.float64)
    found = model(torch.zeros(3, dtype=torch.int64), phi).thickness.ravel()
    assert found.tolist() == pytest.approx([200, 300, 700])


def test_empty_thick_nodes_can_be_dropped() -> None:
    """The weights of the nodes that stay keep their ratios."""
    nodes = np.arange(50.0, 1001.0, 50.0)
    model = NeuralThickness(nodes, np.exp(-(((nodes - 300) / 80) ** 2)), [(-20.0, 20.0)])
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        model.shape.copy_(0.1 * torch.randn(model.shape.shape, generator=generator))
    where = torch.zeros(3, dtype=torch.int64), torch.linspace(-20, 20, 3, dtype=torch.float64)
    before = model(*where)
    model.drop_nodes_beyond(620.0)
    after = model(*where)
    assert after.thickness.max() == 600.0
    kept = before.weight[:, :12]
    torch.testing.assert_close(after.weight, kept / kept.sum(1, keepdim=True))
    after.mean().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
