"""Parameters that are wrong: one sentence that says what, where and what to do."""

from __future__ import annotations

import pytest
import torch
from command_runs import INPUT
from refusals import refused

from dials_hybrid_refine.command_line import hybrid_simulate


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
        ("cif.reflections=all", ["cif.reflections", "all", "none", "measured", "merged"]),
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


@pytest.mark.parametrize(
    "parameter", "structure experiments reflections json log res hkl mtz".split()
)
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
