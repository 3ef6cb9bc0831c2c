"""How torchrun, srun and mpirun tell a process which of several it is.

torchrun: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables. srun: its manual,
"Output environment variables". Open MPI: its manual, section "Environment variables for your application"; MPICH
and Intel MPI follow the process management interface (PMI) of MPICH.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

#: variable that names the launcher, or "none" where one started processes that have nothing to do with
#: each other
CHOICE = "HYBRID_REFINE_LAUNCHER"

_LAUNCHERS = ("torchrun", "mpirun", "srun")

#: first port and number of those that jobs are spread over, below the ones that systems give out
_PORTS = (20000, 12000)


@dataclass(frozen=True)
class Launch:
    """One of several processes that are to work together.

    Attributes:
        rank: number of this process, from 0. size: number of processes.
        address, port: where process 0 (or torchrun) can be reached.
        is_store_given: whether torchrun keeps the store at that address itself.
        attempt: how often torchrun has started the processes again.
    """

    rank: int
    size: int
    address: str
    port: int
    is_store_given: bool = False
    attempt: str = "0"


def launched(environment: Mapping[str, str]) -> Launch | None:
    """What the environment says of the processes started together; None: this one is alone.

    Raises:
        ValueError: names the variable that is not understood or lacks.
    """
    choice = environment.get(CHOICE)
    if choice not in (None, "none", *_LAUNCHERS):
        raise ValueError(f"{CHOICE}={choice}: give one of none, {', '.join(_LAUNCHERS)}")
    for launcher in _LAUNCHERS:
        found = _place(environment, launcher)
        if choice in (None, launcher) and found is not None:
            rank, size, n_on_machine = found
            if size == 1:
                return None
            return Launch(
                rank,
                size,
                _address(environment, size == n_on_machine),
                _port(environment),
                environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
            )
    if choice in _LAUNCHERS:
        raise ValueError(f"{CHOICE}={choice}, but this process was not started by {choice}")
    return None


def _place(environment: Mapping[str, str], launcher: str) -> tuple[int, int, int | None] | None:
    """Rank, number of processes and, if it is told, of those on this machine."""
    rank, size, local = {
        "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
        "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", None),
    }[launcher]
    if launcher == "torchrun" and "MASTER_PORT" not in environment:
        return None
    if launcher == "mpirun" and rank not in environment:
        rank, size, local = "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"
    # in a batch script, outside of srun, the job's number of tasks is no number of processes
    if launcher == "srun" and "SLURM_STEP_ID" not in environment:
        return None
    if rank not in environment or size not in environment:
        return None
    numbers = [_number(environment, name) for name in (rank, size)]
    if not 0 <= numbers[0] < numbers[1]:
        raise ValueError(f"{rank}={numbers[0]} is not below {size}={numbers[1]}")
    n_local = _number(environment, local) if local and local in environment else None
    return numbers[0], numbers[1], n_local


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ValueError(f"{name}={environment[name]} is not a number") from None


def _address(environment: Mapping[str, str], on_one_machine: bool) -> str:
    """The machine of process 0."""
    if "MASTER_ADDR" in environment:
        return environment["MASTER_ADDR"]
    if on_one_machine:
        return "127.0.0.1"
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"):
        # the first of node[01-04,07]-ib,other
        found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", environment.get(name, ""))
        if found:
            return "".join(part or "" for part in found.groups())
    raise ValueError(
        "the processes cannot find each other: set the environment variable MASTER_ADDR to the name of the "
        "machine of process 0"
    )


def _port(environment: Mapping[str, str]) -> int:
    """A port that jobs which run at the same time hardly share."""
    if "MASTER_PORT" in environment:
        return _number(environment, "MASTER_PORT")
    names = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
    job = next((environment[name] for name in names if name in environment), None)
    if job is None and "SLURM_JOB_ID" in environment:
        job = f"{environment['SLURM_JOB_ID']}.{environment.get('SLURM_STEP_ID', '')}"
    # processes of one machine have one parent
    first, number = _PORTS
    return first + zlib.crc32((job or str(os.getppid())).encode()) % number
