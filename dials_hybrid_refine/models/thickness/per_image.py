"""A free thickness for each image or frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from dials_hybrid_refine.models.thickness.base import (
    ThicknessDistribution,
    ThicknessModel,
    each_logarithm,
)


class PerImageThickness(ThicknessModel):
    """One thickness per image of each experiment, with a weak prior on changes between images.

    The refined numbers are logarithms of thicknesses.
    """

    starts: torch.Tensor
    widths: torch.Tensor

    def __init__(
        self,
        thickness: ArrayLike,
        phi_ranges: Sequence[tuple[float, float]],
        image_width: ArrayLike,
        relative_change: float = 0.2,
    ) -> None:
        """
        Args:
            thickness: starting value in Angstrom, one or one for each experiment.
            phi_ranges: first and last angle of each experiment in degrees.
            image_width: degrees of rotation with one thickness, one or one for each experiment;
                changed a little so that these fill the scan.
            relative_change: prior standard deviation of the relative change between images.
        """
        super().__init__()
        self._relative_change = relative_change
        n_experiments = len(phi_ranges)
        wanted = np.broadcast_to(np.asarray(image_width, dtype=float), (n_experiments,))
        lengths = [last - first for first, last in phi_ranges]
        counts = [max(1, round(length / w)) for length, w in zip(lengths, wanted)]
        widths = [length / count for length, count in zip(lengths, counts)]
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float64))
        starts = torch.tensor([first for first, _ in phi_ranges], dtype=torch.float64)
        self.register_buffer("starts", starts)
        each = each_logarithm(thickness, n_experiments)
        self.log_thickness = torch.nn.Parameter(each[:, None].repeat(1, max(counts)))

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        image = torch.floor((phi - self.starts[experiment]) / self.widths[experiment]).long()
        image = image.clamp(0, self.log_thickness.shape[1] - 1)
        thickness = self.log_thickness[experiment, image].exp()[:, None]
        return ThicknessDistribution(thickness, torch.ones_like(thickness))

    def prior_residuals(self) -> torch.Tensor:
        return (self.log_thickness.diff(dim=1) / self._relative_change).reshape(-1)
