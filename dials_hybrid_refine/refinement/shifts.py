"""Shifts of the structure's parameters, in standard uncertainties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.jacobian import places_of


@dataclass(frozen=True)
class Shifts:
    """Largest and mean absolute shift over standard uncertainty; 0 where no structure is refined."""

    largest: float
    mean: float


def structure_vector(model: HybridModel) -> NDArray[np.float64]:
    """The refined numbers of the structure, shape (p_s,), in their order."""
    own = [p.detach().reshape(-1) for p in model.structure.parameters() if p.requires_grad]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *own]).numpy().copy()


def structure_su(model: HybridModel, equations: GaussNewton) -> NDArray[np.float64]:
    """Their standard uncertainties for unit weight of chi^2 / (N - P), shape (p_s,)."""
    refined = [p for p in model.parameters() if p.requires_grad]
    own = places_of(model.structure.parameters(), refined)
    return equations.covariance().diagonal()[own].clamp_min(0).sqrt().numpy().copy()


def shifts(
    before: NDArray[np.float64], after: NDArray[np.float64], su: NDArray[np.float64]
) -> Shifts:
    """Of parameters that the data determine (s.u. above 0); all shapes (p_s,)."""
    is_determined = su > 0
    ratio = np.abs(after - before)[is_determined] / su[is_determined]
    return Shifts(float(ratio.max(initial=0.0)), float(ratio.mean()) if len(ratio) else 0.0)
