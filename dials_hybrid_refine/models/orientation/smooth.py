"""A smooth correction of the crystal's orientation along the scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import brentq

from dials_hybrid_refine.models.orientation.base import OrientationModel


class SmoothOrientation(OrientationModel):
    """A rotation vector, cubic between knots (Catmull-Rom) along each scan."""

    starts: torch.Tensor
    spacings: torch.Tensor

    def __init__(
        self,
        phi_ranges: Sequence[tuple[float, float]],
        knot_distance: float = 4.0,
        expected_size: float = 0.05,
        expected_change: float = 0.01,
    ) -> None:
        """
        Args:
            phi_ranges: first and last angle of each experiment in degrees.
            knot_distance: degrees between knots.
            expected_size: prior standard deviation of a correction in degrees, root mean square over the knots.
            expected_change: prior standard deviation of the second difference between knots.
        """
        super().__init__()
        widths = [last - first for first, last in phi_ranges]
        n_knots = max(4, round(max(widths) / knot_distance) + 1)
        starts = torch.tensor([first for first, _ in phi_ranges], dtype=torch.float64)
        self.register_buffer("starts", starts)
        self.register_buffer("spacings", torch.tensor(widths, dtype=torch.float64) / (n_knots - 1))
        self._expected_change = expected_change / self._UNIT
        self._knot_size = _knot_size(n_knots, expected_size / self._UNIT, self._expected_change)
        self.knots = torch.nn.Parameter(
            torch.zeros(len(phi_ranges), n_knots, 3, dtype=torch.float64)
        )

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        experiment = experiment[:, None]
        last = self.knots.shape[1] - 1
        position = (phi - self.starts[experiment]) / self.spacings[experiment]
        index = position.floor().clamp(0, last - 1).long()
        u = (position - index)[..., None]
        p = [self.knots[experiment, (index + k).clamp(0, last)] for k in (-1, 0, 1, 2)]
        slope_0, slope_1 = (p[2] - p[0]) / 2, (p[3] - p[1]) / 2
        vectors = (
            (2 * u**3 - 3 * u**2 + 1) * p[1]
            + (u**3 - 2 * u**2 + u) * slope_0
            + (3 * u**2 - 2 * u**3) * p[2]
            + (u**3 - u**2) * slope_1
        )
        return vectors * (self._UNIT * torch.pi / 180)

    def places(self) -> tuple[torch.nn.Parameter, torch.Tensor]:
        numbers = torch.arange(self.knots.shape[1], dtype=torch.float64)
        return self.knots, self.starts[:, None] + self.spacings[:, None] * numbers

    def prior_residuals(self) -> torch.Tensor:
        size = self.knots / self._knot_size
        change = self.knots.diff(n=2, dim=1) / self._expected_change
        return torch.cat([size.reshape(-1), change.reshape(-1)])


def _knot_size(n_knots: int, expected_size: float, expected_change: float) -> float:
    """Standard deviation of each knot which, with that of second differences, makes the knots vary as expected.

    Both narrow the prior: knots of that size, if independent, are seldom as smooth as expected.
    The covariance is the inverse of 1 / size^2 + D^T D / change^2, with the second differences D.
    """
    differences = np.diff(np.eye(n_knots), n=2, axis=0)
    smoothness = np.linalg.eigvalsh(differences.T @ differences) / expected_change**2

    def excess(log_precision: float) -> float:
        variance = np.mean(1 / (np.exp(log_precision) + np.clip(smoothness, 0, None)))
        return float(np.log(variance / expected_size**2))

    # alone it would be the size; two directions in n, shift and slope, are not narrowed by smoothness
    narrowest = np.log(1 / expected_size**2)
    widest = np.log(1 / (n_knots * expected_size**2))
    return float(np.exp(-brentq(excess, widest, narrowest) / 2))
