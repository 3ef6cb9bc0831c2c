"""Files appear complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict


class TextFormat(TypedDict):
    """Arguments of ``open``."""

    encoding: str
    errors: str


#: how text is written, whatever the locale: file names that are no text (in locale C) must not stop it
TEXT: TextFormat = {"encoding": "utf-8", "errors": "backslashreplace"}
#: files that are begun before, or written while, the input is used
_NO_RESULTS = ("output.log", "checkpoint.file")
#: what DIALS writes by the suffix of the name, and the suffixes it knows
_SUFFIXES = {"output.experiments": (".expt", ".json")}


def check_outputs(outputs: Mapping[str, str | None], inputs: Sequence[str] = ()) -> None:
    """Whether files can be written, found out before hours of computing.

    Args:
        outputs: paths (or None) by the names of their parameters.
        inputs: paths of the files that are read: results may replace them, log and checkpoint not.

    Raises:
        ValueError: names the parameter, the path and what is wrong with it.
    """
    seen: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        if not path:
            raise ValueError(f"{name} is empty: give the name of a file, or None for no file")
        _check_writable(name, path)
        suffixes = _SUFFIXES.get(name)
        if suffixes is not None and Path(path).suffix.lower() not in suffixes:
            raise ValueError(
                f"{name}={path} must end in {' or '.join(suffixes)}: choose another name"
            )
        target = Path(path).resolve()
        if name in _NO_RESULTS and target in {Path(file).resolve() for file in inputs}:
            raise ValueError(f"{name}={path} would replace an input file: choose another name")
        if target in seen:
            raise ValueError(
                f"{seen[target]} and {name} are the same file {path}: choose another name"
            )
        seen[target] = name


def check_folder(name: str, path: str | None) -> None:
    """Whether a folder (or None) can be made or written to.

    Raises:
        ValueError: names the parameter, the path and what is wrong with it.
    """
    if path is None:
        return
    if not path:
        raise ValueError(f"{name} is empty: give the name of a folder, or None for no files")
    if Path(path).is_file():
        raise ValueError(f"{name}={path} is a file: give the name of a folder")
    _check_writable(name, f"{path}/x" if Path(path).is_dir() else path)


def _check_writable(name: str, path: str) -> None:
    folder = Path(path).absolute().parent
    try:
        if Path(path).is_dir():
            raise ValueError(f"{name}={path} is a directory: choose another name")
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(
                f"{name}={path} is a device or the like, which cannot be replaced by a file: choose another "
                "name, or None for no file"
            )
        if not folder.is_dir():
            raise ValueError(f"the directory of {name}={path} does not exist: create it first")
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{name}={path} cannot be written ({error.strerror}): "
            "choose another directory or name, or change the permissions"
        ) from None


def write_atomically(path: str, write: Callable[[str], object]) -> None:
    """Let ``write`` make a file beside ``path``, then give it its final name.

    The temporary file keeps the suffix, by which DIALS chooses formats.

    Raises:
        ValueError: if writing fails, for want of space or permission.
    """
    target = Path(path).absolute()
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{target.stem[:30]}-", suffix=target.suffix, dir=target.parent
        )
    except OSError as error:
        raise ValueError(f"writing {path} failed: {error.strerror or error}") from error
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
