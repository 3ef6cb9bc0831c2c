"""What the user sees of a running refinement, and how it is stopped."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

from tqdm import tqdm

from dials_hybrid_refine.refinement.result import Iteration
from dials_hybrid_refine.report import log_tables

logger = logging.getLogger("dials.hybrid_refine")


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed or SIGTERM came since."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    is_stopping = False
    # a signal may come in the middle of writing a line of the log, which cannot begin another one then:
    # a thread does it. SimpleQueue.put is made for signal handlers.
    signalled: SimpleQueue[bool] = SimpleQueue()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            raise KeyboardInterrupt
        is_stopping = True
        signalled.put(True)

    def announce() -> None:
        if signalled.get():
            logger.warning("Interrupted: stopping after the current step (again: stop at once)")

    herald = threading.Thread(target=announce, daemon=True)
    herald.start()
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: is_stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signalled.put(False)
        herald.join()


@contextmanager
def show_iterations(most: int, is_shown: bool = True) -> Iterator[Callable[[Iteration], None]]:
    """A function that logs iterations, with a progress bar on a terminal."""
    logger.info("\n%s", log_tables.ITERATION_HEADER)
    with tqdm(total=most, disable=None if is_shown else True, leave=False, unit="step") as bar:

        def show(iteration: Iteration) -> None:
            with tqdm.external_write_mode():
                logger.info("%s", log_tables.iteration_line(iteration))
            bar.update()

        yield show
