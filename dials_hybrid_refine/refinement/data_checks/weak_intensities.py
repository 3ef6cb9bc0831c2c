"""Whether negative intensities are as rare and as small as their sigmas say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, SIGMAS, Finding

#: median of |z| of a standard normal variable z, and the s.d. of its estimate times sqrt(n) over itself
HALF_NORMAL_MEDIAN = 0.6745
MEDIAN_ERROR = 1.17

#: sigmas that are too small by less do little harm
_NOTABLE = 1.5

#: fewest negative intensities that tell something
_LEAST = 20


def negative_intensities(observations: Observations) -> Finding | None:
    """Whether weak reflections scatter by more than sigma, on the negative side.

    True intensities are not negative. Where they are zero, the sizes of negative measurements in units
    of sigma follow a half-normal distribution, whose median is 0.67, and the better half is positive; where
    they are not, negative measurements are smaller and fewer. Larger or more of them mean that sigma
    is too small, or the background too high.
    """
    z = observations.intensity / observations.sigma
    size = -z[z < 0]
    if len(size) < _LEAST:
        return None
    factor, su = _factor(size)
    values = {"sigma_factor": factor, "su": su, "n_negative": len(size)}
    if factor - SIGMAS * su > _NOTABLE:
        other = "integrate with other models of background and profile, or try the other intensity="
        return Finding(
            "negative_intensities",
            "warning",
            f"the sigmas of weak reflections are too small by a factor of {factor:.1f} or more, or their "
            f"background is too high: {len(size)} of {len(z)} intensities are negative, half of them "
            f"below {np.median(-size):.1f} sigma where -0.7 is possible: {other} (profile or sum)",
            values,
        )
    if len(size) > binom.isf(CHANCE, len(z), 0.5):
        return Finding(
            "negative_intensities",
            "warning",
            f"{len(size)} of {len(z)} intensities are negative, more than half: the background was "
            "taken too high: integrate with another background model",
            values,
        )
    return None


def _factor(size: NDArray[np.float64]) -> tuple[float, float]:
    factor = float(np.median(size)) / HALF_NORMAL_MEDIAN
    return factor, MEDIAN_ERROR * factor / float(np.sqrt(len(size)))
