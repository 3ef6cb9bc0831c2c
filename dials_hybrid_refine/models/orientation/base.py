"""What every model of the orientation correction provides."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch


class OrientationModel(torch.nn.Module, ABC):
    """A correction of the crystal's orientation at each angle of each experiment.

    g' = R(c(phi)) g in the laboratory frame. The refined numbers are in units of 0.05 degrees,
    the size by which orientations from diffraction spots are usually wrong.
    """

    _UNIT = 0.05  # degrees

    @abstractmethod
    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """Rotation vectors (B, n, 3) in radians at angles phi (B, n) of experiments (B,)."""

    @abstractmethod
    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
