"""Structures that cannot be used: one sentence that says what, where and what to do."""

from __future__ import annotations

import pytest
from command_runs import INPUT
from model_files import PDB, SHELX
from refusals import refused

from dials_hybrid_refine.command_line import hybrid_simulate

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

#: hydrogen atoms without a place to go
METHYL = """\
AFIX 137
H1 3 0.80 0.50 0.60 11 -1.5
H2 3 0.90 0.50 0.50 11 -1.5
H3 3 0.85 0.65 0.50 11 -1.5
AFIX 0
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
    "constraint": (
        lambda t: SHELX.replace("SFAC SI O", "SFAC SI O H").replace("HKLF", METHYL + "HKLF"),
        ["AFIX", "O1"],
    ),
}  # fmt: skip

_OXYGEN = "O1  O  0.8434 0.5945 0.6191   0.0125 Uiso"
_U = "0.0125"


def _put(old, new):
    return lambda text: text.replace(old, new)


def _occupancy(value):
    return lambda text: (
        text.replace("_adp_type\n", "_adp_type\n_atom_site_occupancy\n")
        .replace("0.0065 Uiso", "0.0065 Uiso 1")
        .replace("0.0125 Uiso", f"0.0125 Uiso {value}")
    )


def _carbon(n):
    rows = [f"C{i} C 0.{i % 97:02d}3 0.{i % 89:02d}7 0.{i % 83:02d}1 0.01 Uiso" for i in range(n)]
    return lambda text: text + "\n".join(rows) + "\n"


IMPOSSIBLE = "is impossible: correct it"
NOT_POSITIVE = ["O1", "not positive definite", "correct them"]
TRUNCATED = ["truncated or corrupt", "give a complete"]
#: values of a CIF that no crystal has
CIF = {
    "U zero but for round-off": (_put(_U, "1e-12"), NOT_POSITIVE),
    "U nan": (_put(_U, "nan"), NOT_POSITIVE),
    "U infinite": (_put(_U, "inf"), ["O1", "exceed 10", "correct"]),
    "U in pm^2": (_put(_U, "125"), ["O1", "exceed 10", "other units"]),
    "U with a comma": (_put(_U, "0,0125"), ["'0,0125'", "not a number", "correct"]),
    "U_ij huge": (
        lambda t: t.replace("0.0125 Uiso", "0.01 Uani")
        + ANISO.replace("0.01 0.01 -0.02 0.005", "50 50 50 25"), ["O1", "exceed 10", "correct"],
    ),
    "U_ij nan": (
        lambda t: t.replace("0.0125 Uiso", "0.01 Uani") + ANISO.replace("-0.02", "nan"), NOT_POSITIVE,
    ),
    "occupancy zero": (_occupancy(0), ["occupancy of O1 (0)", "correct or remove"]),
    "occupancy negative": (_occupancy(-1), ["occupancy of O1 (-1)", "correct or remove"]),
    "occupancy nan": (_occupancy("nan"), ["occupancy of O1 (nan)", "correct or remove"]),
    "occupancy huge": (_occupancy("1e6"), ["occupancy of O1 (1e+06)", "correct it"]),
    "coordinate nan": (_put("0.8434", "nan"), ["coordinates of O1", "complete them"]),
    "coordinate missing": (_put("0.8434", "?"), ["coordinates of O1", "complete them"]),
    "coordinate huge": (_put("0.8434", "1e300"), ["coordinates of O1", "complete them"]),
    "cell of 1 Angstrom": (_put("4.9137", "1"), ["differ by", "give the structure of this"]),
    "cell of 1000 Angstrom": (_put("4.9137", "1000"), ["differ by", "give the structure of this"]),
    "cell in nm": (lambda t: t.replace("4.9137", "0.491").replace("5.4047", "0.54"), [IMPOSSIBLE]),
    "cell nan": (_put("4.9137", "nan"), [IMPOSSIBLE]),
    "cell zero": (_put("4.9137", "0"), [IMPOSSIBLE]),
    "cell negative": (_put("4.9137", "-4.9137"), [IMPOSSIBLE]),
    "cell missing": (_put("4.9137", "?"), ["unit cell is not complete", "add _cell_length_a"]),
    "angle 0": (_put("gamma 120", "gamma 0"), [IMPOSSIBLE]),
    "angle 180": (_put("gamma 120", "gamma 180"), [IMPOSSIBLE]),
    "metric not positive": (
        lambda t: t.replace("alpha 90", "alpha 170").replace("beta 90", "beta 10"), [IMPOSSIBLE],
    ),
    "angle of another system": (_put("gamma 120", "gamma 60"), ["symmetry of space group"]),
    "operation unknown": (_put("y,x,-z", "y,x,-q"), ["'y,x,-q'", "correct it"]),
    "operation of no group": (_put("y,x,-z", "x+1/7,y,z"), ["'x+1/7,y,z'", "correct it"]),
    "no element": (_put("O1  O ", "O1  Q7"), ["'Q7' is not an element"]),
    "atom without columns": (_put(_OXYGEN, "O1 O 0.84 0.59"), TRUNCATED),
    "text without end": (lambda t: t + "\n;abc\n", TRUNCATED),
    "100 atoms in 118 A^3": (_carbon(120), ["122 atoms are too many", "correct"]),
    "21000 atoms": (
        lambda t: _carbon(21_000)(t.replace("4.9137", "200").replace("5.4047", "210")),
        ["21002 atoms", "give a smaller structure"],
    ),
    "UTF-16": (lambda t: t.encode("utf-16").decode("latin-1"), ["not a text file", "give"]),
    "two data blocks": (lambda t: t + t.replace("data_", "data_b"), ["structure.data_block="]),
}  # fmt: skip


def _instruction(new):
    return lambda text: text.replace("FVAR 1", new)


def _atom(old, new):
    return lambda text: text.replace(old, new)


#: a SHELX file without hydrogen atoms, changed
SHELX_FILES = {
    "LATT unknown": (_atom("LATT -1", "LATT 9"), ["LATT 9 is not understood", "correct"]),
    "LATT no number": (_atom("LATT -1", "LATT x"), ["LATT x is not understood", "correct"]),
    "SYMM unknown": (_atom("SYMM Y,X,-Z", "SYMM junk"), ["SYMM junk", "correct"]),
    "CELL no number": (_atom("0.0251 4.9137", "0.0251 x"), ["'x'", "not a number", "correct"]),
    "CELL short": (_atom(" 90 90 120\nZ", " 90\nZ"), ["CELL needs", "complete it"]),
    "FVAR no number": (_instruction("FVAR x"), ["FVAR x", "not a number", "correct"]),
    "free variable missing": (_atom(" 11 0.0125", " 51 0.0125"), ["FVAR", "correct"]),
    "U nan": (_atom("0.0125", "nan"), ["'nan'", "not a number", "correct"]),
    "U infinite": (_atom("0.0125", "inf"), ["'inf'", "not a number", "correct"]),
    "coordinate beyond range": (_atom("0.8534", "1e9"), ["FVAR", "correct"]),
    "type missing": (_atom("O1 2", "O1 9"), ["O1 is of type 9", "SFAC", "correct"]),
    "type negative": (_atom("O1 2", "O1 -2"), ["O1 -2", "not understood", "correct"]),
    "no SFAC": (_atom("SFAC SI O", "REM"), ["SFAC", "correct"]),
    "unknown instruction": (_instruction("HELLO\nFVAR 1"), ["HELLO", "correct or remove"]),
    "AFIX no number": (_atom("O1 2", "AFIX x\nO1 2"), ["AFIX x", "not a number", "correct"]),
    "PART no number": (_atom("O1 2", "PART x\nO1 2"), ["PART x", "not a number", "correct"]),
    "DFIX without distance": (_instruction("DFIX\nFVAR 1"), ["DFIX has no distance", "complete"]),
    "DFIX of no atom": (_instruction("DFIX 1.6 SI1 O9\nFVAR 1"), ["O9", "correct"]),
    "EXYZ of no atom": (_instruction("EXYZ SI1 Q9\nFVAR 1"), ["Q9", "correct"]),
    "no END": (_atom("HKLF 4\nEND\n", ""), ["neither HKLF nor END", "truncated"]),
}
_PLACE = "2.733   2.530   3.346"
PDB_FILES = {
    "no cell": (_put("CRYST1", "REMARK"), ["no unit cell", "add a CRYST1"]),
    "cell no number": (_put("4.914    4.914", "4.914    x.914"), TRUNCATED),
    "no space group": (_put("P 32 2 1", ""), ["no symmetry", "add"]),
    "unknown space group": (_put("P 32 2 1", "Q 99"), ["no symmetry", "add"]),
    "coordinate no number": (_put("2.733", "2.x33"), TRUNCATED),
    "coordinates missing": (_put(_PLACE + "  1.00  0.99           O", "2.733"), ["line 3", "complete"]),
    "B negative": (_put(" 0.99 ", "-0.99 "), ["O_A1", "not positive definite", "correct"]),
    "B huge": (_put("  0.99 ", "999.99 "), ["O_A1", "exceed 10", "correct"]),
    "occupancy zero": (_put("1.00  0.99", "0.00  0.99"), ["O_A1 (0)", "correct or remove"]),
    "no element": (_put("           O\n", "          XX\n"), ["'XX' is not an element"]),
    "10^5 atoms": (
        lambda t: t.replace("  4.914    4.914    5.405", "200.000  200.000  210.000")
        .replace("END\n", t.splitlines()[2] + "\n", 1).replace("END", "")
        + "\n".join([t.splitlines()[2]] * 99_998) + "\nEND\n",
        ["100001 atoms", "give a smaller structure"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CIF)
def test_impossible_values(files, case):
    edit, parts = CIF[case]
    text = (files / "model.cif").read_text()
    assert edit(text) != text
    (files / "model.cif").write_text(edit(text), encoding="latin-1")
    refused(files, [*INPUT, "nproc=1"], "model.cif", *parts)


@pytest.mark.parametrize("name, good, cases", [("model.ins", SHELX, SHELX_FILES),
                                               ("model.pdb", PDB, PDB_FILES)])  # fmt: skip
def test_impossible_files(files, stop_before_refinement, name, good, cases):
    (files / name).write_text(good)
    refused(files, [*INPUT[:2], name], "the input was good")
    for edit, parts in cases.values():
        assert edit(good) != good
        (files / name).write_text(edit(good))
        refused(files, [*INPUT[:2], name], name, *parts)


#: what is odd but can be meant: how the CIF is changed, and what the log says of it
ODD = {
    "occupancy above 1": (_occupancy(1.5), "occupancy of O1 (1.5) is larger than 1"),
    "U large": (_put(_U, "0.9"), "parameters of O1 exceed 0.5"),
    "U missing": (_put(_U, "?"), "U_iso = 0.01 Angstrom^2 is assumed"),
    "U zero": (_put(_U, "0"), "U_iso = 0.01 Angstrom^2 is assumed"),
    "deuterium": (_put("O1  O ", "O1  D "), "D is taken as H"),
    "label twice": (lambda t: t + "O1 O 0.2 0.3 0.1 0.01 Uiso\n", "labels O1 occur more than once"),
    "no end of line": (lambda t: t.rstrip("\n"), "the file may be truncated"),
    "lines end as in Windows": (_put("\n", "\r\n"), ""),
    "byte order mark": (lambda t: "\ufeff" + t, ""),
    "umlauts": (lambda t: "# \xe4\xf6\xfc\n" + t, ""),
    "coordinates far away": (_put("0.8434", "-200.1566"), ""),
    "one atom": (_put(_OXYGEN + "\n", ""), ""),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_values(files, stop_before_refinement, capsys, case):
    edit, warning = ODD[case]
    text = (files / "model.cif").read_text()
    assert edit(text) != text
    (files / "model.cif").write_bytes(edit(text).encode())
    refused(files, INPUT, "the input was good")
    assert warning in " ".join(capsys.readouterr().out.split())


def test_a_structure_that_does_not_diffract(files):
    text = (files / "model.cif").read_text()
    (files / "model.cif").write_text(text.replace("0.0125", "9").replace("0.0065", "9"))
    arguments = ["data.expt", "model.cif", "d_min=0.3", "nproc=1"]
    refused(files, arguments, "model.cif", "diffracts nothing", "correct", run=hybrid_simulate.run)


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
