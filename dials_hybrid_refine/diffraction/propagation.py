"""Intensities of the diffracted beams behind crystals with a distribution of thickness.

The batches of blocks of rotation are shared out to processes, and those of a process to threads with one
torch thread each, which keeps all cores busy whatever library was imported first. Neither their
number nor the memory changes a bit of intensities or gradients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from dials_hybrid_refine.diffraction.batch_propagation import (
    BatchGradients,
    BatchInput,
    Coupling,
    ForwardState,
    NodeIntensities,
    backward_batch,
    forward_batch,
    node_intensities,
)
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.ranks import Ranks
from dials_hybrid_refine.diffraction.twofold_sum import TwofoldSum
from dials_hybrid_refine.diffraction.workers import MemoryBudget, in_threads, iterate_in_threads

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Task:
    """All batches with their couplings, and those among them that this process calculates."""

    batches: Sequence[BatchInput]
    couplings: Sequence[Coupling]
    own: Sequence[int]
    settings: PropagationSettings

    def coupling_of(self, batch: BatchInput) -> int:
        return next(i for i, c in enumerate(self.couplings) if c is batch.coupling)


class _Propagation(torch.autograd.Function):
    """Intensities of this process' batches; gradients by the inputs of all, in all processes."""

    @staticmethod
    def forward(ctx: Any, task: _Task, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        settings = task.settings
        own = [task.batches[i] for i in task.own]
        budget = MemoryBudget(settings.keep_bytes)
        with_gradient = any(ctx.needs_input_grad)

        def of(position: int, batch: BatchInput) -> Callable[[], tuple[torch.Tensor, ForwardState]]:
            def run() -> tuple[torch.Tensor, ForwardState]:
                keep = partial(budget.take, position) if with_gradient else None
                try:
                    return forward_batch(batch, settings, keep)
                finally:
                    budget.leave(position)

            return torch.no_grad()(run)

        results = in_threads([of(*numbered) for numbered in enumerate(own)], settings.n_threads)
        ctx.task = task
        ctx.states = [state for _, state in results] if with_gradient else None
        # without batches of its own a process has the last, which takes it into the backward pass
        link = torch.zeros(0, dtype=torch.float64)
        return *(intensity.double() for intensity, _ in results), link

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        states, ctx.states = ctx.states, None
        if states is None:
            raise RuntimeError("the gradient of a propagation can be taken once: evaluate it again")
        task: _Task = ctx.task
        sums = _GradientSums(task)
        failure: ArithmeticError | MemoryError | None = None
        try:
            sums.add_own(states, gradients)
        except (ArithmeticError, MemoryError) as error:
            failure = error
        return None, *sums.of_all_processes(failure)


class _GradientSums:
    """Gradients by all couplings, and by what each batch has."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._couplings = [
            TwofoldSum(torch.zeros(2 * len(c.values) + 1, dtype=torch.float64))
            for c in task.couplings
        ]
        self._batches = [
            [torch.zeros_like(x, dtype=torch.float64) for x in (b.bases, b.thickness, b.weight)]
            for b in task.batches
        ]

    def add_own(self, states: list[ForwardState], gradients: Sequence[torch.Tensor]) -> None:
        """Those of this process; ``states`` are given back one by one."""
        task = self._task
        pending = deque(zip((task.batches[i] for i in task.own), states, gradients))
        states.clear()

        def of(
            batch: BatchInput, state: ForwardState, gradient: torch.Tensor
        ) -> Callable[[], BatchGradients]:
            return lambda: torch.no_grad()(backward_batch)(batch, state, gradient)

        tasks = (of(*pending.popleft()) for _ in range(len(pending)))
        results = iterate_in_threads(tasks, task.settings.n_threads)
        for position, found in zip(task.own, results):
            coupling = task.coupling_of(task.batches[position])
            values = [found.coupling.real, found.coupling.imag]
            self._couplings[coupling].add(torch.cat([*values, found.wave_number.reshape(1)]))
            for total, own in zip(
                self._batches[position], (found.bases, found.thickness, found.weight)
            ):
                total.copy_(own)

    def of_all_processes(
        self, failure: ArithmeticError | MemoryError | None
    ) -> tuple[torch.Tensor, ...]:
        """In the order of ``_inputs``.

        Raises:
            ArithmeticError, MemoryError, ProcessLost: see ``Ranks.sum``.
        """
        ranks = self._task.settings.ranks
        flat = [x for batch in self._batches for x in batch]
        totals = _joined(self._couplings, flat, ranks, failure)
        by_coupling, by_batch = totals[: len(self._couplings)], totals[len(self._couplings) :]
        values = [torch.complex(*x[:-1].chunk(2)) for x in by_coupling]
        numbers = [x[-1] for x in by_coupling]
        inputs = [x for b in self._task.batches for x in (b.bases, b.thickness, b.weight)]
        return *values, *numbers, *(x.to(y.dtype) for x, y in zip(by_batch, inputs))


def _joined(
    sums: Sequence[TwofoldSum],
    disjoint: Sequence[torch.Tensor],
    ranks: Ranks,
    failure: ArithmeticError | MemoryError | None,
) -> list[torch.Tensor]:
    """Totals over all processes of sums, and of tensors of which each has its own, the rest zero."""
    if ranks.size == 1:
        if failure is not None:
            raise failure
        return [*(s.value for s in sums), *disjoint]
    own = torch.stack([s.value.abs().max() for s in sums])
    largest = ranks.largest(own if failure is None else torch.full_like(own, torch.inf))
    if not largest.isfinite().all():
        ranks.sum(torch.zeros(0, dtype=torch.float64), failure)
        return [*(torch.full_like(s.value, torch.nan) for s in sums), *disjoint]
    grids = [s.on_grid(float(most) or 1.0, ranks.size) for s, most in zip(sums, largest)]
    parts = [part for pair in grids for part in pair]
    flat = [x.reshape(-1) for x in (*parts, *disjoint)]
    found = ranks.sum(torch.cat(flat)).split([len(x) for x in flat])
    totals = [
        coarse + fine for coarse, fine in zip(found[: len(parts) : 2], found[1 : len(parts) : 2])
    ]
    return [*totals, *(x.view(y.shape) for x, y in zip(found[len(parts) :], disjoint))]


def propagate(
    batches: Sequence[BatchInput], settings: PropagationSettings, own: Sequence[int] | None = None
) -> list[torch.Tensor]:
    """Intensities (fractions of the incident beam) of the observed beams.

    Args:
        batches: of all processes of ``settings.ranks``.
        settings: precision, threads, memory, device.
        own: positions of those that this process calculates; None: all.

    Returns:
        For each batch of this process a float64 tensor of shape (B, R, n), and an empty one, which must
        enter what is differentiated. Differentiable with respect to values and wave numbers
        of the couplings and bases, thickness and weight of all batches: each process has the whole gradient, the
        same bits whatever their number.

    Raises:
        ArithmeticError: where something is not finite.
    """
    own = range(len(batches)) if own is None else own
    couplings = list({id(b.coupling): b.coupling for b in batches}.values())
    task = _Task(batches, couplings, own, settings)
    flat = [tensor for b in batches for tensor in (b.bases, b.thickness, b.weight)]
    values, wave_numbers = [c.values for c in couplings], [c.wave_number for c in couplings]
    return list(_Propagation.apply(task, *values, *wave_numbers, *flat))


def propagate_nodes(
    batches: Sequence[BatchInput],
    settings: PropagationSettings,
    reduce: Callable[[int, NodeIntensities], _T],
    slopes: bool,
) -> list[_T]:
    """For each batch ``reduce(position, intensities)`` of its intensities, without gradient.

    The full arrays are large; only what ``reduce`` makes of them is kept.
    """

    def task(position: int, batch: BatchInput) -> Callable[[], _T]:
        return torch.no_grad()(lambda: reduce(position, node_intensities(batch, settings, slopes)))

    return in_threads([task(i, b) for i, b in enumerate(batches)], settings.n_threads)
