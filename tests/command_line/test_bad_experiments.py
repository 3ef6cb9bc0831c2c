"""Experiments that cannot be used: one sentence that says what, where and what to do."""

from __future__ import annotations

import pytest
from command_runs import INPUT
from refusals import GIVE_EXPT, refused, without

from dxtbx.model.experiment_list import ExperimentListFactory
from scitbx import matrix

from dials_hybrid_refine.command_line import hybrid_simulate


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
        without("goniometer", "scan"),
        ["data.expt: the experiments are still images", "integrated rotation data"],
    ),
    "no rotation": (
        lambda c: c["scan"][0].update(oscillation=[0.0, 0.0]),
        ["data.expt:", "integrated rotation data"],
    ),
    "no crystal": (without("crystal"), ["data.expt:", "no crystal model", GIVE_EXPT]),
    "no beam": (without("beam"), ["data.expt:", "no beam model", GIVE_EXPT]),
    "several": (_several, ["no reflections belong to data.expt (experiment 1)", "give the files"]),
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


@pytest.mark.parametrize("name", ["x-rays", "stills", "no crystal"])
def test_experiments_to_simulate(files, change_experiments, name):
    edit, parts = EXPERIMENTS[name]
    change_experiments(edit)
    refused(files, ["data.expt", "model.cif"], *parts, run=hybrid_simulate.run)


def test_one_experiment_is_simulated(files, change_experiments):
    change_experiments(_several)
    parts = ["data.expt holds 2 experiments", "split_experiments"]
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


SIMULATE = ["data.expt", "model.cif", "nproc=1"]


def test_an_experiment_without_a_detector(files, change_experiments):
    change_experiments(without("detector"))
    refused(files, SIMULATE, "data.expt:", "no detector", run=hybrid_simulate.run)
