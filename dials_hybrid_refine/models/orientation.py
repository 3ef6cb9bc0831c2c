"""A smooth correction of the crystal's orientation along the scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class SmoothOrientation(torch.nn.Module):
    """A rotation vector, cubic between knots (Catmull-Rom) along each scan.

    g' = R(c(phi)) g in the laboratory frame. The refined numbers are in units of 0.05 degrees,
    the size by which orientations from diffraction spots are usually wrong.
    """

    _UNIT = 0.05  # degrees

    def __init__(
        self,
        phi_ranges: Sequence[tuple[float, float]],
        knot_distance: float = 4.0,
        expected_size: float = 0.05,
        expected_change: float = 0.02,
    ) -> None:
        """
        Args:
            phi_ranges: first and last angle of each experiment in degrees.
            knot_distance: degrees between knots.
            expected_size: prior standard deviation of a correction in degrees.
            expected_change: prior standard deviation of the second difference between knots.
        """
        super().__init__()
        self._starts = [first for first, _ in phi_ranges]
        self._counts = [max(2, round((b - a) / knot_distance) + 1) for a, b in phi_ranges]
        self._spacings = [(b - a) / (n - 1) for (a, b), n in zip(phi_ranges, self._counts)]
        self._expected_size = expected_size / self._UNIT
        self._expected_change = expected_change / self._UNIT
        self.knots = torch.nn.ParameterList(
            [torch.zeros(n, 3, dtype=torch.float64) for n in self._counts]
        )

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """Rotation vectors (B, n, 3) in radians at angles phi (B, n) of experiments (B,)."""
        vectors = torch.zeros(*phi.shape, 3, dtype=torch.float64)
        for i, knots in enumerate(self.knots):
            chosen = experiment == i
            if chosen.any():
                position = (phi[chosen] - self._starts[i]) / self._spacings[i]
                vectors = vectors.masked_scatter(
                    chosen[:, None, None].expand_as(vectors), self._interpolate(knots, position)
                )
        return vectors * (self._UNIT * torch.pi / 180)

    @staticmethod
    def _interpolate(knots: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        last = len(knots) - 1
        index = position.floor().clamp(0, last - 1).long()
        u = (position - index)[..., None]
        p = [knots[(index + k).clamp(0, last)] for k in (-1, 0, 1, 2)]
        slope_0, slope_1 = (p[2] - p[0]) / 2, (p[3] - p[1]) / 2
        return (
            (2 * u**3 - 3 * u**2 + 1) * p[1]
            + (u**3 - 2 * u**2 + u) * slope_0
            + (3 * u**2 - 2 * u**3) * p[2]
            + (u**3 - u**2) * slope_1
        )

    def penalty(self) -> torch.Tensor:
        """Minus twice the logarithm of the prior."""
        total = torch.zeros((), dtype=torch.float64)
        for knots in self.knots:
            total = total + (knots / self._expected_size).square().sum()
            total = total + (knots.diff(n=2, dim=0) / self._expected_change).square().sum()
        return total
