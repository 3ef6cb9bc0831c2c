"""Runs that are killed and resumed, and checkpoints that are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command_runs import FAST, INPUT, path_of
from refusals import refused

from dials.array_family import flex

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.command_line.refine_checkpoint import end_journal
from dials_hybrid_refine.io.array_archive import read_archive, write_archive
from dials_hybrid_refine.io.checkpoint import Provenance, saver
from dials_hybrid_refine.refinement.journal import Journal

CHECKPOINT = "hybrid_refine.checkpoint"
RESUME = f"checkpoint.resume={CHECKPOINT}"


def numbers(folder: Path):
    """The summary without what tells runs apart."""
    content = json.loads((folder / "dials.hybrid_refine.json").read_text())
    del content["timing"], content["parameters"]
    return content


@pytest.fixture
def resumable(files, refined) -> Path:
    """The working folder with the checkpoint of a run with the arguments ``FAST``."""
    shutil.copy(refined / CHECKPOINT, files)
    return files


def kill_in(stage: str, *arguments: str) -> None:
    """Start a run and kill it (SIGKILL) when the log has the first step of a stage."""
    process = subprocess.Popen(
        [path_of("dials.hybrid_refine"), *INPUT, *FAST, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert any(line.split()[:1] == [stage] for line in process.stdout)
    finally:
        process.kill()
        process.communicate()


def test_killed_runs_go_on(files, refined, call):
    """In another process, to the same numbers as in this one."""
    kill_in("start")
    (files / "first").write_bytes((files / CHECKPOINT).read_bytes())
    kill_in("cycle", RESUME)
    assert len(read_archive(CHECKPOINT)["entries"]) > len(read_archive("first")["entries"])
    process = call("dials.hybrid_refine", *INPUT, *FAST, RESUME)
    assert process.returncode == 0, process.stderr
    assert "Going on from hybrid_refine.checkpoint" in process.stdout
    assert numbers(files) == numbers(refined)


def test_double_precision_is_reproducible_too(files, call):
    arguments = [*INPUT, *FAST, "precision=double", "d_min=1.0", "checkpoint.file=None"]
    assert call("dials.hybrid_refine", *arguments).returncode == 0
    first = numbers(files)
    hybrid_refine.run(arguments)
    assert numbers(files) == first and not (files / CHECKPOINT).exists()


def test_two_threads_differ_by_rounding_only(resumable, refined):
    """The number of threads, names of output and most cycles may be others."""
    hybrid_refine.run(
        [*INPUT, *FAST, RESUME, "nproc=2", "max_cycles=2", "output.structure=other.cif"]
    )
    found, before = (numbers(folder) for folder in (resumable, refined))
    assert found["statistics"]["n_iterations"] > before["statistics"]["n_iterations"]
    assert (resumable / "other.cif").exists()


def test_other_parameters(resumable):
    refused(
        resumable,
        [*INPUT, *FAST, RESUME, "weighting.instability=0.02"],
        CHECKPOINT, "weighting.instability at its default, and now it is 0.02",
        "start without checkpoint.resume",
    )  # fmt: skip


@pytest.mark.parametrize(
    "name, kind", list(zip(INPUT, ["experiments", "reflections", "structure"]))
)
def test_other_files(resumable, stop_before_refinement, name, kind):
    """Known by their content: names do not matter."""
    other = f"other{Path(name).suffix}"
    (resumable / name).rename(other)
    arguments = [other if n == name else n for n in INPUT]
    refused(resumable, [*arguments, *FAST, RESUME], "the input was good")
    if kind == "reflections":
        table = flex.reflection_table.from_file(other)
        table["intensity.prf.value"][0] += 1
        table.as_file(other)
    else:
        text = Path(other).read_text()
        Path(other).write_text(f"{text}\n")
    refused(
        resumable, [*arguments, *FAST, RESUME], CHECKPOINT, f"another {kind} file", "SHA-256 differ"
    )


def test_other_version(resumable):
    content = read_archive(CHECKPOINT)
    content["provenance"]["versions"]["dials_hybrid_refine"] = "0.0.1"
    write_archive(CHECKPOINT, content)
    refused(resumable, [*INPUT, *FAST, RESUME], "was written by version 0.0.1")


class Hostile:
    """An object that makes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def hostile(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("content.json", json.dumps({"entries": {"array": 0}}))
        with archive.open("0.npy", "w") as stream:
            np.lib.format.write_array(stream, np.array([Hostile()], dtype=object))


def bomb(path: Path) -> None:
    """A megabyte of zeros in a kilobyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("content.json", "0" * 1_000_000)


def giant(path: Path) -> None:
    """An array whose header claims eight terabytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("content.json", json.dumps({"entries": {"array": 0}}))
        with archive.open("0.npy", "w") as stream:
            header = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
            np.lib.format.write_array_header_1_0(stream, header)


def nested(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("content.json", "[" * 100_000)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint at all"),
        lambda path: path.write_bytes(pickle.dumps(Hostile())),
        lambda path: write_archive(str(path), {"program": "another"}),
        hostile, bomb, giant, nested, flipped,
    ],
)  # fmt: skip
def test_damaged_or_hostile_checkpoints(resumable, spoil):
    """One sentence, and nothing in the file is run."""
    spoil(resumable / CHECKPOINT)
    refused(resumable, [*INPUT, *FAST, RESUME], CHECKPOINT, "start without checkpoint.resume")
    assert not (resumable / "harm").exists()


def test_missing_checkpoint(files):
    refused(files, [*INPUT, *FAST, RESUME], f"{RESUME} does not exist", "check its name")


def test_checkpoint_is_not_another_output(files):
    arguments = [*INPUT, *FAST, "checkpoint.file=dials.hybrid_refine.json"]
    refused(files, arguments, "checkpoint.file", "output.json", "the same file")


def test_full_disk_does_not_stop_the_refinement(run_in_tmp_path, caplog):
    save = saver("missing/folder.checkpoint", Provenance({}, {}, {}, {}))
    save(Journal())
    save(Journal())
    (record,) = caplog.records
    assert "goes on without checkpoints" in record.getMessage()


@pytest.mark.parametrize("status, stays", [("converged", False), ("max_iterations", True)])
def test_what_becomes_of_the_checkpoint(run_in_tmp_path, status, stays):
    """That of a converged refinement has served."""
    Path(CHECKPOINT).touch()
    checkpoint = hybrid_refine.phil_scope.extract().checkpoint
    end_journal(checkpoint, status)
    assert Path(CHECKPOINT).exists() == stays
