"""What the tests of the commands call them with."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

#: the files of the fixture ``files``
INPUT = ["data.expt", "data.refl", "model.cif"]
#: with these a refinement takes about two seconds
FAST = [
    "refinement.max_cycles=1",
    "refinement.coarse_steps=2",
    "refinement.max_steps=2",
    "thickness.max=600",
    "nproc=1",
]


def path_of(command: str) -> str:
    """An installed command, as a user's shell finds it."""
    beside = Path(sys.executable).with_name(command)
    found = str(beside) if beside.exists() else shutil.which(command)
    assert found, f"{command} is not installed: pip install -e ."
    return found
