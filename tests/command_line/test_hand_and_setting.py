"""What the command says of the hand of a structure, and of data in another setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_runs import FAST, INPUT

import iotbx.cif
from cctbx import sgtbx
from dials.command_line import reindex
from dxtbx.model import Crystal
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.io.refined_experiments import follow_hand
from dials_hybrid_refine.io.structure import read_structure

TEST = ["absolute_structure.test=True"]


@pytest.fixture
def wrong_hand(files):
    """The working folder, with a model.cif of the other hand."""
    structure = read_structure("model.cif").structure.change_hand()
    with open("model.cif", "w") as stream:
        structure.as_cif_simple(out=stream)
    return files


def outcome():
    summary = json.loads(Path("dials.hybrid_refine.json").read_text())
    block = iotbx.cif.reader(file_path="hybrid_refined.cif").model()["hybrid_refined"]
    (expt,) = ExperimentListFactory.from_json_file("hybrid_refined.expt", check_format=False)
    return summary, block, str(expt.crystal.get_space_group().info())


def test_wrong_hand_is_kept_with_a_warning(wrong_hand, capsys):
    hybrid_refine.run([*INPUT, *FAST, *TEST])
    summary, block, _ = outcome()
    found = summary["absolute_structure"]
    assert found["z_score"] < -3 and found["probability"] < 0.002
    assert found["preferred"] == "inverted" and found["clear"] and not found["applied"]
    assert found["r_obs"] > found["r_obs_inverted"]
    assert summary["structure"]["space_group"] == "P 31 2 1"
    (warning,) = (w for w in summary["warnings"] if "inverse" in w)
    assert "P 32 2 1" in warning and "absolute_structure.apply=True" in warning
    assert float(block["_refine_ls.abs_structure_z-score"]) == pytest.approx(
        found["z_score"], abs=0.005
    )
    assert "_chemical_absolute_configuration" not in block
    printed = capsys.readouterr().out
    assert f"Warning: {warning}" in printed and f"z = {found['z_score']:.2f}" in printed


def test_wrong_hand_is_replaced_on_request(wrong_hand):
    """The CIF speaks of the structure in it, the .expt is labelled like it."""
    hybrid_refine.run([*INPUT, *FAST, *TEST, "absolute_structure.apply=True"])
    summary, block, label = outcome()
    found = summary["absolute_structure"]
    assert found["applied"] and found["z_score"] < -3
    assert summary["structure"]["space_group"] == "P 32 2 1" == label
    assert summary["statistics"]["r_obs"] == pytest.approx(found["r_obs_inverted"], abs=0.01)
    assert float(block["_refine_ls.abs_structure_z-score"]) == pytest.approx(
        -found["z_score"], abs=0.005
    )
    assert block["_chemical_absolute_configuration"] == "dyn"
    n_closer = found["n_compared"] - found["n_closer"]
    details = " ".join(block["_refine_ls_abs_structure_details"].split())
    assert f"{n_closer} of {found['n_compared']}" in details
    assert "I>3\\s(I)" in details


@pytest.mark.parametrize(
    "label, expected", [("P 31 2 1", "P 32 2 1"), ("P 32 2 1", "P 32 2 1"), ("P 1", "P 1")]
)
def test_label_follows_the_hand(demo, label, expected):
    structure = read_structure(demo / "truth.cif").structure
    group = sgtbx.space_group_info(label).group()
    crystal = Crystal((4.9, 0, 0), (-2.45, 4.9 * 0.75**0.5, 0), (0, 0, 5.4), space_group=group)
    matrix = crystal.get_A()
    follow_hand(crystal, structure)
    assert str(crystal.get_space_group().info()) == expected
    assert crystal.get_A() == matrix


def test_data_in_another_setting(files, capsys):
    """After dials.reindex the program names the operator that takes them back."""
    reindex.run(
        ["data.expt", "data.refl", "change_of_basis_op=-a,-b,c", "output.experiments=data.expt",
         "output.reflections=data.refl"]
    )  # fmt: skip
    with pytest.raises(Sorry) as raised:
        hybrid_refine.run([*INPUT, *FAST])
    assert "dials.reindex change_of_basis_op=-a,-b,c" in str(raised.value)
