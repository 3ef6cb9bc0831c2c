"""Processes that share the batches of a calculation: ranks of a torch.distributed group.

Every process takes the same course and holds the same model. Each propagates its own batches of blocks, and
all-reduces put the intensities and, in the backward pass, their gradients together: every process has the
gradient of the whole. What a process decides it decides by numbers that all have, bit for bit.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


class ProcessLost(RuntimeError):
    """Another process of the group has ended or does not answer in time.

    ``remedy``: what can be done, for the user.
    """

    def __init__(self, remedy: str = "start again") -> None:
        super().__init__("a process of this calculation has ended or does not answer")
        self.remedy = remedy


@dataclass(frozen=True)
class Ranks:
    """The processes of a calculation as one of them sees them; by default it is alone.

    The default group of ``torch.distributed`` must have ``size`` processes on the CPU (gloo).

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        n_on_machine: those on the same machine, and ``n_on_processors`` those that the system runs on
            the same set of processors; this one included.
        on_machine: number of this process among those on its machine, from 0.
        device: of this process' large messages, where ``group`` is.
        group: a group of its own for large messages (nccl); None: the default one.
    """

    rank: int = 0
    size: int = 1
    n_on_machine: int = 1
    n_on_processors: int = 1
    on_machine: int = 0
    device: str = "cpu"
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, costs: Sequence[float]) -> list[int]:
        """Positions of the tasks that are this process', in their order (``longest_first``)."""
        return longest_first(costs, self.size)[self.rank]

    def sum(
        self, values: torch.Tensor, failure: ArithmeticError | MemoryError | None = None
    ) -> torch.Tensor:
        """Sum over all processes of float64 values of one shape, the same bits in all of them.

        Args:
            failure: why this process could not calculate its values; None: it could.

        Raises:
            ArithmeticError: in all processes, if any of them failed; there its own error.
            ProcessLost: if one has ended or does not answer.
        """
        if self.size == 1:
            if failure is not None:
                raise failure
            return values
        failed = torch.tensor([float(failure is not None)], dtype=torch.float64)
        flat = values.detach().reshape(-1)
        if self.group is None:
            message = self._reduced(torch.cat([failed, flat]))
            failed, total = message[:1], message[1:]
        else:
            # on the CPU first: there it is noticed at once that a process is lost
            failed, total = self._reduced(failed), self._reduced_on_device(flat)
        if failed:
            raise failure or ArithmeticError("the calculation of another process failed")
        return total.reshape(values.shape)

    def first(self, values: torch.Tensor) -> torch.Tensor:
        """Those of the first process, in all of them.

        All have calculated the same; on machines with other processors the last digits may differ.

        Raises:
            ProcessLost: if one has ended or does not answer.
        """
        if self.size == 1:
            return values
        return self.sum(values if self.is_first else torch.zeros_like(values))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any of the processes.

        Raises:
            ProcessLost: if one has ended or does not answer.
        """
        if self.size == 1:
            return flag
        return bool(self._reduced(torch.tensor([float(flag)], dtype=torch.float64)))

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """The largest over all processes of each value that is not negative; infinite for NaN.

        Raises:
            ProcessLost: if one has ended or does not answer.
        """
        values = values.nan_to_num(nan=torch.inf, posinf=torch.inf)
        return values if self.size == 1 else self._reduced(values, dist.ReduceOp.MAX)

    def agree(self, text: str) -> bool:
        """Whether all processes give the same text; none goes on before all have given theirs.

        Raises:
            ProcessLost: if one has ended or does not answer.
        """
        if self.size == 1:
            return True
        # as many bits as a float64 holds
        number = float(int(hashlib.sha256(text.encode()).hexdigest()[:12], 16))
        own = torch.tensor([number, -number], dtype=torch.float64)
        largest = self._reduced(own, dist.ReduceOp.MAX)
        return bool(largest[0] == -largest[1])

    def _reduced_on_device(self, values: torch.Tensor) -> torch.Tensor:
        try:
            there = values.to(self.device)
            dist.all_reduce(there, group=self.group)
            return there.cpu()
        except RuntimeError as error:
            raise ProcessLost from error

    def _reduced(
        self, message: torch.Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
    ) -> torch.Tensor:
        try:
            dist.all_reduce(message, operation)
        except RuntimeError as error:
            raise ProcessLost from error
        return message


def longest_first(costs: Sequence[float], n: int) -> list[list[int]]:
    """Positions of tasks in n shares of about equal cost, each share in the tasks' order.

    The longest task first, each to the share that has least (Graham (1969), SIAM J. Appl. Math.
    17, 416: at most 4/3 of the best possible).
    """
    shares: list[list[int]] = [[] for _ in range(n)]
    loads = [(0.0, k) for k in range(n)]
    for position in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, k = heapq.heappop(loads)
        shares[k].append(position)
        heapq.heappush(loads, (load + costs[position], k))
    return [sorted(share) for share in shares]


class _Gathered(torch.autograd.Function):
    """Sum over the ranks of what each puts in its places."""

    @staticmethod
    def forward(
        ctx: Any,
        own: torch.Tensor,
        places: torch.Tensor,
        length: int,
        ranks: Ranks,
        failure: ArithmeticError | MemoryError | None,
    ) -> torch.Tensor:
        ctx.places = places
        all_values = own.new_zeros((length, *own.shape[1:]))
        all_values[places] = own
        return ranks.sum(all_values, failure)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        return gradients[0][ctx.places], None, None, None, None


def gather(
    own: torch.Tensor,
    places: torch.Tensor,
    length: int,
    ranks: Ranks,
    failure: ArithmeticError | MemoryError | None = None,
) -> torch.Tensor:
    """Rows (length, ...) of all processes from those (k, ...), float64, of each, differentiable.

    All processes must differentiate the same function of them.

    Args:
        places: shape (k,), where this process' rows belong; each row is one process'.
        failure: why this process has none.

    Raises:
        ArithmeticError: in all processes, if any of them failed.
        ProcessLost: if one has ended or does not answer.
    """
    return _Gathered.apply(own, places, length, ranks, failure)
