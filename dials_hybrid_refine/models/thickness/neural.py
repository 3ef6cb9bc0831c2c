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
#: weight of the prior on the size of d over that on its roughness
_SIZE = 0.1


class NeuralThickness(ThicknessModel):
    """p(t | phi) on fixed nodes of thickness, from a small network of phi.

        log p = -(t - m(phi))^2 / (2 s(phi)^2) + d(t, phi) + const

    The network's outputs are log m, log s and d at the nodes: what moves or widens the distribution is
    one number, what changes its shape many, which the prior keeps small. The angle enters as smooth
    bumps (Gaussians along the scan), so that the network can follow changes over ``resolution``
    degrees and not much faster. The output layers start at zero: the starting distribution is the
    same at all angles. Several crystals share the network; each has its own offsets of log m, log s
    and of the hidden units (its embedding), which start at zero.
    """

    nodes: torch.Tensor

    def __init__(
        self,
        nodes: NDArray[np.float64],
        start: NDArray[np.float64],
        phi_ranges: Sequence[tuple[float, float]],
        resolution: float = 10.0,
        width: int = 16,
        smoothness: float = 3.0,
        shape_smoothness: float = 1e4,
        seed: int = 0,
    ) -> None:
        """
        Args:
            nodes: shape (m,), thicknesses in Angstrom, evenly spaced.
            start: shape (m,), or (n_experiments, m), non-negative: the model starts as a normal
                distribution with the mean and standard deviation of this one.
            phi_ranges: first and last angle of each experiment in degrees.
            resolution: distance in degrees of the bumps that describe the angle.
            width: number of hidden units.
            smoothness, shape_smoothness: weights of the prior along phi, and on d
                (``prior_residuals``).
            seed: of the random starting weights.
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("nodes", torch.from_numpy(np.asarray(nodes, dtype=float)))
        self.bumps = AngleBumps(phi_ranges, resolution)
        self._smoothness = smoothness
        self._shape_smoothness = shape_smoothness
        # a distribution between two nodes would not feel where it is
        self._least_width = 0.5 * float(nodes[1] - nodes[0])
        n_experiments = len(phi_ranges)

        def zeros(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))

        self.hidden = random_weights(generator, width, self.bumps.centres.shape[1])
        self.embedding = zeros(n_experiments, width)
        starts = np.broadcast_to(start, (n_experiments, len(nodes)))
        self.moments = zeros(2, width)
        self.moments_bias = torch.nn.Parameter(
            torch.tensor([self._log_moments(one) for one in starts], dtype=torch.float64)
        )
        self.shape = zeros(len(nodes), width)
        self.shape_bias = zeros(len(nodes))

    def _log_moments(self, start: NDArray[np.float64]) -> tuple[float, float]:
        """log m and log s of a starting distribution (m,)."""
        nodes = self.nodes.numpy()
        share = np.asarray(start) / np.sum(start)
        mean = float(share @ nodes)
        variance = float(share @ (nodes - mean) ** 2)
        excess = max(variance - self._least_width**2, (0.1 * self._least_width) ** 2)
        return float(np.log(mean)), float(0.5 * np.log(excess))

    def drop_nodes_beyond(self, largest: float) -> None:
        """Keep the nodes up to a thickness in Angstrom; the weights of the others fall to the rest."""
        keep = self.nodes <= largest
        self.nodes = self.nodes[keep]
        self.shape = torch.nn.Parameter(self.shape.detach()[keep])
        self.shape_bias = torch.nn.Parameter(self.shape_bias.detach()[keep])

    def _outputs(
        self, experiment: torch.Tensor, phi: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """m (n,) and s (n,) in Angstrom, and d (n, m)."""
        hidden = torch.tanh(
            self.bumps(experiment, phi) @ self.hidden.T + self.embedding[experiment]
        )
        moments = (hidden @ self.moments.T + self.moments_bias[experiment]).exp()
        centre, width = moments.unbind(-1)
        width = (width**2 + self._least_width**2).sqrt()
        return centre, width, hidden @ self.shape.T + self.shape_bias

    def _distribution(
        self, centre: torch.Tensor, width: torch.Tensor, deviation: torch.Tensor
    ) -> ThicknessDistribution:
        logits = -0.5 * ((self.nodes - centre[:, None]) / width[:, None]) ** 2 + deviation
        weight = torch.softmax(logits, dim=-1)
        return ThicknessDistribution(self.nodes.expand_as(weight), weight)

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        return self._distribution(*self._outputs(experiment, phi))

    def prior_residuals(self) -> torch.Tensor:
        """What the model would rather be: a normal distribution that changes linearly with the angle.

        Along t d and its third differences, where p has weight: empty nodes cost nothing. Along phi
        second differences, between bumps, of m and s, in units of a quarter of m.
        """
        centres = self.bumps.centres
        outputs = self._outputs(self.bumps.experiment, centres.reshape(-1))
        centre, width, deviation = (x.reshape(*centres.shape, -1) for x in outputs)
        p = self._distribution(*outputs).weight.reshape(deviation.shape)
        root = (p.mean(1, keepdim=True) + _EMPTY / len(self.nodes)).sqrt()
        size = (_SIZE * self._shape_smoothness) ** 0.5 * root * deviation
        rough = self._shape_smoothness**0.5 * root[..., 1:-2] * deviation.diff(n=3, dim=2)
        course = torch.stack([centre[..., 0], width[..., 0]])
        bends = self._smoothness**0.5 * bend(course, centre[..., 0])
        return torch.cat([size.reshape(-1), rough.reshape(-1), bends.reshape(-1)])
