"""What the CIF says of atoms that ride, belong to rigid groups, are restrained or alternatives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from examples import WAVELENGTH
from finished_results import finished
from test_shelx_round_trip import CONSTRAINTS, EVERYTHING

import iotbx.cif

from dials_hybrid_refine.io.cif_experiment import MeasuredScan, Measurement
from dials_hybrid_refine.io.cif_refinement import RefinementModel
from dials_hybrid_refine.io.refined_cif import CifContext, refined_cif
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.models.prepare import Model, ModelChoices, prepare
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.refinement.restraint_summary import RestraintRow, RestraintSummary
from dials_hybrid_refine.refinement.weights import Weighting


def row(kind: str, *labels: str) -> RestraintRow:
    return RestraintRow(
        kind, "made up", 1, labels, ("x,y,z",) * len(labels), None, 0.0, 0.0, 0.1, 0.0
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("constrained") / "model.ins"
    path.write_text(EVERYTHING.format(instructions=CONSTRAINTS))
    file = read_structure(path)
    model, _ = prepare(Model(file.structure, file.shelx_constraints, file.disorder), ModelChoices())
    result = finished(
        model.structure, RefinedParameters(), tuple(model.constraints), 3.0, model.disorder
    )
    rows = (row("distance", "O20", "C20"), row("rigid_bond", "O7", "O8"))
    rows = tuple(replace(r, target=1.0) for r in rows)
    result = replace(result, restraints=RestraintSummary(rows, 2, 1.0, 1.1))
    measurement = Measurement((MeasuredScan(WAVELENGTH, (-10.0, 10.0), 0.1),), None, "profile", {})
    refinement = RefinementModel(Weighting(), "neural", False, model.constraints)
    context = CifContext(measurement, refinement, disorder=model.disorder)
    return str(refined_cif(result, context))


@pytest.fixture(scope="module")
def atoms(text) -> dict[str, dict[str, str]]:
    """The rows of the loop of atoms, by label."""
    (block,) = iotbx.cif.reader(input_string=text).model().values()
    columns = {
        k.removeprefix("_atom_site_"): v for k, v in block.items() if k.startswith("_atom_site_")
    }
    names = [k for k in columns if not k.startswith("aniso")]
    rows = zip(*(columns[name] for name in names))
    return {r[names.index("label")]: dict(zip(names, r)) for r in rows}


@pytest.mark.parametrize(
    "label, calculated, position",
    [
        ("H2", "calc", "R"),  # AFIX 43
        ("H7A", "calc", "GR"),  # AFIX 137
        ("H31", "calc", "R"),  # AFIX 4
        ("C1", "d", "G"),  # AFIX 66
        ("C20", "d", "DG"),  # AFIX 9 and DFIX
        ("C40", "d", "."),
    ],
)
def test_flags_of_positions(atoms, label, calculated, position) -> None:
    assert atoms[label]["calc_flag"] == calculated
    assert atoms[label]["refinement_flags_posn"] == position
    # without s.u. only where nothing is refined of the atom itself, as in files of SHELXL
    assert ("(" in atoms[label]["fract_y"]) == ("R" not in position)


def test_displacement_parameters(atoms) -> None:
    assert atoms["O7"]["refinement_flags_adp"] == "U"
    assert atoms["C40"]["refinement_flags_adp"] == "."
    assert "(" in atoms["C40"]["U_iso_or_equiv"] and "(" in atoms["H31"]["U_iso_or_equiv"]
    assert "(" not in atoms["H2"]["U_iso_or_equiv"]


def test_occupancies_on_free_variables_have_uncertainties(atoms) -> None:
    """The same for v and 1 - v."""
    first, second = (atoms[label]["occupancy"].partition("(")[2] for label in ("O7", "O8"))
    assert first == second != ""
    assert "(" in atoms["N1"]["occupancy"] and "(" not in atoms["O51"]["occupancy"][:-3]


def test_alternatives(text, atoms, tmp_path) -> None:
    groups = {label: atom["disorder_group"] for label, atom in atoms.items()}
    assert {k for k, g in groups.items() if g == "1"} == {"O7", "C7", "H7A", "H7B", "H7C"}
    assert {k for k, g in groups.items() if g == "2"} == {"O8"}
    path = tmp_path / "again.cif"
    path.write_text(text)
    again = read_structure(path)
    assert [str(n) if n else "." for n in again.disorder.conformers] == list(groups.values())


def test_hydrogen_treatment(text) -> None:
    """H31 has a U of its own beside what rides, but all positions are constrained."""
    assert "_refine_ls_hydrogen_treatment     constr" in " ".join(text.split("\n"))


def test_legal(text, core_dictionary) -> None:
    """But for the items of the restraints dictionary, which is not at hand."""
    violations = [v for v in core_dictionary.violations(text) if not v.startswith("_restr_")]
    assert violations == []
