"""The loss as the minimiser calls it: what the last calculation may still serve for."""

from __future__ import annotations

import pytest
import torch
from test_objective import get_vector, make_model, make_objective, set_vector

from dials_hybrid_refine.refinement.loss_function import LossFunction
from dials_hybrid_refine.refinement.objective import Objective


def loss_function(objective: Objective) -> LossFunction:
    start = get_vector(objective)
    return LossFunction(objective, start, lambda v: set_vector(objective, v), None)


@pytest.fixture()
def objective() -> Objective:
    return make_objective(make_model(seed=1), make_model(), noise=1.0)


def test_the_start_is_calculated_once(objective: Objective, monkeypatch) -> None:
    calls = []
    simulate = objective.contributions
    monkeypatch.setattr(objective, "contributions", lambda: calls.append(1) or simulate())
    function = loss_function(objective)
    start = get_vector(objective)
    fit, gradient = function(start)
    expected_fit, expected = objective.evaluate_with_gradient()
    assert fit.loss == function.first.loss == expected_fit.loss
    assert torch.equal(gradient(), expected)
    assert len(calls) == 2  # one of them for the expected values


def test_a_calculation_serves_other_weights(objective: Objective) -> None:
    """As between cycles: the same bits as a new calculation, until its gradient has been taken."""
    function = loss_function(objective)
    vector = get_vector(objective) + 0.1
    function(vector)
    known = function.contributions_at(vector)
    assert known is not None
    other = make_objective(objective.model, make_model(), noise=1.0)
    other.simulator = objective.simulator
    other.weights[::5] = 0
    fit, gradient = other.evaluate_for_gradient(known)
    expected_fit, expected = other.evaluate_with_gradient()
    assert fit.loss == expected_fit.loss
    assert torch.equal(gradient(), expected)
    matrix = objective.gauss_newton_matrix(contributions=function.values_at(vector))
    assert torch.equal(matrix.normal, objective.gauss_newton_matrix().normal)


def test_it_serves_no_other_parameters_and_only_once(objective: Objective) -> None:
    function = loss_function(objective)
    start = get_vector(objective)
    vector = start + 0.1
    _, gradient = function(vector)
    assert function.contributions_at(start) is None and function.values_at(start) is None
    gradient()
    assert function.contributions_at(vector) is None
    assert function.values_at(vector) is not None
    function(vector)
    function.release()
    assert function.contributions_at(vector) is None and function.values_at(vector) is None


def test_an_absurd_step_has_an_infinite_loss(objective: Objective) -> None:
    """And leaves the function usable; the parameters are those asked for."""
    function = loss_function(objective)
    start = get_vector(objective)
    absurd = torch.full_like(start, torch.nan)
    fit, _ = function(absurd)
    assert fit.loss == float("inf")
    fit, gradient = function(start)
    assert torch.equal(get_vector(objective), start)
    assert fit.loss == function.first.loss
    assert gradient().isfinite().all()
