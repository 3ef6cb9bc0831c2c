"""Threads that share the batches of a calculation, and the memory they may keep."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

_T = TypeVar("_T")


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch's own threads out of the way while work is shared out by ``in_threads``.

    They wait for each other at every small operation, which takes twenty times as long where
    another process uses one of the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_threads(tasks: Iterable[Callable[[], _T]], n_threads: int) -> list[_T]:
    """Results of the tasks in their order, one torch thread each."""
    return list(iterate_in_threads(tasks, n_threads))


def iterate_in_threads(tasks: Iterable[Callable[[], _T]], n_threads: int) -> Iterator[_T]:
    """The same one by one; neither tasks that are done nor results handed on are held."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(n_threads, initializer=_prepare_thread) as pool:
            futures = deque(pool.submit(task) for task in tasks)
            while futures:
                yield futures.popleft().result()
    finally:
        torch.set_num_threads(before)


def _prepare_thread() -> None:
    torch.set_num_threads(1)
    # beams that are hardly excited hold numbers below 1e-38, which are ten times slower to multiply
    torch.set_flush_denormal(True)


#: bytes for all but kept vectors: Python with torch and DIALS and the tables it has read, and what is in
#: work. A fixed number, not what the process holds at the moment: how long a run takes is to be repeatable
_OTHER_BYTES = 1_600_000_000


def keep_bytes(memory: float) -> int:
    """Bytes that may be kept so that the process stays within ``memory`` GB."""
    return max(0, int(memory * 1e9) - _OTHER_BYTES)


class MemoryBudget:
    """Bytes that may be kept in all, given out in the order of the tasks' positions.

    The order makes the outcome independent of which thread comes first.
    """

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes
        self._next = 0
        self._left_out: set[int] = set()
        self._turn = threading.Condition()

    def take(self, position: int, n_bytes: int) -> bool:
        """Whether so many bytes were left for a task; they are taken if so.

        Waits until all tasks before have asked or left.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._next == position)
            granted = n_bytes <= self._left
            self._left -= n_bytes if granted else 0
            self._advance()
            return granted

    def leave(self, position: int) -> None:
        """Say that a task is over, whether it has asked or not."""
        with self._turn:
            if position >= self._next:
                self._left_out.add(position)
                if position == self._next:
                    self._advance()

    def _advance(self) -> None:
        self._next += 1
        while self._next in self._left_out:
            self._next += 1
        self._turn.notify_all()
