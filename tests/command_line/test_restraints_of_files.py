"""Restraints from the files to the files: a SHELX file or parameters, then log, JSON and CIF."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_runs import FAST, INPUT

import iotbx.cif
import iotbx.shelx
from cctbx import sgtbx
from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.io.structure import read_structure

#: both bonds of silicon with different lengths; the second goes to an image of the oxygen
TARGETS = (1.60, 1.62)


@pytest.fixture(scope="module")
def written(simulated, tmp_path_factory) -> tuple[Path, tuple[str, str]]:
    """A folder with the data and model.ins, and the operations of the oxygens at Si1."""
    folder = tmp_path_factory.mktemp("restrained")
    for name in INPUT:
        shutil.copy(simulated / name, folder)
    structure = read_structure(folder / "model.cif").structure
    table = structure.pair_asu_table(distance_cutoff=1.8).extract_pair_sym_table()
    operations = [operation.as_xyz() for operation in table[0][1]]
    assert len(operations) == 2
    written = iotbx.shelx.writer.generator(
        structure, wavelength=0.02508, full_matrix_least_squares_cycles=1, sort_scatterers=False
    )
    lines = "".join(written).splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("UNIT"))
    lines[place + 1 : place + 1] = [
        *(f"EQIV ${i} {o}" for i, o in enumerate(operations, start=1)),
        *(f"DFIX {t} 0.001 Si1 O1_${i}" for i, t in enumerate(TARGETS, start=1)),
        "SIMU 0.01 0.01 5",
        "BUMP",
    ]
    (folder / "model.ins").write_text("\n".join(lines) + "\n")
    return folder, (operations[0], operations[1])


def refine(folder: Path, name: str, *arguments: str, monkeypatch) -> dict:
    monkeypatch.chdir(folder)
    files = ["data.expt", "data.refl", "model.ins"]
    output = [f"output.json={name}.json", f"output.structure={name}.cif", f"output.log={name}.log"]
    output.append(f"output.res={name}.res")
    hybrid_refine.run([*files, *FAST, *output, *arguments])
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def refined(written) -> tuple[Path, dict]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return written[0], refine(written[0], "ins", monkeypatch=monkeypatch)


def test_restraints_of_the_file_are_applied(refined) -> None:
    """The summary states what a computation from its own coordinates gives."""
    folder, summary = refined
    structure = read_structure(folder / "ins.cif").structure
    silicon, oxygen = (atom["site"] for atom in summary["structure"]["atoms"])
    for row, target in zip(summary["restraints"], TARGETS):
        operation = sgtbx.rt_mx(row["operations"][1])
        found = structure.unit_cell().distance(tuple(silicon), operation * tuple(oxygen))
        assert row["source"].startswith(f"DFIX {target} 0.001 Si1 O1_$")
        assert row["value"] == pytest.approx(found, abs=1e-6)
        assert row["deviation"] == pytest.approx(row["value"] - target, abs=1e-9)
        assert row["ratio"] == pytest.approx(row["deviation"] / 0.001)
        assert abs(row["deviation"]) < 0.02
    assert [row["kind"] for row in summary["restraints"]] == ["distance"] * 2 + [
        "similar_displacements"
    ]
    assert summary["statistics"]["n_restraints"] == 2 + 1
    assert 0 < summary["statistics"]["restrained_s"] < 100
    assert "restrained_s" in summary["statistics"]["definitions"]


def test_log_lists_them_worst_first_and_names_what_is_not_applied(refined) -> None:
    folder, summary = refined
    text = (folder / "ins.log").read_text()
    assert "not applied: BUMP" in text
    table = text.split("Restraints (worst first):")[1].split("Refined structure:")[0]
    ratios = [float(line.split("|")[-2]) for line in table.splitlines() if "Si1" in line]
    expected = sorted((r["ratio"] for r in summary["restraints"]), key=lambda r: -abs(r))
    assert ratios == pytest.approx(expected, abs=0.006)


def test_cif_has_the_items_of_the_restraints_dictionary(refined) -> None:
    folder, summary = refined
    block = iotbx.cif.reader(file_path=str(folder / "ins.cif")).model()["hybrid_refined"]
    assert block["_refine_ls_number_restraints"] == "3"
    assert float(block["_refine_ls_restrained_S_all"]) == pytest.approx(
        summary["statistics"]["restrained_s"], abs=0.006
    )
    assert list(block["_restr_distance_atom_site_label_1"]) == ["Si1", "Si1"]
    np.testing.assert_allclose(
        [float(x) for x in block["_restr_distance_target"]], TARGETS, atol=1e-4
    )
    assert list(block["_restr_distance_target_weight_param"]) == ["0.0010"] * 2
    differences = [-float(x) for x in block["_restr_distance_diff"]]
    expected = [row["deviation"] for row in summary["restraints"][:2]]
    np.testing.assert_allclose(differences, expected, atol=6e-5)
    assert list(block["_restr_U_similar_weight_param"]) == ["0.0100"]
    # the symmetry codes mean the operations of this file
    codes = block["_restr_distance_site_symmetry_2"]
    symops = block["_space_group_symop_operation_xyz"]
    for code, row in zip(codes, summary["restraints"]):
        number, _, shifts = code.partition("_")
        operation = sgtbx.rt_mx(symops[int(number) - 1])
        translation = [int(digit) - 5 for digit in shifts or "555"]
        wanted = sgtbx.rt_mx(row["operations"][1])
        assert operation.r() == wanted.r()
        moved = np.array(operation.t().as_double()) + translation
        np.testing.assert_allclose(moved, wanted.t().as_double(), atol=1e-6)


def test_the_res_file_asks_for_them_again(refined) -> None:
    folder, summary = refined
    file = read_structure(folder / "ins.res")
    assert not file.unsupported
    kinds = [request.kind for request in file.restraints]
    assert kinds == ["distance", "distance", "similar_displacements"]
    for request, row in zip(file.restraints[:2], summary["restraints"], strict=False):
        assert (request.target, request.sigma) == (row["target"], row["sigma"])
        assert [atom.label for atom in request.atoms] == row["labels"]
        written = [sgtbx.rt_mx(atom.operation).as_xyz() for atom in request.atoms]
        assert written == row["operations"]


def test_parameters_do_the_same_as_the_file(written, refined, monkeypatch) -> None:
    folder, operations = written
    scopes = "".join(
        f"restraints.distance {{\n atoms = Si1 O1\n symmetry = x,y,z {o}\n target = {t}\n sigma = 0.001\n}}\n"
        for o, t in zip(operations, TARGETS)
    )
    scopes += (
        "restraints.similar_displacements {\n atoms = all\n sigma = 0.01\n"
        " sigma_terminal = 0.01\n max_distance = 5\n}\n"
    )
    (folder / "restraints.phil").write_text(scopes)
    other = refine(
        folder, "phil", "restraints.phil", "restraints.from_file=False", monkeypatch=monkeypatch
    )
    for one, two in zip(refined[1]["structure"]["atoms"], other["structure"]["atoms"], strict=True):
        assert one == two
    for one, two in zip(refined[1]["restraints"], other["restraints"], strict=True):
        assert one["ratio"] == two["ratio"]
        assert two["source"].startswith("restraints.")
    # in SHELX syntax they are the same too
    texts = [(folder / f"{name}.res").read_text().splitlines() for name in ("ins", "phil")]
    wanted = [
        [line for line in text if line.startswith(("EQIV", "DFIX", "SIMU"))] for text in texts
    ]
    assert wanted[0] == wanted[1] and len(wanted[0]) == 5


@pytest.mark.parametrize(
    "argument, message",
    [
        ("restraints.plane.atoms=Si1 O1 O2 O3", "restraints.plane 1 (Si1 O1 O2 O3): there is no atom O2"),
        ("restraints.distance.target=1.6", "restraints.distance 1: atoms are missing"),
    ],
)  # fmt: skip
def test_wrong_restraints_are_one_sentence(written, monkeypatch, argument, message) -> None:
    monkeypatch.chdir(written[0])
    with pytest.raises(Sorry) as raised:
        hybrid_refine.run([*INPUT, *FAST, argument])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_wrong_restraints_of_a_file_name_it(written, monkeypatch) -> None:
    monkeypatch.chdir(written[0])
    text = Path("model.ins").read_text()
    Path("bad.ins").write_text(text.replace("BUMP", "DFIX 1.6 Si1 O7"))
    with pytest.raises(Sorry, match=r"bad\.ins: the instruction DFIX 1\.6 Si1 O7 names O7"):
        hybrid_refine.run(["data.expt", "data.refl", "bad.ins", *FAST])
