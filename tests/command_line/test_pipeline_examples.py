"""The scripts that docs/pipeline.md shows, run as they are."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_runs import FAST, INPUT, path_of

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def test_a_task_of_the_array_refines_its_folder(simulated, run_in_tmp_path) -> None:
    """The second of two; parameters of sbatch's line reach the program."""
    Path("folders.txt").write_text("first\nsecond\n")
    Path("second").mkdir()
    for name, given in zip(INPUT, ("integrated.expt", "integrated.refl", "model.cif")):
        (Path("second") / given).write_bytes((simulated / name).read_bytes())
    folder = Path(path_of("dials.hybrid_refine")).parent
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "2",
    }
    quick = [*FAST, "difference_map=False", "output.html=None"]
    done = subprocess.run(
        ["bash", EXAMPLES / "refine_array.sh", *quick],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    written = {path.name for path in Path("second").iterdir()}
    assert {"hybrid_refined.cif", "dials.hybrid_refine.json"} <= written
    assert [path.name for path in Path().iterdir() if path.is_dir()] == ["second"]


def test_results_are_collected(refined, tmp_path) -> None:
    summary = json.loads((refined / "dials.hybrid_refine.json").read_text())
    warned = tmp_path / "warned" / "dials.hybrid_refine.json"
    warned.parent.mkdir()
    hand = {"z_score": -4.5}
    warned.write_text(
        json.dumps({**summary, "absolute_structure": hand, "warnings": ["one, two", "three"]})
    )
    names = [refined / warned.name, tmp_path / "missing" / warned.name, warned]
    script = [sys.executable, str(EXAMPLES / "collect_results.py")]
    done = subprocess.run([*script, *map(str, names)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    first, missing, other = csv.DictReader(done.stdout.splitlines())
    assert first["folder"] == str(refined)
    assert first["status"] == summary["status"]
    assert float(first["r_obs"]) == summary["statistics"]["r_obs"]
    means = [entry["mean"] for entry in summary["thickness"]]
    assert float(first["thickness"]) == pytest.approx(sum(means) / len(means), abs=0.5)
    assert missing["status"] == "failed"
    assert (other["z_score"], other["warnings"]) == ("-4.5", "one, two; three")
