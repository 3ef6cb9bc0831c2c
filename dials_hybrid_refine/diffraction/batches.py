"""Blocks of like size padded to one shape, so that their matrix products run together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.block_size import PRODUCT_OVERHEAD
from dials_hybrid_refine.diffraction.blocks import BeamBlock
from dials_hybrid_refine.diffraction.geometry import BeamGeometry
from dials_hybrid_refine.diffraction.window_edges import WindowEdges

#: matrices and two Chebyshev vectors of this many bytes stay in a processor core's cache
_TARGET_BYTES = {"cpu": 1_500_000, "cuda": 500_000_000}

#: batches that there are at least, where there are enough blocks: with fewer some threads or processes
#: would have much more to do than others. On the CPU whatever the number of processes, as the round-off of a
#: block depends on the others of its batch
_FEWEST_BATCHES = {"cpu": 6, "cuda": 4}


@dataclass(frozen=True)
class BlockBatch:
    """B blocks of n tilts of one experiment, padded to N beams and R observed beams.

    Attributes:
        block: shape (B,), positions in the list of blocks.
        experiment, phi_centre: shape (B,); the experiment is the same in all.
        phi: shape (B, n), degrees.
        bases: shape (B, n, 3, 3), 1/Angstrom, without orientation correction.
        axes: shape (B, n, 3), turns about which move windows, or zero.
        geometry: the beams (padded with 000, which is off there).
        differences: table of all differences g-h; beam_keys: shape (B, N), for its lookup.
        n_rows: R.
        pair_block: shape (P,), block of each pair, 0 to B-1 in the batch.
        pair_row: shape (P,), 0 to R-1. pair_observation, pair_segment: shape (P,).
        pair_weight: shape (P, n), degrees of the window around each tilt, when the blocks were planned.
        pair_window: shape (P, 2), first and last angle of the window in degrees, not moved.
        edges: how weights follow windows that move; None: they do not.
    """

    block: torch.Tensor
    experiment: torch.Tensor
    phi_centre: torch.Tensor
    phi: torch.Tensor
    bases: torch.Tensor
    axes: torch.Tensor
    geometry: BeamGeometry
    differences: DifferenceTable
    beam_keys: torch.Tensor
    n_rows: int
    pair_block: torch.Tensor
    pair_row: torch.Tensor
    pair_observation: torch.Tensor
    pair_segment: torch.Tensor
    pair_weight: torch.Tensor
    pair_window: torch.Tensor
    edges: WindowEdges | None

    @property
    def cost(self) -> float:
        """Predicted time in arbitrary units: of a term of the expansion (``block_size``)."""
        n_blocks, n_beams = self.beam_keys.shape
        return float(n_blocks * n_beams**2 * (self.phi.shape[1] + PRODUCT_OVERHEAD))

    def coupling_index(self) -> torch.Tensor:
        """Where U_(g-h) stands in the table of differences: shape (B, N, N), int64.

        Made when needed: for many beams it is larger than all else.
        """
        return self.differences.index_of_differences(self.beam_keys)


class DifferenceTable:
    """The unique differences g-h between the beams of each block, and where they stand.

    ``hkl`` (n, 3) starts with 000.
    """

    def __init__(self, blocks: Sequence[BeamBlock], extra: NDArray[np.int64]) -> None:
        """extra: shape (m, 3), further reflections to be included."""
        reach = np.array([np.ptp(block.hkl, axis=0) for block in blocks]).max(axis=0)
        self._reach = np.maximum(reach, np.abs(extra).max(axis=0, initial=0))
        self._shape = 2 * self._reach + 1
        present = np.zeros(int(self._shape.prod()), dtype=bool)
        present[self._keys(np.zeros((1, 3), dtype=np.int64))] = True
        present[self._keys(extra)] = True
        for block in blocks:
            present[self._keys(block.hkl[:, None] - block.hkl[None]).ravel()] = True
        keys = np.flatnonzero(present)
        hkl = np.stack(np.unravel_index(keys, self._shape), axis=-1) - self._reach
        origin = np.flatnonzero((hkl == 0).all(axis=1))[0]
        self.hkl: NDArray[np.int64] = np.concatenate(
            [hkl[[origin]], np.delete(hkl, origin, axis=0)]
        )
        self._position = np.full(len(present), -1, dtype=np.int32)
        self._position[self._keys(self.hkl)] = np.arange(len(self.hkl))
        self._lookup = torch.from_numpy(self._position)
        self._origin = int(self._keys(np.zeros(3, dtype=np.int64)))

    def _keys(self, hkl: NDArray[np.int64]) -> NDArray[np.int64]:
        shifted = hkl + self._reach
        return np.asarray(
            (shifted[..., 0] * self._shape[1] + shifted[..., 1]) * self._shape[2] + shifted[..., 2]
        )

    def positions(self, hkl: NDArray[np.int64]) -> NDArray[np.int32]:
        """Position of each of hkl (..., 3) in ``self.hkl``."""
        return np.asarray(self._position[self._keys(hkl)])

    def beam_keys(self, hkl: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of beams (..., 3) whose differences tell the position of their difference."""
        return np.asarray(
            (hkl[..., 0] * self._shape[1] + hkl[..., 1]) * self._shape[2] + hkl[..., 2]
        )

    def index_of_differences(self, keys: torch.Tensor) -> torch.Tensor:
        """Positions (..., N, N) of g-h in ``self.hkl``, int64, for keys (..., N) of beams."""
        index = keys[..., :, None] - keys[..., None, :]
        index += self._origin
        return self._lookup.to(keys.device)[index].long()


