"""Reflections set aside to show whether the fit is honest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def choose_held_out(
    unique_index: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Mask (n,) of at least ``fraction`` of the reflections, equivalents always together.

    Unique reflections are drawn at random until the share is reached: the same seed gives the
    same choice.
    """
    chosen = np.zeros(len(unique_index), dtype=bool)
    if fraction <= 0:
        return chosen
    groups = np.random.default_rng(seed).permutation(np.unique(unique_index))
    sizes = {group: int((unique_index == group).sum()) for group in groups}
    wanted = fraction * len(unique_index)
    taken: list[int] = []
    for group in groups:
        if sum(sizes[g] for g in taken) >= wanted:
            break
        taken.append(group)
    return np.asarray(np.isin(unique_index, taken))
