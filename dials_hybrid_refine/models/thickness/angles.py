"""How the rotation angle enters a network: smooth bumps along the scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class AngleBumps(torch.nn.Module):
    """Gaussians along each scan, so that functions of them change over ``resolution`` degrees.

    Attributes:
        centres: shape (n_experiments, c), degrees, evenly spaced from the first angle of each scan, as
            many as the longest needs; at least three.
    """

    centres: torch.Tensor

    def __init__(self, phi_ranges: Sequence[tuple[float, float]], resolution: float) -> None:
        """
        Args:
            phi_ranges: first and last angle of each experiment in degrees.
            resolution: distance of the bumps, and their standard deviation, in degrees.
        """
        super().__init__()
        longest = max(last - first for first, last in phi_ranges)
        number = max(3, round(longest / resolution) + 1)
        centres = [
            torch.linspace(first, first + longest, number, dtype=torch.float64)
            for first, _ in phi_ranges
        ]
        self.register_buffer("centres", torch.stack(centres))
        self._spacing = float(self.centres[0, 1] - self.centres[0, 0])

    @property
    def experiment(self) -> torch.Tensor:
        """Experiment of each of the centres, in their order; shape (n_experiments c,)."""
        n_experiments, number = self.centres.shape
        return torch.arange(n_experiments).repeat_interleave(number)

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """Bumps (n, c) at angles phi (n,) in degrees of experiments (n,)."""
        distance = phi[:, None] - self.centres[experiment]
        return torch.exp(-0.5 * (distance / self._spacing) ** 2)


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
