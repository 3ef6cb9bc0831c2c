"""A plate that turns with the goniometer: the beam's path through it grows as 1 / cos."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from dials_hybrid_refine.models.thickness.base import ThicknessDistribution, ThicknessModel

#: beyond this angle of plate normal and beam, in degrees, the path is that at this angle: where the
#: plate stands edge-on its extent limits the path, not its thickness
_STEEPEST = 80.0

#: prior standard deviation of the angle at which the plate is normal to the beam, in degrees:
#: crystals lie flat on their support more or less
_EXPECTED_ANGLE = 20.0


def _path(angle: torch.Tensor) -> torch.Tensor:
    """Path through a plate of unit thickness; angle of its normal to the beam in radians."""
    return 1 / angle.cos().clamp_min(math.cos(math.radians(_STEEPEST)))


class TiltedPlate(ThicknessModel):
    """The thicknesses of another model times 1 / cos(phi - phi_0).

    The other model describes the crystal seen where the plate is normal to the beam, at phi_0. The
    rotation axis lies in the plane of the plate and is normal to the beam; an inclination of the
    plate along the axis would only change the thickness by a constant factor. The refined number is
    phi_0 in radians, one per experiment; it starts at 0, the goniometer's zero.
    """

    def __init__(self, flat: ThicknessModel, n_experiments: int = 1) -> None:
        """flat: the model of the crystal seen along the plate's normal."""
        super().__init__()
        self.flat = flat
        self.angle = torch.nn.Parameter(torch.zeros(n_experiments, dtype=torch.float64))

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        flat = self.flat(experiment, phi)
        path = _path(torch.deg2rad(phi) - self.angle[experiment])
        return ThicknessDistribution(flat.thickness * path[:, None], flat.weight)

    def prior_residuals(self) -> torch.Tensor:
        own = self.angle / math.radians(_EXPECTED_ANGLE)
        return torch.cat([own, self.flat.prior_residuals()])


def mean_path(phi_ranges: Sequence[tuple[float, float]]) -> float:
    """Mean over the scans (degrees) of the path through a plate that is flat at 0, of thickness 1."""
    angles = np.concatenate([np.linspace(first, last, 1001) for first, last in phi_ranges])
    return float(_path(torch.from_numpy(np.radians(angles))).mean())
