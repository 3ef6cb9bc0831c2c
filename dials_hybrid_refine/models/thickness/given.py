"""A thickness that is known, for simulations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dials_hybrid_refine.models.thickness.base import ThicknessDistribution, ThicknessModel


class GivenThickness(ThicknessModel):
    """Mean thickness interpolated along the scan, with a normal distribution around it."""

    #: nodes of the normal distribution, in standard deviations
    _DEVIATIONS = np.linspace(-2.5, 2.5, 15)

    def __init__(self, means: Sequence[float], std: float, phi_range: tuple[float, float]) -> None:
        """
        Args:
            means: mean thicknesses in Angstrom at evenly spaced angles from the first to the
                last of the scan; linear interpolation between them. One value: constant.
            std: standard deviation of the thickness at each angle in Angstrom; 0: none.
            phi_range: first and last angle of the scan in degrees.

        Raises:
            ValueError: if a thickness is not positive.
        """
        super().__init__()
        if not means or min(means) <= 0 or std < 0:
            raise ValueError("thicknesses must be positive (thickness.mean, thickness.std)")
        self._means = np.array(means, dtype=float)
        self._angles = np.linspace(*phi_range, len(self._means))
        self._std = std

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        mean = np.interp(phi.numpy(), self._angles, self._means)[:, None]
        deviations = self._DEVIATIONS if self._std > 0 else np.zeros(1)
        thickness = mean + self._std * deviations
        weight = np.exp(-0.5 * deviations**2) * (thickness > 0)
        return ThicknessDistribution(
            torch.from_numpy(np.maximum(thickness, 0)),
            torch.from_numpy(weight / weight.sum(axis=1, keepdims=True)),
        )
