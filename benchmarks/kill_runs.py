"""Kill real runs at random moments and resume them: is anything lost, half-written or different?

    OMP_NUM_THREADS=1 python -m benchmarks.kill_runs [KILLS] [SEED] [PARAMETER=VALUE ...]

Simulates a little data (20 images of the demo's quartz), refines them once without interruption, and then
again and again, each run killed (SIGKILL) after a random time and resumed from its checkpoint until it
ends. After every kill each file must be readable in full; at the end the summary and the CIF must be those of
the run that was left alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iotbx.cif
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from benchmarks.demo_images import write_demo
from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate
from dials_hybrid_refine.io.array_archive import read_archive

N_IMAGES = 20
INPUT = ["data.expt", "data.refl", "model.cif"]
CHECKPOINT = "hybrid_refine.checkpoint"
SETTINGS = [
    "nproc=1",
    "thickness.max=600",
    "refinement.max_cycles=2",
    "refinement.max_steps=3",
    "reindexing.test=False",
    "absolute_structure.test=True",
    "output.html=None",
]
#: how each file is read in full
READERS = {
    CHECKPOINT: read_archive,
    "dials.hybrid_refine.json": lambda path: json.loads(Path(path).read_text()),
    "hybrid_refined.cif": lambda path: iotbx.cif.reader(file_path=path).model(),
    "hybrid_refined.expt": lambda path: ExperimentListFactory.from_json_file(path, False),
    "hybrid_refined.refl": flex.reflection_table.from_file,
}


@dataclass
class Counts:
    """What happened."""

    kills: int = 0
    resumes: int = 0
    runs: int = 0
    differences: int = 0
    unreadable: int = 0
    left_over: int = 0


def make_data(folder: Path) -> None:
    """The three files of ``INPUT``; the oxygen atom of the model is a little displaced."""
    _, truth = write_demo(folder, N_IMAGES)
    displaced = truth.read_text().replace("0.8534 0.5865", "0.8434 0.5945")
    (folder / "model.cif").write_text(displaced)
    output = ["output.experiments=data.expt", "output.reflections=data.refl"]
    simulation = "small.expt truth.cif d_min=0.8 thickness.mean=300 noise.poisson=True nproc=1"
    wait(start(folder, hybrid_simulate.run, [*simulation.split(), *output]))


def start(folder: Path, run: Any, arguments: Sequence[str]) -> int:
    """Run a command in a process of its own, which need not import everything again; its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(folder)
        log = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run(list(arguments))
        code = 0
    except (Exception, SystemExit) as error:
        print(error)
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(process: int) -> int:
    """The exit code of a process, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(process: int, seconds: float) -> bool:
    """Kill a process after a time; whether it was still running."""
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    code = wait(process)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a run ended with exit code {code}: see its output.txt")
    return code != 0


def unreadable_files(folder: Path) -> int:
    """Number of files that are there and cannot be read in full."""
    found = 0
    for name, read in READERS.items():
        path = folder / name
        if path.exists():
            try:
                read(str(path))
            except Exception as error:
                print(f"{path}: {error}")
                found += 1
    return found


def outcome(folder: Path) -> Any:
    """Summary and CIF of a run, without what tells runs apart: times, and that it was resumed."""
    summary = json.loads((folder / "dials.hybrid_refine.json").read_text())
    del summary["timing"], summary["parameters"]
    if summary["absolute_structure"] is not None:
        del summary["absolute_structure"]["seconds"]
    return summary, (folder / "hybrid_refined.cif").read_text()


def refine_with_kills(
    folder: Path, arguments: Sequence[str], seconds: float, most: int, counts: Counts
) -> None:
    """Refine, killed after random times and resumed, until the run has ended."""
    while True:
        more = [f"checkpoint.resume={CHECKPOINT}"] if (folder / CHECKPOINT).exists() else []
        counts.resumes += bool(more)
        process = start(folder, hybrid_refine.run, [*arguments, *more])
        if counts.kills == most:
            code = wait(process)
            if code:
                raise RuntimeError(f"a run ended with exit code {code}: see {folder}/output.txt")
            return
        if not killed(process, random.uniform(0, seconds)):
            return
        counts.kills += 1
        counts.unreadable += unreadable_files(folder)


def main(arguments: Sequence[str]) -> int:
    """Kill and resume; the exit code."""
    numbers = [int(word) for word in arguments if "=" not in word]
    most, seed = [*numbers, *[50, 0][len(numbers) :]]
    random.seed(seed)
    settings = [*INPUT, *SETTINGS, *(word for word in arguments if "=" in word)]
    counts = Counts()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "data").mkdir()
        make_data(base / "data")
        shutil.copytree(base / "data", base / "whole")
        started = time.monotonic()
        if wait(start(base / "whole", hybrid_refine.run, settings)):
            print((base / "whole" / "output.txt").read_text())
            return 1
        seconds = time.monotonic() - started
        expected = outcome(base / "whole")
        print(f"a run that is left alone takes {seconds:.1f} s", flush=True)
        begun = time.monotonic()
        while counts.kills < most:
            folder = base / f"run{counts.runs}"
            shutil.copytree(base / "data", folder)
            refine_with_kills(folder, settings, seconds, most, counts)
            counts.runs += 1
            counts.differences += outcome(folder) != expected
            counts.left_over += len(list(folder.glob(".*")))
            print(counts, f"{time.monotonic() - begun:.0f} s", flush=True)
    return 0 if counts.differences == counts.unreadable == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
