"""Files of plain data: JSON text and arrays.

A zip archive, not compressed, of ``content.json`` and arrays in NumPy's format: ``numpy.load`` reads the
arrays too. Nothing in such a file is ever run: no pickled objects, and no array is larger than its
part of the file.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_TEXT = "content.json"
#: how an array is referred to in the text
_KEY = "array"


def write_archive(path: str, content: Mapping[str, Any]) -> None:
    """Write dictionaries, lists, texts, finite numbers, None and arrays, and force them to the disk.

    Raises:
        OSError: if the file cannot be written.
    """
    arrays: list[NDArray[Any]] = []
    text = json.dumps(_without_arrays(content, arrays), allow_nan=False)
    with open(path, "wb") as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_TEXT, text)
            for number, array in enumerate(arrays):
                data = io.BytesIO()
                npy.write_array(data, array, allow_pickle=False)
                archive.writestr(f"{number}.npy", data.getvalue())
        stream.flush()
        os.fsync(stream.fileno())


def read_archive(path: str) -> dict[str, Any]:
    """What ``write_archive`` has written.

    Raises:
        ValueError: if the file is none of these, or damaged.
        OSError: if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # what is not compressed cannot be larger than the file
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("compressed parts")
            content = _with_arrays(json.loads(archive.read(_TEXT)), archive)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, RecursionError) as error:
        raise ValueError(str(error)[:100]) from error  # it may quote the file
    except (NotImplementedError, RuntimeError) as error:  # an encrypted or newer archive
        raise ValueError(str(error)) from error
    if not isinstance(content, dict):
        raise ValueError("no dictionary")
    return content


def _without_arrays(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """A value with references instead of its arrays, which are appended to a list."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {_KEY: len(arrays) - 1}
    if isinstance(value, Mapping):
        return {str(key): _without_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, arrays) for item in value]
    return value


def _with_arrays(value: Any, archive: zipfile.ZipFile) -> Any:
    if isinstance(value, dict):
        if set(value) == {_KEY}:
            return _array(archive.read(f"{int(value[_KEY])}.npy"))
        return {key: _with_arrays(item, archive) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_arrays(item, archive) for item in value]
    return value


def _array(data: bytes) -> NDArray[Any]:
    stream = io.BytesIO(data)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("an array of another format")
    shape, is_fortran, dtype = npy.read_array_header_1_0(stream)
    size = len(data) - stream.tell()
    if is_fortran or dtype.kind not in "bif" or math.prod(shape) * dtype.itemsize != size:
        raise ValueError("an array that is not what its header says")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).copy()
