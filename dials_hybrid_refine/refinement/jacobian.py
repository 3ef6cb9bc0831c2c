"""Derivatives of small functions with respect to a model's parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

#: error of a forward difference: step times curvature, and round-off over step
_STEP = 1e-7


def indices(parameter: torch.Tensor) -> Iterator[tuple[int, ...]]:
    """The positions of all elements of a tensor."""
    return itertools.product(*(range(n) for n in parameter.shape))


def parameter_jacobian(
    function: Callable[[], torch.Tensor], parameters: Sequence[torch.nn.Parameter]
) -> torch.Tensor:
    """d function (...) / d parameters, shape (..., p), by forward differences.

    For small functions of many parameters; torch.func takes seconds to be imported. To be called
    without gradients; the parameters come back unchanged.
    """
    base = function()
    columns = [base.new_zeros(*base.shape, 0)]
    for parameter in parameters:
        for index in indices(parameter):
            original = parameter[index].clone()
            parameter[index] = original + _STEP
            columns.append(((function() - base) / _STEP)[..., None])
            parameter[index] = original
    return torch.cat(columns, dim=-1)
