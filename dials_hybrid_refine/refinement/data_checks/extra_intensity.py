"""Whether something else diffracts, too: lattices that overlap, or ice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, Finding

_Array = NDArray[np.float64]

#: residuals above this, in robust standard deviations, are counted
_LARGE = 3.0
#: and there must be this many times as many of them
_EXCESS = 3


def extra_intensity(residual: _Array, chance: float = CHANCE) -> Finding | None:
    """More large positive residuals than negative ones.

    Errors of a model go both ways. Intensity of another lattice is only added.

    Args:
        residual: shape (n,), (I_o - I_c) in robust standard deviations.
        chance: probability of so many more positive ones if the signs are random, at most.
    """
    more, fewer = int((residual > _LARGE).sum()), int((residual < -_LARGE).sum())
    probability = binomtest(more, more + fewer, alternative="greater").pvalue if more else 1.0
    if probability > chance or more <= _EXCESS * fewer:
        return None
    return Finding(
        "extra_intensity",
        "warning",
        f"{more} reflections are far too strong and only {fewer} too weak: another crystal or ice may "
        "overlap with them; look at the images and index further lattices",
        {"n_strong": more, "n_weak": fewer},
    )
