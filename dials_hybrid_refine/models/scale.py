"""The scale of each block of rotation, solved in closed form inside the loss."""

from __future__ import annotations

import torch


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
