"""The course of a refinement.

1. A scan of thicknesses finds the basin; none of them needs a propagation of its own.
2. Levenberg-Marquardt in a coarse calculation (few tilts, few beams) brings all parameters
   together near the minimum. After the first few steps, when the atoms are about right, the
   thickness is scanned and started again: descent alone does not find its way out of a wrong basin.
3. Cycles of Levenberg-Marquardt with the full calculation. Before each the lists of beams are made
   anew with the refined orientation, after each the outliers are judged anew.

Derivatives of the intensities with respect to the structure cost a simulation for each parameter.
They change slowly: they come from a calculation with few tilts, and serve for several steps.
``benchmarks/optimisers.py`` compares this with other ways.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation import PropagationSettings
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.minimise import (
    Step,
    levenberg_marquardt_steps,
)
from dials_hybrid_refine.refinement.objective import Evaluation, GaussNewton, Objective
from dials_hybrid_refine.refinement.result import Iteration
from dials_hybrid_refine.refinement.statistics import agreement
from dials_hybrid_refine.refinement.weights import (
    Weighting,
    find_outliers,
    residual_spread,
    variances,
)

logger = logging.getLogger("dials.hybrid_refine.refine")

_Function = Callable[[torch.Tensor], tuple[Evaluation, torch.Tensor]]

#: Levenberg-Marquardt steps that share the derivatives with respect to the structure, at least;
#: more for many parameters: one for each 20
_STEPS_WITH_STRUCTURE = 4


@dataclass(frozen=True)
class Schedule:
    """How long to refine.

    Attributes:
        coarse_steps: most Levenberg-Marquardt steps of the coarse calculation.
        cycles: most cycles of the full calculation.
        steps_per_cycle: most steps in a cycle.
        coarse_tolerance: the coarse calculation ends when a step lowers the loss by less than this
            share of it; going on would fit its errors.
        tolerance: a cycle ends when a step lowers the loss by less than this share of it; the
            refinement has converged when a whole cycle lowers it by less than five times this
            share and the outliers stay the same.
    """

    coarse_steps: int = 6
    coarse_tolerance: float = 1e-2
    cycles: int = 6
    steps_per_cycle: int = 20
    tolerance: float = 2e-3


@dataclass
class RefinementState:
    """What changes while a refinement runs; the model's parameters are in the model.

    ``spread`` is E of ``weights.Weighting``, ``n_effective`` the effective number of parameters
    at the last step.
    """

    model: HybridModel
    rejected: NDArray[np.bool_]
    spread: float
    evaluation: Evaluation | None = None
    objective: Objective | None = None
    n_effective: float = 0.0
    history: list[Iteration] = field(default_factory=list)
    status: str = "max_iterations"
    loss_start: float = 0.0
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Controls:
    """What the caller hears of and can decide while a refinement runs."""

    observer: Callable[[Iteration], None] = lambda iteration: None
    should_stop: Callable[[], bool] = lambda: False


def loss_weights(
    observations: Observations, used: NDArray[np.bool_], weighting: Weighting, spread: float
) -> torch.Tensor:
    """1 / (E^2 (sigma_I^2 + (u I)^2)) of used reflections, 0 for the others; shape (n,)."""
    variance = variances(observations.intensity, observations.sigma, weighting.instability)
    return torch.from_numpy(used / variance / spread**2)


class Refinement:
    """The stages described above; they change the parameters of ``state.model``.

    A stage that is interrupted says so in ``state.status``.
    """

    def __init__(
        self,
        data: Dataset,
        model: HybridModel,
        settings: PropagationSettings,
        weighting: Weighting,
        scale_variation: float,
        schedule: Schedule,
        controls: Controls,
        spread: float,
        derivatives: BeamSelection,
    ) -> None:
        """
        Args:
            spread: first estimate of E (``weights.Weighting``), say from the thickness scan.
            derivatives: calculation of the derivatives with respect to the structure.
        """
        self._data = data
        self._settings = settings
        self._weighting = weighting
        self._scale_variation = scale_variation
        self._schedule = schedule
        self._controls = controls
        self._derivatives = derivatives
        self._structure_columns: torch.Tensor | None = None
        self._age = 0
        self._damping = 1.0
        self.state = RefinementState(model, np.zeros(len(data.observations), dtype=bool), spread)

    def with_data(self, data: Dataset) -> Refinement:
        """The same with other observations, of which none is rejected yet."""
        other = Refinement(
            data,
            self.state.model,
            self._settings,
            self._weighting,
            self._scale_variation,
            self._schedule,
            self._controls,
            self.state.spread,
            self._derivatives,
        )
        other._damping = self._damping
        none = np.zeros(len(data.observations), dtype=bool)
        other.state = replace(self.state, rejected=none, evaluation=None, objective=None)
        return other

    def with_model(self, model: HybridModel) -> Refinement:
        """The same with another model, on the same reflections with the same weights."""
        other = self.with_data(self._data)
        other.state = replace(
            other.state,
            model=model,
            rejected=self.state.rejected,
            history=list(self.state.history),
            status="max_iterations",
        )
        return other

    def evaluate(self, selection: BeamSelection) -> Evaluation:
        """The fit with the parameters as they are."""
        self.state.evaluation = evaluation = self._objective(selection).evaluate()
        return evaluation

    def judge_outliers(self, selection: BeamSelection) -> None:
        """Find outliers with the parameters as they are."""
        self.evaluate(selection)
        self._judge_outliers()

    def gauss_newton(self, selection: BeamSelection) -> GaussNewton:
        """The normal equations at the current parameters, in a calculation of its own."""
        columns = self._make_objective(self._derivatives).structure_columns()
        return self._make_objective(selection).gauss_newton_matrix(columns)

    def coarse_stage(self, selection: BeamSelection, most: int, name: str = "coarse") -> None:
        """Levenberg-Marquardt in a coarse calculation, at most so many steps."""
        self._structure_columns = None
        function, first = self._begin(selection)
        if not self.state.history:
            self.state.loss_start = first.chi_square * self.state.spread**2
        steps = levenberg_marquardt_steps(function, self._normal_matrix, self._vector())
        last = self._follow(steps, name, most, self._schedule.coarse_tolerance)
        if self._stopped():
            return
        if last is not None:
            self._damping = min(last.damping, 1.0)
        self._judge_outliers()

    def fine_cycles(
        self, selection: BeamSelection, name: str = "cycle", judge_outliers: bool = True
    ) -> None:
        """Levenberg-Marquardt with the full calculation until it converges; sets the status.

        Args:
            judge_outliers: after each cycle find outliers and the residuals' spread anew; if not, the
                loss stays the same function.
        """
        if self._stopped():
            return
        self.state.status = "max_iterations"
        for cycle in range(1, self._schedule.cycles + 1):
            function, first = self._begin(selection)
            steps = levenberg_marquardt_steps(
                function, self._normal_matrix, self._vector(), self._damping
            )
            self._follow(
                steps, f"{name} {cycle}", self._schedule.steps_per_cycle, self._schedule.tolerance
            )
            if self._stopped():
                return
            after = self.state.evaluation.loss if self.state.evaluation else first.loss
            fitted = (self.state.rejected, self.state.spread)
            n_changed = self._judge_outliers() if judge_outliers else 0
            logger.info(
                "End of %s %d: %d outliers, %d of them changed",
                name,
                cycle,
                self.state.rejected.sum(),
                n_changed,
            )
            settled = n_changed <= 0.002 * len(self._data.observations)
            if settled and first.loss - after < 5 * self._schedule.tolerance * after:
                self.state.status = "converged"
            if self.state.status == "converged" or cycle == self._schedule.cycles:
                # the result speaks of the reflections that were fitted
                self.state.rejected, self.state.spread = fitted
                return

    def _normal_matrix(self) -> torch.Tensor:
        """That of the current objective, its structural columns from a calculation of their own."""
        n_structural = self.state.model.structure.n_parameters
        if self._structure_columns is None or self._age >= max(
            _STEPS_WITH_STRUCTURE, n_structural // 20
        ):
            self._structure_columns = self._make_objective(self._derivatives).structure_columns()
            self._age = 0
        self._age += 1
        assert self.state.objective is not None
        equations = self.state.objective.gauss_newton_matrix(self._structure_columns)
        self.state.n_effective = equations.effective_parameters()
        return equations.normal

    def _stopped(self) -> bool:
        if self._controls.should_stop():
            self.state.status = "interrupted"
        return self.state.status == "interrupted"

    def _objective(self, selection: BeamSelection) -> Objective:
        self.state.objective = objective = self._make_objective(selection)
        simulator = objective.simulator
        logger.info(
            "%d blocks of rotation, %.0f beams on average (%d at most), %d tilts",
            len(simulator.blocks),
            np.mean(simulator.n_beams),
            max(simulator.n_beams),
            sum(len(block.phi) for block in simulator.blocks),
        )
        return objective

    def _make_objective(self, selection: BeamSelection) -> Objective:
        model, observations = self.state.model, self._data.observations
        simulator = build_simulator(self._data, model, selection, self._settings)
        used = ~self._data.held_out & ~self.state.rejected
        weights = loss_weights(observations, used, self._weighting, self.state.spread)
        return Objective(model, simulator, observations, weights, self._scale_variation)

    def _vector(self) -> torch.Tensor:
        parameters = [p for p in self.state.model.parameters() if p.requires_grad]
        return torch.nn.utils.parameters_to_vector(parameters).detach().clone()

    def _set_vector(self, vector: torch.Tensor) -> None:
        parameters = [p for p in self.state.model.parameters() if p.requires_grad]
        torch.nn.utils.vector_to_parameters(vector, parameters)

    def _begin(self, selection: BeamSelection) -> tuple[_Function, Evaluation]:
        """A new objective as a function of the vector of parameters, and its first value."""
        objective = self._objective(selection)
        start = self._vector()
        first = objective.evaluate_with_gradient()
        self.state.evaluation = first[0]

        def function(vector: torch.Tensor) -> tuple[Evaluation, torch.Tensor]:
            if torch.equal(vector, start):
                return first
            self._set_vector(vector)
            try:
                return objective.evaluate_with_gradient()
            except ArithmeticError:
                # a step that led to an absurd structure is not taken
                return replace(first[0], loss=float("inf")), torch.zeros_like(vector)

        return function, first[0]

    def _follow(
        self, steps: Iterator[Step], stage: str, most: int, tolerance: float
    ) -> Step | None:
        """Take steps until they gain little; the model is left at the last one."""
        start = self._vector()
        last = None
        for number, step in enumerate(steps, start=1):
            last = step
            assert isinstance(step.evaluation, Evaluation)
            self.state.evaluation = step.evaluation
            self._set_vector(step.parameters)
            self._record(stage, number)
            small = step.decrease < tolerance * step.evaluation.loss
            if small or number == most or self._controls.should_stop():
                break
        self._set_vector(start if last is None else last.parameters)
        return last

    def _record(self, stage: str, number: int) -> None:
        evaluation, data = self.state.evaluation, self._data
        assert evaluation is not None and self.state.objective is not None
        observations = data.observations
        calculated = data.comparable(evaluation.calculated.numpy(), self._weighting.instability)

        def r_obs(mask: NDArray[np.bool_]) -> float | None:
            return agreement(
                observations.intensity[mask], observations.sigma[mask], calculated[mask]
            ).r_obs

        with torch.no_grad():
            positions = self.state.objective.simulator.segment_positions()
            thickness = self.state.model.thickness(*positions).mean().mean()
        iteration = Iteration(
            stage=stage,
            number=number,
            loss=evaluation.loss,
            chi_square=evaluation.chi_square,
            r_obs=r_obs(~data.held_out & ~self.state.rejected),
            r_obs_held_out=r_obs(data.held_out),
            mean_thickness=float(thickness),
            seconds=time.monotonic() - self.state.started,
        )
        self.state.history.append(iteration)
        self._controls.observer(iteration)

    def _judge_outliers(self) -> int:
        """Find outliers and the residuals' spread anew; how many reflections changed sides."""
        assert self.state.evaluation is not None
        observations = self._data.observations
        variance = variances(
            observations.intensity, observations.sigma, self._weighting.instability
        )
        calculated = self.state.evaluation.calculated.numpy()
        residual = (observations.intensity - calculated) / np.sqrt(variance)
        rejected = find_outliers(residual, ~self._data.held_out, self._weighting)
        n_changed = int((rejected != self.state.rejected).sum())
        self.state.rejected = rejected
        self.state.spread = residual_spread(
            residual, ~self._data.held_out & ~rejected, self.state.n_effective
        )
        return n_changed
