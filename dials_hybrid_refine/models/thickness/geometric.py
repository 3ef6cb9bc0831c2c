"""Crystals of a known shape: the distribution within an angle has one free number, its maximum.

A shape states the fraction F of the illuminated area that is thinner than tau times the maximum
thickness. At quantiles x of that fraction the thickness is t_max tau(x), tau being the inverse of F.

* Wedge: thickness grows evenly from an edge, F = tau.
* Cylinder, its axis perpendicular to the beam, illuminated over its whole width: at a distance x
  (in radii) from the axis the chord is tau = (1 - x^2)^(1/2), so that F = 1 - (1 - tau^2)^(1/2). This
  is the example of ``_refine_ls.sample_shape_expression`` in the core CIF dictionary, which refers to
  Palatinus, Petricek & Correa (2015), Acta Cryst. A71, 235.
* Lens: two caps of a sphere of radius R that meet at the rim, at the angle a from the axis, seen along
  the axis. At the distance r from it tau (1 - cos a) = (1 - r^2/R^2)^(1/2) - cos a, the area within r is
  r^2 / (R sin a)^2, and with q = cos a

      F = (2 q tau + (1 - q) tau^2) / (1 + q).

  A shallow lens (q = 1) gives F = tau and cannot be told from a wedge; the other end, q = 0, where the
  caps are halves of a sphere, gives F = tau^2. That is what is offered: as stretching and shearing
  along the beam and across leave F as it is, it is the distribution of every ellipsoid, such as a
  lens-like flat one, seen from any direction. It is derived from this geometry alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dials_hybrid_refine.models.thickness.base import (
    ThicknessDistribution,
    ThicknessModel,
    each_logarithm,
)


@dataclass(frozen=True)
class Shape:
    """A crystal's shape.

    Attributes:
        quantile: tau(x), the inverse of F, of arrays between 0 and 1.
        mean: mean of tau.
    """

    quantile: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    mean: float


SHAPES = {
    "wedge": Shape(lambda x: x, 1 / 2),
    "cylinder": Shape(lambda x: np.sqrt(x * (2 - x)), math.pi / 4),
    "lens": Shape(np.sqrt, 2 / 3),
}


class GeometricThickness(ThicknessModel):
    """A distribution of fixed shape, scaled by a maximum thickness for each experiment.

    The refined number is the logarithm of the maximum thickness. Nodes are the thicknesses at
    Gauss-Legendre points of F: their weights are constants.
    """

    tau: torch.Tensor
    weight: torch.Tensor

    def __init__(self, shape: str, mean: ArrayLike, n_nodes: int, n_experiments: int = 1) -> None:
        """
        Args:
            shape: one of ``SHAPES``.
            mean: starting value of the mean thickness in Angstrom, one or one for each experiment.
            n_nodes: number of nodes. Intensities that oscillate with thickness are integrated
                where the period is at least pi times the maximum thickness over this number.
        """
        super().__init__()
        points, weights = np.polynomial.legendre.leggauss(n_nodes)
        self.register_buffer("tau", torch.from_numpy(SHAPES[shape].quantile((1 + points) / 2)))
        self.register_buffer("weight", torch.from_numpy(weights / weights.sum()))
        largest = np.asarray(mean, dtype=float) / SHAPES[shape].mean
        self.log_maximum = torch.nn.Parameter(each_logarithm(largest, n_experiments))

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> ThicknessDistribution:
        thickness = self.log_maximum[experiment].exp()[:, None] * self.tau
        return ThicknessDistribution(thickness, self.weight.expand_as(thickness))
