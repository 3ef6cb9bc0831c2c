"""Whatever is wrong with the input: one sentence that says what, where and what to do."""

from __future__ import annotations

import json
import os
import random
import re

import numpy as np
import pytest
import torch
from command_runs import INPUT

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry
from scitbx import matrix

from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate

GIVE_EXPT = "give the .expt file"
GIVE_REFL = "give the .refl file"


def refused(folder, arguments, *parts, run=hybrid_refine.run):
    """Run a command in process: a Sorry of one line that holds all parts, and no file."""
    before = set(os.listdir(folder))
    with pytest.raises(Sorry) as raised:
        run(arguments)
    message = str(raised.value)
    assert "\n" not in message
    assert not re.search(r"Error\b|Traceback|<class|report this", message), message
    for part in parts:
        assert part in message, message
    assert set(os.listdir(folder)) - before <= {
        "dials.hybrid_refine.log",
        "dials.hybrid_simulate.log",
    }
    return message


@pytest.fixture
def stop_before_refinement(monkeypatch):
    """Makes a run with good input end there; returns the arguments of run_refinement."""
    seen = []

    def stop(*arguments, **options):
        seen.append(arguments)
        raise ValueError("the input was good")

    monkeypatch.setattr(hybrid_refine, "run_refinement", stop)
    return seen


# -- which files --------------------------------------------------------------------------------

NEEDS = "needs an .expt, a .refl and a structure file"


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["data.refl", "model.cif"], ["no experiments file", NEEDS]),
        (["data.expt", "model.cif"], ["no reflection file", NEEDS]),
        (["data.expt", "data.refl"], ["no structure file", NEEDS]),
        (["d_min=1"], [NEEDS]),
        ([*INPUT, "truth.cif"], ["2 structure files", "model.cif, truth.cif", "give one"]),
        ([*INPUT, "input.structure=truth.cif"], ["2 structure files", "give one"]),
        ([*INPUT, "data.expt"], ["2 experiments files", "give one"]),
        ([*INPUT, "data.refl"], ["2 reflection files", "give one"]),
        (["lost.expt", *INPUT[1:]], ["lost.expt does not exist", "check"]),
        (["data.expt", "lost.refl", "model.cif"], ["lost.refl does not exist", "check"]),
        ([*INPUT[:2], "lost.cif"], ["lost.cif does not exist", "check"]),
        ([*INPUT[:2], "input.structure=lost.cif"], ["lost.cif does not exist", "check"]),
        ([*INPUT[:2], "input.reflections=lost.refl"], ["lost.refl does not exist", "check"]),
        ([*INPUT[:2], "folder"], ["folder", "is a directory"]),
        ([*INPUT[:2], "model.xyz"], ["model.xyz is not a structure", "give a CIF"]),
    ],
)  # fmt: skip
def test_files_that_are_not_there(files, arguments, parts):
    (files / "truth.cif").write_text((files / "model.cif").read_text())
    (files / "model.xyz").write_text("3\nwater\nO 0 0 0\n")
    (files / "folder").mkdir()
    refused(files, arguments, *parts)


def test_structure_may_be_a_parameter(files, stop_before_refinement):
    refused(files, [*INPUT[:2], "input.structure=model.cif"], "the input was good")
    refused(
        files,
        ["input.experiments=data.expt", "input.reflections=data.refl", "model.cif"],
        "the input was good",
    )


@pytest.mark.parametrize("name, what", [("data.expt", GIVE_EXPT), ("data.refl", GIVE_REFL)])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\x13" * 40, b"hello\n", b"[]", b"{}", b'{"__id__": 3}', b"\x93"]
)
def test_corrupt_data_files(files, name, what, content):
    (files / name).write_bytes(content)
    refused(files, INPUT, name, what)


@pytest.mark.parametrize("name", INPUT)
def test_truncated_files(files, name):
    content = (files / name).read_bytes()
    for share in (0.02, 0.3, 0.5, 0.95):
        (files / name).write_bytes(content[: int(share * len(content))])
        refused(files, INPUT, name)


@pytest.mark.parametrize("name", INPUT)
def test_garbled_files(files, name, stop_before_refinement):
    """Bytes replaced anywhere: refused with a sentence, or read where that does no harm."""
    content = (files / name).read_bytes()
    generator = random.Random(4)
    for _ in range(40):
        garbled = bytearray(content)
        for _ in range(3):
            garbled[generator.randrange(len(content))] = generator.randrange(256)
        (files / name).write_bytes(bytes(garbled))
        with pytest.raises(Sorry) as raised:
            hybrid_refine.run(INPUT)
        assert "\n" not in str(raised.value)
        assert name in str(raised.value) or "the input was good" in str(raised.value)


