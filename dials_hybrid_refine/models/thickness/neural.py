"""A neural network that gives the distribution of thickness at each angle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.models.thickness.angles import AngleBumps, bend, random_weights
from dials_hybrid_refine.models.thickness.base import ThicknessDistribution, ThicknessModel

#: share of the prior that also empty nodes feel, lest they run away
_EMPTY = 0.01


class NeuralThickness(ThicknessModel):
    """p(t | phi) on fixed nodes of thickness, as the softmax of a small network of phi.

    The angle enters as smooth bumps (Gaussians along the scan), so that the network can follow
    changes over ``resolution`` degrees and not much faster. The
    output layer starts at zero: the starting distribution is the same at all angles.
    """

    nodes: torch.Tensor

    def __init__(
        self,
        nodes: NDArray[np.float64],
        start: NDArray[np.float64],
        phi_ranges: Sequence[tuple[float, float]],
        resolution: float = 10.0,
        width: int = 16,
        smoothness: float = 30.0,
        shape_smoothness: float = 1e4,
        seed: int = 0,
    ) -> None:
        """
        Args:
            nodes: shape (m,), thicknesses in Angstrom.
            start: shape (m,), the starting distribution (positive).
            phi_ranges: first and last angle of each experiment in degrees.
            resolution: distance in degrees of the bumps that describe the angle.
            width: number of hidden units.
            smoothness, shape_smoothness: weights of the prior on the roughness of log p along phi
                and along t (``prior_residuals``).
            seed: of the random starting weights.
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("nodes", torch.from_numpy(np.asarray(nodes, dtype=float)))
        self.bumps = AngleBumps(phi_ranges, resolution)
        self._smoothness = smoothness
        self._shape_smoothness = shape_smoothness
        self.hidden = random_weights(generator, width, len(self.bumps.centres))
        self.embedding = torch.nn.Parameter(
            torch.zeros(len(phi_ranges), width, dtype=torch.float64)
        )
        self.output = torch.nn.Parameter(torch.zeros(len(nodes), width, dtype=torch.float64))
        log_start = torch.from_numpy(np.log(np.asarray(start) / np.sum(start)))
        self.bias = torch.nn.Parameter(log_start)

    def drop_nodes_beyond(self, largest: float) -> None:
        """Keep the nodes up to a thickness in Angstrom; the weights of the others fall to the rest."""
        keep = self.nodes <= largest
        self.nodes = self.nodes[keep]
        self.output = torch.nn.Parameter(self.output.detach()[keep])
        self.bias = torch.nn.Parameter(self.bias.detach()[keep])

    def logits(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """log p up to a constant, shape (n, m)."""
        hidden = torch.tanh(self.bumps(phi) @ self.hidden.T + self.embedding[experiment])
        return hidden @ self.output.T + self.bias

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        weight = torch.softmax(self.logits(experiment, phi), dim=-1)
        return ThicknessDistribution(self.nodes.expand_as(weight), weight)

    def prior_residuals(self) -> torch.Tensor:
        """Roughness of the distribution along the thickness, and of its moments along the scan.

        Along t third differences of log p where p has weight: they vanish for a normal distribution of
        any mean and width, and empty nodes cost nothing. Along phi second differences, between bumps,
        of mean and standard deviation, in units of a quarter of the mean: they vanish where both
        change linearly.
        """
        n_experiments, n_centres = len(self.embedding), len(self.bumps.centres)
        experiment = torch.arange(n_experiments).repeat_interleave(n_centres)
        logits = self.logits(experiment, self.bumps.centres.repeat(n_experiments))
        p = torch.softmax(logits, dim=-1)
        distribution = ThicknessDistribution(self.nodes.expand_as(p), p)
        shape = (n_experiments, n_centres)
        weight = p.reshape(*shape, -1).mean(1, keepdim=True) + _EMPTY / len(self.nodes)
        rough = logits.reshape(*shape, -1).diff(n=3, dim=2)
        along_t = (self._shape_smoothness * weight[..., 1:-2]).sqrt() * rough
        mean = distribution.mean().reshape(shape)
        # no narrower than 1 Angstrom: the root has no slope at zero
        width = distribution.variance().clamp_min(1).sqrt().reshape(shape)
        moments = torch.stack([mean, width])
        along_phi = bend(moments, mean) * self._smoothness**0.5
        return torch.cat([along_t.reshape(-1), along_phi.reshape(-1)])
