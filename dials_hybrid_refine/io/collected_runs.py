"""The runs of a batch from their folders."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cctbx import sgtbx, uctbx

from dials_hybrid_refine.collection.run import FAILED, FINISHED, NOT_FINISHED, Hand, Run, RunResult
from dials_hybrid_refine.io.array_archive import read_archive

SUMMARY, CHECKPOINT = "dials.hybrid_refine.json", "hybrid_refine.checkpoint"
#: what the recipes of docs/pipeline.md keep of standard error
ERRORS = "dials.hybrid_refine.err"
_PAGE = "dials.hybrid_refine.html"


def find_runs(names: Sequence[str]) -> list[Path]:
    """The summaries, there or not, of folders, patterns of folders, and files, each once.

    Raises:
        ValueError: if there is no such file or folder.
    """
    found: dict[Path, None] = {}
    for name in names:
        matches = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))
        if not matches:
            raise ValueError(
                f"there is no file or folder {name}: give folders of dials.hybrid_refine, their "
                "JSON files, or patterns of them"
            )
        for match in map(Path, matches):
            if match.is_dir():
                found[match / SUMMARY] = None
            elif match.suffix == ".json" or match == Path(name):
                found[match] = None
    if not found:
        raise ValueError("no folders were given: give those that dials.hybrid_refine has run in")
    return list(found)


def read_run(summary: Path) -> Run:
    """What is known of a run from its summary, checkpoint and errors."""
    folder = summary.parent
    name = str(folder) if summary.name == SUMMARY else str(summary)
    page = str(folder / _PAGE) if (folder / _PAGE).is_file() else None
    if summary.is_file():
        try:
            content = json.loads(summary.read_text(encoding="utf-8"))
            return _run_of(name, content, page)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError):
            return Run(name, FAILED, f"{summary.name} is not a readable summary of a refinement")
    error = _last_error(folder / ERRORS)
    if error:
        return Run(name, FAILED, error)
    if (folder / CHECKPOINT).is_file():
        return Run(name, NOT_FINISHED, _progress(folder / CHECKPOINT))
    return Run(name, NOT_FINISHED, "there is neither a summary nor a checkpoint: not started")


def _run_of(name: str, content: Mapping[str, Any], page: str | None) -> Run:
    """Raises KeyError, TypeError and the like for what is no summary."""
    status = content["status"]
    if content["program"] != "dials.hybrid_refine":
        raise ValueError("a summary of another program")
    if status == FAILED:
        return Run(name, FAILED, str(content["reason"]))
    if status not in FINISHED:
        raise ValueError(f"status {status}")
    return Run(name, status, "", _result_of(content), page)


def _result_of(content: Mapping[str, Any]) -> RunResult:
    statistics, structure = content["statistics"], content["structure"]
    cells = [entry["unit_cell"] for entry in content.get("experiments", [])]
    cell = tuple(np.mean(cells or [structure["unit_cell"]], axis=0).tolist())
    group = str(structure["space_group"])
    uctbx.unit_cell(cell)
    sgtbx.space_group_info(group)
    means = [row["mean"] for row in content["thickness"] if row["mean"] is not None]
    hand = content["absolute_structure"]
    source = content["input"]
    return RunResult(
        r_obs=statistics["r_obs"],
        r_obs_held_out=statistics["r_obs_held_out"],
        n_reflections=int(statistics["n_reflections"]),
        n_observed=int(statistics["n_observed"]),
        n_rejected=int(statistics["n_rejected"]),
        d_min=statistics.get("d_min"),
        completeness=statistics.get("completeness"),
        unit_cell=cell,
        space_group=group,
        thickness=float(np.mean(means)) if means else None,
        thickness_range=(min(means), max(means)) if means else None,
        hand=Hand(float(hand["z_score"]), bool(hand.get("clear", False))) if hand else None,
        model=str(source["sha256"][source["structure"]]),
        seconds=float(content["timing"]["setup_s"]) + float(content["timing"]["refine_s"]),
        warnings=tuple(map(str, content.get("warnings", []))),
    )


def _last_error(path: Path) -> str:
    """The last line of a file that is not empty, without what DIALS puts before an error."""
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    except OSError:
        return ""
    lines = [line for line in lines if line]
    wanted = [line for line in lines if line.startswith("Sorry: ")] or lines
    return wanted[-1].removeprefix("Sorry: ") if wanted else ""


def _progress(checkpoint: Path) -> str:
    """How far a run came that has left a checkpoint."""
    try:
        content = read_archive(str(checkpoint))
        names = [str(entry["name"]) for entry in content["entries"]]
        running = content["running"] and str(content["running"]["name"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"killed, and {checkpoint.name} is damaged: start again"
    done = f"{len(names)} parts done" + (f", the last {names[-1]}" if names else "")
    now = f", {running} under way" if running else ""
    return f"running or killed: {done}{now}; checkpoint.resume={checkpoint.name} goes on"
