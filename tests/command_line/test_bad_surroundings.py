"""Commands where the disk is full, the folder cannot be written to, or the terminal is gone."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_runs import FAST, INPUT, path_of

from dials.array_family import flex
from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine

SIMULATE = ["data.expt", "model.cif", "d_min=0.9", "nproc=1"]
BARE = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
if "PYTHONPATH" in os.environ:
    BARE["PYTHONPATH"] = os.environ["PYTHONPATH"]
#: the locale C as Python finds it where nothing helps it to UTF-8
PLAIN_C = {**BARE, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def run(name, arguments, **options):
    """A process of a command; with ``size`` no file may grow beyond that many bytes."""
    size = options.pop("size", None)
    limit = (size, size)
    process = subprocess.run(
        [path_of(f"dials.{name}"), *arguments],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        preexec_fn=size and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)),
        **options,
    )
    assert "Traceback" not in process.stderr and "Logging error" not in process.stderr
    return process


def test_a_full_disk(files):
    """What does not fit is not there, what does is whole, and nothing is left beside it."""
    before = set(os.listdir())
    process = run("hybrid_simulate", SIMULATE, size=10_000)
    assert process.returncode == 1
    assert process.stderr == "Sorry: writing hybrid_simulated.refl failed: File too large\n"
    assert set(os.listdir()) - before == {"hybrid_simulated.expt", "dials.hybrid_simulate.log"}
    json.loads(Path("hybrid_simulated.expt").read_text())


def test_a_disk_too_full_for_the_log(files):
    process = run("hybrid_simulate", [*SIMULATE, "output.experiments=None"], size=150)
    assert process.returncode == 1
    warning, sorry = process.stderr.splitlines()
    assert warning.startswith("Warning: the log on ") and "ends here (File too large)" in warning
    assert sorry.startswith("Sorry: writing hybrid_simulated.refl failed")


def test_a_folder_that_cannot_be_written_to(files):
    """/proc takes no files, not even of root."""
    inputs = [str(files / name) for name in SIMULATE[:2]]
    process = run("hybrid_simulate", [*inputs, "d_min=0.9"], cwd="/proc")
    assert process.returncode == 1
    assert "output.experiments=hybrid_simulated.expt cannot be written" in process.stderr
    assert "choose another directory" in process.stderr


def test_nobody_listens(files):
    """Standard output whose reader has gone, and no standard input."""
    reader, writer = os.pipe()
    os.close(reader)
    process = run("hybrid_simulate", SIMULATE, stdout=writer, stdin=subprocess.DEVNULL)
    os.close(writer)
    assert process.returncode == 0
    assert process.stderr.count("Warning: the log on the screen ends here (Broken pipe)") == 1
    assert "Saving the reflections" in Path("dials.hybrid_simulate.log").read_text()
    assert len(flex.reflection_table.from_file("hybrid_simulated.refl")) > 10


def test_bare_surroundings_and_names_that_are_no_ascii(files):
    """No HOME, no user, locale C, spaces and umlauts in all names; a whole refinement."""
    folder = files / "d\u00e4ta of \u96ea"
    folder.mkdir()
    names = ["d \u00e4.expt", "\u00f6 1.refl", "\u96ea\u82b1.cif"]
    for old, new in zip(INPUT, names):
        (folder / new).write_bytes((files / old).read_bytes())
    arguments = [*names, *FAST, "output.structure=\u00fc.cif", "difference_map=False"]
    process = run("hybrid_refine", arguments, cwd=folder, env=PLAIN_C)
    assert process.returncode == 0, process.stderr
    assert not process.stderr
    written = {
        "\u00fc.cif",
        "hybrid_refined.expt",
        "hybrid_refined.refl",
        "dials.hybrid_refine.html",
    }
    assert written <= set(os.listdir(folder))
    summary = json.loads((folder / "dials.hybrid_refine.json").read_text())
    assert np.isfinite(summary["statistics"]["r_obs"])


def test_a_sentence_about_a_name_that_is_no_ascii(files):
    process = run("hybrid_refine", ["\u00fc.expt", *INPUT[1:]], env=PLAIN_C)
    assert process.returncode == 1 and process.stderr.startswith("Sorry: the file ")


def test_devices_are_not_replaced(files):
    """A file under the name of a device would take its place, as root."""
    with pytest.raises(Sorry, match="output.structure=/dev/full is a device"):
        hybrid_refine.run([*INPUT, "output.structure=/dev/full"])
    assert Path("/dev/full").is_char_device()