def _pad(arrays: Sequence[NDArray], shape: tuple[int, ...]) -> NDArray:
    padded = np.zeros((len(arrays), *shape), dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays):
        row[tuple(slice(n) for n in array.shape)] = array
    return padded


def _make_batch(
    positions: Sequence[int],
    blocks: Sequence[BeamBlock],
    table: DifferenceTable,
    directions: NDArray[np.float64],
) -> BlockBatch:
    chosen = [blocks[i] for i in positions]
    n_beams = max(len(b.hkl) for b in chosen)
    n_tilts = len(chosen[0].phi)
    n_rows = max(b.n_rows for b in chosen)
    # a block with fewer observed beams lets unobserved ones fill the rows up to n_rows

    def tensor(array: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    hkl = _pad([b.hkl for b in chosen], (n_beams, 3))
    phi = np.stack([b.phi for b in chosen])
    pair_block = np.repeat(np.arange(len(chosen)), [len(b.pair_row) for b in chosen])
    width = chosen[0].cell_width
    edges = None
    if width is not None:
        edges = WindowEdges(
            tensor(pair_block),
            tensor(phi),
            width,
            tensor(np.concatenate([b.pair_counts for b in chosen])),
            tensor(np.array([b.is_first for b in chosen])),
            tensor(np.array([b.is_last for b in chosen])),
        )
    experiment = np.array([b.experiment for b in chosen], dtype=np.int64)
    direction = tensor(directions[experiment])
    return BlockBatch(
        block=tensor(np.array(positions, dtype=np.int64)),
        experiment=tensor(experiment),
        phi_centre=tensor(np.array([b.phi_centre for b in chosen])),
        phi=tensor(phi),
        bases=tensor(np.stack([b.bases for b in chosen])),
        axes=tensor(np.stack([b.axes for b in chosen])),
        # the surface is taken normal to the beam
        geometry=BeamGeometry(
            hkl=tensor(hkl.astype(float)),
            active=tensor(_pad([b.active for b in chosen], (n_beams, n_tilts))),
            direction=direction,
            normal=direction,
        ),
        differences=table,
        beam_keys=tensor(table.beam_keys(hkl)),
        n_rows=n_rows,
        pair_block=tensor(pair_block),
        pair_row=tensor(np.concatenate([b.pair_row for b in chosen]) - 1),
        pair_observation=tensor(np.concatenate([b.pair_observation for b in chosen])),
        pair_segment=tensor(np.concatenate([b.pair_segment for b in chosen])),
        pair_weight=tensor(np.concatenate([b.pair_weight for b in chosen])),
        pair_window=tensor(np.concatenate([b.pair_window for b in chosen])),
        edges=edges,
    )


def make_batches(
    blocks: Sequence[BeamBlock],
    table: DifferenceTable,
    directions: NDArray[np.float64],
    is_real: bool,
    device: str = "cpu",
    n_processes: int = 1,
) -> list[BlockBatch]:
    """Group blocks of like size, with little padding; large batches first.

    Blocks without a beam that is observed while on are left out (they add nothing). A batch holds blocks
    of one experiment, so that what differs between crystals and beams is one number in it.

    Args:
        directions: shape (n_experiments, 3), unit vectors along s0.
        is_real: whether the potential is real (its matrices are smaller then).
        device: decides how large a batch should be.
        n_processes: that share them.
    """
    order = sorted(
        (i for i, block in enumerate(blocks) if block.n_rows),
        key=lambda i: (-blocks[i].experiment, len(blocks[i].phi), len(blocks[i].hkl)),
        reverse=True,
    )
    n_parts = 1 if is_real else 2
    kind = "cpu" if device == "cpu" else "cuda"
    n_fewest = _FEWEST_BATCHES[kind] * (1 if kind == "cpu" else n_processes)

    def size(block: BeamBlock) -> int:
        width = n_parts * len(block.hkl)
        return 4 * width * (width + 2 * len(block.phi))

    largest = min(_TARGET_BYTES[kind], sum(size(blocks[i]) for i in order) / n_fewest)

    groups: list[list[int]] = []
    for i in order:
        if groups:
            first = blocks[groups[-1][0]]
            room = (len(groups[-1]) + 1) * size(first) <= largest
            like = len(blocks[i].hkl) > 0.9 * len(first.hkl)
            same = blocks[i].experiment == first.experiment
            if same and room and like and len(blocks[i].phi) == len(first.phi):
                groups[-1].append(i)
                continue
        groups.append([i])
    return [_make_batch(group, blocks, table, directions) for group in groups]
