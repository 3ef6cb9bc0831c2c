"""The smooth orientation correction, and scales in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

from dials_hybrid_refine.models.orientation.per_frame import PerFrameOrientation
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.scale import solve_scales

UNIT = np.radians(0.05)


class _Prior(torch.nn.Module):
    """Calls what is not ``forward``."""

    def __init__(self, model: SmoothOrientation) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> torch.Tensor:
        return self.model.prior_residuals()


def oriented(seed: int = 0) -> SmoothOrientation:
    model = SmoothOrientation([(-50.0, 50.0), (0.0, 40.0)], knot_distance=4.0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.knots.copy_(torch.randn(model.knots.shape, generator=generator).double())
    return model


def test_no_correction_at_the_start() -> None:
    model = SmoothOrientation([(-50.0, 50.0)])
    phi = torch.linspace(-50, 50, 7, dtype=torch.float64)[None]
    assert (model(torch.zeros(1, dtype=torch.int64), phi) == 0).all()
    assert (model.prior_residuals() == 0).all()


def test_turns_add_up() -> None:
    """Linear between their angles, of one experiment alone."""
    model = oriented()
    before = model.knots.detach().clone()
    turn = np.array([[1e-3, 0, 2e-3], [3e-3, 0, -2e-3]])
    model.turn_by(1, np.array([0.0, 40.0]), turn)
    added = (model.knots.detach() - before) * UNIT
    assert (added[0] == 0).all()
    fractions = np.linspace(0, 1, model.knots.shape[1])[:, None]
    expected = torch.from_numpy((1 - fractions) * turn[0] + fractions * turn[1])
    torch.testing.assert_close(added[1], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("experiment, first, last", [(0, -50.0, 50.0), (1, 0.0, 40.0)])
def test_passes_through_its_knots(experiment: int, first: float, last: float) -> None:
    """In radians, in units of 0.05 degrees; the same number of knots on every scan."""
    model = oriented()
    phi = torch.linspace(first, last, model.knots.shape[1], dtype=torch.float64)[None]
    found = model(torch.tensor([experiment]), phi)[0]
    torch.testing.assert_close(found, UNIT * model.knots[experiment], rtol=0, atol=1e-12)


def test_is_the_cubic_with_central_slopes_between_knots() -> None:
    """Catmull-Rom, against scipy's Hermite spline; end knots count twice."""
    model = oriented()
    knots = model.knots[0].detach().numpy() * UNIT
    padded = np.concatenate([knots[:1], knots, knots[-1:]])
    spacing = 100 / (len(knots) - 1)
    slopes = (padded[2:] - padded[:-2]) / (2 * spacing)
    spline = CubicHermiteSpline(np.linspace(-50, 50, len(knots)), knots, slopes)
    phi = np.linspace(-50, 50, 977)
    found = model(torch.tensor([0]), torch.from_numpy(phi)[None])[0]
    np.testing.assert_allclose(found.detach(), spline(phi), rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [10.0, 40.0, 260.0])
