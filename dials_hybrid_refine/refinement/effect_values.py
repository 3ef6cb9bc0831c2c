"""The refined quantities of effects and their standard uncertainties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.models.effects import NamedEffect
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.jacobian import places_of


@dataclass(frozen=True)
class EffectValues:
    """What an effect reports, in its own units.

    Attributes:
        name, package, version: see ``NamedEffect``.
        values: name of each quantity -> array of any shape.
        su: the same names -> standard uncertainties, NaN where the data do not determine them.
    """

    name: str
    package: str | None
    version: str | None
    values: Mapping[str, NDArray[np.float64]]
    su: Mapping[str, NDArray[np.float64]]


def effect_values(
    effects: Sequence[NamedEffect],
    refined: Sequence[torch.nn.Parameter],
    normal: GaussNewton,
    reduced_chi_square: float,
) -> tuple[EffectValues, ...]:
    """The quantities of all effects.

    A quantity q has the variance chi^2 / (N - P) d^T C d, with C the inverse normal matrix (all other
    parameters marginalised) and d = dq / d parameters (the delta method).

    Args:
        refined: the parameters in the order of the normal matrix.
    """
    if not effects:
        return ()
    covariance = normal.covariance() * reduced_chi_square
    # without any influence on the loss the pseudo-inverse would say zero
    unknown = normal.normal.diagonal() <= 0
    covariance[unknown] = torch.nan
    return tuple(_values(named, refined, covariance) for named in effects)


def _values(
    named: NamedEffect, refined: Sequence[torch.nn.Parameter], covariance: torch.Tensor
) -> EffectValues:
    block = covariance[np.ix_(*2 * [places_of(named.effect.parameters(), refined)])]
    own = [p for p in named.effect.parameters() if p.requires_grad]
    report = named.effect.report()
    return EffectValues(
        named.name,
        named.package,
        named.version,
        {name: value.detach().double().numpy() for name, value in report.items()},
        {name: _uncertainty(value, own, block) for name, value in report.items()},
    )


def _uncertainty(
    value: torch.Tensor, parameters: Sequence[torch.nn.Parameter], covariance: torch.Tensor
) -> NDArray[np.float64]:
    """s.u. of each element of a quantity, of its shape; NaN if it depends on no refined parameter."""
    if not value.requires_grad or not parameters:
        return np.full(tuple(value.shape), np.nan)
    rows = []
    for element in value.reshape(-1):
        slopes = torch.autograd.grad(
            element, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([slope.reshape(-1) for slope in slopes]))
    jacobian = torch.stack(rows)
    matters = (jacobian != 0).any(0)
    jacobian, covariance = jacobian[:, matters], covariance[matters][:, matters]
    variance = torch.einsum("ki,ij,kj->k", jacobian, covariance, jacobian)
    return np.asarray(variance.clamp_min(0).sqrt().reshape(value.shape).numpy())
