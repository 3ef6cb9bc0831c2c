"""What all tests share: data, a clean working folder, and the rule for skips in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch  # noqa: F401  before DIALS, whose libomptbx would limit torch to one thread
from browser import Browser

CI = os.environ.get("CI") == "true"
SHARED = Path(__file__).resolve().parents[2] / "shared"

if CI:
    import dials.array_family.flex  # noqa: F401  an error here, so that no test can skip for want of DIALS

if (SHARED / "dials_data").is_dir():
    os.environ.setdefault("DIALS_DATA", str(SHARED / "dials_data"))

if importlib.util.find_spec("dials_data") is None:

    @pytest.fixture(scope="session")
    def dials_data():
        pytest.skip("this test needs the package dials-data")


@pytest.fixture(scope="session")
def quartz(dials_data) -> Path:
    """The folder of a rotation series of alpha-quartz processed with DIALS."""
    return Path(dials_data("quartz_processed"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the project's reference data, beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("this test needs the folder shared beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def core_dictionary(shared):
    """The core CIF dictionary, to check files against."""
    pytest.importorskip("CifFile", reason="this test needs the package PyCifRW")
    from core_dictionary import CoreDictionary

    return CoreDictionary(shared / "dictionaries" / "cif_core.dic")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver and importlib.util.find_spec("selenium")):
        message = "this test needs chromium, chromedriver and selenium: make env installs them"
        if CI:
            pytest.fail(message)
        pytest.skip(message)
    with Browser(program, driver) as opened:
        yield opened


@pytest.fixture
def run_in_tmp_path(monkeypatch, tmp_path) -> Path:
    """Run the test in an empty working folder, and return that."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI, fail a test that skips although the data it asks for are there.

    Marks (skip, skipif) are left alone: they state other needs, such as a GPU.
    """
    outcome = yield
    report = outcome.get_result()
    needs_data = {"dials_data", "shared"} & set(item.fixturenames)
    marked = any(item.iter_markers("skip")) or any(item.iter_markers("skipif"))
    expected_failure = hasattr(report, "wasxfail")
    if (
        CI
        and SHARED.is_dir()
        and report.skipped
        and needs_data
        and not (marked or expected_failure)
    ):
        report.outcome = "failed"
        report.longrepr = f"CI does not allow this skip: {call.excinfo.value}"
