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
        ("input.experiments=Auto", ["input.experiments cannot be Auto", "path"]),
        ("output.json=Auto", ["output.json cannot be Auto", "path"]),
        ("d_min=1e400", ["d_min", "inf", "number"]),
        ("d_min=1,2", ["d_min", "1,2", "float"]),
        ("d_min=", ["d_min", "float"]),
        ("d_min={", ["d_min", "float"]),
        ("=1", ["no parameter", "-c "]),
        ("a=b=c", ["no parameter a", "-c "]),
        ("\u00fc=1", ["no parameter \u00fc", "-c "]),
        ("nproc=999999999999", ["nproc", "1024"]),
        ("seed=99999999999999999999", ["seed", "4294967295"]),
        ("thickness.max=1e9", ["thickness.max", "100000"]),
        ("thickness.start=1e9", ["thickness.start", "100000"]),
        ("beams.g_max=1000", ["beams.g_max", "12"]),
        ("beams.s_max=100", ["beams.s_max", "1"]),
        ("weighting.instability=1e9", ["weighting.instability", "1"]),
        ("held_out.fraction=0.51", ["held_out.fraction", "0.5"]),
        ("frames.rsg=0", ["frames.rsg", "0.001"]),
        ("mosaicity.start=0", ["mosaicity.start", "0.0001"]),
        ("checkpoint.every=0", ["checkpoint.every", "1"]),
        ("absolute_structure.test=maybe", ["absolute_structure.test", "maybe", "True or False"]),
        ("structure.data_block=zzz", ["structure.data_block", "zzz", "quartz"]),
        ("checkpoint.resume=lost", ["checkpoint.resume=lost", "check"]),
        ("checkpoint.resume=model.cif", ["model.cif is no checkpoint", "start without"]),
        ("d_max=1e-9", ["data.refl: no reflection is left", "below d_max"]),
        ("output.experiments=x.dat", ["output.experiments=x.dat", ".expt"]),
        ("output.log=model.cif", ["output.log=model.cif", "input file", "choose another"]),
        (
            "checkpoint.file=data.refl",
            ["checkpoint.file=data.refl", "input file", "choose another"],
        ),
        ("output.json=/dev/null", ["output.json=/dev/null", "device", "None"]),
        ("-e", ["-e", "argument"]),
        ("thickness.tilt_correction=True", ["thickness.tilt_correction", "neural", "wedge"]),
    ],
)
def test_parameters(files, argument, parts):
    refused(files, [*INPUT, *argument.split()], *parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(files):
    refused(files, [*INPUT, "device=cuda"], "device=cuda", "use device=cpu")


@pytest.mark.parametrize(
    "parameter", "structure experiments reflections json log res hkl mtz map html".split()
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
    if parameter == "experiments":
        value = value.replace("x.out", "x.expt")
        parts = [part.replace("x.out", "x.expt") for part in parts]
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
        ([*SIMULATE, "thickness.mean=1e9"], ["thickness.mean", "100000"]),
        ([*SIMULATE, "thickness.mean=,"], ["thickness.mean"]),
        ([*SIMULATE, "thickness.std=1e9"], ["thickness.std", "100000"]),
        ([*SIMULATE, "mean_intensity=1e300"], ["mean_intensity", "1"]),
        (
            [*SIMULATE, "noise.poisson=True", "d_min=2", "noise.background=1e19"],
            ["noise.poisson", "counts", "choose a smaller"],
        ),
        ([*SIMULATE, "window.min_zeta=1"], ["window.min_zeta=1", "no predicted reflection"]),
        ([*SIMULATE, "output.experiments=x"], ["output.experiments=x", ".expt"]),
        ([*SIMULATE, "output.reflections=/dev/null"], ["/dev/null", "device"]),
        ([*SIMULATE, "output.log=data.expt"], ["output.log=data.expt", "input file"]),
        ([*SIMULATE, "noise.poison=True"], ["did you mean noise.poisson?"]),
    ],
)
def test_simulate(files, arguments, parts):
    refused(files, arguments, *parts, run=hybrid_simulate.run)
