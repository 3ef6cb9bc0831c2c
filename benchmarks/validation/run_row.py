"""Run one row and say what came out."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.validation import compare
from benchmarks.validation.prepare import Prepared, inputs, prepare
from benchmarks.validation.rows import Row
from dials_hybrid_refine import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
RESULT = "result.json"
_SUMMARY = "dials.hybrid_refine.json"
#: seconds for the step that runs when the time of a row is over
_GRACE = 120.0
#: of these no change matters to results
_SOURCES = ("dials_hybrid_refine", "benchmarks")
#: what takes time after the refinement and is not looked at here
_LEFT_OUT = ("difference_map=False", "absolute_structure.test=False", "output.html=None")


class ProgramError(Exception):
    """A command ended with an error; the message is its last line."""


@dataclass(frozen=True)
class Settings:
    """What is the same for all rows.

    Attributes:
        output: folder of all rows.
        paper: folder with the files of the paper.
        nproc: threads of the commands.
        limit: seconds for the refinement of a row.
        commit: of the code that runs.
    """

    output: Path
    paper: Path
    nproc: int
    limit: float
    commit: str


def current_commit() -> str:
    """Short hash of the commit, "+" where the code was changed since; "unknown" without git."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "--", *_SOURCES],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "+" * bool(changes)


def key_of(row: Row, paper: Path) -> str:
    """Changes whenever the row, its files or the version of the program do.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    digest = hashlib.sha256(f"{row!r} {__version__}".encode())
    for path in inputs(row, paper):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def stored(row: Row, output: Path) -> dict[str, Any] | None:
    """The result of a row, if it has run."""
    path = output / row.name / RESULT
    return json.loads(path.read_text()) if path.is_file() else None


def is_done(row: Row, settings: Settings, same_commit: bool) -> bool:
    """Whether the stored result is that of this row, these files and this version.

    Rows that failed, and those that ran out of a shorter time, are not done.

    Args:
        same_commit: results of another commit do not count.
    """
    result = stored(row, settings.output)
    if result is None or result["status"] == "failed":
        return False
    if result["status"] == "timed out" and result["limit_s"] < settings.limit:
        return False
    if same_commit and result["commit"] != settings.commit:
        return False
    try:
        return bool(result["key"] == key_of(row, settings.paper))
    except FileNotFoundError:
        return False


def run_row(row: Row, settings: Settings) -> dict[str, Any]:
    """Run a row in its folder, write its result there and return it."""
    folder = settings.output / row.name
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (RESULT, _SUMMARY):
        (folder / stale).unlink(missing_ok=True)
    result: dict[str, Any] = {
        "name": row.name,
        "table": row.dataset.table,
        "dataset": row.dataset.name,
        "start": row.start.name,
        "variant": row.variant,
        "seed": row.seed,
        "arguments": list(row.refine_arguments),
        "version": __version__,
        "commit": settings.commit,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "nproc": settings.nproc,
        "limit_s": settings.limit,
    }
    try:
        result["key"] = key_of(row, settings.paper)
        result |= _refined(row, folder, settings)
    except (ProgramError, OSError, ValueError, RuntimeError) as error:
        result |= {"status": "failed", "message": str(error)}
    _write_atomically(folder / RESULT, json.dumps(result, indent=1) + "\n")
    return result


def _refined(row: Row, folder: Path, settings: Settings) -> dict[str, Any]:
    threads = f"nproc={settings.nproc}"

    def run(program: str, arguments: list[str]) -> None:
        more = [threads] if program != "import_pets" else []
        _run_program(program, [*arguments, *more], folder, None)

    prepared = prepare(row, folder, settings.paper, run)
    started, cpu = time.monotonic(), _cpu_seconds()
    in_time = _run_program(
        "hybrid_refine",
        [*prepared.files, *row.refine_arguments, *_LEFT_OUT, threads],
        folder,
        settings.limit,
    )
    times = {"seconds": time.monotonic() - started, "cpu_seconds": _cpu_seconds() - cpu}
    path = folder / _SUMMARY
    if not path.is_file():
        return {"status": "timed out", **times}
    summary = json.loads(path.read_text())
    status = summary["status"] if in_time else "timed out"
    return {"status": status, **times, **figures(summary, prepared)}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run_program(program: str, arguments: list[str], folder: Path, limit: float | None) -> bool:
    """Run a command of this checkout in a folder; False if it was stopped at the limit (seconds).

    Stopped as by Ctrl-C: dials.hybrid_refine then writes what it has.

    Raises:
        ProgramError: if it ends with an error.
    """
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / f"{program}.out").open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", f"dials_hybrid_refine.command_line.{program}", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            _stop(process)
            return False
        except KeyboardInterrupt:  # the command was interrupted too, as it shares the terminal
            _stop(process)
            raise
    if code:
        lines = (folder / f"{program}.out").read_text().split("\n")
        last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
        raise ProgramError(f"dials.{program}: {last.strip()}")
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def figures(summary: Mapping[str, Any], prepared: Prepared) -> dict[str, Any]:
    """Statistics of a refinement and its deviations from the truth, as plain numbers.

    Args:
        summary: the JSON that dials.hybrid_refine has written.
    """
    truth = prepared.structure
    found = compare.refined_structure(summary, truth)
    sites = compare.site_deviations(found, truth)
    displacements = compare.displacement_deviations(found, truth)
    content = {
        "statistics": summary["statistics"],
        "warnings": summary["warnings"],
        "absorption_ratio": summary["absorption_ratio"],
        "timing": summary["timing"],
        "sites": {"each": sites, **compare.mean_and_largest(sites, truth)},
        "u": {"each": displacements, **compare.mean_and_largest(displacements, truth)},
        "u_eq": {s.label: s.u_iso_or_equiv(found.unit_cell()) for s in found.scatterers()},
    }
    if prepared.turn is not None:
        content["orientation"] = compare.orientation_deviations(
            summary["orientation"], prepared.turn
        )
    if prepared.thickness is not None:
        content["thickness"] = compare.thickness_deviations(
            summary["thickness"], prepared.thickness
        )
    return content


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text)
    os.replace(temporary, path)
