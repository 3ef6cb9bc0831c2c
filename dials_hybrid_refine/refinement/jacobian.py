"""Parameters in the vector of all refined numbers, and derivatives with respect to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from dials_hybrid_refine.diffraction.ranks import Ranks

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
    # filled in place: of large models no other array is as large
    jacobian = base.new_empty(*base.shape, sum(p.numel() for p in parameters))
    places = ((p, index) for p in parameters for index in indices(p))
    for column, (parameter, index) in enumerate(places):
        original = parameter[index].clone()
        parameter[index] = original + _STEP
        try:
            jacobian[..., column] = (function() - base) / _STEP
        finally:
            parameter[index] = original
    return jacobian


#: parts that the widest matrix is cut in; whatever the number of processes, as round-off depends on it
_N_PARTS = 8


def product_with_itself(matrices: Sequence[torch.Tensor], ranks: Ranks) -> torch.Tensor:
    """J^T J, shape (p, p), of J (n, p), which comes as matrices of the same n rows side by side.

    Half of it is calculated, block by block, shared out to the processes; all get the same bits, whatever their
    number.

    Raises:
        ProcessLost: if a process has ended or does not answer.
    """
    width = -(-max(matrix.shape[1] for matrix in matrices) // _N_PARTS)
    parts = [part for matrix in matrices for part in matrix.split(max(1, width), dim=1)]
    starts = [0, *itertools.accumulate(part.shape[1] for part in parts)]
    places = [slice(*ends) for ends in itertools.pairwise(starts)]
    pairs = [(i, j) for i in range(len(parts)) for j in range(i + 1)]
    lower = torch.zeros(starts[-1], starts[-1], dtype=torch.float64)
    for k in ranks.share([float(parts[i].shape[1] * parts[j].shape[1]) for i, j in pairs]):
        i, j = pairs[k]
        lower[places[i], places[j]] = parts[i].T @ parts[j]
    lower = ranks.sum(lower.tril())
    return lower + lower.tril(-1).T
