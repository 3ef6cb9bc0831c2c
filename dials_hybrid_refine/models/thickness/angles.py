"""How the rotation angle enters a network: smooth bumps along the scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class AngleBumps(torch.nn.Module):
    """Gaussians along the scan, so that functions of them change over ``resolution`` degrees.

    Attributes:
        centres: shape (c,), degrees, evenly spaced over all scans; at least three.
    """

    centres: torch.Tensor

    def __init__(self, phi_ranges: Sequence[tuple[float, float]], resolution: float) -> None:
        """
        Args:
            phi_ranges: first and last angle of each experiment in degrees.
            resolution: distance of the bumps, and their standard deviation, in degrees.
        """
        super().__init__()
        low = min(first for first, _ in phi_ranges)
        high = max(last for _, last in phi_ranges)
        number = max(3, round((high - low) / resolution) + 1)
        self.register_buffer("centres", torch.linspace(low, high, number, dtype=torch.float64))
        self._spacing = float(self.centres[1] - self.centres[0])

    def forward(self, phi: torch.Tensor) -> torch.Tensor:
        """Bumps (n, c) at angles phi (n,) in degrees."""
        return torch.exp(-0.5 * ((phi[:, None] - self.centres) / self._spacing) ** 2)


def random_weights(generator: torch.Generator, *shape: int) -> torch.nn.Parameter:
    """Starting weights of a layer whose inputs are the last of the dimensions."""
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.nn.Parameter(values / shape[-1] ** 0.5)


def bend(values: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Second differences along the scan, over a quarter of the mean thickness.

    Args:
        values: shape (..., n), at evenly spaced angles, Angstrom.
        mean: shape (..., n), mean thickness there, Angstrom.
    """
    return values.diff(n=2, dim=-1) / (0.25 * mean[..., 1:-1])
