"""Parameters in the vector of all refined numbers, and derivatives with respect to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

#: error of a forward difference: step times curvature, and round-off over step
_STEP = 1e-7


def indices(parameter: torch.Tensor) -> Iterator[tuple[int, ...]]:
    """The positions of all elements of a tensor."""
    return itertools.product(*(range(n) for n in parameter.shape))


def places_of(
    own: Iterable[torch.nn.Parameter], refined: Sequence[torch.nn.Parameter]
) -> list[int]:
    """Where the elements of some parameters stand among all refined numbers, in their order.

    Args:
        own: parameters; those that are not refined have no place.
        refined: the parameters in the order of the normal matrix.
    """
    wanted = {id(parameter) for parameter in own}
    places: list[int] = []
    start = 0
    for parameter in refined:
        if id(parameter) in wanted:
            places += range(start, start + parameter.numel())
        start += parameter.numel()
    return places


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
            try:
                columns.append(((function() - base) / _STEP)[..., None])
            finally:
                parameter[index] = original
    return torch.cat(columns, dim=-1)
