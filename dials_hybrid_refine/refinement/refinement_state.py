"""What changes while a refinement runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.objective import Evaluation, Objective
from dials_hybrid_refine.refinement.result import Iteration
from dials_hybrid_refine.refinement.shifts import Shifts


@dataclass
class RefinementState:
    """What changes while a refinement runs; the model's parameters are in the model.

    ``spread`` is E of ``weights.Weighting``, ``n_effective`` the effective number of parameters
    and ``structure_su``, shape (p_s,), the s.u. of the structure's refined numbers for unit weight, both at
    the last normal matrix; ``shifts`` those of the last whole cycle. ``breakdown`` says where
    numbers broke down and the refinement stopped.
    """

    model: HybridModel
    rejected: NDArray[np.bool_]
    spread: float
    evaluation: Evaluation | None = None
    objective: Objective | None = None
    n_effective: float = 0.0
    structure_su: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    shifts: Shifts | None = None
    history: list[Iteration] = field(default_factory=list)
    status: str = "max_iterations"
    breakdown: str | None = None
    loss_start: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        """Whether no further stage is to begin: after an interruption or a breakdown."""
        return self.status == "interrupted" or self.breakdown is not None
