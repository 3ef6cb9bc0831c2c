"""Reflection tables to files."""

from __future__ import annotations

import io
from pathlib import Path

from dials.array_family import flex
from dials.util.ext import streambuf


def write_reflections(table: flex.reflection_table, path: str) -> None:
    """Write a table as ``table.as_file`` does, through memory.

    On a full disk that method ends the interpreter: the destructor of the C++ stream throws.

    Raises:
        OSError: if the file cannot be written.
    """
    content = io.BytesIO()
    table.as_msgpack_to_file(streambuf(python_file_obj=content))
    Path(path).write_bytes(content.getvalue())
