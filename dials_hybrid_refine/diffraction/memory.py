"""How much memory a calculation needs, and how much there is."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.blocks import BeamBlock
from dials_hybrid_refine.diffraction.ranks import Ranks

#: unit of the resident set size that the system reports
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
#: bytes that libraries, the data's tables and the report take beside what is counted here
RESERVE = 300_000_000
#: orientations at which all reflections up to g_max are looked at together, at most
_ORIENTATIONS = 128


def peak_bytes() -> int:
    """Most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def available_bytes() -> int | None:
    """Memory that this process may still take, by the system and its control group; None: not known."""
    found = [*_of_the_system(), *_of_the_control_group()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        found.append(max(0, limit - _number(Path("/proc/self/statm"), 0) * resource.getpagesize()))
    return min(found) if found else None


def _of_the_system() -> list[int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return []
    return [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]


def _of_the_control_group() -> list[int]:
    folder = Path("/sys/fs/cgroup")
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = _number(folder / most, 0)
        if limit:
            return [max(0, limit - _number(folder / used, 0))]
    return []


def _number(path: Path, position: int) -> int:
    """A number in a file of the system, 0 if there is none."""
    try:
        return int(path.read_text().split()[position])
    except (OSError, ValueError, IndexError):
        return 0


def planning_bytes(volume: float, g_max: float) -> int:
    """What it takes to choose beams among all reflections up to g_max.

    4/3 pi g_max^3 V reflections, each with its indices and, at all tilts of a block, three numbers for
    its excitation error.

    Args:
        volume: of the cell in Angstrom^3.
        g_max: 1/Angstrom.
    """
    n_reflections = 4 / 3 * math.pi * g_max**3 * volume
    return int(n_reflections * 8 * (12 + 3 * _ORIENTATIONS))


def working_bytes(
    blocks: Sequence[BeamBlock], n_parts: int, n_bytes: int, n_threads: int, n_terms: int
) -> int:
    """What the largest blocks take while they are computed, one in each thread.

    For N beams the difference of each two is looked up (24 bytes, and once more for the gradient) and
    has a complex U (16), which becomes a matrix of (c N)^2 numbers: that itself, its transpose and the
    gradient. About 100 vectors of c N n numbers are held besides (``chebyshev_gradient``), and one for each term
    of the series.

    Args:
        n_parts: c, 1 for a real potential, else 2.
        n_bytes: of a real number.
        n_terms: of the Chebyshev series.
    """
    sizes = []
    for block in blocks:
        n_beams, n_tilts = block.active.shape
        matrices = n_beams**2 * (40 + 3 * n_bytes * n_parts**2)
        sizes.append(matrices + (100 + n_terms) * n_bytes * n_parts * n_beams * n_tilts)
    return sum(sorted(sizes)[-n_threads:])


def usual_terms(s_max: float, thickness: float) -> int:
    """Terms of the Chebyshev series, about: 2 pi rho t and some more.

    Args:
        s_max: largest excitation error of the beams, 1/Angstrom. The half width rho of the spectrum is 1.1 times as
            much for quartz and 1.4 times for CsPbBr3 (``benchmarks/crystals.py``); twice leaves room.
        thickness: the largest, Angstrom.
    """
    return int(2 * math.pi * 2 * s_max * thickness) + 50


def table_bytes(blocks: Sequence[BeamBlock]) -> int:
    """What it takes to list the differences of beams: three indices and a number for each two."""
    return 32 * max((len(block.hkl) for block in blocks), default=0) ** 2


def list_bytes(blocks: Sequence[BeamBlock]) -> int:
    """What the blocks hold themselves, and once more when they are made into batches."""
    arrays = (
        "hkl",
        "bases",
        "active",
        "pair_weight",
        "pair_counts",
        "pair_observation",
        "pair_row",
    )
    return 2 * sum(getattr(block, name).nbytes for block in blocks for name in arrays)


def require(
    needed: int,
    what: str,
    selection: BeamSelection,
    ranks: Ranks = Ranks(),  # noqa: B008  immutable
) -> None:
    """Whether there is so much memory.

    Args:
        needed: by each of the processes, in bytes.
        ranks: the processes, which go on or end together.

    Raises:
        MemoryError: in all processes, if one has too little: says what is needed, what is there, and
            what to do.
        ProcessLost: if a process has ended.
    """
    available = available_bytes()
    needed *= ranks.n_on_machine
    is_short = available is not None and needed > available
    if not ranks.any(is_short):
        return
    if available is None or not is_short:
        raise MemoryError(f"another process of the calculation has too little memory for {what}")
    raise MemoryError(
        f"{what} with beams up to g_max {selection.g_max:.2f} and s_max {selection.s_max:.3f} "
        f"1/Angstrom needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available: "
        "lower beams.g_max or beams.s_max, raise d_min, take fewer threads (nproc), or another machine"
    )
