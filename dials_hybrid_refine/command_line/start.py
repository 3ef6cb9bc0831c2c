"""How each command begins and how it ends where something is wrong."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dials.util import log
from dials.util.version import dials_version
from libtbx.utils import Sorry

from dials_hybrid_refine import __version__
from dials_hybrid_refine.io.command_input import Parameters
from dials_hybrid_refine.io.output_files import check_outputs

#: a level above that of any message
_NOTHING = logging.CRITICAL + 1


def check_output_files(output: Any, inputs: Sequence[str] = ()) -> None:
    """Whether all files of a scope ``output`` can be written.

    Args:
        inputs: files that must not be replaced.

    Raises:
        ValueError: names the parameter and the remedy.
    """
    check_outputs(
        {f"output.{n}": p for n, p in vars(output).items() if not n.startswith("_")}, inputs
    )


def start(
    command: Parameters,
    program: str,
    check: Callable[[Any, Sequence[str]], None] = check_output_files,
) -> None:
    """Check the files of the scope ``output``, open the log, state versions and changed parameters.

    Args:
        program: as users call it, which is also the name of its logger.
        check: of the scope ``output``, given the names of the input files too.

    Raises:
        ValueError: for a file that cannot be written.
    """
    check(command.params.output, command.inputs)
    raising, logging.raiseExceptions = logging.raiseExceptions, False
    try:  # it writes a first line
        log.config(verbosity=command.verbosity, logfile=command.params.output.log)
    finally:
        logging.raiseExceptions = raising
    handlers = {id(h): h for name in ("dials", "dxtbx") for h in logging.getLogger(name).handlers}
    for handler in handlers.values():
        _make_lasting(handler)
    logger = logging.getLogger(program)
    logger.info("%s, %s %s", dials_version(), program, __version__)
    if command.changed:
        logger.info("The following parameters have been modified:\n\n%s", command.changed)


def _make_lasting(handler: logging.Handler) -> None:
    """Let a full disk, a closed terminal or a name that is no text end the log, but not the run."""
    stream = getattr(handler, "stream", None)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")

    def tell_once(record: logging.LogRecord) -> None:
        handler.setLevel(_NOTHING)
        reason = getattr(sys.exc_info()[1], "strerror", None) or sys.exc_info()[1]
        where = getattr(handler, "baseFilename", "the screen")
        with suppress(OSError, ValueError):  # where there is no one to be told
            print(f"Warning: the log on {where} ends here ({reason})", file=sys.stderr)

    setattr(handler, "handleError", tell_once)


@contextmanager
def errors_for_users(
    expected: tuple[type[Exception], ...] = (ValueError,),
) -> Iterator[None]:
    """One line ``Sorry: ...`` for errors that are expected; exit code 130 when interrupted."""
    try:
        yield
    except expected as error:
        raise Sorry(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(130)
