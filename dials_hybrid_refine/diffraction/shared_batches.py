"""Batches that the processes of a calculation share out among themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.ranks import Ranks, gather


class SharedBatches:
    """All batches, those among them that this process calculates, and how results are put together.

    A value is calculated by one process, so that it does not depend on their number.
    """

    def __init__(self, batches: Sequence[BlockBatch], ranks: Ranks) -> None:
        self._ranks = ranks
        #: of those that this process calculates
        self.positions = ranks.share([batch.cost for batch in batches])

    def gather(
        self,
        calculate: Callable[[], Sequence[torch.Tensor]],
        lengths: Sequence[int],
        width: Sequence[int] = (),
    ) -> list[torch.Tensor]:
        """For each of all batches the tensor (length, *width), float64, that its process makes.

        Args:
            calculate: makes those at ``positions``; what follows them should be empty, and is only joined to
                what is differentiated.
            lengths: of all batches.

        Raises:
            ArithmeticError: in all processes, if ``calculate`` raises it or MemoryError in any of them;
                there what it has raised.
            ProcessLost: if a process has ended or does not answer.
        """
        if self._ranks.size == 1:
            return list(calculate())[: len(lengths)]
        own = [torch.zeros((0, *width), dtype=torch.float64)]
        places = torch.arange(sum(lengths)).split(list(lengths))
        where = torch.cat([torch.zeros(0, dtype=torch.int64), *(places[i] for i in self.positions)])
        failure: ArithmeticError | MemoryError | None = None
        try:
            own += calculate()
        except (ArithmeticError, MemoryError) as error:
            failure, where = error, where[:0]
        joined = gather(torch.cat(own), where, sum(lengths), self._ranks, failure)
        return list(joined.split(list(lengths)))
