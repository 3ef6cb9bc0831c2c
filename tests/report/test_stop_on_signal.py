"""Ctrl-C and SIGTERM while a line of the log is being written."""

from __future__ import annotations

import io
import logging
import os
import signal

import pytest

from dials_hybrid_refine.report.progress import stop_on_signal


class InterruptedPipe(io.RawIOBase):
    """A file whose first writing is met by a signal."""

    def __init__(self, number: int) -> None:
        self.written = b""
        self._number = number

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        is_first = not self.written
        self.written += bytes(data)
        if is_first:
            os.kill(os.getpid(), self._number)
        return len(data)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_a_line_is_written(number, capsys):
    """Both lines are written, and logging has nothing to complain of on stderr."""
    pipe = InterruptedPipe(number)
    handler = logging.StreamHandler(io.TextIOWrapper(io.BufferedWriter(pipe)))
    logger = logging.getLogger("dials.hybrid_refine")
    logger.addHandler(handler)
    before = signal.getsignal(number)
    try:
        with stop_on_signal() as should_stop:
            assert not should_stop()
            logger.warning("a step")
            assert should_stop()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    finally:
        logger.removeHandler(handler)
    lines = pipe.written.decode().splitlines()
    assert lines[0] == "a step" and lines[1].startswith("Interrupted: stopping")
    assert capsys.readouterr().err == ""
    assert signal.getsignal(number) == before
