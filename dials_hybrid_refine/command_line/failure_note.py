"""Why a run left no result, where programs look for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from libtbx.utils import Sorry

from dials_hybrid_refine.io.output_files import write_atomically
from dials_hybrid_refine.io.summary_json import as_text, failed_summary


@contextmanager
def noted_failure(path: str | None) -> Iterator[None]:
    """Write a summary with status "failed" and the reason where a run ends by an error.

    It takes the place of the summary of an earlier run: that a batch is repeated must not leave a
    result that is no longer one. Where it cannot be written the error alone tells.

    Args:
        path: of the summary; None: not written.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if path is not None:
            text = as_text(failed_summary(_reason(error)))
            with suppress(ValueError):
                write_atomically(path, lambda name: Path(name).write_text(text))
        raise


def _reason(error: BaseException) -> str:
    """One sentence: errors of programming and of libraries get the name of their kind."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before there was a result"
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, Sorry)) and text:
        return text
    return f"unexpected error, {type(error).__name__}: {text}".rstrip(": ")
