"""Minimisation of the loss: Levenberg-Marquardt, and L-BFGS with a given Hessian.

Levenberg-Marquardt (Nocedal & Wright (2006), Numerical Optimization, section 10.3) needs few
steps even from a poor start, each with a new Gauss-Newton matrix. It is what the program uses.
L-BFGS (algorithm 7.4 there) costs one gradient per step; with a Gauss-Newton matrix as its initial
Hessian it starts well conditioned. It is for problems whose matrix cannot be afforded, and what
``benchmarks/optimisers.py`` compares with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

_MEMORY = 20
_SUFFICIENT_DECREASE = 1e-4
_MAX_TRIALS = 10

#: steps that a matrix of Levenberg-Marquardt serves for, as long as the decrease of the loss is within
#: these limits of what it foretold
_STEPS_PER_MATRIX = 3
_GOOD_GAIN = (0.6, 1.4)
#: damping that is not lowered further: less makes no difference to a step
_LEAST_DAMPING = 1e-3
#: factor by which the damping grows when a step is not accepted; the next time in a row by its square, and so on
_GROWTH = 4.0
#: trials with a matrix of an earlier step before a new one is taken
_MAX_TRIALS_LATER = 3


class HasLoss(Protocol):
    """What a function must return beside its gradient."""

    @property
    def loss(self) -> float: ...


@dataclass(frozen=True)
class Step:
    """An accepted step: the parameters (p,) after it, and how much the loss fell.

    ``evaluation`` is what the function returned at these parameters. Levenberg-Marquardt goes on from
    parameters, ``damping``, and the approximate Hessian (p, p) that has served for ``age`` steps; None:
    a new one is due. ``is_last``: it gained too little to go on.
    """

    parameters: torch.Tensor
    evaluation: HasLoss
    decrease: float
    damping: float = 0.0
    hessian: torch.Tensor | None = None
    age: int = 0
    is_last: bool = False


#: parameters (p,) -> the loss and what else is to be known there, and a function that gives the gradient (p,)
#: of the loss; that is called once at most, and before the next parameters
Function = Callable[[torch.Tensor], tuple[HasLoss, Callable[[], torch.Tensor]]]


def levenberg_marquardt_steps(
    function: Function,
    normal_matrix: Callable[[], torch.Tensor],
    start: torch.Tensor,
    damping: float = 1.0,
    relative_damping: torch.Tensor | float = 1.0,
    max_step: float = 20.0,
    hessian: torch.Tensor | None = None,
    age: int = 0,
    tolerance: float = 0.0,
) -> Iterator[Step]:
    """Steps that each lower the loss; ends when none is found, or one gains too little.

    Args:
        function: its last call may be at parameters that were not accepted. Where the loss or its gradient
            is not finite nothing is accepted. The gradient is not asked for after the last step.
        normal_matrix: half the approximate Hessian (p, p) at the parameters of the last call of
            ``function``. It serves for another step where it has foretold a step's decrease well.
        start: parameters to start from, in units in which 1 is a large step.
        damping: starting value of lambda; the damped Hessian is H + lambda r (diag H + 1).
        relative_damping: r, shape (p,) or one for all.
        max_step: longest change of any one parameter in a step.
        hessian, age: of the ``Step`` to go on from, whose parameters and damping are ``start`` and
            ``damping``.
        tolerance: a step that lowers the loss by less than this share of it is the last.

    Raises:
        ArithmeticError: if the loss or its gradient is not finite at ``start``, or a normal matrix.
    """
    parameters = start.clone()
    evaluation, slope = function(parameters)
    gradient = slope()
    if not (math.isfinite(evaluation.loss) and gradient.isfinite().all()):
        raise ArithmeticError("the loss or its gradient is not finite where the refinement starts")
    while True:
        if hessian is None:
            hessian, age = 2 * normal_matrix(), 0
        first_damping, growth = damping, _GROWTH
        for _ in range(_MAX_TRIALS if age == 0 else _MAX_TRIALS_LATER):
            step = -_solve(damped(hessian, damping * relative_damping), gradient)
            step *= min(1.0, max_step / max(float(step.abs().max()), 1e-30))
            trial, slope = function(parameters + step)
            decrease = evaluation.loss - trial.loss
            expected = -float(gradient @ step + 0.5 * step @ hessian @ step)
            if decrease > 0 and math.isfinite(trial.loss):
                is_last = decrease < tolerance * trial.loss
                following = gradient if is_last else slope()
                if following.isfinite().all():
                    break
            damping *= growth
            growth *= _GROWTH
        else:
            if age == 0:
                return
            function(parameters)
            hessian = None
            damping = first_damping  # that it had to grow was the old matrix' fault
            continue
        gain = decrease / expected if expected > 0 else 0.0
        if gain > 0.7:
            damping = max(damping / 5, min(damping, _LEAST_DAMPING))
        elif gain < 0.25:
            damping *= 3
        parameters, evaluation, gradient = parameters + step, trial, following
        age += 1
        if age == _STEPS_PER_MATRIX or not _GOOD_GAIN[0] < gain < _GOOD_GAIN[1]:
            hessian = None
        yield Step(parameters, evaluation, decrease, damping, hessian, age, is_last)
        if is_last:
            return


def damped(hessian: torch.Tensor, damping: torch.Tensor | float) -> torch.Tensor:
    """H + lambda (diag H + 1), shape (p, p), for one lambda or one for each parameter (p,)."""
    return hessian + damping * torch.diag(hessian.diagonal().clamp_min(0) + 1)


def _solve(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return torch.cholesky_solve(vector[:, None], _cholesky(matrix))[:, 0]


def _cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Cholesky factor, with as much added to the diagonal as round-off requires.

    Raises:
        ArithmeticError: for a matrix that is not finite or far from positive definite.
    """
    if not matrix.isfinite().all():  # a factor of infinite elements can be had
        raise ArithmeticError("the normal matrix is not finite")
    scale = matrix.diagonal().mean()
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    for exponent in range(-12, 4):
        factor, info = torch.linalg.cholesky_ex(matrix + scale * 10.0**exponent * identity)
        if not info:
            return factor
    raise ArithmeticError("the normal matrix is not positive definite")


