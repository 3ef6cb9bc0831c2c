"""What every model of the orientation correction provides."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray


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
    def places(self) -> tuple[torch.nn.Parameter, torch.Tensor]:
        """The refined numbers (n_experiments, k, 3) and the angles (n_experiments, k) in degrees where they
        are the correction."""

    def turn_by(
        self, experiment: int, phi: NDArray[np.float64], vectors: NDArray[np.float64]
    ) -> None:
        """Add rotation vectors (s, 3) in radians at angles (s,), in degrees, increasing, to an
        experiment's correction; linear between them, constant beyond."""
        numbers, angles = self.places()
        at = angles[experiment].numpy()
        values = np.stack([np.interp(at, phi, column) for column in vectors.T], axis=1)
        with torch.no_grad():
            numbers[experiment] += torch.from_numpy(np.degrees(values) / self._UNIT)

    @abstractmethod
    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
