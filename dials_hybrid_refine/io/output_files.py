"""Files appear complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def check_writable(path: str) -> None:
    """Whether a file can be written, found out before hours of computing.

    Raises:
        ValueError: names the path and what is wrong with it.
    """
    folder = Path(path).absolute().parent
    if Path(path).is_dir():
        raise ValueError(f"the output file {path} is a directory: choose another name")
    if not folder.is_dir():
        raise ValueError(f"the directory of the output file {path} does not exist: create it first")
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"the output file {path} cannot be written ({error.strerror}): "
            "choose another directory or change its permissions"
        ) from None


def write_atomically(path: str, write: Callable[[str], object]) -> None:
    """Let ``write`` make a file beside ``path``, then give it its final name.

    The temporary file keeps the suffix, by which DIALS chooses formats.

    Raises:
        ValueError: if writing fails, for want of space or permission.
    """
    target = Path(path).absolute()
    handle, temporary = tempfile.mkstemp(
        prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        raise ValueError(f"writing {path} failed: {error.strerror or error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
