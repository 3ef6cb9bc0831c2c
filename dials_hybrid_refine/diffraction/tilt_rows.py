"""The tilts at which rocking curves are calculated, and what each counts in each window.

Continuous rotation: the integral over a window is a sum over cells of rotation around the tilts,
each weighted with the part of the cell that lies inside the window (midpoint rule: no end points
to weight). Rotation in steps: the sum over the steps, all alike, the first and last at the ends of
the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations

#: degrees by which windows may move before rows are made anew: more than a step of a refinement turns a crystal by
_MARGIN = 0.1


@dataclass(frozen=True)
class TiltRow:
    """n tilts of a block and the k observations whose windows they sample.

    Attributes:
        phi: shape (n,), degrees.
        members: shape (k,), indices of observations; with those whose windows nearly reach it.
        weights: shape (k, n), degrees of each window that a tilt stands for.
        cell_width: degrees of rotation that each tilt stands for; None: steps.
    """

    phi: NDArray[np.float64]
    members: NDArray[np.int64]
    weights: NDArray[np.float64]
    cell_width: float | None = None


def window_weights(
    phi: NDArray[np.float64],
    cell_width: float,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Degrees of each cell phi +- cell_width/2 inside each window; shape (windows, tilts)."""
    low = np.maximum(phi - cell_width / 2, start[:, None])
    high = np.minimum(phi + cell_width / 2, end[:, None])
    return np.clip(high - low, 0, None)


def continuous_rows(
    phi_range: tuple[float, float],
    members: NDArray[np.int64],
    windows: NDArray[np.float64],
    selection: BeamSelection,
    n_tilts: int,
) -> Iterator[TiltRow]:
    """Evenly spaced tilts over a whole scan.

    Args:
        phi_range: first and last angle of the scan, degrees.
        members: indices (k,) of the observations of this scan.
        windows: shape (k, 2), where their windows begin and end, degrees.
        n_tilts: of each row, where ``selection`` does not say how wide blocks are.
    """
    first, last = phi_range
    if selection.block_width is None:
        n_rows = _at_least((last - first) / (n_tilts * selection.tilt_step))
    else:
        n_rows = max(1, round((last - first) / selection.block_width))
        n_tilts = _at_least((last - first) / (n_rows * selection.tilt_step))
    width = (last - first) / (n_rows * n_tilts)
    tilts = first + (np.arange(n_rows * n_tilts) + 0.5) * width
    start, end = windows.T
    reach = width / 2 + _MARGIN
    for i, phi in enumerate(tilts.reshape(n_rows, n_tilts)):
        # windows that have moved out of the scan belong to the rows at its ends
        low = phi[0] - reach if i > 0 else -np.inf
        high = phi[-1] + reach if i < n_rows - 1 else np.inf
        near = (end > low) & (start < high)
        weights = window_weights(phi, width, start[near], end[near])
        yield TiltRow(phi, members[near], weights, width)


def stepped_rows(
    observations: Observations, members: NDArray[np.int64], n_steps: int, n_tilts: int
) -> Iterator[TiltRow]:
    """The steps of each distinct window, in rows of about ``n_tilts``.

    Rows are of one length; what a window's last row lacks is filled with tilts that count nothing.

    Args:
        members: indices of the observations of a scan.
        n_steps: of each window.
    """
    n_rows = _at_least(n_steps / n_tilts)
    length = _at_least(n_steps / n_rows)
    windows = np.stack([observations.phi_start[members], observations.phi_end[members]], axis=1)
    distinct, which = np.unique(windows, axis=0, return_inverse=True)
    for i, (start, end) in enumerate(distinct):
        inside = members[which.reshape(-1) == i]
        steps = np.linspace(start, end, n_steps)
        for k in range(0, n_steps, length):
            own = steps[k : k + length]
            phi = np.concatenate([own, np.full(length - len(own), own[-1])])
            each = np.where(np.arange(length) < len(own), (end - start) / n_steps, 0.0)
            yield TiltRow(phi, inside, np.tile(each, (len(inside), 1)))


def _at_least(ratio: float) -> int:
    """The smallest whole number not below a ratio, but for round-off."""
    return max(1, int(np.ceil(ratio - 1e-6)))
