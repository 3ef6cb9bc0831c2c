"""Reflections set aside to show whether the fit is honest.

Unique reflections show whether the structure is; whole stretches of the scan whether what
depends on the rotation angle, thickness and orientation, is.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def scan_stretches(
    experiment: NDArray[np.int64],
    phi: NDArray[np.float64],
    phi_ranges: Sequence[tuple[float, float]],
    width: float,
) -> NDArray[np.int64]:
    """Number (n,) of the stretch of the scan each observation lies in.

    Args:
        experiment, phi: shape (n,); phi in degrees.
        phi_ranges: first and last angle of each experiment in degrees.
        width: about that of a stretch in degrees; scans are divided evenly.
    """
    stretch = np.zeros(len(phi), dtype=np.int64)
    offset = 0
    for i, (first, last) in enumerate(phi_ranges):
        n = max(1, round((last - first) / width))
        number = np.floor((phi - first) / (last - first) * n).astype(np.int64)
        stretch = np.where(experiment == i, offset + np.clip(number, 0, n - 1), stretch)
        offset += n
    return stretch


#: fewest stretches with data from which some can be set aside
_FEWEST_STRETCHES = 3


def choose_held_out_stretches(
    stretch: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Mask (n,) of at least ``fraction`` of the reflections, those of a stretch always together.

    Raises:
        ValueError: if there are too few stretches to choose from.
    """
    n = len(np.unique(stretch))
    if fraction > 0 and n < _FEWEST_STRETCHES:
        raise ValueError(
            f"held_out.by=frames: only {n} stretches of the scan hold reflections: make "
            "held_out.frame_width smaller"
        )
    return choose_held_out(stretch, fraction, seed)


def with_own_scales(
    calculated: NDArray[np.float64],
    intensity: NDArray[np.float64],
    weight: NDArray[np.float64],
    stretch: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Calculated intensities (n,), those of each stretch times one factor that fits them best.

    No data determine the scale of a stretch that is held out. The factor is
    sum w I_o I_c / sum w I_c^2, not below zero.

    Args:
        calculated, intensity, weight: shape (n,).
        stretch: shape (n,), number of the stretch, or -1 for reflections that stay as they are.
    """
    scaled = calculated.copy()
    for number in np.unique(stretch[stretch >= 0]):
        inside = stretch == number
        normal = (weight * calculated**2)[inside].sum()
        if normal > 0:
            factor = (weight * intensity * calculated)[inside].sum() / normal
            scaled[inside] *= max(0.0, float(factor))
    return scaled