def test_empty_structure(files):
    (files / "model.cif").write_text("")
    refused(files, INPUT, "model.cif is empty", "give")


def test_swapped_names(files):
    os.rename("data.expt", "x")
    os.rename("data.refl", "data.expt")
    os.rename("x", "data.refl")
    refused(files, INPUT, "data.expt is not a readable experiments file", GIVE_EXPT)


def test_a_data_file_as_structure(files):
    (files / "copy.cif").write_bytes((files / "data.refl").read_bytes())
    refused(files, [*INPUT[:2], "copy.cif"], "copy.cif is not a text file", "give")
    (files / "copy.cif").write_bytes((files / "data.expt").read_bytes())
    refused(files, [*INPUT[:2], "copy.cif"], "copy.cif")


def test_a_file_without_permission(files):
    if os.geteuid() == 0:
        pytest.skip("root may read any file")
    for name in INPUT:
        os.chmod(name, 0)
        refused(files, INPUT, name)
        os.chmod(name, 0o600)


# -- experiments --------------------------------------------------------------------------------


@pytest.fixture
def change_experiments(files):
    """A function that lets another one change the decoded data.expt."""

    def change(edit):
        content = json.loads((files / "data.expt").read_text())
        edit(content)
        (files / "data.expt").write_text(json.dumps(content))

    return change


def _without(*names):
    def edit(content):
        for name in names:
            del content["experiment"][0][name]
            content[name] = []

    return edit


def _several(content):
    content["experiment"].append({**content["experiment"][0], "identifier": "another"})


def _no_experiment(content):
    content["experiment"] = []


