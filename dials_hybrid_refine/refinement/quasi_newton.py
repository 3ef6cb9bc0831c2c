"""L-BFGS on top of a Gauss-Newton matrix.

The Gauss-Newton matrix of a linearisation nearby (also one of a coarser calculation) makes the
problem well conditioned; limited-memory BFGS updates (Nocedal & Wright (2006), Numerical
Optimization, algorithm 7.4, with that matrix as initial Hessian) correct it as the
parameters move. Each iteration costs one loss with its gradient, rarely more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

_MEMORY = 20
_SUFFICIENT_DECREASE = 1e-4
_MAX_BACKTRACKS = 12


@dataclass(frozen=True)
class Step:
    """An accepted step: the parameters (p,), loss and gradient (p,) after it.

    ``predicted`` is the decrease of the loss that the quadratic model promised.
    """

    parameters: torch.Tensor
    loss: float
    gradient: torch.Tensor
    predicted: float


class _InverseHessian:
    def __init__(self, hessian: torch.Tensor) -> None:
        self._factor = _cholesky(hessian)
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def apply(self, gradient: torch.Tensor) -> torch.Tensor:
        q = gradient.clone()
        alphas = []
        for s, y in reversed(self._pairs):
            alpha = (s @ q) / (s @ y)
            q -= alpha * y
            alphas.append(alpha)
        q = torch.cholesky_solve(q[:, None], self._factor)[:, 0]
        for (s, y), alpha in zip(self._pairs, reversed(alphas)):
            q += (alpha - (y @ q) / (s @ y)) * s
        return q

    def update(self, s: torch.Tensor, y: torch.Tensor) -> None:
        # keep the matrix positive definite: only steps of positive curvature count
        if s @ y > 1e-10 * s.norm() * y.norm():
            self._pairs = [*self._pairs[-(_MEMORY - 1) :], (s, y)]

    def forget(self) -> None:
        self._pairs = []


def _cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Cholesky factor, with as much added to the diagonal as round-off requires."""
    scale = matrix.diagonal().mean()
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    for exponent in range(-10, 4):
        factor, info = torch.linalg.cholesky_ex(matrix + scale * 10.0**exponent * identity)
        if not info:
            return factor
    raise ArithmeticError("the Gauss-Newton matrix is not finite")


def quasi_newton_steps(
    function: Callable[[torch.Tensor], tuple[float, torch.Tensor]],
    start: torch.Tensor,
    hessian: torch.Tensor,
    max_step: float,
) -> Iterator[Step]:
    """Steps that each lower the loss; ends when none is found.

    Args:
        function: parameters (p,) -> loss and gradient (p,).
        start: parameters to start from.
        hessian: shape (p, p), positive semi-definite, approximate second derivatives.
        max_step: longest change of any one parameter in a step.
    """
    inverse = _InverseHessian(hessian)
    parameters = start.clone()
    loss, gradient = function(parameters)
    fresh = True
    while True:
        direction = -inverse.apply(gradient)
        slope = float(gradient @ direction)
        if not slope < 0:
            return
        length = min(1.0, max_step / float(direction.abs().max()))
        found = None
        for _ in range(_MAX_BACKTRACKS):
            trial = parameters + length * direction
            trial_loss, trial_gradient = function(trial)
            if trial_loss <= loss + _SUFFICIENT_DECREASE * length * slope:
                found = trial
                break
            # minimum of the parabola through the two losses and the slope, kept in bounds
            curvature = trial_loss - loss - length * slope
            best = -0.5 * slope * length**2 / curvature if curvature > 0 else 0.0
            length = min(0.5 * length, max(0.1 * length, best))
        if found is None:
            if fresh:
                return
            inverse.forget()
            fresh = True
            continue
        fresh = False
        inverse.update(found - parameters, trial_gradient - gradient)
        parameters, loss, gradient = found, trial_loss, trial_gradient
        yield Step(parameters, loss, gradient, -0.5 * slope)