@pytest.mark.parametrize("size, change", [(0.05, 0.01), (0.1, 0.02), (0.01, 0.05), (0.5, 0.01)])
def test_the_prior_expects_the_size_that_is_asked_for(
    width: float, size: float, change: float
) -> None:
    """Root mean square over the knots of the standard deviations in its covariance."""
    model = SmoothOrientation([(0.0, width)], 4.0, size, change)

    def residuals(knots: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(_Prior(model), {"model.knots": knots}, ())

    jacobian = torch.func.jacrev(residuals)(model.knots.detach()).flatten(1)
    covariance = torch.linalg.inv(jacobian.T @ jacobian)
    expected = size / 0.05  # in units of the knots
    assert covariance.diagonal().mean().sqrt().item() == pytest.approx(expected, rel=1e-6)


def test_the_prior_expects_smoothness() -> None:
    """A knot that is out of line by the expected change: second differences of 1, -2, 1 of it."""
    model = SmoothOrientation([(0.0, 40.0)], expected_size=1.0, expected_change=0.02)
    with torch.no_grad():
        model.knots[0, :, 1] = 2.0
        in_line = model.prior_residuals().square().sum()
        model.knots[0, 3, 1] += 0.4  # 0.02 degrees
        out_of_line = model.prior_residuals().square().sum()
    assert float(out_of_line - in_line) == pytest.approx(6, rel=1e-3)


def design_and_scales(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    design = np.where(rng.random((60, 5)) < 0.4, rng.random((60, 5)), 0)
    return (
        torch.from_numpy(design),
        torch.from_numpy(rng.uniform(500, 900, 5)),
        torch.from_numpy(rng.uniform(0.1, 2, 60)),
    )


def test_known_scales_are_recovered() -> None:
    """Ridge of 1e-12 of the largest element of the normal matrix."""
    design, scales, weight = design_and_scales()
    none = torch.zeros(5, 5, dtype=torch.float64)
    found = solve_scales(design, design @ scales, weight, none)
    torch.testing.assert_close(found, scales, rtol=1e-9, atol=0)
    assert not found.requires_grad


def test_scales_minimise_the_penalised_sum_of_squares() -> None:
    """The gradient 2 (X^T W (X k - I) + P k) vanishes."""
    design, scales, weight = design_and_scales(1)
    intensity = design @ scales + torch.randn(60, generator=torch.Generator().manual_seed(1))
    difference = torch.eye(5, dtype=torch.float64).diff(dim=0)
    prior = 0.3 * difference.T @ difference
    k = solve_scales(design, intensity, weight, prior).requires_grad_()
    loss = (weight * (intensity - design @ k) ** 2).sum() + k @ prior @ k
    (gradient,) = torch.autograd.grad(loss, k)
    terms = (weight[:, None] * design).T @ intensity
    assert gradient.abs().max() < 1e-8 * terms.abs().max()


def test_the_prior_fills_in_blocks_without_reflections() -> None:
    """A block without data gets the scale of its neighbours: the prior is on differences."""
    design, scales, weight = design_and_scales(2)
    design[:, 2] = 0
    difference = torch.eye(5, dtype=torch.float64).diff(dim=0)
    found = solve_scales(design, design @ scales, weight, 1e-6 * difference.T @ difference)
    assert float(found[2]) == pytest.approx(float(found[1] + found[3]) / 2, rel=1e-5)
    torch.testing.assert_close(found[[0, 1, 3, 4]], scales[[0, 1, 3, 4]], rtol=1e-4, atol=0)


def test_each_frame_has_an_orientation_of_its_own() -> None:
    """Frames of 2 degrees from the first angle of each scan, nothing in between."""
    model = PerFrameOrientation([(-50.0, 50.0), (0.0, 40.0)], frame_width=2.0)
    assert model.frames.shape == (2, 50, 3)
    with torch.no_grad():
        model.frames[0, 3] = torch.tensor([1.0, -2.0, 0.5])
        model.frames[1, 19] = torch.tensor([0.0, 0.0, 4.0])
    phi = torch.tensor([[-44.001, -43.999, -42.001, -41.999], [37.9, 38.1, 40.0, 41.0]]).double()
    found = model(torch.tensor([0, 1]), phi).detach().numpy() / UNIT
    turned = [1.0, -2.0, 0.5]
    np.testing.assert_allclose(found[0], [[0, 0, 0], turned, turned, [0, 0, 0]])
    np.testing.assert_allclose(found[1, :, 2], [0, 4, 4, 4])


def test_prior_of_free_frames() -> None:
    model = PerFrameOrientation([(0.0, 10.0)], expected_size=0.1)
    with torch.no_grad():
        model.frames[0, :, 0] = 2.0  # 0.1 degrees in each of the 10 frames
    assert model.prior_residuals().square().sum().item() == pytest.approx(10)
