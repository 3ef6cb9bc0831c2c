"""What every thickness model provides."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

#: angles of a scan whose thickness stands for all of it
_PLACES = 20


@dataclass(frozen=True)
class ThicknessDistribution:
    """Distributions p(t | phi) of the crystal's thickness along its surface normal.

    Attributes:
        thickness: shape (n, m), nodes in Angstrom.
        weight: shape (n, m), non-negative, each row sums to 1.
    """

    thickness: torch.Tensor
    weight: torch.Tensor

    def mean(self) -> torch.Tensor:
        """Mean thickness, shape (n,), in Angstrom."""
        return (self.thickness * self.weight).sum(-1)

    def variance(self) -> torch.Tensor:
        """Mean square deviation from the mean, shape (n,), in Angstrom^2."""
        return (self.weight * (self.thickness - self.mean()[:, None]) ** 2).sum(-1)

    def standard_deviation(self) -> torch.Tensor:
        """Width of the distribution, shape (n,), in Angstrom."""
        return self.variance().clamp_min(0).sqrt()


def each_logarithm(thickness: ArrayLike, n_experiments: int) -> torch.Tensor:
    """Logarithms (n_experiments,) of one thickness in Angstrom for all, or of one for each."""
    each = np.broadcast_to(np.asarray(thickness, dtype=float), (n_experiments,))
    return torch.tensor([math.log(value) for value in each], dtype=torch.float64)


class ThicknessModel(torch.nn.Module, ABC):
    """A model of the distribution of thickness at each angle of each experiment."""

    @abstractmethod
    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        """Distributions at angles phi (n,) in degrees of experiments (n,)."""

    def largest_mean(self, phi_ranges: Sequence[tuple[float, float]]) -> float:
        """Mean thickness along its scan of the thickest crystal, in Angstrom; phi_ranges: of each experiment."""
        means = []
        with torch.no_grad():
            for i, phi_range in enumerate(phi_ranges):
                phi = torch.linspace(*phi_range, _PLACES, dtype=torch.float64)
                means.append(float(self(torch.full((_PLACES,), i), phi).mean().mean()))
        return max(means)

    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
        return torch.zeros(0, dtype=torch.float64)
