"""dials.hybrid_collect: folders of runs to a table, a page and JSON."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from browser import check_page
from command_runs import FAST, INPUT
from refusals import refused

from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_collect, hybrid_refine

SUMMARY = "dials.hybrid_refine.json"


def changed(summary, **changes):
    """A summary with other values; keys with dots are inside others."""
    content = json.loads(json.dumps(summary))
    for path, value in changes.items():
        *outer, last = path.split("__")
        inner = content
        for name in outer:
            inner = inner[name]
        inner[last] = value
    return content


def write(name, content):
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / SUMMARY).write_text(json.dumps(content))
    return folder


@pytest.fixture
def batch(run_in_tmp_path, refined, summary) -> Path:
    """Eight folders: four results, two failures of one reason, one killed, one never started."""
    hand = {"z_score": 4.0, "clear": True}
    folder = write("runs/good", changed(summary, absolute_structure=hand))
    (folder / "dials.hybrid_refine.html").write_text("the page of the run")
    write(
        "runs/better",
        changed(
            summary, statistics__r_obs_held_out=0.01, absolute_structure={**hand, "z_score": 5}
        ),
    )
    cell = [[8.0, 9.0, 10.0, 90.0, 95.0, 90.0]]
    experiments = [{**summary["experiments"][0], "unit_cell": cell[0]}]
    write("runs/other", changed(summary, experiments=experiments, warnings=["too few reflections"]))
    write("runs/stopped", changed(summary, status="interrupted"))
    for name, wavelength in (("one", 0.71), ("two", 1.54)):
        reason = f"integrated.expt: {wavelength} Angstrom is no wavelength of electrons"
        write(f"runs/{name}", {"program": summary["program"], "status": "failed", "reason": reason})
    Path("runs/killed").mkdir()
    shutil.copy(refined / "hybrid_refine.checkpoint", "runs/killed")
    Path("runs/waiting").mkdir()
    return run_in_tmp_path


def test_all_runs_are_told_apart(batch, summary):
    hybrid_collect.run(["runs/*"])
    content = json.loads(Path("dials.hybrid_collect.json").read_text())
    found = {Path(run["name"]).name: run for run in content["runs"]}
    assert {name: run["status"] for name, run in found.items()} == {
        "better": "converged" if summary["status"] == "converged" else "max_iterations",
        "good": summary["status"],
        "other": summary["status"],
        "stopped": "interrupted",
        "one": "failed",
        "two": "failed",
        "killed": "not finished",
        "waiting": "not finished",
    }
    assert content["runs"][0]["name"].endswith("better")
    assert found["good"]["result"]["r_obs"] == summary["statistics"]["r_obs"]
    clusters = content["cell_clusters"]
    assert [len(cluster["runs"]) for cluster in clusters] == [3, 1]
    assert clusters[1]["runs"] == ["runs/other"]
    (hand,) = content["hands"]
    assert (hand["n_tested"], hand["n_as_given"]) == (2, 2)
    assert hand["z_score"] == pytest.approx(9 / 2**0.5)
    (failure,) = content["failures"]
    assert failure["runs"] == ["runs/one", "runs/two"] and "0.71 Angstrom" in failure["reason"]
    assert "parts done" in found["killed"]["reason"]
    assert "checkpoint.resume=hybrid_refine.checkpoint" in found["killed"]["reason"]
    assert "not started" in found["waiting"]["reason"]


def test_table_for_spreadsheets(batch, summary):
    hybrid_collect.run(["runs/*", "sort_by=name", "output.html=None", "output.json=None"])
    table = csv.DictReader(Path("dials.hybrid_collect.csv").read_text().splitlines())
    rows = {Path(row["name"]).name: row for row in table}
    assert len(rows) == 8
    assert float(rows["good"]["completeness"]) == summary["statistics"]["completeness"]
    assert float(rows["other"]["beta"]) == 95
    assert (rows["good"]["cluster"], rows["other"]["cluster"]) == ("1", "2")
    assert rows["one"]["reason"].startswith("integrated.expt")
    assert rows["one"]["r_obs"] == ""
    assert not Path("dials.hybrid_collect.html").exists()


@pytest.mark.parametrize("width", [1280, 400])
def test_page(batch, browser, width):
    hybrid_collect.run(["runs/*"])
    page = Path("dials.hybrid_collect.html")
    assert check_page(browser, page, width) == {"agreement", "thickness", "cells", "hands"}
    assert browser.panels() == ["results", "comparison", "without-results", "details"]
    browser.open(page, width, "#results")
    shown = browser.driver.find_element("id", "summary").text
    assert "4 of 8 runs have results, 2 failed (1 reason), 2 not finished." in shown
    assert "2 different unit cells" in shown
    link = browser.driver.find_element("link text", "runs/good")
    assert (
        link.get_attribute("href") == Path("runs/good/dials.hybrid_refine.html").resolve().as_uri()
    )
    browser.open(page, width, "#without-results")
    text = browser.driver.find_element("id", "without-results").text
    assert "no wavelength of electrons" in text and "runs/killed" in text


def test_a_batch_without_results(run_in_tmp_path):
    Path("empty").mkdir()
    hybrid_collect.run(["empty"])
    assert "0 of 1 runs have results" in Path("dials.hybrid_collect.html").read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"program": "dials.scale"}', '{"program": "dials.hybrid_refine", "status'
             '": "converged"}', "\x00"],
)  # fmt: skip
def test_what_is_no_summary_is_a_failure(run_in_tmp_path, text):
    Path("run").mkdir()
    Path("run", SUMMARY).write_text(text)
    hybrid_collect.run(["run", "output.html=None"])
    (run,) = json.loads(Path("dials.hybrid_collect.json").read_text())["runs"]
    assert run["status"] == "failed"
    assert run["reason"] == f"{SUMMARY} is not a readable summary of a refinement"


def test_errors_before_the_summary(run_in_tmp_path):
    """Of a run whose arguments were wrong, as the recipes keep them; a damaged checkpoint."""
    for name in ("typo", "torn"):
        Path(name).mkdir()
    Path("typo/dials.hybrid_refine.err").write_text("a warning\nSorry: there is no parameter x\n\n")
    Path("torn/hybrid_refine.checkpoint").write_bytes(b"PK")
    hybrid_collect.run(["typo", "torn", "output.html=None"])
    runs = json.loads(Path("dials.hybrid_collect.json").read_text())["runs"]
    found = {run["name"]: (run["status"], run["reason"]) for run in runs}
    assert found["typo"] == ("failed", "there is no parameter x")
    assert found["torn"][0] == "not finished" and "damaged" in found["torn"][1]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["lost"], ["no file or folder lost"]),
        (["lost/*"], ["no file or folder lost/*"]),
        (["cell_tolerance=1"], ["no folders"]),
        ([".", "cell_tolerence=1"], ["cell_tolerence", "cell_tolerance?"]),
        ([".", "sort_by=beauty"], ["sort_by", "completeness"]),
        ([".", "output.csv=lost/runs.csv"], ["output.csv", "create it first"]),
    ],
)
def test_bad_arguments(run_in_tmp_path, arguments, parts):
    with pytest.raises(Sorry) as raised:
        hybrid_collect.run(arguments)
    assert "\n" not in str(raised.value)
    assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_a_failed_run_replaces_the_summary(files, refined):
    """The result of an earlier run must not pass for that of this one."""
    shutil.copy(refined / SUMMARY, files)
    refused(files, [*INPUT, *FAST, "d_min=50"], "no reflection is left")
    assert json.loads((files / SUMMARY).read_text())["status"] == "failed"


def test_bugs_are_noted_too(files, monkeypatch):
    def broken(*_, **__):
        raise KeyError("a mistake")

    monkeypatch.setattr(hybrid_refine, "run_refinement", broken)
    with pytest.raises(KeyError):
        hybrid_refine.run([*INPUT, *FAST])
    assert "unexpected error, KeyError" in json.loads((files / SUMMARY).read_text())["reason"]


def test_no_summary_where_none_is_wanted(files):
    refused(files, [*INPUT, "d_min=50", "output.json=None"], "no reflection is left")
    assert not (files / SUMMARY).exists()
