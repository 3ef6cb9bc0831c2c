"""Bridges between DIALS 3.12, as Debian packages it, and current DIALS.

Only what was found to differ stands here; everything else is the same in both. Features are
detected, never version numbers (the versions of Debian's packages are not DIALS').
"""

from __future__ import annotations


def cpu_count() -> int:
    """Number of processors this process may use (moved in DIALS 3.19)."""
    try:
        from dials.util.system import CPU_COUNT
    except ImportError:
        from dials.util.mp import available_cores

        return int(available_cores())
    return int(CPU_COUNT)
