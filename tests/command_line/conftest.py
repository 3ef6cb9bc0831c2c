"""A small data set that the commands read and write within seconds."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_runs import FAST, FORMATS, INPUT, path_of
from pets_files import PetsFile
from working_directory import working_in

import iotbx.cif
from dials.array_family import flex

from benchmarks.demo_images import write_demo
from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate

#: twenty images of the demo's crystal, whose goniometer has fixed and setting rotations
N_IMAGES = 20
SIMULATE = "small.expt truth.cif d_min=0.7 thickness.mean=300 noise.poisson=True nproc=1".split()


@contextmanager
def _handlers_removed():
    """DIALS adds handlers to its loggers each time a command starts: take them away again."""
    loggers = [logging.getLogger(name) for name in ("dials", "dxtbx")]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before):
        for handler in [h for h in logger.handlers if h not in handlers]:
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture(autouse=True)
def fresh_logging():
    with _handlers_removed():
        yield


def _in_folder(folder: Path, run, arguments) -> None:
    with working_in(folder), _handlers_removed():
        run(arguments)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """A folder with small.expt, the first images of the demo, and truth.cif, its structure."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, N_IMAGES)
    return folder


@pytest.fixture(scope="session")
def simulated(demo) -> Path:
    """A folder with data.expt, data.refl and model.cif, whose oxygen is a little displaced."""
    _in_folder(demo, hybrid_simulate.run, SIMULATE)
    shutil.copy(demo / "hybrid_simulated.expt", demo / "data.expt")
    shutil.copy(demo / "hybrid_simulated.refl", demo / "data.refl")
    text = (demo / "truth.cif").read_text()
    assert "0.8534 0.5865" in text
    (demo / "model.cif").write_text(text.replace("0.8534 0.5865", "0.8434 0.5945"))
    return demo


@pytest.fixture(scope="session")
def refined(simulated, tmp_path_factory) -> Path:
    """A folder with the input files and all files that a refinement can write."""
    folder = tmp_path_factory.mktemp("refined")
    for name in INPUT:
        shutil.copy(simulated / name, folder)
    _in_folder(folder, hybrid_refine.run, INPUT + FAST + FORMATS)
    return folder


@pytest.fixture(scope="session")
def summary(refined):
    return json.loads((refined / "dials.hybrid_refine.json").read_text())


@pytest.fixture(scope="session")
def table(refined):
    return flex.reflection_table.from_file(str(refined / "hybrid_refined.refl"))


@pytest.fixture(scope="session")
def block(refined):
    cif = iotbx.cif.reader(file_path=str(refined / "hybrid_refined.cif")).model()
    return cif["hybrid_refined"]


@pytest.fixture
def files(simulated, run_in_tmp_path) -> Path:
    """The working folder, with data.expt, data.refl and model.cif to be spoilt."""
    for name in INPUT:
        shutil.copy(simulated / name, run_in_tmp_path)
    return run_in_tmp_path


@pytest.fixture(scope="session")
def call():
    """A function that runs an installed command in the working folder and returns its process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(name: str, *arguments: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [path_of(name), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            **options,
        )

    return run


@pytest.fixture
def stop_before_refinement(monkeypatch):
    """Makes a run with good input end there; returns the arguments of run_refinement."""
    seen = []

    def stop(*arguments, **options):
        seen.append(arguments)
        raise ValueError("the input was good")

    monkeypatch.setattr(hybrid_refine, "run_refinement", stop)
    return seen


@pytest.fixture
def text(run_in_tmp_path) -> str:
    """The text of a good PETS2 file; the working folder is empty."""
    return PetsFile().text()


@pytest.fixture
def change_experiments(files):
    """A function that lets another one change the decoded data.expt."""

    def change(edit):
        content = json.loads((files / "data.expt").read_text())
        edit(content)
        (files / "data.expt").write_text(json.dumps(content))

    return change
