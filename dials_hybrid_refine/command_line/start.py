"""How each command begins and how it ends where something is wrong."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dials.util import log
from dials.util.version import dials_version
from libtbx.utils import Sorry

from dials_hybrid_refine import __version__
from dials_hybrid_refine.io.command_input import CommandInput
from dials_hybrid_refine.io.output_files import check_outputs


def check_output_files(output: Any) -> None:
    """Whether all files of a scope ``output`` can be written.

    Raises:
        ValueError: names the parameter and the remedy.
    """
    check_outputs({f"output.{n}": p for n, p in vars(output).items() if not n.startswith("_")})


def start(
    command: CommandInput, program: str, check: Callable[[Any], None] = check_output_files
) -> None:
    """Check the files of the scope ``output``, open the log, state versions and changed parameters.

    Args:
        program: as users call it, which is also the name of its logger.
        check: of the scope ``output``.

    Raises:
        ValueError: for a file that cannot be written.
    """
    check(command.params.output)
    log.config(verbosity=command.verbosity, logfile=command.params.output.log)
    logger = logging.getLogger(program)
    logger.info("%s, %s %s", dials_version(), program, __version__)
    if command.changed:
        logger.info("The following parameters have been modified:\n\n%s", command.changed)


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