class _InverseHessian:
    def __init__(self, hessian: torch.Tensor) -> None:
        self._hessian = hessian
        self._factor = _cholesky(hessian)
        self._scale = 1.0
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def apply(self, gradient: torch.Tensor) -> torch.Tensor:
        q = gradient.clone()
        alphas = []
        for s, y in reversed(self.pairs):
            alphas.append((s @ q) / (s @ y))
            q -= alphas[-1] * y
        q = torch.cholesky_solve(q[:, None], self._factor)[:, 0] / self._scale
        for (s, y), alpha in zip(self.pairs, reversed(alphas)):
            q += (alpha - (y @ q) / (s @ y)) * s
        return q

    def update(self, s: torch.Tensor, y: torch.Tensor) -> None:
        # only steps of positive curvature keep the matrix positive definite
        if s @ y > 1e-10 * s.norm() * y.norm():
            self.pairs = [*self.pairs[1 - _MEMORY :], (s, y)]
            # curvature that the given matrix underestimates would cost a second trial each step
            self._scale = max(1.0, float((s @ y) / (s @ self._hessian @ s)))


def quasi_newton_steps(
    function: Function, start: torch.Tensor, hessian: torch.Tensor, max_step: float = 1.0
) -> Iterator[Step]:
    """Steps that each lower the loss; ends when none is found.

    Args:
        function: see there.
        start: parameters to start from.
        hessian: shape (p, p), approximate second derivatives, positive semi-definite.
        max_step: longest change of any one parameter in a step.
    """
    inverse = _InverseHessian(hessian)
    parameters = start.clone()
    evaluation, gradient_there = function(parameters)
    gradient = gradient_there()
    while True:
        direction = -inverse.apply(gradient)
        slope = float(gradient @ direction)
        if not slope < 0:
            return
        length = min(1.0, max_step / float(direction.abs().max()))
        for _ in range(_MAX_TRIALS):
            trial, gradient_there = function(parameters + length * direction)
            change = trial.loss - evaluation.loss
            if change <= _SUFFICIENT_DECREASE * length * slope:
                break
            # minimum of the parabola through both losses and the slope, kept in bounds
            curvature = change - length * slope
            best = -0.5 * slope * length**2 / curvature if curvature > 0 else 0.0
            length = min(0.5 * length, max(0.1 * length, best))
        else:
            if not inverse.pairs:
                return
            inverse.pairs = []
            continue
        trial_gradient = gradient_there()
        inverse.update(length * direction, trial_gradient - gradient)
        parameters = parameters + length * direction
        evaluation, gradient = trial, trial_gradient
        yield Step(parameters, evaluation, -change)
