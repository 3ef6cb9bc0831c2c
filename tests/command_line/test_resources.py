"""What a run takes and leaves: memory, processors, files, no network, and no harm to another run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_runs import FAST, INPUT, path_of
from refusals import refused

from dials.util import Sorry

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.memory import available_bytes, planning_bytes, require

RUN = [*INPUT, *FAST, "d_min=1.0", "reindexing.test=False", "difference_map=False"]
#: without the page, which takes as long as the refinement
BARE = [*RUN, "output.html=None"]

#: before the program: every attempt to use the network ends the process, and is told apart from all else
GUARD = """
import os, sys
def guard(event, arguments):
    if event.startswith(("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethost",
                         "socket.sendto", "urllib.Request", "http.client", "ftplib", "smtplib")):
        os.write(2, f"network: {event} {arguments}".encode())
        os._exit(99)
sys.addaudithook(guard)
"""


@dataclass(frozen=True)
class Used:
    """A process that has ended: exit code, output, peak memory in bytes, and the share of the time it
    computed in which two of its threads did, or waited for a processor."""

    code: int
    output: str
    peak: int
    parallel: float


def started(folder: Path, arguments: list[str], **environment: str) -> subprocess.Popen:
    """A real process with the guard of the network and a folder of its own for temporary files."""
    (folder / "guard").mkdir(exist_ok=True)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    (folder / "temporary").mkdir(exist_ok=True)
    path = os.pathsep.join([str(folder / "guard"), os.environ.get("PYTHONPATH", "")])
    unset = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    return subprocess.Popen(
        [path_of("dials.hybrid_refine"), *arguments],
        cwd=folder,
        env={**unset, "PYTHONPATH": path, "TMPDIR": str(folder / "temporary"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen) -> Used:
    """Read what a process says, and look at its threads, until it ends."""
    with ThreadPoolExecutor(1) as pool:
        output = pool.submit(process.stdout.read)
        n_busy = n_parallel = 0
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            running = 0
            for task in Path(f"/proc/{process.pid}/task").glob("*/stat"):
                with suppress(OSError):  # threads come and go
                    running += task.read_text().rpartition(")")[2].split()[0] == "R"
            n_busy += running > 0
            n_parallel += running > 1
            time.sleep(0.02)
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Used(process.returncode, output.result(), peak, n_parallel / max(1, n_busy))


def hidden(folder: Path) -> list[str]:
    """Temporary files, where outputs are made and where the system's belong."""
    return [str(p) for p in (*folder.glob(".*"), *(folder / "temporary").rglob("*"))]


def test_what_a_run_takes_and_leaves(files):
    """One process: no network, one processor (BLAS and OpenMP are not told by the environment),
    the memory that was foretold, no temporary files."""
    used = finished(started(files, RUN))
    assert used.code == 0, used.output
    # one thread hands over to another, and both may be seen; those of NumPy's BLAS go on waiting for work for a
    # while after the small products of planning: at a quarter of the moments where nothing else runs. With
    # nproc=2 it is half of them.
    assert used.parallel < 0.37
    (foretold,) = re.findall(r"Memory: at least (\d+\.\d) GB", used.output)
    assert 0.6 * float(foretold) < used.peak / 1e9 < 1.25 * float(foretold)
    assert hidden(files) == []
    assert (files / "hybrid_refined.cif").exists()


def test_the_guard_works(files):
    """Else the test above would mean nothing."""
    guarded = files / "guard"
    guarded.mkdir()
    (guarded / "sitecustomize.py").write_text(GUARD)
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(guarded)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 99 and "network: socket" in process.stderr


def test_a_second_run_beside_another_is_refused(files):
    """With the same names in the same directory; the first is not disturbed. Interrupted, it writes all
    files, and leaves no others. Afterwards the directory is free."""
    first = started(files, [*BARE, "refinement.max_steps=1000", "refinement.tolerance=1e-9"])
    seen = []
    for line in first.stdout:
        seen.append(line)
        if line.split()[:1] == ["start"]:
            break
    before = (files / "dials.hybrid_refine.log").read_text()
    try:
        with pytest.raises(
            Sorry, match=r"output\.log=dials.* is in use by another run.*wait until"
        ):
            hybrid_refine.run(RUN)
        assert not (files / "dials.hybrid_refine.json").exists()
    except BaseException:
        first.kill()
        raise
    assert (files / "dials.hybrid_refine.log").read_text().startswith(before)
    first.send_signal(signal.SIGINT)
    used = finished(first)
    assert used.code == 130, used.output
    assert json.loads((files / "dials.hybrid_refine.json").read_text())["status"] == "interrupted"
    assert hidden(files) == []
    with pytest.raises(Sorry, match="missing.expt"):
        hybrid_refine.run(["missing.expt", *RUN[1:]])
    assert hidden(files) == []


def test_runs_that_share_files_write_each_of_them_whole(files):
    """Two processes with other logs and checkpoints, but the same result files: of one or of the other."""
    both = [
        started(
            files, [*BARE, f"output.log={i}.log", f"checkpoint.file={i}.checkpoint", f"seed={i}"]
        )
        for i in range(2)
    ]
    for process in both:
        used = finished(process)
        assert used.code == 0, used.output
    summary = json.loads((files / "dials.hybrid_refine.json").read_text())
    assert summary["seed"] in (0, 1)
    assert (files / "hybrid_refined.cif").read_text().rstrip().splitlines()
    assert hidden(files) == []


def test_too_large_a_calculation_is_refused_before_it_begins():
    """A cell of a million Angstrom^3 has 7 billion reflections to 12/Angstrom."""
    selection = BeamSelection(12.0, 0.02, 0.05)
    sentence = r"^the choice of the beams .* needs \d+\.\d GB of memory, and .* are available: lower beams.g_max"
    with pytest.raises(ValueError, match=sentence), hybrid_refine.explained_failures("model.cif"):
        require(planning_bytes(1e6, selection.g_max), "the choice of the beams", selection)


def test_memory_that_cannot_be_kept_is_said_before_the_run(files, capsys):
    """Python with torch and DIALS takes half a GB alone; the run ends in the next sentence."""
    refused(files, [*RUN, "memory=0.5", "thickness.max=1e5", "thickness.node_distance=1e4"])
    said = capsys.readouterr().out
    assert re.search(r"memory=0.5 cannot be kept: .* needs \d\.\d GB\. Give memory=\d", said)


def test_available_memory_is_known_here():
    found = available_bytes()
    assert found is not None and 10**8 < found < 10**14
