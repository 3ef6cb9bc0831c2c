"""How much Levenberg-Marquardt damps the parts of a model."""

from __future__ import annotations

import torch

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.jacobian import places_of

#: damping of structure, orientation and all else, relative to that of the thickness: a network is nothing
#: like linear beyond small steps, the others are. From the coarse fit of the DIALS quartz data a step with 1 lowered
#: the loss of 1494 by 72 at best, one with 0.1 by 83, and the structure's part of it was twice as long.
_OTHERS = 0.1
#: the same of a structure that is about right: along steps of measured quartz the loss was quadratic in it,
#: while the orientation asked for damping. Damped as much, atoms would stop short of where they belong.
_NEARLY_RIGHT = 0.01


def relative_damping(model: HybridModel, is_nearly_right: bool) -> torch.Tensor:
    """Shape (p,) in the order of the refined numbers: of the thickness model 1, of all others less.

    Args:
        is_nearly_right: whether the structure is.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    relative = torch.full((sum(p.numel() for p in parameters),), _OTHERS, dtype=torch.float64)
    relative[places_of(model.thickness.parameters(), parameters)] = 1.0
    if is_nearly_right:
        relative[places_of(model.structure.parameters(), parameters)] = _NEARLY_RIGHT
    return relative
