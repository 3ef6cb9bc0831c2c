"""The scripts that docs/pipeline.md shows, run as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_runs import FAST, INPUT, path_of

from benchmarks.batch import BREAK
from dials_hybrid_refine.command_line import hybrid_collect

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
GIVEN = ("integrated.expt", "integrated.refl", "model.cif")
QUICK = [*FAST, "difference_map=False", "output.html=None"]
SUMMARY = "dials.hybrid_refine.json"


@pytest.fixture
def environment():
    """The variables of a shell that finds the commands."""
    folder = Path(path_of("dials.hybrid_refine")).parent
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def make_data_set(simulated):
    """A function that makes the folder of a data set."""

    def make(folder: str) -> Path:
        Path(folder).mkdir(parents=True)
        for name, given in zip(INPUT, GIVEN):
            shutil.copy(simulated / name, Path(folder) / given)
        return Path(folder)

    return make


def run_script(name: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*(["bash"] if name.endswith("sh") else [sys.executable]), EXAMPLES / name, *map(str, arguments)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["refine_folder.sh", "refine_array.sh"])
def test_syntax(name):
    done = subprocess.run(["bash", "-n", EXAMPLES / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_task_of_the_array_goes_on_with_its_folder(
    make_data_set, refined, environment, run_in_tmp_path
) -> None:
    """The second of two, which an earlier task has left with a checkpoint; parameters of sbatch's line
    reach the program."""
    Path("folders.txt").write_text("first\nsecond data set\n")
    shutil.copy(EXAMPLES / "refine_folder.sh", ".")
    folder = make_data_set("second data set")
    shutil.copy(refined / "hybrid_refine.checkpoint", folder)
    done = run_script("refine_array.sh", *QUICK, **environment, SLURM_ARRAY_TASK_ID="2")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "Going on from hybrid_refine.checkpoint" in done.stdout
    written = {path.name for path in folder.iterdir()}
    assert {"hybrid_refined.cif", SUMMARY} <= written
    assert (folder / "dials.hybrid_refine.err").read_text() == ""
    assert [path.name for path in Path().iterdir() if path.is_dir()] == [folder.name]


def test_what_has_converged_is_not_repeated(environment, run_in_tmp_path):
    """There are no data, which a run would miss."""
    Path("done").mkdir()
    text = json.dumps({"status": "converged"}, indent=2)
    Path("done", SUMMARY).write_text(text)
    assert run_script("refine_folder.sh", "done", **environment).returncode == 0
    assert [path.name for path in Path("done").iterdir()] == [SUMMARY]


def test_old_summaries_do_not_hide_a_failure(environment, run_in_tmp_path):
    """Of a run that ends before it knows where its summary goes, standard error is kept."""
    Path("set").mkdir()
    Path("set", SUMMARY).write_text('{"status": "max_iterations"}')
    done = run_script("refine_folder.sh", "set", "d_min=1", **environment)
    assert done.returncode == 1
    hybrid_collect.run(["set", "output.html=None"])
    (run,) = json.loads(Path("dials.hybrid_collect.json").read_text())["runs"]
    assert run["status"] == "failed"
    assert run["reason"].startswith("the file integrated.expt does not exist")


def test_a_batch_with_dask(make_data_set, environment, run_in_tmp_path):
    """Two data sets and three that are broken: two results, three reasons, one page."""
    names = ["good_1", "truncated", "x_rays", "empty", "good_2"]
    folders = [make_data_set(f"batch/{name}") for name in names]
    for spoil, folder in zip(BREAK, folders[1:4]):
        spoil(folder)
    done = run_script("refine_dask.py", "--workers", 2, *folders, *QUICK, **environment)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("5 of 5")
    codes = {Path(line.split(": ")[1]).name: line[-1] for line in lines}
    assert codes == dict(zip(names, "01110"))
    hybrid_collect.run(["batch/*", "sort_by=name"])
    content = json.loads(Path("dials.hybrid_collect.json").read_text())
    results = [run["name"] for run in content["runs"] if run["result"]]
    assert results == ["batch/good_1", "batch/good_2"]
    reasons = {group["runs"][0]: group["reason"] for group in content["failures"]}
    assert "is not a readable reflection file" in reasons["batch/truncated"]
    assert "0.7107" in reasons["batch/x_rays"]
    assert "holds no reflections" in reasons["batch/empty"]
    page = Path("dials.hybrid_collect.html").read_text()
    assert "2 of 5 runs have results, 3 failed (3 reasons)." in page
