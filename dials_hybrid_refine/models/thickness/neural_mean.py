"""A neural network that gives one thickness at each angle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike

from dials_hybrid_refine.models.thickness.angles import AngleBumps, bend, random_weights
from dials_hybrid_refine.models.thickness.base import (
    ThicknessDistribution,
    ThicknessModel,
    each_logarithm,
)


class NeuralMeanThickness(ThicknessModel):
    """One thickness at each angle, its logarithm a small network of phi.

    The angle enters as in ``NeuralThickness``. The output layer starts at zero: the starting
    thickness is the same at all angles.
    """

    def __init__(
        self,
        thickness: ArrayLike,
        phi_ranges: Sequence[tuple[float, float]],
        resolution: float = 10.0,
        width: int = 16,
        smoothness: float = 3.0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            thickness: starting value in Angstrom, one or one for each experiment.
            phi_ranges: first and last angle of each experiment in degrees.
            resolution: distance in degrees of the bumps that describe the angle.
            width: number of hidden units.
            smoothness: weight of the prior on the mean's curvature (``prior_residuals``).
            seed: of the random starting weights.
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.bumps = AngleBumps(phi_ranges, resolution)
        self._smoothness = smoothness
        n_experiments = len(phi_ranges)
        self.hidden = random_weights(generator, width, self.bumps.centres.shape[1])
        self.embedding = torch.nn.Parameter(torch.zeros(n_experiments, width, dtype=torch.float64))
        self.output = torch.nn.Parameter(torch.zeros(width, dtype=torch.float64))
        start = each_logarithm(thickness, n_experiments)
        self.bias = torch.nn.Parameter(start)

    def mean(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """Thickness (n,) in Angstrom at angles phi (n,) in degrees of experiments (n,)."""
        hidden = torch.tanh(
            self.bumps(experiment, phi) @ self.hidden.T + self.embedding[experiment]
        )
        return (hidden @ self.output + self.bias[experiment]).exp()

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        thickness = self.mean(experiment, phi)[:, None]
        return ThicknessDistribution(thickness, torch.ones_like(thickness))

    def prior_residuals(self) -> torch.Tensor:
        """Second differences of the mean between bumps in units of a quarter of it, as in
        ``NeuralThickness``; they vanish where it changes linearly."""
        centres = self.bumps.centres
        mean = self.mean(self.bumps.experiment, centres.reshape(-1)).reshape(centres.shape)
        return self._smoothness**0.5 * bend(mean, mean).reshape(-1)
