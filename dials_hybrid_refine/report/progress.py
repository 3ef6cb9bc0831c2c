"""What the user sees of a running refinement, and how it is stopped."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm

from dials_hybrid_refine.refinement.result import Iteration
from dials_hybrid_refine.report import log_tables

logger = logging.getLogger("dials.hybrid_refine")


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed or SIGTERM came since."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        logger.warning("Interrupted: stopping after the current step (again: stop at once)")
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop.is_set
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def show_iterations(most: int) -> Iterator[Callable[[Iteration], None]]:
    """A function that logs iterations, with a progress bar on a terminal."""
    logger.info("\n%s", log_tables.ITERATION_HEADER)
    with tqdm(total=most, disable=None, leave=False, unit="step") as bar:

        def show(iteration: Iteration) -> None:
            with tqdm.external_write_mode():
                logger.info("%s", log_tables.iteration_line(iteration))
            bar.update()

        yield show
