"""Two runs that would write the same files at the same time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sole_writer(name: str, path: str | None) -> Iterator[None]:
    """Hold a file that stays open for writing during the whole run, and refuse to run beside its holder.

    The system forgets the hold when the process ends, however it ends: no file is left behind. Where a
    file system knows no locks there is no check; a file that cannot be opened is for others to report.

    Args:
        name: of the parameter that names the file.
        path: the file, which is made if it is not there; None: no check.

    Raises:
        ValueError: if another run holds it.
    """
    try:
        stream = None if path is None else open(path, "a")
    except OSError:
        stream = None
    if stream is None:
        yield
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{name}={path} is in use by another run, whose files this one would replace: wait until it "
                "has ended, work in another directory, or give all of output.* and checkpoint.file "
                "other names"
            ) from None
        except OSError:
            pass
        yield
