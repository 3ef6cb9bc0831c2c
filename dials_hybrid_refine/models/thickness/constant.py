"""One thickness for the whole crystal."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike

from dials_hybrid_refine.models.thickness.base import (
    ThicknessDistribution,
    ThicknessModel,
    each_logarithm,
)


class ConstantThickness(ThicknessModel):
    """One thickness per experiment, the same at all angles.

    The refined number is the logarithm of the thickness.
    """

    def __init__(self, thickness: ArrayLike, n_experiments: int = 1) -> None:
        """thickness: starting value in Angstrom, one or one for each experiment."""
        super().__init__()
        self.log_thickness = torch.nn.Parameter(each_logarithm(thickness, n_experiments))

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        thickness = self.log_thickness[experiment].exp()[:, None]
        return ThicknessDistribution(thickness, torch.ones_like(thickness))
