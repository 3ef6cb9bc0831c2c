"""The minimisers on functions whose minimum is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from dials_hybrid_refine.refinement.minimise import levenberg_marquardt_steps, quasi_newton_steps


@dataclass(frozen=True)
class Value:
    loss: float


def residuals_of_rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """Two independent valleys; minimum 0 at (1, 1, 1, 1)."""
    return torch.cat([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


class Counted:
    """A sum of squares of residuals with its gradient, counting calls."""

    def __init__(self, residuals: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.residuals = residuals
        self.calls = 0
        self.gradients = 0
        self.last = torch.zeros(0)

    def __call__(self, x: torch.Tensor) -> tuple[Value, Callable[[], torch.Tensor]]:
        self.calls += 1
        self.last = x.clone()
        x = x.clone().requires_grad_()
        loss = self.residuals(x).square().sum()
        (gradient,) = torch.autograd.grad(loss, x)

        def slope() -> torch.Tensor:
            self.gradients += 1
            return gradient

        return Value(loss.item()), slope

    def normal(self, x: torch.Tensor | None = None) -> torch.Tensor:
        point = self.last if x is None else x
        jacobian = torch.autograd.functional.jacobian(self.residuals, point)
        return jacobian.T @ jacobian


START = torch.tensor([-1.2, 1.0, 0.5, -0.4], dtype=torch.float64)


@pytest.mark.parametrize("method", ["quasi-Newton", "Levenberg-Marquardt"])
def test_rosenbrock(method: str) -> None:
    """Reaches the minimum, each step lower than the one before, and then ends by itself."""
    function = Counted(residuals_of_rosenbrock)
    start = function(START)[0].loss
    if method == "quasi-Newton":
        steps = quasi_newton_steps(function, START, 2 * function.normal(START), max_step=0.5)
    else:
        steps = levenberg_marquardt_steps(function, function.normal, START, max_step=0.5)
    losses, position = [start], START
    for step in steps:
        losses.append(step.evaluation.loss)
        assert step.decrease == pytest.approx(losses[-2] - losses[-1])
        assert (step.parameters - position).abs().max() <= 0.5 * (1 + 1e-12)
        position = step.parameters
        assert len(losses) < 200
    assert losses == sorted(losses, reverse=True)
    torch.testing.assert_close(position, torch.ones(4).double(), rtol=0, atol=1e-6)
    # ends at the best point, with the function called there last
    torch.testing.assert_close(function.last, position, rtol=0, atol=1e-6)
    assert function.calls < 400


def quadratic(n: int = 30) -> Counted:
    """Condition of the Hessian 1e4, minimum at 0.3."""
    generator = torch.Generator().manual_seed(1)
    matrix, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    scales = torch.logspace(0, 2, n, dtype=torch.float64)
    return Counted(lambda x: scales * (matrix @ (x - 0.3)))


def test_exact_hessian_needs_one_step() -> None:
    function, start = quadratic(), torch.zeros(30, dtype=torch.float64)
    step = next(iter(quasi_newton_steps(function, start, 2 * function.normal(start))))
    torch.testing.assert_close(step.parameters, torch.full_like(start, 0.3), rtol=0, atol=1e-5)
    assert function.calls == 2


def test_a_crude_hessian_is_corrected() -> None:
    """Only the diagonal: still converges, far faster than steepest descent would (1e4 times ten steps)."""
    function, start = quadratic(), torch.zeros(30, dtype=torch.float64)
    hessian = torch.diag(2 * function.normal(start).diagonal())
    n_steps = 0
    for n_steps, step in enumerate(quasi_newton_steps(function, start, hessian), start=1):
        if step.evaluation.loss < 1e-8:
            break
    assert step.evaluation.loss < 1e-8
    assert n_steps < 400


def test_a_singular_hessian_does_no_harm() -> None:
    """Parameters without any effect, such as nodes of a network that are off."""
    function = Counted(lambda x: torch.stack([x[0] - 1, 2 * (x[1] + x[2])]))
    start = torch.tensor([5.0, 1.0, 1.0, 7.0], dtype=torch.float64)
    *_, step = quasi_newton_steps(function, start, 2 * function.normal(start), max_step=10)
    assert step.evaluation.loss < 1e-12
    assert float(step.parameters[3]) == 7


def test_a_minimum_is_left_alone() -> None:
    function, start = quadratic(), torch.full((30,), 0.3, dtype=torch.float64)
    assert list(quasi_newton_steps(function, start, 2 * function.normal(start))) == []
    assert list(levenberg_marquardt_steps(function, function.normal, start)) == []


def test_a_loss_that_is_not_a_number_is_stepped_back_from() -> None:
    """log of a parameter that a full step would make negative."""
    function = Counted(lambda x: torch.log(x) - torch.log(torch.tensor(0.01)).double())
    start = torch.tensor([1.0], dtype=torch.float64)
    *_, step = quasi_newton_steps(function, start, 2 * function.normal(start), max_step=10)
    assert float(step.parameters[0]) == pytest.approx(0.01, rel=1e-5)
    *_, step = levenberg_marquardt_steps(function, function.normal, start)
    assert float(step.parameters[0]) == pytest.approx(0.01, rel=1e-5)


def test_parameters_that_are_not_damped_take_the_whole_step() -> None:
    """A sum of squares (x - 1)^2 + (y - 1)^2, y alone damped by lambda (H + 1) with H = 2."""
    function = Counted(lambda x: x - 1)
    start = torch.zeros(2, dtype=torch.float64)
    relative = torch.tensor([0.0, 0.5], dtype=torch.float64)
    step = next(
        levenberg_marquardt_steps(function, function.normal, start, 1.0, relative, max_step=5.0)
    )
    # round-off of the factorisation needs 1e-12 of the mean diagonal
    torch.testing.assert_close(
        step.parameters, torch.tensor([1.0, 2 / 3.5], dtype=torch.float64), rtol=1e-9, atol=0
    )


def test_a_step_that_gains_little_is_the_last() -> None:
    """Nothing else is, and nobody asks for the gradient after it."""
    function = Counted(residuals_of_rosenbrock)
    steps = list(
        levenberg_marquardt_steps(function, function.normal, START, max_step=0.5, tolerance=0.3)
    )
    gains = [step.decrease / step.evaluation.loss for step in steps]
    assert len(steps) > 2 and gains[-1] < 0.3 <= min(gains[:-1])
    assert [step.is_last for step in steps] == [False] * (len(steps) - 1) + [True]
    assert function.gradients == len(steps)  # at the start and after all steps but the last


def test_a_rejected_step_costs_no_gradient_and_damping_grows_ever_faster() -> None:
    """(x - 1)^2 with a matrix a million times too small: steps of 2 / lambda help where lambda is above 1."""
    function = Counted(lambda x: x - 1)
    start = torch.zeros(1, dtype=torch.float64)

    def too_small() -> torch.Tensor:
        return torch.full((1, 1), 1e-6, dtype=torch.float64)

    step = next(levenberg_marquardt_steps(function, too_small, start, 1e-3, max_step=1e9))
    # at the start, and with 1e-3 times 1, 4, 4 * 16 and 4 * 16 * 64
    assert function.calls == 5
    assert function.gradients == 2
    assert float(step.evaluation.loss) < 1
