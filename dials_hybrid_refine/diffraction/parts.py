"""What integrated intensities are made of, for effects that change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.blocks import BeamBlock


@dataclass(frozen=True)
class IntensityParts:
    """P parts of integrated intensities: each is what one block and one segment of rotation add.

    A window that lies in several blocks or segments makes several parts; where the beam is far
    from the Ewald sphere, a part (its kinematical tail) of its own.

    Attributes:
        observation: shape (P,), which reflection; its intensity is the sum of its parts, each times
            the scale of its segment.
        experiment: shape (P,).
        hkl: shape (P, 3), int64.
        phi: shape (P,), degrees: the middle of the part of the window, moved where the orientation is corrected
            about the rotation axis; for tails that of the segment.
        reciprocal_vector: shape (P, 3), g at that angle in the laboratory frame, 1/Angstrom, without
            orientation correction.
        share: shape (P,), how much of the simulated rotation this part is; sums to 1 for each
            reflection, so that what is added to an intensity can be shared out among its parts.
    """

    observation: torch.Tensor
    experiment: torch.Tensor
    hkl: torch.Tensor
    phi: torch.Tensor
    reciprocal_vector: torch.Tensor
    share: torch.Tensor


def intensity_parts(
    batches: Sequence[BlockBatch],
    blocks: Sequence[BeamBlock],
    segment_phi: Sequence[NDArray[np.float64]],
) -> IntensityParts:
    """The parts in the simulator's order: pairs of all batches, then the tails of all blocks.

    Args:
        segment_phi: middle of each segment of each experiment, degrees.
    """
    columns = [_of_pairs(batch) for batch in batches]
    columns += [_of_tails(block, segment_phi[block.experiment]) for block in blocks]
    observation, experiment, hkl, phi, vectors, width = (torch.cat(c) for c in zip(*columns))
    return IntensityParts(observation, experiment, hkl, phi, vectors, _shares(observation, width))


def _of_pairs(batch: BlockBatch) -> tuple[torch.Tensor, ...]:
    block = batch.pair_block
    hkl = batch.geometry.hkl[block, 1 + batch.pair_row].cpu()
    width = batch.pair_weight.sum(-1)
    # of a window that only nearly reaches the block the middle of the block
    weight = torch.where(width[:, None] > 0, batch.pair_weight, 1.0)
    phi = (weight * batch.phi[block]).sum(-1) / weight.sum(-1)
    nearest = (batch.phi[block] - phi[:, None]).abs().argmin(-1)
    vectors = torch.einsum("pij,pj->pi", batch.bases[block, nearest], hkl)
    return batch.pair_observation, batch.experiment[block], hkl.long(), phi, vectors, width


def _of_tails(block: BeamBlock, segment_phi: NDArray[np.float64]) -> tuple[torch.Tensor, ...]:
    phi = np.clip(segment_phi[block.tail_segment], block.phi[0], block.phi[-1])
    nearest = np.abs(block.phi - phi[:, None]).argmin(-1)
    vectors = np.einsum("pij,pj->pi", block.bases[nearest], block.tail_hkl)
    experiment = np.full(len(phi), block.experiment)
    columns = (block.tail_observation, experiment, block.tail_hkl, phi, vectors, np.zeros(len(phi)))
    return tuple(torch.from_numpy(column) for column in columns)


def _shares(observation: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Widths (P,) over their sums for each observation; equal where all are zero."""

    def total(values: torch.Tensor) -> torch.Tensor:
        n = int(observation.max()) + 1
        return torch.zeros(n, dtype=values.dtype).index_add_(0, observation, values)[observation]

    width = torch.where(total(width) > 0, width, 1.0)
    return width / total(width)


def directional_derivative(
    function: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor, direction: torch.Tensor
) -> torch.Tensor:
    """d function(point + x direction) / dx at x = 0, of the shape of the function's values.

    Central differences: exact, but for round-off, for linear functions. Intensities are at most 1,
    which makes the error of others about the square of the step.
    """
    step = 1e-4
    sides = [function(point + sign * step * direction) for sign in (1, -1)]
    return (sides[0] - sides[1]) / (2 * step)
