"""A free thickness for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dials_hybrid_refine.models.thickness.base import ThicknessDistribution, ThicknessModel


class PerImageThickness(ThicknessModel):
    """One thickness per image of each experiment, with a weak prior on changes between images.

    The refined numbers are logarithms of thicknesses.
    """

    starts: torch.Tensor

    def __init__(
        self,
        thickness: float,
        phi_ranges: Sequence[tuple[float, float]],
        image_width: float,
        relative_change: float = 0.2,
    ) -> None:
        """
        Args:
            thickness: starting value in Angstrom.
            phi_ranges: first and last angle of each experiment in degrees.
            image_width: rotation per image in degrees.
            relative_change: prior standard deviation of the relative change between images.
        """
        super().__init__()
        self._relative_change = relative_change
        self._image_width = image_width
        self._counts = [max(1, round((last - first) / image_width)) for first, last in phi_ranges]
        starts = torch.tensor([first for first, _ in phi_ranges], dtype=torch.float64)
        self.register_buffer("starts", starts)
        shape = (len(phi_ranges), max(self._counts))
        self.log_thickness = torch.nn.Parameter(
            torch.full(shape, math.log(thickness), dtype=torch.float64)
        )

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        image = torch.floor((phi - self.starts[experiment]) / self._image_width).long()
        image = image.clamp(0, self.log_thickness.shape[1] - 1)
        thickness = self.log_thickness[experiment, image].exp()[:, None]
        return ThicknessDistribution(thickness, torch.ones_like(thickness))

    def prior_residuals(self) -> torch.Tensor:
        return (self.log_thickness.diff(dim=1) / self._relative_change).reshape(-1)
