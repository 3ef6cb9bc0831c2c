"""Whether one measurement is in the data more than once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import poisson

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, Finding
from dials_hybrid_refine.refinement.data_checks.passages import Passages

#: I / sigma(I) above which equal numbers are not just small rounded ones
_STRONG = 10.0
#: share of the reflections that must be concerned
_SHARE = 0.01


def repeated_rows(n_repeated: int) -> Finding | None:
    """Rows of the file that name the same reflection at the same angle; they were left out."""
    if n_repeated == 0:
        return None
    return Finding(
        "repeated_rows",
        "note",
        f"{n_repeated} reflections occur again in the file, at the same angle: the first of each was "
        "used: check whether files were joined that hold the same images",
        {"n": n_repeated},
    )


def repeated_passages(observations: Observations, passing: Passages) -> Finding | None:
    """Passages that were integrated twice, at angles that differ a little.

    A reflection passes the sphere once in each sense in a turn: two measurements of the same index
    and sense whose windows share more than half of the shorter one are of the same photons.
    """
    sense = (passing.speed > 0).astype(np.int64)
    keys = (observations.phi, sense, *observations.hkl.T, observations.experiment)
    order = np.lexsort(keys)
    start, end = observations.phi_start[order], observations.phi_end[order]
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for key in keys[1:]:
        same &= np.diff(key[order]) == 0
    shared = np.minimum(end[1:], end[:-1]) - np.maximum(start[1:], start[:-1])
    shorter = np.minimum(end[1:] - start[1:], end[:-1] - start[:-1])
    n = int((same & (shared > 0.5 * shorter)).sum())
    if n <= _SHARE * len(observations):
        return None
    return Finding(
        "repeated_passages",
        "warning",
        f"{n} of {len(observations)} measurements repeat another one, over the same range of rotation: they "
        "count twice, and standard uncertainties come out too small: give each measurement once",
        {"n": n},
    )


def equal_intensities(observations: Observations) -> Finding | None:
    """Strong equivalents with the very same intensity and sigma: copies, or merged data.

    How often two numbers agree by chance is seen from pairs that are not equivalent.
    """
    strong = observations.select(observations.intensity > _STRONG * observations.sigma)
    n = len(strong)
    values = np.stack([strong.intensity, strong.sigma], axis=1)
    _, value = np.unique(values, axis=0, return_inverse=True)
    equal = _pairs(value)
    both = np.stack([value.reshape(-1), strong.unique_index], axis=1)
    _, same = np.unique(both, axis=0, return_inverse=True)
    equivalent, found = _pairs(strong.unique_index), _pairs(same.reshape(-1))
    others = n * (n - 1) / 2 - equivalent
    expected = equivalent * (equal - found) / others if others > 0 else 0.0
    # one pair more, so that the rate is not zero where no pair agrees
    rate = expected + equivalent / max(others, 1.0)
    # numbers that are rounded so much that others agree more often than equivalents tell nothing
    copied = found > max(_SHARE * n, equal - found)
    if not copied or poisson.sf(found - 1, rate) > CHANCE:
        return None
    return Finding(
        "equal_intensities",
        "warning",
        f"{found} pairs of equivalent reflections have the very same intensity and sigma, where "
        f"{expected:.1f} are expected: they are copies, or were merged: give the unmerged data, each "
        "measurement once",
        {"n": found, "expected": expected},
    )


def _pairs(labels: NDArray[np.int64]) -> int:
    """Number of pairs with the same label (n,)."""
    _, counts = np.unique(labels, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())
