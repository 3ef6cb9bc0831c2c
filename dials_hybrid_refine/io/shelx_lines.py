"""Lines of SHELX files."""

from __future__ import annotations

#: SHELXL reads 80 characters of a line
_LONGEST = 78


def wrapped(instruction: str) -> list[str]:
    """An instruction in lines that are short enough, continued by ``=``."""
    lines = [""]
    for word in instruction.split():
        if len(lines[-1]) + len(word) + 1 > _LONGEST:
            lines[-1] += " ="
            lines.append("    ")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def remark(text: str) -> list[str]:
    """A text as REM lines."""
    lines = ["REM"]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > _LONGEST:
            lines.append("REM")
        lines[-1] += f" {word}"
    return lines
