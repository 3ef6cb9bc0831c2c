"""A neural network that gives the distribution of thickness at each angle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.models.thickness.base import ThicknessDistribution, ThicknessModel


class NeuralThickness(ThicknessModel):
    """p(t | phi) on fixed nodes of thickness, as the softmax of a small network of phi.

    The angle enters as smooth bumps (Gaussians along the scan) besides the angle itself, so
    that the network can follow changes over ``resolution`` degrees and not much faster. The
    output layer starts at zero: the starting distribution is the same at all angles.
    """

    nodes: torch.Tensor
    centres: torch.Tensor

    def __init__(
        self,
        nodes: NDArray[np.float64],
        start: NDArray[np.float64],
        phi_ranges: Sequence[tuple[float, float]],
        resolution: float = 10.0,
        width: int = 16,
        smoothness: float = 1.0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            nodes: shape (m,), thicknesses in Angstrom.
            start: shape (m,), the starting distribution (positive).
            phi_ranges: first and last angle of each experiment in degrees.
            resolution: distance in degrees of the bumps that describe the angle.
            width: number of hidden units.
            smoothness: weight of the prior on the roughness of log p along t and along phi.
            seed: of the random starting weights.
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        low = min(first for first, _ in phi_ranges)
        high = max(last for _, last in phi_ranges)
        centres = torch.linspace(
            low, high, max(3, round((high - low) / resolution) + 1), dtype=torch.float64
        )
        self.register_buffer("nodes", torch.from_numpy(np.asarray(nodes, dtype=float)))
        self.register_buffer("centres", centres)
        self._spacing = float(centres[1] - centres[0])
        self._smoothness = smoothness
        n_inputs = len(centres)

        def initial(*shape: int) -> torch.nn.Parameter:
            scale = 1 / shape[-1] ** 0.5
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            return torch.nn.Parameter(scale * values)

        self.hidden = initial(width, n_inputs)
        self.embedding = torch.nn.Parameter(
            torch.zeros(len(phi_ranges), width, dtype=torch.float64)
        )
        self.output = torch.nn.Parameter(torch.zeros(len(nodes), width, dtype=torch.float64))
        log_start = torch.from_numpy(np.log(np.asarray(start) / np.sum(start)))
        self.bias = torch.nn.Parameter(log_start)

    def _features(self, phi: torch.Tensor) -> torch.Tensor:
        return torch.exp(-0.5 * ((phi[:, None] - self.centres) / self._spacing) ** 2)

    def logits(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """log p up to a constant, shape (n, m)."""
        hidden = torch.tanh(self._features(phi) @ self.hidden.T + self.embedding[experiment])
        return hidden @ self.output.T + self.bias

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        weight = torch.softmax(self.logits(experiment, phi), dim=-1)
        return ThicknessDistribution(self.nodes.expand_as(weight), weight)

    def prior_residuals(self) -> torch.Tensor:
        experiment = torch.arange(len(self.embedding)).repeat_interleave(len(self.centres))
        logits = self.logits(experiment, self.centres.repeat(len(self.embedding)))
        # log p of a normal distribution is a parabola: its third differences vanish
        along_t = logits.diff(n=3, dim=1) / len(self.centres) ** 0.5
        by_scan = logits.reshape(len(self.embedding), len(self.centres), -1)
        by_scan = by_scan - by_scan.mean(-1, keepdim=True)
        along_phi = by_scan.diff(n=2, dim=1) / len(self.nodes) ** 0.5
        return self._smoothness**0.5 * torch.cat([along_t.ravel(), along_phi.ravel()])
