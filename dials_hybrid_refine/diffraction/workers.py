"""Threads that share the batches of a calculation, and the memory they may keep."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_T = TypeVar("_T")

#: unit of the resident set size that the system reports
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def in_threads(tasks: Sequence[Callable[[], _T]], n_threads: int) -> list[_T]:
    """Results of the tasks in their order, one torch thread each."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(n_threads, initializer=_prepare_thread) as pool:
            return [future.result() for future in [pool.submit(task) for task in tasks]]
    finally:
        torch.set_num_threads(before)


def _prepare_thread() -> None:
    torch.set_num_threads(1)
    # beams that are hardly excited hold numbers below 1e-38, which are ten times slower to multiply
    torch.set_flush_denormal(True)


#: bytes that everything but kept vectors may add: matrices and vectors in work, lists of beams
_WORKING_BYTES = 400_000_000


def keep_bytes(memory: float) -> int:
    """Bytes that may be kept so that the process stays within ``memory`` GB.

    What it holds already is taken off; the result of a calculation does not depend on it.
    """
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    return max(0, int(memory * 1e9) - held - _WORKING_BYTES)


class MemoryBudget:
    """Bytes that may be kept in all; asked from several threads."""

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes
        self._lock = threading.Lock()

    def take(self, n_bytes: int) -> bool:
        """Whether so many bytes were left; they are taken if so."""
        with self._lock:
            if n_bytes > self._left:
                return False
            self._left -= n_bytes
            return True