EXPERIMENTS = {
    "x-rays": (
        lambda c: c["beam"][0].update(wavelength=0.9795),
        ["data.expt: the wavelength is 0.9795 Angstrom", "electron"],
    ),
    "stills": (
        _without("goniometer", "scan"),
        ["data.expt: the experiments are still images", "integrated rotation data"],
    ),
    "no rotation": (
        lambda c: c["scan"][0].update(oscillation=[0.0, 0.0]),
        ["data.expt:", "integrated rotation data"],
    ),
    "no crystal": (_without("crystal"), ["data.expt:", "no crystal model", GIVE_EXPT]),
    "no beam": (_without("beam"), ["data.expt:", "no beam model", GIVE_EXPT]),
    "several": (_several, ["data.expt holds 2 experiments", "split_experiments"]),
    "none": (_no_experiment, ["data.expt holds no experiments", "give"]),
    "high symmetry": (
        lambda c: c["crystal"][0].update(space_group_hall_symbol=" P 62 2 (0,0,4)"),
        ["data.expt", "6/m m m", "integrate the data in"],
    ),
    "identifier": (
        lambda c: c["experiment"][0].update(identifier="another"),
        ["data.refl and data.expt do not belong together", "give the two files"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EXPERIMENTS)
def test_experiments(files, change_experiments, case):
    edit, parts = EXPERIMENTS[case]
    change_experiments(edit)
    refused(files, INPUT, *parts)


@pytest.mark.parametrize("name", ["x-rays", "stills", "several", "no crystal"])
def test_experiments_to_simulate(files, change_experiments, name):
    edit, parts = EXPERIMENTS[name]
    change_experiments(edit)
    refused(files, ["data.expt", "model.cif"], *parts, run=hybrid_simulate.run)


def _turn(experiment, degrees):
    a = matrix.sqr(experiment.crystal.get_A())
    turned = matrix.col((1, 2, 3)).axis_and_angle_as_r3_rotation_matrix(degrees, deg=True) * a
    experiment.crystal.set_A(turned)


def test_reflections_of_another_crystal(files):
    """Identifiers are no help where the files have none."""
    experiments = ExperimentListFactory.from_json_file("data.expt", check_format=False)
    _turn(experiments[0], 20)
    experiments.as_file("data.expt")
    refused(files, INPUT, "data.refl", "do not belong to data.expt", "give the two files")


# -- reflections --------------------------------------------------------------------------------


@pytest.fixture
def change_reflections(files):
    """A function that lets another one change data.refl in place."""

    def change(edit):
        table = flex.reflection_table.from_file("data.refl")
        table = found if (found := edit(table)) is not None else table
        table.as_file("data.refl")
        return table

    return change


def _drop(*names):
    def edit(table):
        for name in names:
            del table[name]

    return edit


def _two_experiments(table):
    half = len(table) // 2
    table["id"] = flex.int([0] * half + [1] * (len(table) - half))
    table.experiment_identifiers()[1] = "another"


REFLECTIONS = {
    "only found": (
        lambda t: t.unset_flags(flex.bool(len(t), True), t.flags.integrated),
        [],
        ["data.refl: the reflection file holds no integrated reflections", GIVE_REFL],
    ),
    "no indices": (_drop("miller_index"), [], ["data.refl:", GIVE_REFL]),
    "no profile intensity": (
        _drop("intensity.prf.value"),
        [],
        ["data.refl: the reflection file has no column intensity.prf.value", "intensity=sum"],
    ),
    "no summed intensity": (
        _drop("intensity.sum.variance"),
        ["intensity=sum"],
        ["data.refl:", "no column intensity.sum.variance", "intensity=profile"],
    ),
    "no windows": (
        _drop("phi_start"),
        [],
        ["data.refl:", "no profile model", GIVE_EXPT],
    ),
    "no rows": (lambda t: t[:0], [], ["data.refl holds no reflections", GIVE_REFL]),
    "of two experiments": (
        _two_experiments,
        [],
        ["data.refl holds reflections of 2 experiments", "belong together"],
    ),
    "all of no use": (
        lambda t: t.set_flags(flex.bool(len(t), True), t.flags.bad_for_refinement),
        [],
        ["data.refl: no reflection is left", "flagged bad by DIALS"],
    ),
    "all filtered": (lambda t: None, ["d_min=50"], ["data.refl: no reflection is left", "d_min"]),
    "too few": (lambda t: t[:9], [], ["reflections are left", "give more data"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFLECTIONS)
def test_reflections(files, change_reflections, case):
    edit, arguments, parts = REFLECTIONS[case]
    change_reflections(edit)
    refused(files, [*INPUT, *arguments, "nproc=1"], *parts)


def test_numbers_that_are_none(files, change_reflections, stop_before_refinement, capsys):
    """Excluded before the refinement, and counted."""
    bad = {3: ("value", "nan"), 5: ("variance", "nan"), 8: ("variance", -1), 9: ("variance", 0)}

    def spoil(table):
        for row, (what, number) in bad.items():
            column = table[f"intensity.prf.{what}"]
            column[row] = float(number)
            table[f"intensity.prf.{what}"] = column

    n_rows = len(change_reflections(spoil))
    refused(files, INPUT, "the input was good")
    observations = stop_before_refinement[0][1]
    assert not set(bad) & set(observations.row)
    assert np.isfinite(observations.intensity).all() and (observations.sigma > 0).all()
    log = capsys.readouterr().out
    assert re.search(r"intensity or variance not usable \| +-4 ", log), log
    assert re.search(rf"read +\| +{n_rows} ", log)


# -- structure ----------------------------------------------------------------------------------

ANISO = """
loop_
_atom_site_aniso_label
_atom_site_aniso_U_11
_atom_site_aniso_U_22
_atom_site_aniso_U_33
_atom_site_aniso_U_12
_atom_site_aniso_U_13
_atom_site_aniso_U_23
O1 0.01 0.01 -0.02 0.005 0 0
"""
INS = """\
TITL quartz
CELL 0.0251 4.9137 4.9137 5.4047 90 90 120
ZERR 3 0.001 0.001 0.001 0 0 0
LATT -1
SYMM -Y,X-Y,Z+2/3
SYMM -X+Y,-X,Z+1/3
SYMM Y,X,-Z
SYMM X-Y,-Y,-Z+1/3
SYMM -X,-X+Y,-Z+2/3
SFAC SI O H
UNIT 3 6 6
FVAR 1
SI1 1 0 0.4697 0.833333 10.5 0.0065
O1 2 0.8534 0.5865 0.6191 11 0.0125
AFIX 137
H1 3 0.80 0.50 0.60 11 -1.5
H2 3 0.90 0.50 0.50 11 -1.5
H3 3 0.85 0.65 0.50 11 -1.5
AFIX 0
HKLF 4
END
"""

STRUCTURES = {
    "cell": (lambda t: t.replace("5.4047", "5.7047"), ["5.3 %", "give the structure of this"]),
    "symmetry": (
        lambda t: t.replace("P 32 2 1", "P 32").replace("154", "145").replace("y,x,-z\n", "")
        .replace("x-y,-y,-z+1/3\n", "").replace("-x,-x+y,-z+2/3\n", ""),
        ["symmetry", "integrate the data in"],
    ),
    "element": (lambda t: t.replace("O1  O", "O1  Xx"), ["'Xx' is not an element"]),
    "heavy": (lambda t: t.replace("O1  O", "Lr1 Lr"), ["Lr", "elements up to"]),
    "no atoms": (lambda t: t.split("loop_\n_atom")[0], ["no atoms", "give"]),
    "negative U": (lambda t: t.replace("0.0125", "-0.0125"), ["O1", "not positive definite"]),
    "U tensor": (
        lambda t: t.replace("0.0125 Uiso", "0.01 Uani") + ANISO, ["O1", "not positive definite"],
    ),
    "clash": (
        lambda t: t + "O2 O 0.8500 0.5900 0.6200 0.0125 Uiso\n", ["O1 and O2", "remove one"],
    ),
    "constraint": (lambda t: INS, ["AFIX", "O1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", STRUCTURES)
def test_structures(files, case):
    edit, parts = STRUCTURES[case]
    text = (files / "model.cif").read_text()
    assert edit(text) != text
    (files / "model.cif").write_text(edit(text))
    refused(files, [*INPUT, "nproc=1"], "model.cif", *parts)


def test_a_cell_that_differs_a_little(files, stop_before_refinement, capsys):
    text = (files / "model.cif").read_text()
    (files / "model.cif").write_text(text.replace("5.4047", "5.5047"))
    refused(files, INPUT, "the input was good")
    assert "differ by 1.8 % in length" in " ".join(capsys.readouterr().out.split())


def test_ion_labels(files, stop_before_refinement, capsys):
    text = (files / "model.cif").read_text()
    (files / "model.cif").write_text(text.replace("O1  O ", "O1  O2- "))
    refused(files, INPUT, "the input was good")
    assert "model.cif: " in (log := capsys.readouterr().out) and "O2- is taken as O" in log


# -- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument, parts",
    [
        ("d_mn=1", ["no parameter d_mn", "did you mean d_min?"]),
        ("thicknes.model=constant", ["thicknes.model", "did you mean thickness.model?"]),
        ("output.foo=x", ["no parameter output.foo"]),
        ("qwertz=1", ["no parameter qwertz", "-c "]),
        ("model=neural", ["model", "thickness.model", "absorption.model"]),
        ("output=x", ["no parameter output"]),
        ("d_min=abc", ["d_min", "abc", "float"]),
        ("d_min=-1", ["d_min", "-1", "0"]),
        ("d_min=nan", ["d_min", "nan", "number"]),
        ("d_max=inf", ["d_max", "inf", "number"]),
        ("thickness.start=nan", ["thickness.start", "nan", "number"]),
        ("refinement.max_cycles=1.5", ["max_cycles", "1.5", "int"]),
        ("refinement.max_cycles=many", ["max_cycles", "many", "int"]),
        ("nproc=0", ["nproc", "0", "1"]),
        ("seed=-1", ["seed", "-1", "0"]),
        ("thickness.model=foo", ["thickness.model", "foo", "neural", "constant", "per_image"]),
        ("structure.sites=perhaps", ["structure.sites", "perhaps", "True or False"]),
        ("precision=half", ["precision", "half", "single", "double"]),
        ("output.json=", ["output.json"]),
        ('output.json=""', ["output.json", "None"]),
        ("foo", ["foo does not exist"]),
        ("--foo", ["--foo is unknown", "-h"]),
        ("--phil lost.phil", ["lost.phil"]),
        ("structure.sites=None", ["structure.sites", "True or False"]),
        ("seed=Auto", ["seed", "int"]),
        ("-x", ["-x is unknown", "-h"]),
        ("thickness.start=700 thickness.max=600", ["thickness.start", "thickness.max"]),
        ("d_min=2 d_max=1", ["d_min", "d_max"]),
        ("thickness.tilt_correction=True", ["thickness.tilt_correction", "neural", "wedge"]),
    ],
)
def test_parameters(files, argument, parts):
    refused(files, [*INPUT, *argument.split()], *parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(files):
    refused(files, [*INPUT, "device=cuda"], "device=cuda", "use device=cpu")


@pytest.mark.parametrize("parameter", ["structure", "experiments", "reflections", "json", "log"])
@pytest.mark.parametrize(
    "value, parts",
    [
        ("lost/x.out", ["lost/x.out", "does not exist", "create it"]),
        ("model.cif/x.out", ["model.cif/x.out", "does not exist"]),
        ("folder", ["folder is a directory", "choose another name"]),
        ("/proc/x.out", ["/proc/x.out cannot be written", "choose another directory"]),
        ("x" * 300, ["cannot be written", "too long"]),
    ],
    ids=["no folder", "below a file", "folder", "proc", "long"],
)
def test_output_that_cannot_be_written(files, parameter, value, parts):
    (files / "folder").mkdir()
    refused(files, [*INPUT, f"output.{parameter}={value}"], f"output.{parameter}", *parts)


def test_two_outputs_of_one_name(files):
    arguments = [*INPUT, "output.json=x", "output.structure=./x"]
    refused(files, arguments, "output.json", "output.structure", "choose another")


# -- dials.hybrid_simulate --------------------------------------------------------------------------

SIMULATE = ["data.expt", "model.cif", "nproc=1"]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["model.cif"], ["no experiments file", "needs an .expt and a structure"]),
        (["data.expt"], ["no structure file", "needs an .expt and a structure"]),
        ([*SIMULATE, "data.refl"], ["data.refl is not needed"]),
        ([*SIMULATE, "thickness.mean=0"], ["thickness.mean", "1"]),
        ([*SIMULATE, "thickness.mean=a"], ["thickness.mean", "a"]),
        ([*SIMULATE, "thickness.mean=nan"], ["thickness.mean", "nan", "number"]),
        ([*SIMULATE, "thickness.mean=None"], ["thickness.mean"]),
        ([*SIMULATE, "d_min=None"], ["d_min", "None"]),
        ([*SIMULATE, "d_min=0.01"], ["d_min", "0.1"]),
        ([*SIMULATE, "d_min=100"], ["d_min=100", "no reflection"]),
        ([*SIMULATE, "delta_m=60"], ["delta_m", "no predicted reflection"]),
        ([*SIMULATE, "output.reflections=lost/x.refl"], ["lost/x.refl", "create it"]),
        ([*SIMULATE, "noise.poison=True"], ["did you mean noise.poisson?"]),
    ],
)
def test_simulate(files, arguments, parts):
    refused(files, arguments, *parts, run=hybrid_simulate.run)


def test_an_experiment_without_a_detector(files, change_experiments):
    change_experiments(_without("detector"))
    refused(files, SIMULATE, "data.expt:", "no detector", run=hybrid_simulate.run)


# -- as real commands ------------------------------------------------------------------------------

COMMANDS = {
    "no structure": ("dials.hybrid_refine", ["data.expt", "data.refl"], "structure file"),
    "unknown parameter": ("dials.hybrid_refine", [*INPUT, "d_mn=1"], "d_min"),
    "wrong value": ("dials.hybrid_refine", [*INPUT, "d_min=abc"], "d_min"),
    "wrong choice": ("dials.hybrid_refine", [*INPUT, "thickness.model=foo"], "thickness.model"),
    "unknown option": ("dials.hybrid_refine", [*INPUT, "--foo"], "--foo"),
    "missing file": ("dials.hybrid_refine", ["lost.expt", *INPUT[1:]], "lost.expt"),
    "corrupt experiments": ("dials.hybrid_refine", ["bad.expt", *INPUT[1:]], "bad.expt"),
    "corrupt reflections": (
        "dials.hybrid_refine", ["data.expt", "bad.refl", "model.cif"], "bad.refl",
    ),
    "corrupt structure": ("dials.hybrid_refine", [*INPUT[:2], "bad.cif"], "bad.cif"),
    "unwritable": ("dials.hybrid_refine", [*INPUT, "output.json=/proc/x"], "/proc/x"),
    "too few": ("dials.hybrid_refine", [*INPUT, "d_min=2.0"], "give more data"),
    "simulate": ("dials.hybrid_simulate", ["data.expt", "model.cif", "d_min=x"], "d_min"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_real_commands(files, call, case):
    """Exit code 1, one line ``Sorry: ...``, no traceback and no file left but the log."""
    name, arguments, part = COMMANDS[case]
    for suffix in ("expt", "refl", "cif"):
        (files / f"bad.{suffix}").write_bytes(b'{"truncated": [')
    before = set(os.listdir(files))
    process = call(name, *arguments)
    assert process.returncode == 1
    everything = process.stdout + process.stderr
    sorry = [line for line in everything.splitlines() if line.startswith("Sorry: ")]
    assert len(sorry) == 1 and part in sorry[0], everything
    assert process.stderr == sorry[0] + "\n"
    assert "Traceback" not in everything
    assert set(os.listdir(files)) - before <= {f"{name}.log"}
