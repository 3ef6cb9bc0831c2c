"""One thickness for the whole crystal."""

from __future__ import annotations

import math

import torch

from dials_hybrid_refine.models.thickness.base import ThicknessDistribution, ThicknessModel


class ConstantThickness(ThicknessModel):
    """One thickness per experiment, the same at all angles.

    The refined number is the logarithm of the thickness.
    """

    def __init__(self, thickness: float, n_experiments: int = 1) -> None:
        """thickness: starting value in Angstrom."""
        super().__init__()
        start = torch.full((n_experiments,), math.log(thickness), dtype=torch.float64)
        self.log_thickness = torch.nn.Parameter(start)

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        thickness = self.log_thickness[experiment].exp()[:, None]
        return ThicknessDistribution(thickness, torch.ones_like(thickness))
