"""Real processes that work together, started as mpirun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def started(commands: Sequence[Sequence[str]], timeout: float = 300.0):
    """Processes of one group, one for each command; those that still run are killed at the end.

    timeout: seconds that they wait for each other.
    """
    port = str(_free_port())
    processes = []
    try:
        for rank, command in enumerate(commands):
            environment = {
                **os.environ,
                "PYTHONPATH": ":".join(
                    str(REPOSITORY / name) for name in ("", "tests", "tests/refinement")
                ),
                "OMP_NUM_THREADS": "1",
                "OMPI_COMM_WORLD_RANK": str(rank),
                "OMPI_COMM_WORLD_SIZE": str(len(commands)),
                "OMPI_COMM_WORLD_LOCAL_SIZE": str(len(commands)),
                "MASTER_PORT": port,
                "HYBRID_REFINE_TIMEOUT": str(timeout),
            }
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def outcomes(processes, timeout: float = 600.0) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each process."""
    found = []
    for process in processes:
        output, errors = process.communicate(timeout=timeout)
        found.append((process.returncode, output, errors))
    return found
