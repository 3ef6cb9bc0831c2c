"""Riding hydrogen atoms are there as often as the atoms they are bound to."""

from __future__ import annotations

import pytest
import torch
from molecules import alanine

from dials_hybrid_refine.io.refined_shelx import ShelxModel, shelx_text
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.models.prepare import Model, ModelChoices, prepare
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.models.structure import StructureModel

#: ethyl in two places, occupancies on a free variable
DISORDERED = """\
TITL ester
CELL 0.0251 9.1 9.2 9.3 90 100 90
ZERR 2 0 0 0 0 0 0
LATT -1
SFAC C O
UNIT 8 2
FVAR 1.0 0.6
C1  1 0.30 0.30 0.30 11.0 0.02
O1  2 0.20 0.21 0.30 11.0 0.02
O2  2 0.42 0.27 0.30 11.0 0.02
PART 1
C2A 1 0.27 0.46 0.28 21.0 0.02
C3A 1 0.36 0.54 0.40 21.0 0.02
PART 2
C2B 1 0.26 0.45 0.34 -21.0 0.02
C3B 1 0.37 0.55 0.30 -21.0 0.02
PART 0
HKLF 4
END
"""


def occupancies(model: StructureModel, shift: float) -> dict[str, float]:
    """Of all atoms, with all parameters moved."""
    with torch.no_grad():
        model.shifts.fill_(shift)
    return {s.label: s.occupancy for s in model.current_structure().scatterers()}


def model_of(
    file, refined: RefinedParameters, **choices: str
) -> tuple[StructureModel, Model, list]:
    given = Model(file.structure, list(file.shelx_constraints), file.disorder, file.riding)
    made, notes = prepare(given, ModelChoices(**choices))
    return StructureModel(made.structure, refined, made.constraints, made.disorder), made, notes


@pytest.fixture
def disordered(tmp_path):
    (tmp_path / "model.ins").write_text(DISORDERED)
    return read_structure(tmp_path / "model.ins")


def test_generated_atoms_of_a_disordered_group(disordered, tmp_path) -> None:
    """CH2 and CH3 of both alternatives, on the free variable, in the PART of their parents."""
    model, made, notes = model_of(disordered, RefinedParameters(), hydrogens="generate")
    assert notes[0].startswith("10 hydrogen atoms were added: H2AA, H2AB, H3AA")
    # C1 has neighbours in both parts: what it bears depends on which of them one means
    assert notes[1] == "no hydrogen atoms could be placed on C1: put them into the model"
    parts = dict(zip(occupancies(model, 0.0), made.disorder.conformers))
    assert {parts[x] for x in ("C2A", "H2AA", "H3AC")} == {1}
    assert {parts[x] for x in ("C2B", "H2BA", "H3BC")} == {2}
    found = occupancies(model, 0.3)
    share = found["C2A"]
    assert share == pytest.approx(0.63)
    for label, occupancy in found.items():
        part = parts[label]
        assert occupancy == pytest.approx({0: 1, 1: share, 2: 1 - share}[part]), label
    # the .res file says the same
    written = ShelxModel(model.current_structure(), 0.0251, None, made.constraints, made.disorder)
    (tmp_path / "again.res").write_text(shelx_text(written))
    again, _, _ = model_of(read_structure(tmp_path / "again.res"), RefinedParameters())
    assert again.n_parameters == model.n_parameters
    for label, occupancy in occupancies(again, 0.1).items():
        part = parts[label]
        assert occupancy == pytest.approx({0: 1, 1: share + 0.01, 2: 0.99 - share}[part]), label


def test_generated_atoms_of_a_group_on_a_centre_of_symmetry(tmp_path) -> None:
    """PART -1: images are alternatives, next to which hydrogen atoms may stand."""
    head, _, _ = DISORDERED.replace("LATT -1", "LATT 1").partition("C1  1")
    atoms = "PART -1\nC1 1 0.02 0.05 0.01 10.5 0.02\nC2 1 0.10 0.185 0.07 10.5 0.02\n"
    (tmp_path / "model.ins").write_text(f"{head}{atoms}PART 0\nHKLF 4\nEND\n")
    model, made, notes = model_of(
        read_structure(tmp_path / "model.ins"), RefinedParameters(), hydrogens="generate"
    )
    assert notes == ["6 hydrogen atoms were added: H1A, H1B, H1C, H2A, H2B, H2C"]
    assert {made.disorder.part(i) for i in range(8)} == {-1}
    assert set(occupancies(model, 0.3).values()) == {0.5}


def test_occupancies_that_are_asked_for() -> None:
    """Of a whole molecule: one for each atom but hydrogen; of its carbon atom: that, with its H."""
    made, _ = prepare(Model(alanine()), ModelChoices(hydrogens="riding"))
    fixed, every, one = (
        StructureModel(made.structure, refined, made.constraints)
        for refined in (
            RefinedParameters(),
            RefinedParameters(occupancies=True),
            RefinedParameters(occupancies_of=("C3",)),
        )
    )
    assert every.n_parameters == fixed.n_parameters + 6
    assert one.n_parameters == fixed.n_parameters + 1
    found = occupancies(one, -0.5)
    assert found["C3"] == found["H3A"] == found["H3B"] == found["H3C"] == pytest.approx(0.95)
    assert found["C2"] == found["H2"] == 1


def test_what_a_file_says_is_kept(tmp_path) -> None:
    """A hydrogen atom with an occupancy of its own, and one that is fixed beside a refined parent."""
    text = DISORDERED.replace("SFAC C O\nUNIT 8 2", "SFAC C O H\nUNIT 8 2 8")
    hydrogens = "AFIX 23\nH1 3 0.30 0.50 0.18 {} -1.2\nH2 3 0.15 0.48 0.28 10.6 -1.2\nAFIX 0\n"
    for code, moved in (("10.6", 0.6), ("21.0", 0.63)):
        path = tmp_path / "model.ins"
        path.write_text(text.replace("C3A 1", hydrogens.format(code) + "C3A 1"))
        model, _, _ = model_of(read_structure(path), RefinedParameters())
        found = occupancies(model, 0.3)
        assert found["H1"] == pytest.approx(moved)
        assert found["H2"] == pytest.approx(0.6)


def test_a_mixed_site_on_a_free_variable_contradicts_nothing(tmp_path) -> None:
    text = DISORDERED.replace("SFAC C O", "SFAC C O Fe Mg").replace("UNIT 8 2", "UNIT 8 2 1 1")
    text = text.replace(
        "PART 1\n", "Fe1 3 0.7 0.7 0.7 21 0.02\nMg1 4 0.7 0.7 0.7 -21 0.02\nPART 1\n"
    )
    (tmp_path / "model.ins").write_text(text)
    model, _, notes = model_of(read_structure(tmp_path / "model.ins"), RefinedParameters())
    assert notes == ["atoms on common sites share coordinates and U: Fe1/Mg1"]
    found = occupancies(model, 0.3)
    assert found["Fe1"] + found["Mg1"] == pytest.approx(1)
    assert found["Fe1"] == pytest.approx(found["C2A"])
