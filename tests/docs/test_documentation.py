"""The pages of docs/ are built by sphinx without a warning, and hold what they should."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CI = os.environ.get("CI") == "true"
REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"

PROGRAMS = ("hybrid_refine", "hybrid_simulate", "hybrid_collect", "import_pets")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of the HTML pages."""
    missing = [n for n in ("sphinx", "myst_parser", "furo") if not importlib.util.find_spec(n)]
    if missing:
        message = f"this test needs the packages {', '.join(missing)}: make env installs them"
        if CI:
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "--keep-going", str(DOCS), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_all_parameters_have_an_address(built: Path, program: str) -> None:
    """Help, type and default of each, below an address made of its name."""
    module = importlib.import_module(f"dials_hybrid_refine.command_line.{program}")
    page = (built / "programs" / f"dials.{program}.html").read_text()
    first_sentence = module.__doc__.splitlines()[0]
    assert first_sentence in page
    for found in module.phil_scope.all_definitions():
        shown = (found.object.expert_level or 0) < 3
        assert (f'id="{found.path}"' in page) == shown, found.path


def test_choices_defaults_and_limits_are_shown(built: Path) -> None:
    page = (built / "programs" / "dials.hybrid_refine.html").read_text()
    item = page[page.index('id="thickness.model"') :].split("</dd>")[0]
    text = " ".join(re.sub("<[^>]+>", "", item).split())
    assert "thickness.model = neural" in text
    assert "one of neural, neural_mean, constant, per_image, wedge, cylinder, lens" in text
    assert "a distribution that a neural network gives for each rotation angle" in text
    item = page[page.index('id="reflections.min_partiality"') :].split("</dd>")[0]
    assert "float from 0 to 1; expert level 1" in re.sub("<[^>]+>", "", item)


def test_pages_ask_the_network_for_nothing(built: Path) -> None:
    """Scripts, styles and pictures are files beside the pages; formulas are MathML."""
    for page in built.rglob("*.html"):
        assert not re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="https?://', page.read_text())
    assert "<math" in (built / "theory.html").read_text()


def test_parameters_named_in_the_pages_exist() -> None:
    """``scope.name`` in pages is a parameter, wherever scope is one of the program's."""
    from dials_hybrid_refine.command_line.hybrid_refine import phil_scope
    from dials_hybrid_refine.command_line.hybrid_simulate import phil_scope as of_simulate
    from dials_hybrid_refine.command_line.import_pets import phil_scope as of_import

    known = {
        found.path
        for scope in (phil_scope, of_simulate, of_import)
        for found in scope.all_definitions()
    }
    known |= {path.rsplit(".", i)[0] for path in known for i in range(1, path.count(".") + 1)}
    scopes = {path.split(".")[0] for path in known}
    unknown = {
        f"{page.name}: {name}"
        for page in [*DOCS.glob("*.md"), REPOSITORY / "README.md"]
        if page.name != "effects.md"  # has parameters of its example
        for name in re.findall(r"\b([a-z_]+\.[a-z_.]+)=", page.read_text())
        if name.split(".")[0] in scopes and name not in known
    }
    assert not unknown
