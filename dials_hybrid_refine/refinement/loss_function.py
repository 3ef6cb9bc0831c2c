"""The loss as a function of the vector of parameters, which remembers its last calculation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from dials_hybrid_refine.diffraction.simulator import Contributions
from dials_hybrid_refine.refinement.breakdown import BREAKDOWNS
from dials_hybrid_refine.refinement.objective import Evaluation, Objective


class _Calculation:
    """Intensities and loss at parameters (p,), and once the gradient of the loss.

    Until that is asked for, or ``release`` called, it holds what the gradient needs.
    """

    def __init__(
        self, objective: Objective, vector: torch.Tensor, known: Contributions | None
    ) -> None:
        found = known or objective.contributions()
        self.vector = vector
        self.contributions: Contributions | None = found
        self.values = replace(found, value=found.value.detach())
        self.evaluation, gradient = objective.evaluate_for_gradient(found)
        self._gradients = [gradient]

    def gradient(self) -> torch.Tensor:
        """Shape (p,)."""
        gradient = self._gradients.pop()
        self.release()
        return gradient()

    def release(self) -> None:
        """Let the memory be used again."""
        self.contributions = None
        self._gradients.clear()


class LossFunction:
    """What ``minimise`` calls (``minimise.Function``), for one objective.

    Where a gradient is not asked for, the calculation may go on to serve another objective of the same
    simulator: that of the next cycle, with other weights.
    """

    def __init__(
        self,
        objective: Objective,
        start: torch.Tensor,
        set_vector: Callable[[torch.Tensor], None],
        known: Contributions | None,
    ) -> None:
        """
        Args:
            start: shape (p,), the parameters that are in the objective's model.
            set_vector: puts others in their place.
            known: contributions at the start with what their gradient needs, if they are there.

        Raises:
            ArithmeticError: if the loss is not finite at the start.
        """
        self._objective = objective
        self._set_vector = set_vector
        first = _Calculation(objective, start, known)
        #: the fit at the start
        self.first = first.evaluation
        self._start = start
        self._last: _Calculation | None = first

    def __call__(self, vector: torch.Tensor) -> tuple[Evaluation, Callable[[], torch.Tensor]]:
        """The fit at parameters (p,), which are put in place, and what gives the gradient of its loss.

        The loss is infinite, or the gradient NaN, where numbers break down: a step that led to an absurd
        structure is not to be taken. At the start the gradient raises what breaks down.
        """
        self._set_vector(vector)
        try:
            calculation = self._calculation(vector)
        except BREAKDOWNS:
            return replace(self.first, loss=float("inf")), lambda: torch.zeros_like(vector)

        def gradient() -> torch.Tensor:
            try:
                return calculation.gradient()
            except BREAKDOWNS:
                if torch.equal(vector, self._start):
                    raise
                return torch.full_like(vector, torch.nan)

        return calculation.evaluation, gradient

    def _calculation(self, vector: torch.Tensor) -> _Calculation:
        last = self._last_at(vector)
        if last is None or last.contributions is None:
            self.release()
            self._last = last = _Calculation(self._objective, vector, None)
        return last

    def contributions_at(self, vector: torch.Tensor) -> Contributions | None:
        """Those of the last calculation with what their gradient needs, unless that has been asked for or the
        parameters (p,) are others."""
        last = self._last_at(vector)
        return None if last is None else last.contributions

    def values_at(self, vector: torch.Tensor) -> Contributions | None:
        """The values of the last calculation's contributions, unless the parameters (p,) are others."""
        last = self._last_at(vector)
        return None if last is None else last.values

    def _last_at(self, vector: torch.Tensor) -> _Calculation | None:
        same = self._last is not None and torch.equal(self._last.vector, vector)
        return self._last if same else None

    def release(self) -> None:
        """Let the memory be used again."""
        if self._last is not None:
            self._last.release()
            self._last = None
