"""A crystal of blocks that are a little turned against each other."""

from __future__ import annotations

import math

import torch

#: corners of a tetrahedron: four equal weights with the mean and covariance of a normal
#: distribution of unit width in three dimensions (a cubature rule of degree 2)
_CORNERS = torch.tensor(
    [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64
)  # fmt: skip


class Mosaicity(torch.nn.Module):
    """Isotropic spread of orientations of blocks that each are as thick as the crystal, one width for
    each crystal.

    The blocks' intensities are added, not their waves.

    The refined number is the logarithm of the width, with a broad prior around where it starts:
    data do not tell small widths from none.
    """

    #: prior standard deviation of the logarithm
    _PRIOR = 1.5

    def __init__(self, width: float = 0.05, n_experiments: int = 1) -> None:
        """width: starting value: standard deviation of the turn about any axis, in degrees."""
        super().__init__()
        self._start = math.log(width)
        start = torch.full((n_experiments,), self._start, dtype=torch.float64)
        self.log_width = torch.nn.Parameter(start)

    @property
    def width(self) -> torch.Tensor:
        """Standard deviations of the turn about any axis in degrees, of each crystal."""
        return self.log_width.exp()

    def forward(self, experiment: int = 0) -> torch.Tensor:
        """Rotation vectors (4, 3) of blocks of equal volume of a crystal, in radians."""
        return self.width[experiment] * (torch.pi / 180) * _CORNERS

    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
        return (self.log_width - self._start) / self._PRIOR
