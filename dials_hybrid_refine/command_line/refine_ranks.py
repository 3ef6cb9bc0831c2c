"""The processes of one refinement: they find each other, one speaks for all, all end together."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from dials_hybrid_refine.command_line.launch import CHOICE, Launch, launched
from dials_hybrid_refine.diffraction.ranks import ProcessLost, Ranks

logger = logging.getLogger("dials.hybrid_refine")

#: variable with the seconds that processes wait for each other at most
_TIMEOUT = "HYBRID_REFINE_TIMEOUT"
#: its default: one process may set up its calculation while the others wait, but not for so long
_DEFAULT_TIMEOUT = 1800.0
#: seconds in which all processes must have started
_MOST_START = 300.0
#: seconds that processes which stop give each other to say why, and between two looks
_MOST_PARTING, _LOOK = 5.0, 0.1


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The processes that were started together with this one, joined in a group.

    Where some of them fail, the first that is left raises the error of all; the others end
    quietly with exit code 1. Processes but the first print and log nothing.

    Raises:
        ValueError: if the processes cannot be joined, or one has raised it.
        ProcessLost: if one has ended without a word.
    """
    launch = launched(os.environ)
    if launch is None:
        yield Ranks()
        return
    # torch replaces it by one that puts the rank before every line
    hook = sys.excepthook
    store = _join(launch)
    sys.excepthook = hook
    try:
        hosts, ranks = _ranks(launch, store)
        with _only_first_speaks(ranks):
            try:
                yield ranks
            except (ValueError, ProcessLost) as error:
                said = _part(
                    launch, store, ranks, "" if isinstance(error, ProcessLost) else str(error)
                )
                if not _is_speaker(ranks, said):
                    raise SystemExit(1) from None
                raise _error_of_all(error, ranks, said, hosts) from None
            except Exception as error:
                _say(launch, store, ranks, f"{type(error).__name__}: {error}")
                raise
    finally:
        dist.destroy_process_group()


def with_device(ranks: Ranks, device: str) -> Ranks:
    """The same where large messages go from GPU to GPU.

    Args:
        device: "cpu", or this process' GPU.
    """
    if ranks.size == 1 or device == "cpu":
        return ranks
    torch.cuda.set_device(device)
    group = dist.new_group(backend="nccl", timeout=timedelta(seconds=_timeout()))
    return replace(ranks, device=device, group=group)


def log_ranks(ranks: Ranks) -> None:
    """Say how many processes share the calculation."""
    if ranks.size > 1:
        logger.info(
            "%d processes share the calculation, %d of them on this machine",
            ranks.size,
            ranks.n_on_machine,
        )


@contextmanager
def going_on_from(checkpoint: str | None) -> Iterator[None]:
    """Let the error where a process is lost say how to go on."""
    try:
        yield
    except ProcessLost as error:
        if checkpoint is not None:
            error.remedy = (
                f"to go on, repeat the command with checkpoint.resume={checkpoint}, with any number "
                "of processes"
            )
        raise


def _timeout() -> float:
    text = os.environ.get(_TIMEOUT, str(_DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ValueError(f"{_TIMEOUT}={text}: give a number of seconds")
    return seconds


def _join(launch: Launch) -> dist.Store:
    """Find the other processes and form the group; a store of short texts that all see."""
    timeout = _timeout()
    patience = timedelta(seconds=min(timeout, _MOST_START))
    try:
        server = dist.TCPStore(
            launch.address,
            launch.port,
            launch.size,
            launch.rank == 0 and not launch.is_store_given,
            patience,
        )
        store = dist.PrefixStore(f"hybrid_refine/{launch.attempt}", server)
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("group", store),
            rank=launch.rank,
            world_size=launch.size,
            timeout=timedelta(seconds=timeout),
        )
    except RuntimeError as error:
        raise ValueError(
            f"process {launch.rank} of {launch.size} does not find the others at {launch.address}, port "
            f"{launch.port} ({str(error).splitlines()[0]}): start all of them, set MASTER_ADDR and "
            f"MASTER_PORT, or set {CHOICE}=none if they are to work alone"
        ) from None
    return store


def _ranks(launch: Launch, store: dist.Store) -> tuple[list[str], Ranks]:
    """The machines of all processes, and this process' place among them."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    processors = sorted(os.sched_getaffinity(0)) if has_affinity else []
    own = f"{socket.gethostname()} {processors}"
    store.set(f"place/{launch.rank}", own)
    places = [store.get(f"place/{k}").decode() for k in range(launch.size)]
    hosts = [place.split()[0] for place in places]
    host = hosts[launch.rank]
    return hosts, Ranks(
        rank=launch.rank,
        size=launch.size,
        n_on_machine=hosts.count(host),
        n_on_processors=places.count(own),
        on_machine=hosts[: launch.rank].count(host),
    )


@contextmanager
def _only_first_speaks(ranks: Ranks) -> Iterator[None]:
    if ranks.is_first:
        yield
        return
    logging.disable(logging.CRITICAL)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _say(launch: Launch, store: dist.Store, ranks: Ranks, text: str) -> bool:
    """Let the others know why this process ends; whether that was possible."""
    try:
        # a store that is gone makes torch print its stack
        socket.create_connection((launch.address, launch.port), _MOST_PARTING).close()
        store.set(f"left/{ranks.rank}", text)
    except (OSError, RuntimeError):
        return False
    return True


def _part(launch: Launch, store: dist.Store, ranks: Ranks, text: str) -> dict[int, str]:
    """Say why this process ends and hear what the others say, by their numbers.

    Empty where the process is gone that keeps the store.
    """
    if not _say(launch, store, ranks, text):
        return {}
    said = {ranks.rank: text}
    ended = time.monotonic() + _MOST_PARTING
    try:
        while len(said) < ranks.size and time.monotonic() < ended:
            for k in range(ranks.size):
                if k not in said and store.check([f"left/{k}"]):
                    said[k] = store.get(f"left/{k}").decode()
            time.sleep(_LOOK)
        if ranks.is_first:
            # the store may be this process': let the others read it
            time.sleep(5 * _LOOK)
    except RuntimeError:
        pass
    return said


def _is_speaker(ranks: Ranks, said: dict[int, str]) -> bool:
    if said:
        return ranks.rank == min(said)
    return ranks.rank == 1 or ranks.on_machine == 0


def _error_of_all(
    error: Exception, ranks: Ranks, said: dict[int, str], hosts: list[str]
) -> Exception:
    if not isinstance(error, ProcessLost):
        return error
    for k, text in sorted(said.items()):
        if text:
            return ValueError(f"process {k} of {ranks.size} ({hosts[k]}): {text}")
    lost = [k for k in range(ranks.size) if k not in said] if said else [0]
    if not lost:
        return ValueError(f"the processes have lost each other: {error.remedy}")
    names = ", ".join(f"{k} ({hosts[k]})" for k in lost)
    which = f"process {names}" if len(lost) == 1 else f"processes {names}"
    return ValueError(f"{which} of {ranks.size} ended or no longer answered: {error.remedy}")
