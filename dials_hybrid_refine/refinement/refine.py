"""The course of a refinement.

1. A scan of thicknesses finds the basin; none of them needs a propagation of its own.
2. Levenberg-Marquardt in a coarse calculation (few tilts, few beams) brings all parameters
   together near the minimum. After the first few steps, when the atoms are about right, the
   thickness is scanned and started again: descent alone does not find its way out of a wrong basin.
   Many data are represented by a sample of them, stretches of the scan, also in the first steps with the
   full calculation.
3. Cycles of Levenberg-Marquardt with the full calculation. Before each the lists of beams are made
   anew where the crystal has turned, after each the outliers are judged anew.
   Where few have changed, the normal matrix goes on to serve in the next.

Derivatives of the intensities with respect to the structure cost a simulation for each parameter.
They change slowly: they come from a calculation with few tilts, and serve for several steps.
``benchmarks/optimisers.py`` compares this with other ways.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.breakdown import BREAKDOWNS, sentence_of
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.descent import CycleEnd, Descent, SharedHessian, Way
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.journal import Entry, Journal
from dials_hybrid_refine.refinement.kept_simulator import KeptSimulator
from dials_hybrid_refine.refinement.loss_function import LossFunction
from dials_hybrid_refine.refinement.minimise import levenberg_marquardt_steps
from dials_hybrid_refine.refinement.objective import (
    Evaluation,
    Objective,
)
from dials_hybrid_refine.refinement.refinement_state import RefinementState
from dials_hybrid_refine.refinement.relative_damping import relative_damping
from dials_hybrid_refine.refinement.result import Iteration
from dials_hybrid_refine.refinement.schedule import Controls, Schedule
from dials_hybrid_refine.refinement.shared_columns import SharedColumns
from dials_hybrid_refine.refinement.shifts import Shifts, shifts, structure_su, structure_vector
from dials_hybrid_refine.refinement.stage_record import progress_of, set_progress
from dials_hybrid_refine.refinement.statistics import agreement
from dials_hybrid_refine.refinement.weights import (
    Weighting,
    find_outliers,
    loss_weights,
    residual_spread,
    residuals,
)

logger = logging.getLogger("dials.hybrid_refine.refine")

#: normal matrices that share the derivatives with respect to the structure, at least; more for many
#: parameters: one for each 20
_STEPS_WITH_STRUCTURE = 4

#: share of the reflections that may become outliers, or cease to be, between cycles that are of one function
_FEW_CHANGED = 0.002


class Refinement:
    """The stages described above; they change the parameters of ``state.model``.

    A stage that is interrupted says so in ``state.status``, one whose numbers break down in
    ``state.breakdown``: the parameters are then those of its last step, or those before it.
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
        derivatives: Callable[[float], BeamSelection],
    ) -> None:
        """
        Args:
            spread: first estimate of E (``weights.Weighting``), say from the thickness scan.
            derivatives: calculation of the derivatives with respect to the structure, for crystals of a
                mean thickness in Angstrom.
        """
        self._data = data
        self._settings = settings
        self._weighting = weighting
        self._scale_variation = scale_variation
        self._schedule = schedule
        self._controls = controls
        self._derivatives = derivatives
        self._columns = SharedColumns(self._structure_columns)
        self._simulators = KeptSimulator(data, settings)
        self._damping = 1.0
        self._hessian = SharedHessian()
        self._function: LossFunction | None = None
        self._tilt_step: float | None = None
        self.state = RefinementState(model, np.zeros(len(data.observations), dtype=bool), spread)

    @property
    def journal(self) -> Journal:
        """What this and earlier runs have done."""
        return self._controls.journal

    def with_data(
        self, data: Dataset, derivatives: Callable[[float], BeamSelection] | None = None
    ) -> Refinement:
        """The same with other observations, of which none is rejected yet.

        Args:
            derivatives: another calculation of the structure's derivatives, or None.
        """
        other = Refinement(
            data,
            self.state.model,
            self._settings,
            self._weighting,
            self._scale_variation,
            self._schedule,
            self._controls,
            self.state.spread,
            derivatives or self._derivatives,
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
        """Find outliers with the parameters as they are; the calculation serves a stage that begins there."""
        self._begin(selection)
        self._judge_outliers()

    def gauss_newton(self, selection: BeamSelection) -> GaussNewton:
        """The normal equations at the current parameters, in a calculation of its own."""
        columns = self._columns.still_good(self.state, self._thickness())
        if columns is None:
            columns = self._structure_columns()
        return self._make_objective(selection).gauss_newton_matrix(columns)

    @property
    def data(self) -> Dataset:
        """The data, or the sample of them, that it refines against."""
        return self._data

    def stage(
        self, selection: BeamSelection, most: int, name: str, tolerance: float | None = None
    ) -> None:
        """Levenberg-Marquardt on the way to the last cycles, at most so many steps.

        Args:
            selection: a coarse calculation, or the full one of a sample of the data.
            tolerance: it ends when a step lowers the loss by less than this share; None:
                ``Schedule.coarse_tolerance``.

        Raises:
            ArithmeticError, torch.linalg.LinAlgError: if numbers break down before there is any result.
        """
        self._columns.forget()
        done = self.journal.passed(name)
        if done is not None:
            if not self._broke_down(done):
                self._take_over(done, selection)
            return
        n_before = len(self.state.history)
        least = self._schedule.coarse_tolerance if tolerance is None else tolerance
        descent = self._descend(selection, name, most, least, 1.0)
        if descent is None:
            return
        self._release()
        self._damping = min(descent.end.damping, 1.0)
        self._judge_outliers()
        self._note_end(name, n_before)

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
        self._columns.forget()
        self._hessian = SharedHessian()
        for cycle in range(1, self._schedule.cycles + 1):
            fitted = (self.state.rejected, self.state.spread)
            end = self._cycle(selection, name, cycle, judge_outliers)
            if end is None:
                break
            self.state.shifts = Shifts(end.largest_shift, end.mean_shift)
            logger.info(
                "End of %s %d: %d outliers, %d of them changed; largest shift/s.u. %.2f, mean %.2f",
                name,
                cycle,
                self.state.rejected.sum(),
                end.n_changed,
                end.largest_shift,
                end.mean_shift,
            )
            few_changed = end.n_changed <= _FEW_CHANGED * len(self._data.observations)
            if not few_changed:
                self._hessian = SharedHessian()
            settled = few_changed and end.largest_shift < self._schedule.largest_shift
            if settled and end.first - end.last < 5 * self._schedule.tolerance * end.last:
                self.state.status = "converged"
            if self.state.status == "converged" or cycle == self._schedule.cycles:
                # the result speaks of the reflections that were fitted
                self.state.rejected, self.state.spread = fitted
                break
        self._release()

    def _cycle(
        self, selection: BeamSelection, name: str, number: int, judge_outliers: bool
    ) -> CycleEnd | None:
        """One cycle; None if it was interrupted or broke down."""
        stage = f"{name} {number}"
        done = self.journal.passed(stage)
        if done is not None and self._broke_down(done):
            return None
        if done is not None:
            self._take_over(done, selection)
            return CycleEnd.of(done)
        n_before, start = len(self.state.history), structure_vector(self.state.model)
        most, tolerance = self._schedule.steps_per_cycle, self._schedule.tolerance
        descent = self._descend(selection, stage, most, tolerance, self._damping, self._hessian)
        if descent is None:
            return None
        self._hessian = descent.end.hessian
        self._damping = min(descent.end.damping, 1.0)
        moved = shifts(start, structure_vector(self.state.model), self.state.structure_su)
        # the first cycle leads away from a coarse fit, whose outliers say little
        before = self.state.rejected if number > 1 else None
        end = CycleEnd(
            descent.first,
            descent.end.loss,
            self._judge_outliers(before) if judge_outliers else 0,
            moved.largest,
            moved.mean,
        )
        self._note_end(stage, n_before, **end.content(), **self._hessian.content())
        return end

    def _note_end(self, stage: str, n_before: int, **more: Any) -> None:
        """Let the journal know that a stage is over."""
        assert self.state.objective is not None
        content = {
            **progress_of(self.state, n_before),
            "damping": self._damping,
            "columns": self._columns.content(),
            "overall_scale": self.state.objective.overall_scale,
            **more,
        }
        self.journal.finish(Entry(stage, content), SharedHessian.KEYS)

    def _take_over(self, done: Entry, selection: BeamSelection) -> None:
        """Put in place what an earlier run of a stage has changed."""
        n_experiments = len(self._data.scans)
        self._objective(selection).overall_scale = done.array("overall_scale", (n_experiments,))
        self._damping = done.number("damping")
        self._columns.take(done.part("columns"))
        self._hessian = SharedHessian.of(done, len(self._vector()))
        for iteration in set_progress(self.state, done):
            self._controls.observer(iteration)

    def _break_down(self, stage: str, error: Exception, n_before: int) -> None:
        """End the refinement with the parameters as they are.

        Raises:
            ArithmeticError, torch.linalg.LinAlgError: the error, if no step has been taken yet.
        """
        if self.state.objective is None or not self.state.history:
            raise error
        self.state.breakdown = sentence_of(stage, error)
        content = {**progress_of(self.state, n_before), "breakdown": self.state.breakdown}
        self.journal.finish(Entry(stage, content))

    def _broke_down(self, done: Entry) -> bool:
        """Whether a stage broke down in an earlier run, whose end is then put in place."""
        sentence = done.content.get("breakdown")
        if sentence is None:
            return False
        for iteration in set_progress(self.state, done):
            self._controls.observer(iteration)
        self.state.breakdown = str(sentence)
        return True

    def _thickness(self) -> float:
        """The largest mean along the scans, Angstrom."""
        ranges = [scan.phi_range for scan in self._data.scans]
        return self.state.model.thickness.largest_mean(ranges)

    def _structure_columns(self) -> torch.Tensor:
        """At the parameters as they are, with tilts no closer than those of the intensities."""
        limits = self._derivatives(self._thickness())
        if self._tilt_step is not None:
            limits = replace(limits, tilt_step=max(limits.tilt_step, self._tilt_step))
        return self._make_objective(limits).structure_columns()

    def _normal_matrix(self) -> torch.Tensor:
        """That of the current objective, its structural columns from a calculation of their own."""
        most = max(_STEPS_WITH_STRUCTURE, self.state.model.structure.n_parameters // 20)
        columns = self._columns.get(self.state, self._thickness(), most)
        assert self.state.objective is not None and self._function is not None
        values = self._function.values_at(self._vector())
        self._release()
        equations = self.state.objective.gauss_newton_matrix(columns, values)
        if not equations.normal.isfinite().all():
            raise ArithmeticError("the normal matrix is not finite")
        self.state.n_effective = equations.effective_parameters()
        self.state.structure_su = structure_su(self.state.model, equations)
        return equations.normal

    def _stopped(self) -> bool:
        if self._controls.should_stop():
            self.state.status = "interrupted"
        return self.state.is_over

    def _objective(self, selection: BeamSelection) -> Objective:
        self._tilt_step = selection.tilt_step
        simulator = self._simulators.get(self.state.model, selection)
        self.state.objective = objective = self._objective_of(simulator)
        logger.info(
            "%d blocks of rotation, %.0f beams on average (%d at most), %d tilts",
            len(simulator.blocks),
            np.mean(simulator.n_beams),
            max(simulator.n_beams),
            sum(len(block.phi) for block in simulator.blocks),
        )
        return objective

    def _make_objective(self, selection: BeamSelection) -> Objective:
        """One with lists of beams of its own."""
        return self._objective_of(
            build_simulator(self._data, self.state.model, selection, self._settings)
        )

    def _objective_of(self, simulator: Simulator) -> Objective:
        model, observations = self.state.model, self._data.observations
        used = ~self._data.held_out & ~self.state.rejected
        weights = loss_weights(observations, used, self._weighting, self.state.spread)
        return Objective(model, simulator, observations, weights, self._scale_variation)

    def _vector(self) -> torch.Tensor:
        parameters = [p for p in self.state.model.parameters() if p.requires_grad]
        return torch.nn.utils.parameters_to_vector(parameters).detach().clone()

    def _set_vector(self, vector: torch.Tensor) -> None:
        parameters = [p for p in self.state.model.parameters() if p.requires_grad]
        torch.nn.utils.vector_to_parameters(vector, parameters)

    def _begin(self, selection: BeamSelection) -> LossFunction:
        """The loss of a new objective, which starts with the parameters as they are."""
        if not self._simulators.serves(self.state.model, selection):
            self._release()
        objective, start = self._objective(selection), self._vector()
        known = None if self._function is None else self._function.contributions_at(start)
        self._function = function = LossFunction(objective, start, self._set_vector, known)
        self.state.evaluation = function.first
        return function

    def _release(self) -> None:
        """Let the memory of the last calculation be used again."""
        if self._function is not None:
            self._function.release()

    def _descend(
        self,
        selection: BeamSelection,
        stage: str,
        most: int,
        tolerance: float,
        damping: float,
        hessian: SharedHessian | None = None,
    ) -> Descent | None:
        """Take steps until they gain little; the model is left at the last one.

        None if the stage was interrupted or broke down.

        Args:
            hessian: of the cycle before; None: this is no cycle, and the structure may be far from right.
        """
        n_before = len(self.state.history)
        before = self.state.objective, self.state.evaluation
        try:
            function = self._begin(selection)
        except BREAKDOWNS as error:
            self.state.objective, self.state.evaluation = before
            self._break_down(stage, error, n_before)
            return None
        if not self.state.history:
            self.state.loss_start = function.first.chi_square * self.state.spread**2
        way = Way(0, function.first.loss, damping, hessian=hessian or SharedHessian())
        running = self.journal.under_way(stage)
        if running is not None:
            way = self._go_on(running)
            self.state.evaluation = function(self._vector())[0]
        steps = levenberg_marquardt_steps(
            function,
            self._normal_matrix,
            self._vector(),
            way.damping,
            relative_damping(self.state.model, is_nearly_right=hessian is not None),
            hessian=way.hessian.matrix,
            age=way.hessian.age,
            tolerance=tolerance,
        )
        accepted = self._vector()
        while not way.is_over and way.number < most:
            try:
                step = next(steps, None)
            except BREAKDOWNS as error:
                self._set_vector(accepted)
                self._break_down(stage, error, n_before)
                return None
            if step is None:
                break
            assert isinstance(step.evaluation, Evaluation)
            self.state.evaluation, accepted = step.evaluation, step.parameters
            self._set_vector(accepted)
            shared = SharedHessian(step.hessian, step.age)
            way = Way(way.number + 1, step.evaluation.loss, step.damping, step.is_last, shared)
            self._record(stage, way.number)
            stop = self._controls.should_stop()
            self.journal.step(lambda: self._entry(stage, way, n_before), way.number, stop)
            if stop:
                break
        self._set_vector(accepted)
        return None if self._stopped() else Descent(function.first.loss, way)

    def _entry(self, stage: str, way: Way, n_before: int) -> Entry:
        """How far a stage has come, for the journal."""
        content = {
            **progress_of(self.state, n_before),
            **way.content(),
            "columns": self._columns.content(),
        }
        return Entry(stage, content)

    def _go_on(self, running: Entry) -> Way:
        """Put in place how far an earlier run of the stage has come."""
        for iteration in set_progress(self.state, running):
            self._controls.observer(iteration)
        self._columns.take(running.part("columns"))
        return Way.of(running, len(self._vector()))

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

    def _judge_outliers(self, before: NDArray[np.bool_] | None = None) -> int:
        """Find outliers (``find_outliers``) and the residuals' spread anew; how many reflections changed sides."""
        assert self.state.evaluation is not None
        observations = self._data.observations
        calculated = self.state.evaluation.calculated.numpy()
        residual = residuals(
            observations.intensity, observations.sigma, calculated, self._weighting.instability
        )
        rejected = np.zeros(len(observations), dtype=bool)
        for i in range(len(self._data.scans)):
            # each crystal fits as well as it does
            mine = ~self._data.held_out & (observations.experiment == i)
            rejected |= find_outliers(residual, mine, self._weighting, before)
        n_changed = int((rejected != self.state.rejected).sum())
        self.state.rejected = rejected
        self.state.spread = residual_spread(
            residual, ~self._data.held_out & ~rejected, self.state.n_effective
        )
        return n_changed
