"""Weights of tilts in windows that move (``split_correction`` says why they do)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: of the width of a cell: weights are linear in where windows end, but for the ends of cells
_STEP = 1e-3


@dataclass(frozen=True)
class WindowEdges:
    """What the weights of P pairs of an observation and one of B blocks of n tilts depend on.

    Attributes:
        block: shape (P,), block of each pair.
        phi: shape (B, n), degrees. width: of the cells of rotation around the tilts.
        counts: shape (P, n), whether a cell may count: the beam is on, the segment the right one.
        is_first, is_last: shape (B,), whether no tilts are calculated before or after the block; its first or last
            cell then reaches as far as a window.
    """

    block: torch.Tensor
    phi: torch.Tensor
    width: float
    counts: torch.Tensor
    is_first: torch.Tensor
    is_last: torch.Tensor

    def weights(self, window: torch.Tensor) -> torch.Tensor:
        """Degrees (P, n) of each cell inside windows (P, 2), first and last angle in degrees."""
        low, high = self.phi - self.width / 2, self.phi + self.width / 2
        low[self.is_first, 0] = -torch.inf
        high[self.is_last, -1] = torch.inf
        inside = torch.minimum(high[self.block], window[:, 1:])
        inside -= torch.maximum(low[self.block], window[:, :1])
        return inside.clamp_min_(0).mul_(self.counts)

    def slopes(self, window: torch.Tensor) -> torch.Tensor:
        """Derivatives (P, n) of the weights by a turn that moves the windows, the mean of both senses."""
        step = _STEP * self.width
        return (self.weights(window + step) - self.weights(window - step)) / (2 * step)
