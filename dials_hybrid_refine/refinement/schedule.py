"""How long to refine, and who may look on and stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dials_hybrid_refine.refinement.journal import Journal
from dials_hybrid_refine.refinement.result import Iteration


@dataclass(frozen=True)
class Schedule:
    """How long to refine.

    Attributes:
        coarse_steps: most Levenberg-Marquardt steps of the coarse calculation.
        cycles: most cycles of the full calculation.
        steps_per_cycle: most steps in a cycle.
        coarse_tolerance: the coarse calculation, or that of a sample, ends when a step lowers the loss by less
            than this share of it; going on would fit its errors, or what the sample has of its own.
        tolerance: a cycle ends when a step lowers the loss by less than this share of it; the
            refinement has converged when a whole cycle lowers it by less than five times this
            share, the outliers stay the same, and no parameter of the structure moves by more
            than ``largest_shift`` standard uncertainties in it.
    """

    coarse_steps: int = 6
    coarse_tolerance: float = 1e-2
    cycles: int = 10
    steps_per_cycle: int = 20
    tolerance: float = 2e-3
    largest_shift: float = 0.3


@dataclass(frozen=True)
class Controls:
    """What the caller hears of and can decide while a refinement runs.

    ``journal``: what an earlier run has done, and where this one notes what it does.
    """

    observer: Callable[[Iteration], None] = lambda iteration: None
    should_stop: Callable[[], bool] = lambda: False
    journal: Journal = field(default_factory=Journal)
