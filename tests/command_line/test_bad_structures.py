"""Structures that cannot be used: one sentence that says what, where and what to do."""

from __future__ import annotations

import pytest
from command_runs import INPUT
from refusals import refused

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
