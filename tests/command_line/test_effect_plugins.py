"""Effects of other installed packages: the example of the documentation, and broken ones."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_runs import FAST, INPUT, path_of

from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "effects.md"


def documented_files() -> dict[str, str]:
    """The code blocks of the page that stand below the name of a file."""
    blocks = re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return dict(blocks)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder for sys.path with the example package, built from the page and installed by pip."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name, text in documented_files().items():
        (source / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", target, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target


def test_the_documented_example_recovers_what_was_simulated(installed, demo, tmp_path) -> None:
    """Its own commands, each a process; 1e-3 A^2/degree is found within three of its s.u.

    An s.u. below a fifth of it: a rate of zero, where the refinement starts, would not pass.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(installed), str(REPOSITORY)]),
        "OMP_NUM_THREADS": "1",
    }
    for name in ("small.expt", "truth.cif"):
        (tmp_path / name).write_bytes((demo / name).read_bytes())
    lines = documented_files()["use_it.sh"].replace("\\\n", " ").splitlines()
    fast = [*FAST, "refinement.max_steps=4"]

    def call(arguments: list[str]) -> dict:
        done = subprocess.run(
            [path_of(arguments[0]), *arguments[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        summary = tmp_path / "dials.hybrid_refine.json"
        return json.loads(summary.read_text()) if summary.exists() else {}

    simulate, refine = (shlex.split(line) for line in lines)
    call([*simulate, "nproc=1"])
    with_effect = call([*refine, *fast])
    (effect,) = with_effect["effects"]
    assert (effect["name"], effect["package"], effect["version"]) == (
        "dose_decay",
        "dials-dose-decay",
        "1.2.0",
    )
    rate = effect["parameters"]["rate"]
    assert 2e-5 < rate["su"] < 2e-4  # 1.2e-4 for the seed of the simulation
    assert abs(rate["value"] - 1e-3) < 3 * rate["su"]
    log = (tmp_path / "dials.hybrid_refine.log").read_text()
    (row,) = re.findall(r"\| dose_decay +\| rate +\| (\S+) +\| (\S+) +\|", log)
    assert float(row[0]) == pytest.approx(rate["value"], rel=1e-5)
    assert float(row[1]) == pytest.approx(rate["su"], rel=0.05)


@pytest.mark.parametrize("run", [hybrid_refine.run, hybrid_simulate.run])
def test_parameters_are_listed(run_in_tmp_path, capsys, monkeypatch, installed, run) -> None:
    monkeypatch.syspath_prepend(str(installed))
    with pytest.raises(SystemExit) as raised:
        run(["-c", "-a", "2"])
    assert raised.value.code in (0, None)
    printed = capsys.readouterr().out
    # help texts are wrapped
    scope = " ".join(printed[printed.index("effects\n") :].replace('"', " ").split())
    for text in ("dose_decay", "use = False", "of the package dials-dose-decay", "rate = 0"):
        assert text in scope


def test_a_value_of_the_wrong_type(files, monkeypatch, installed) -> None:
    monkeypatch.syspath_prepend(str(installed))
    with pytest.raises(Sorry, match="effects.dose_decay.rate"):
        hybrid_refine.run([*INPUT, "effects.dose_decay.rate=fast"])


# -- broken plug-ins ------------------------------------------------------------------------------

HEAD = """
import torch
from dials_hybrid_refine.models.effects import Effect, IntensityEffect

class Toy(IntensityEffect):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros((), dtype=dtype))
    def forward(self, values, parts):
        return values * self.x.exp()
"""

#: modules that cannot be loaded, and what the message says of them
UNLOADABLE = {
    "no_module": ("import a_module_that_is_not_there", "No module named"),
    "no_plugin": ("", "has no attribute"),
    "exits": ("raise SystemExit(3)", "SystemExit 3"),
    "no_make": ("class Plugin:\n    phil = ''", "has no attribute 'make'"),
    "constructor": ("class Plugin:\n    def __init__(self, x): pass", "argument"),
    "bad_phil": ("class Plugin:\n    phil = 'x {'\n    make = print", "Syntax error"),
    "bad_default": (
        "class Plugin:\n    phil = 'x = a\\n .type = float'\n    make = print",
        "not defined",
    ),
    "own_switch": (
        "class Plugin:\n    phil = 'use = 1\\n .type = int'\n    make = print",
        "the program's own switch",
    ),
    "several": (
        "class Plugin:\n    phil = 'a .multiple=True {\\n x=1\\n .type=int\\n}'\n    make = print",
        ".multiple",
    ),
}

#: those that load but fail when they are used
UNUSABLE = {
    "raises": ("raise ValueError('the moon is full')", "the moon is full"),
    "nothing": ("return None", "NoneType, which is no CurveEffect"),
    "neither": (
        "return type('Neither', (Effect,), {})()",
        "Neither, which is no CurveEffect or IntensityEffect",
    ),
    "single": ("return Toy(torch.float32)", "parameter x is not of torch.float64"),
    "report": ("Toy.report = lambda self: {'x': 1.0}; return Toy()", "gives x as float"),
    "forward": ("Toy.forward = lambda self, v, p: v / self.y; return Toy()", "Toy of forward"),
    "shape": ("Toy.forward = lambda self, v, p: v[1:]; return Toy()", "where a tensor of shape"),
    "infinite": ("Toy.forward = lambda self, v, p: v / 0; return Toy()", "not finite"),
    "detached": (
        "Toy.forward = lambda self, v, p: v + 0 * self.x.item(); return Toy()",
        "no gradient by the parameter effects.0.x",
    ),
}


def install(folder: Path, name: str, module: str, package: str | None = None) -> None:
    """What pip leaves of a package with one module and one entry point, both of that name."""
    package = package or f"of-{name.replace('_', '-')}"
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{package.replace('-', '_')}-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(
        f"[dials_hybrid_refine.effects]\n{name} = {name}:Plugin\n"
    )


def maker(body: str) -> str:
    return f"{HEAD}\nclass Plugin:\n    phil = ''\n    def make(self, params, context):\n        {body}\n"


@pytest.fixture
def site(tmp_path_factory, monkeypatch):
    """A folder on sys.path to install into; what is imported from it is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_broken_plugins_do_no_harm_to_others(files, site) -> None:
    """The refinement runs, and warns of each package in one line."""
    for name, (module, _) in UNLOADABLE.items():
        install(site, name, module)
    hybrid_refine.run([*INPUT, *FAST])
    assert json.loads((files / "dials.hybrid_refine.json").read_text())["effects"] == []
    log = (files / "dials.hybrid_refine.log").read_text()
    for name, (_, text) in UNLOADABLE.items():
        package = f"of-{name.replace('_', '-')}"
        (line,) = [line for line in log.splitlines() if package in line]
        # DIALS marks the first of several warnings only
        line = line.removeprefix("WARN: ").strip()
        assert line.startswith(f"the effect {name} of the package {package} 0.3")
        assert text in line


def refused(name: str, *arguments: str) -> str:
    with pytest.raises(Sorry) as raised:
        hybrid_refine.run([*INPUT, *FAST, *arguments])
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", UNLOADABLE)
def test_using_what_cannot_be_loaded(files, site, name) -> None:
    module, text = UNLOADABLE[name]
    install(site, name, module)
    for arguments in ([f"effects.{name}.use=True"], [f"effects.{name}.rate=3"]):
        message = refused(name, *arguments)
        for part in (name, "of-" + name.replace("_", "-"), "0.3", text, "correct or update"):
            assert part in message


@pytest.mark.parametrize("name", UNUSABLE)
def test_using_what_fails(files, site, name) -> None:
    body, text = UNUSABLE[name]
    install(site, name, maker(body))
    assert text in refused(name, f"effects.{name}.use=True")


def test_two_packages_of_one_effect(files, site) -> None:
    install(site, "twin", maker("return Toy()"), "first")
    install(site, "twin", maker("return Toy()"), "second")
    assert "several packages offer" in refused("twin", "effects.twin.use=True")
