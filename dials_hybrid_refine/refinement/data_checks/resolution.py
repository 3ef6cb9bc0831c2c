"""Reflections beyond what the calculation reaches, or beyond what the crystal shows."""

from __future__ import annotations

import numpy as np

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, SIGMAS, Finding
from dials_hybrid_refine.refinement.data_checks.passages import Passages

#: reflections in a shell, at least, and number of shells at most
_LEAST, _SHELLS = 50, 20
#: share of the data that is worth a note
_SHARE = 0.2


def beyond_beams(
    observations: Observations, passing: Passages, g_max: float | None
) -> Finding | None:
    """Reflections whose beams a given ``beams.g_max`` leaves out: nothing is calculated for them."""
    if g_max is None:
        return None
    n = int((passing.inverse_d > g_max).sum())
    if n == 0:
        return None
    d = 1 / float(passing.inverse_d.max())
    return Finding(
        "beyond_beams",
        "warning",
        f"{n} of {len(observations)} reflections lie beyond beams.g_max={g_max:g}, where nothing is "
        f"calculated: leave beams.g_max at Auto or give {1.15 / d:.2f}, or d_min={1 / g_max:.2f} "
        "to leave them out",
        {"n": n, "d_min": d},
    )


def empty_shells(observations: Observations, passing: Passages) -> Finding | None:
    """The outer part of reciprocal space, if there is nothing in it but noise.

    In shells of equal numbers, sum(I/sigma) / sqrt(n) is a standard normal variable where intensities are
    zero. Shells count as empty from the outside until one exceeds that by ``SIGMAS``.
    """
    order = np.argsort(-passing.inverse_d, kind="stable")
    size = max(_LEAST, len(order) // _SHELLS)
    z = (observations.intensity / observations.sigma)[order]
    empty = 0
    while empty + size <= len(order):
        if z[empty : empty + size].sum() / size**0.5 > SIGMAS:
            break
        empty += size
    if empty < max(_SHARE * len(order), 2 * size):
        return None
    edge = 1 / float(passing.inverse_d[order[min(empty, len(order) - 1)]])
    return Finding(
        "empty_shells",
        "note",
        f"the {empty} reflections beyond {edge:.2f} Angstrom ({100 * empty / len(order):.0f} % of the data) "
        f"hold no signal that noise would not show with a probability of {CHANCE:g}: d_min={edge:.2f} saves "
        "their time and loses nothing",
        {"n": empty, "d_min": edge},
    )
