"""dials.hybrid_refine as a command: help, what it prints, its exit code, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from command_runs import FAST, INPUT, path_of

import iotbx.cif
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate
from dials_hybrid_refine.io.output_files import write_atomically

WRITTEN = {
    "hybrid_refined.cif",
    "hybrid_refined.expt",
    "hybrid_refined.refl",
    "dials.hybrid_refine.html",
    "dials.hybrid_refine.json",
    "dials.hybrid_refine.log",
    "hybrid_refine.checkpoint",
}


@pytest.mark.parametrize("run", [hybrid_refine.run, hybrid_simulate.run])
@pytest.mark.parametrize(
    "arguments, shown",
    [
        ([], "usage: dials.hybrid_"),
        (["-h"], "usage: dials.hybrid_"),
        (["-c"], "beams {"),
        (["-c", "-e", "2", "-a", "2"], "nproc = Auto"),
    ],
)
def test_help(run_in_tmp_path, capsys, run, arguments, shown):
    with pytest.raises(SystemExit) as raised:
        run(arguments)
    assert raised.value.code in (0, None)
    printed = capsys.readouterr()
    assert shown in printed.out and not printed.err
    assert not os.listdir(run_in_tmp_path)


def test_model_choices_reach_the_refinement(files):
    """Oxygen in part replaced by fluorine on the same site: isotropic, occupancies refined."""
    text = (files / "model.cif").read_text()
    silicon, oxygen = text.splitlines()[-2:]
    text = text.replace("_atom_site_adp_type", "_atom_site_adp_type\n_atom_site_occupancy")
    text = text.replace(silicon, f"{silicon} 1").replace(oxygen, f"{oxygen} 0.9")
    (files / "model.cif").write_text(f"{text}{oxygen.replace('O1  O', 'F1 F')} 0.1\n")
    choices = ["structure.adp=isotropic", "structure.occupancies_of=F1"]
    hybrid_refine.run([*INPUT, *FAST, *choices, "output.log=test.log"])
    summary = json.loads((files / "dials.hybrid_refine.json").read_text())
    _, oxygen, fluorine = summary["structure"]["atoms"]
    assert oxygen["occupancy"] + fluorine["occupancy"] == pytest.approx(1)
    assert oxygen["occupancy"] != 0.9
    assert oxygen["site"] == fluorine["site"] and oxygen["u_iso"] == fluorine["u_iso"]
    assert oxygen["site_su"] == fluorine["site_su"]
    assert "share coordinates and U: O1/F1" in (files / "test.log").read_text()


def test_every_parameter_has_a_type_and_help():
    for scope in (hybrid_refine.phil_scope, hybrid_simulate.phil_scope):
        for definition in scope.all_definitions():
            assert definition.object.type is not None, definition.path
            if definition.path != "output.log":
                assert definition.object.help, definition.path


def test_no_arguments_at_all(call, run_in_tmp_path):
    process = call("dials.hybrid_refine")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("usage: dials.hybrid_refine")


def test_a_run_that_ends_well(call, files):
    """Nothing on stderr, and no progress bar where there is no terminal."""
    before = set(os.listdir(files))
    process = call("dials.hybrid_refine", *INPUT, *FAST)
    assert (process.returncode, process.stderr) == (0, "")
    assert set(os.listdir(files)) - before == WRITTEN
    assert "\r" not in process.stdout and "step/s" not in process.stdout
    log = (files / "dials.hybrid_refine.log").read_text()
    for text in ("coarse_steps = 2", "R_obs", "Status: ", "hybrid_refined.cif"):
        assert text in process.stdout and text in log
    assert process.stdout.count("Saving the ") == 5


def read_all(folder):
    """Read each output file with the library that it is for."""
    (structure,) = (
        iotbx.cif.reader(file_path=str(folder / "hybrid_refined.cif"))
        .build_crystal_structures()
        .values()
    )
    assert structure.scatterers().size() == 2
    path = str(folder / "hybrid_refined.expt")
    assert len(ExperimentListFactory.from_json_file(path, check_format=False)) == 1
    table = flex.reflection_table.from_file(str(folder / "hybrid_refined.refl"))
    assert "hybrid_refine.intensity.calc" in table
    return json.loads((folder / "dials.hybrid_refine.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(files, number):
    """Stops after the step, writes the best so far, and says so."""
    before = set(os.listdir(files))
    process = subprocess.Popen(
        [
            path_of("dials.hybrid_refine"),
            *INPUT,
            "thickness.max=600",
            "nproc=1",
            "max_cycles=50",
            "tolerance=1e-9",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        n_coarse = 0
        for line in process.stdout:
            n_coarse += line.split()[:1] == ["start"]
            if n_coarse == 2:
                break
        process.send_signal(number)
        rest, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, rest + errors
    assert errors == ""
    assert "Interrupted: stopping" in rest and "Status: interrupted" in rest
    assert set(os.listdir(files)) - before == WRITTEN
    summary = read_all(files)
    assert summary["status"] == "interrupted"
    after = rest.partition("Interrupted: stopping")[2]
    assert len(re.findall(r"^ *(?:start|coarse|cycle \d+) +\d", after, re.MULTILINE)) <= 1
    assert summary["statistics"]["n_iterations"] >= 2
    assert summary["statistics"]["loss_final"] < summary["statistics"]["loss_start"]


def test_writing_that_fails_leaves_what_was_there(files, monkeypatch):
    """A full disk: the old file stays whole, and nothing half-written lies beside it."""
    target = files / "result.json"
    target.write_text("old")

    def fail(path):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="writing result.json failed: No space left on device"):
        write_atomically("result.json", fail)
    assert target.read_text() == "old"
    assert set(os.listdir(files)) == {*INPUT, "result.json"}
