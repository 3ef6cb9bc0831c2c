"""The windows of the observations, where turns of the crystals about their rotation axes move them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.scan import ScanGeometry

#: (experiment (B,), phi (B, n)) -> rotation vectors (B, n, 3) in radians
_Rotation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ObservationWindows:
    """The windows of P pairs of an observation and a block, in the order of the batches."""

    def __init__(self, scans: Sequence[ScanGeometry], batches: Sequence[BlockBatch]) -> None:
        observation = torch.cat([batch.pair_observation for batch in batches])
        distinct, self._window_of = torch.unique(observation, return_inverse=True)
        pairs = torch.zeros(len(distinct), dtype=torch.int64)
        pairs[self._window_of] = torch.arange(len(observation))
        self._windows = torch.cat([batch.pair_window for batch in batches])[pairs]
        experiment = torch.cat([batch.experiment[batch.pair_block] for batch in batches])
        self._experiment = experiment[pairs]
        self._counts = [len(batch.pair_block) for batch in batches]
        axes = np.zeros((len(distinct), 3))
        for i in {int(b.experiment[0]) for b in batches if b.edges is not None}:
            mine = (self._experiment == i).numpy()
            axes[mine] = scans[i].rotation_axes(self._windows.mean(1).numpy()[mine])
        self._axes = torch.from_numpy(axes)

    def turns(self, rotation: _Rotation) -> torch.Tensor:
        """Degrees (P,) by which the windows of the pairs move: the turn about the axis at their middle."""
        vectors = rotation(self._experiment, self._windows.mean(1, keepdim=True))[:, 0]
        turns = (vectors * self._axes).sum(-1) * (180 / math.pi)
        return turns[self._window_of]

    def moved(self, turns: torch.Tensor) -> list[torch.Tensor]:
        """For each batch first and last angles (P, 2) in degrees of the windows, detached."""
        moved = self._windows[self._window_of] + turns.detach()[:, None]
        return list(moved.split(self._counts))

    def places(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Place (P,) of the window of each pair; experiment (q,) and middle angle (q,) in degrees of each
        place, to a tenth of a degree."""
        tenths = (10 * self._windows.mean(1)).round().long()
        keys = torch.stack([self._experiment, tenths], dim=1)
        places, index = torch.unique(keys, dim=0, return_inverse=True)
        return index[self._window_of], places[:, 0], places[:, 1] / 10


def weights_in(batch: BlockBatch, window: torch.Tensor) -> torch.Tensor:
    """Degrees (P, n) that tilts count in the windows (P, 2) of the pairs."""
    return batch.pair_weight if batch.edges is None else batch.edges.weights(window)


def over_windows(curves: torch.Tensor, batch: BlockBatch, window: torch.Tensor) -> torch.Tensor:
    """Integrals of rocking curves (B, R, n) over windows (P, 2) of the pairs; shape (P, 2): each with its
    derivative, detached, by a turn that moves the window, 1/degree."""
    curve = curves[batch.pair_block, batch.pair_row]
    integral = (curve * weights_in(batch, window)).sum(-1)
    if batch.edges is None:
        slope = torch.zeros_like(integral)
    else:
        slope = (curve.detach() * batch.edges.slopes(window)).sum(-1)
    return torch.stack([integral, slope], dim=1)
