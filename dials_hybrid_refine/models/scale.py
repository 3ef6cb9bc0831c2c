"""The scale of each block of rotation, solved in closed form inside the loss."""

from __future__ import annotations

import math

import torch


def overall_scale(total: torch.Tensor, intensity: torch.Tensor, weight: torch.Tensor) -> float:
    """The one scale that fits best: sum w I t / sum w t^2, in counts per incident electron and degree.

    Args:
        total: shape (n,), calculated fractions of the incident beam, degrees.
        intensity, weight: shape (n,).

    Raises:
        ArithmeticError: unless it is a positive number, which says what is wrong with model or data.
    """
    if not total.any():
        raise ArithmeticError(
            "the model scatters nothing: its displacement parameters or occupancies are absurd"
        )
    scale = float((weight * intensity * total).sum() / (weight * total**2).sum())
    if not (math.isfinite(scale) and scale > 0):
        raise ArithmeticError(
            "no positive scale brings the calculated intensities to the observed ones, which are "
            "zero or negative on average, or out of all proportion to their sigmas or "
            "weighting.instability: check them"
        )
    return scale


def solve_scales(
    design: torch.Tensor,
    intensity: torch.Tensor,
    weight: torch.Tensor,
    roughness: torch.Tensor,
) -> torch.Tensor:
    """Scales k that minimise sum w (I - X k)^2 + k^T P k (variable projection).

    Because k minimises the loss, the derivative of the loss with respect to k vanishes, and the
    gradient of the other parameters may take k as constant.

    Args:
        design: shape (n, s), calculated parts of the n intensities in the s segments.
        intensity, weight: shape (n,).
        roughness: shape (b, b), the prior P.

    Returns:
        Shape (b,), detached.
    """
    with torch.no_grad():
        weighted = design * weight[:, None]
        normal = weighted.T @ design + roughness
        ridge = 1e-12 * normal.diagonal().abs().max()
        normal = normal + ridge * torch.eye(len(normal), dtype=normal.dtype)
        return torch.linalg.solve(normal, weighted.T @ intensity)
