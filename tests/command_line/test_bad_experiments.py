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


NAN = float("nan")


def changed(model, **values):
    """An edit of decoded experiments that changes items of a model."""
    return lambda content: content[model][0].update(values)


def _lattice(factor):
    def edit(content):
        for axis in "abc":
            name = f"real_space_{axis}"
            content["crystal"][0][name] = [factor * x for x in content["crystal"][0][name]]

    return edit


def _images(n):
    times = [0.0] * n
    return changed("scan", image_range=[1, n], exposure_time=times, epochs=times)


def _orientations(n, matrix):
    return changed("crystal", A_at_scan_points=[matrix] * n)


def _one_of_two_is_broken(content):
    _several(content)
    del content["experiment"][1]["crystal"]


NO_ROTATION = ["rotation of the goniometer is no rotation", GIVE_EXPT]
NO_LATTICE = ["unit cell or orientation of the crystal is not usable", GIVE_EXPT]
UNIT = [1, 0, 0, 0, 1, 0, 0, 0, 1]
#: numbers and models that dxtbx reads and no experiment has: what to change, and what the sentence says
IMPOSSIBLE = {
    "wavelength zero": (changed("beam", wavelength=0), ["wavelength is 0 Angstrom", "correct"]),
    "wavelength nan": (changed("beam", wavelength=NAN), ["wavelength is nan", "correct"]),
    "wavelength negative": (changed("beam", wavelength=-0.025), ["wavelength is -0.025", "correct"]),
    "wavelength in nm": (changed("beam", wavelength=0.00251), ["0.00251", "nm", "correct"]),
    "wavelength in pm": (changed("beam", wavelength=2.51), ["2.51", "electron"]),
    "infinite wavelength": (changed("beam", wavelength=float("inf")), ["inf", "electron"]),
    "wavelength is text": (changed("beam", wavelength="0.025"), [GIVE_EXPT]),
    "no direction": (changed("beam", direction=[0, 0, 0]), [GIVE_EXPT]),
    "beam that moves nowhere": (
        changed("beam", s0_at_scan_points=[[0, 0, 0]] * 21), ["direction of the beam", GIVE_EXPT],
    ),
    "no axis": (changed("goniometer", rotation_axis=[0, 0, 0]), [GIVE_EXPT]),
    "fixed rotation zero": (changed("goniometer", fixed_rotation=[0] * 9), ["fixed", *NO_ROTATION]),
    "fixed rotation nan": (changed("goniometer", fixed_rotation=[NAN] * 9), ["fixed", *NO_ROTATION]),
    "stretching": (changed("goniometer", setting_rotation=[2, *UNIT[1:]]), ["setting", *NO_ROTATION]),
    "mirror": (changed("goniometer", setting_rotation=[-1, *UNIT[1:]]), ["setting", *NO_ROTATION]),
    "start nan": (changed("scan", oscillation=[NAN, 1]), ["angles of the scan are not numbers"]),
    "width infinite": (changed("scan", oscillation=[0, float("inf")]), ["angles of the scan"]),
    "width in millidegrees": (changed("scan", oscillation=[-30, 1e3]), ["1000 degrees", "correct"]),
    "start far away": (changed("scan", oscillation=[1e9, 1]), ["1e+09 degrees on", "correct"]),
    "scan too long": (_images(90_000), ["90000 images of 1 degrees", "correct"]),
    "images backwards": (changed("scan", image_range=[20, 1]), [GIVE_EXPT]),
    "lattice nan": (_lattice(NAN), NO_LATTICE),
    "lattice zero": (_lattice(0), [GIVE_EXPT]),
    "left-handed": (_lattice(-1), ["left-handed", "dials.reindex"]),
    "lattice in nm": (_lattice(0.1), ["differ by 90.0 % in length", "give the structure"]),
    "lattice of 1 Angstrom": (_lattice(0.2), ["differ by 80.0 % in length", "give the structure"]),
    "lattice of 1000 Angstrom": (_lattice(200), ["in length", "give the structure"]),
    "two axes parallel": (
        lambda c: c["crystal"][0].update(real_space_c=c["crystal"][0]["real_space_a"]), [GIVE_EXPT],
    ),
    "orientations of other images": (_orientations(5, UNIT), ["has 5 orientations for the 21"]),
    "orientations nan": (_orientations(21, [NAN] * 9), NO_LATTICE),
    "orientations zero": (_orientations(21, [0] * 9), NO_LATTICE),
    "orientations of another cell": (_orientations(21, UNIT), NO_LATTICE),
    "no space group": (changed("crystal", space_group_hall_symbol="junk"), [GIVE_EXPT]),
    "model out of range": (lambda c: c["experiment"][0].update(crystal=5), [GIVE_EXPT]),
    "null experiment": (lambda c: c.update(experiment=[None]), [GIVE_EXPT]),
    "stub crystal": (lambda c: c.update(crystal=[None]), ["no crystal model", GIVE_EXPT]),
    "no goniometer": (without("goniometer"), ["still images", "integrated rotation data"]),
    "no scan": (without("scan"), ["still images", "integrated rotation data"]),
    "one of two is broken": (_one_of_two_is_broken, ["data.expt"]),
}  # fmt: skip

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


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_experiments(files, change_experiments, case):
    edit, parts = IMPOSSIBLE[case]
    change_experiments(edit)
    refused(files, INPUT, "data.expt", *parts)


FOR_BOTH = ["wavelength zero", "wavelength nan", "wavelength in nm", "lattice nan", "left-handed"]


@pytest.mark.parametrize("case", [*FOR_BOTH, "scan too long", "orientations zero"])
def test_impossible_experiments_to_simulate(files, change_experiments, case):
    edit, parts = IMPOSSIBLE[case]
    change_experiments(edit)
    refused(files, SIMULATE, "data.expt", *parts, run=hybrid_simulate.run)


PANELS = {
    "nowhere": {"origin": [NAN, 0, 0]},
    "without pixels": {"image_size": [0, 0]},
    "of pixels without size": {"pixel_size": [0, 0]},
    "behind the crystal": {"origin": [-51.2, 51.2, 800.0]},
    "far away": {"origin": [-51.2, 51.2, -8e6]},
}


@pytest.mark.parametrize("case", PANELS)
def test_detectors(files, change_experiments, case):
    change_experiments(lambda c: c["detector"][0]["panels"][0].update(PANELS[case]))
    parts = ["data.expt", "crosses the Ewald sphere on the detector", "correct the detector"]
    refused(files, SIMULATE, *parts, run=hybrid_simulate.run)


SIMULATE = ["data.expt", "model.cif", "nproc=1"]


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


def test_an_experiment_without_a_detector(files, change_experiments):
    change_experiments(without("detector"))
    refused(files, SIMULATE, "data.expt:", "no detector", run=hybrid_simulate.run)
