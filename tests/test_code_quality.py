from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "command", ["ruff check", "ruff format --check", "mypy"], ids=lambda c: c.replace(" ", "_")
)
def test_code_quality(command):
    """The checks of `make lint`."""
    tool, *arguments = command.split()
    if importlib.util.find_spec(tool) is None and os.environ.get("CI") != "true":
        pytest.skip(f"this test needs {tool}")
    check = subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert check.returncode == 0, check.stdout
