"""Restraints of SHELX files and of parameters."""

from __future__ import annotations

import pytest

import iotbx.phil

from dials_hybrid_refine.io.restraints_phil import RESTRAINTS_PHIL, requested_restraints
from dials_hybrid_refine.io.structure import StructureFile, read_structure
from dials_hybrid_refine.models.restraints.build import StructureRestraints
from dials_hybrid_refine.models.restraints.request import AtomName, RestraintRequest
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel

INS = """TITL chain
CELL 0.0251 7.1 8.2 9.3 85 97 101
ZERR 1 0 0 0 0 0 0
LATT 1
SFAC C N H
UNIT 10 2 2
{instructions}
FVAR 1
C1 1 0.20 0.20 0.20 11.0 0.02 0.03 0.02 0.001 0.002 0.003
H1 3 0.30 0.20 0.20 11.0 0.02
C2 1 0.35 0.32 0.24 11.0 0.02 0.03 0.03 0.001 0.002 0.003
n3 2 0.45 0.45 0.32 11.0 0.02 0.02 0.02 0.001 0.002 0.003
C4 1 0.55 0.25 0.45 11.0 0.03
HKLF 4
END
"""


@pytest.fixture
def read(tmp_path):
    """A function from instructions to the file they stand in, read."""

    def read_text(instructions: str) -> StructureFile:
        path = tmp_path / "model.ins"
        path.write_text(INS.format(instructions=instructions))
        return read_structure(path)

    return read_text


def names(text: str) -> tuple[AtomName, ...]:
    return tuple(AtomName(label) for label in text.split())


def from_phil(text: str) -> list[RestraintRequest]:
    scope = iotbx.phil.parse(RESTRAINTS_PHIL)
    return requested_restraints(scope.fetch(iotbx.phil.parse(text)).extract().restraints)


@pytest.mark.parametrize(
    "instruction, kind, atoms, numbers",
    [
        ("DFIX 1.5 C1 C2", "distance", "C1 C2", (0.02, 1.5, None, None)),
        ("DFIX C1 C2 1.5 0.01", "distance", "C1 C2", (0.01, 1.5, None, None)),
        ("dang 2.5 C1 N3", "distance", "C1 n3", (0.04, 2.5, None, None)),
        ("SADI C1 C2 C2 N3", "equal_distance", "C1 C2 C2 n3", (0.02, None, None, None)),
        ("SADI 0.05 C1 C2 =\n C2 N3", "equal_distance", "C1 C2 C2 n3", (0.05, None, None, None)),
        ("FLAT C1 > C4", "plane", "C1 C2 n3 C4", (0.1, None, None, None)),
        ("FLAT 0.02 C4 < C1", "plane", "C4 n3 C2 C1", (0.02, None, None, None)),
        ("FLAT C2 > LAST", "plane", "C2 n3 C4", (0.1, None, None, None)),
        ("CHIV 2.5 C2", "chiral_centre", "C2", (0.1, 2.5, None, None)),
        ("CHIV C2", "chiral_centre", "C2", (0.1, 0.0, None, None)),
        ("SIMU", "similar_displacements", "", (0.04, None, 0.08, 2.0)),
        ("SIMU 0.02 $C", "similar_displacements", "C1 C2 C4", (0.02, None, 0.04, 2.0)),
        ("SIMU 0.02 0.03 1.7 C1 C2", "similar_displacements", "C1 C2", (0.02, None, 0.03, 1.7)),
        ("DELU C1 C2", "rigid_bond", "C1 C2", (0.01, None, 0.01, None)),
        ("RIGU", "enhanced_rigid_bond", "", (0.004, None, 0.004, None)),
        ("RIGU 0.002 0.003 C1 > N3", "enhanced_rigid_bond", "C1 C2 n3", (0.002, None, 0.003, None)),
        ("ISOR C1", "isotropic_displacements", "C1", (0.1, None, 0.2, None)),
    ],
)
def test_shelx_instructions(read, instruction, kind, atoms, numbers) -> None:
    """Defaults of SHELXL's manual; a range goes over the atoms of the file but hydrogen."""
    file = read(instruction)
    (found,) = file.restraints
    assert file.unsupported == ()
    assert (found.kind, found.atoms) == (kind, names(atoms))
    values = (found.sigma, found.target, found.sigma_far, found.max_distance)
    assert values == pytest.approx(numbers)
    assert found.source == " ".join(instruction.replace("=\n", "").split())


def test_symmetry_operations_of_shelx_files(read) -> None:
    file = read("DFIX 3.0 C1 C4_$2\nEQIV $2 1-x, -y, 1-z")
    (found,) = file.restraints
    assert found.atoms == (AtomName("C1"), AtomName("C4", "1-x,-y,1-z"))
    restraints = StructureRestraints(file.structure, file.restraints)
    (measure,) = restraints.restraints[0].measures(
        restraints.crystal(StructureModel(file.structure, RefinedParameters())())
    )
    cell = file.structure.unit_cell()
    sites = {s.label: s.site for s in file.structure.scatterers()}
    image = tuple(s - x for s, x in zip((1, 0, 1), sites["C4"]))
    assert measure.value == pytest.approx(cell.distance(sites["C1"], image))


def test_defaults_set_by_defs(read) -> None:
    """DEFS sd sf su ss: for the instructions after it."""
    file = read(
        "DFIX 1.5 C1 C2\nDEFS 0.01 0.2 0.03 0.05\nDFIX 1.5 C1 C2\nDANG 2.5 C1 N3\n"
        "FLAT C1 C2 N3 C4\nDELU\nSIMU\nRIGU"
    )
    assert [r.sigma for r in file.restraints] == [0.02, 0.01, 0.02, 0.2, 0.03, 0.05, 0.004]


@pytest.mark.parametrize(
    "instruction",
    [
        "DFIX -3.0 C1 C2",
        "DFIX 21 C1 C2",
        "SADI_1 C1 C2 C2 N3",
        "DFIX 1.5 C1 C2_3",
        "DFIX_* 1.5 C1 C2",
    ],
)
def test_forms_that_are_not_applied_are_named(read, instruction) -> None:
    """Distances from below only, free variables, residues."""
    file = read(instruction)
    assert file.restraints == ()
    assert file.unsupported == (instruction,)
    assert instruction in file.warnings[0]


def test_restraints_of_files_with_residues_are_named(read) -> None:
    file = read("RESI 1 ALA\nDFIX 1.5 C1 C2")
    assert file.restraints == ()
    assert file.unsupported == ("DFIX 1.5 C1 C2",)


@pytest.mark.parametrize(
    "instruction, message",
    [
        ("DFIX 1.5 C1 C9", "DFIX 1.5 C1 C9 names C9, which is no atom"),
        ("DFIX 1.5 C1 C2_$1", "DFIX 1.5 C1 C2_$1 needs EQIV $1"),
        ("DFIX C1 C2", "DFIX C1 C2 has no distance"),
        ("FLAT 1 2 C1 C2 N3 C4", "has more than 1 numbers"),
        ("FLAT > C4", "has an incomplete range"),
        ("EQIV $1", "EQIV $1 is not complete"),
    ],
)
def test_wrong_shelx_instructions_are_one_sentence(read, instruction, message) -> None:
    with pytest.raises(ValueError) as error:
        read(instruction)
    assert "model.ins: the instruction" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "instruction, phil",
    [
        ("DFIX 1.5 0.01 C1 C2", "distance { atoms = C1 C2\n target = 1.5\n sigma = 0.01 }"),
        (
            "EQIV $1 -x,-y,1-z\nDFIX 3 C1 C2_$1",
            "distance { atoms = C1 C2\n symmetry = x,y,z -x,-y,1-z\n target = 3 }",
        ),
        ("SADI C1 C2 C2 N3", "equal_distance.atoms = C1 C2 C2 n3"),
        ("FLAT C1 > C4", "plane.atoms = C1 C2 n3 C4"),
        ("SIMU", "similar_displacements.atoms = all"),
        ("SIMU 0.02 C1 C2", "similar_displacements { atoms = C1 C2\n sigma = 0.02 }"),
        ("DELU", "rigid_bond.atoms = all"),
        ("RIGU 0.01 0.02 C1 C2", "enhanced_rigid_bond { atoms = C1 C2\n sigma=0.01\n sigma_13=0.02 }"),
        ("ISOR 0.1 0.3 C1", "isotropic_displacements { atoms = C1\n sigma_terminal=0.3 }"),
    ],
)  # fmt: skip
def test_parameters_ask_for_the_same_as_instructions(read, instruction, phil) -> None:
    (one,), (other,) = read(instruction).restraints, from_phil(f"restraints {{ {phil} }}")
    for field in ("kind", "atoms", "sigma", "target", "sigma_far", "max_distance"):
        assert getattr(one, field) == getattr(other, field), field
    assert other.source.startswith("restraints.")


def test_scopes_may_be_repeated() -> None:
    assert from_phil("") == []
    found = from_phil(
        "restraints { distance { atoms = C1 C2\n target = 1.4 }\n plane.atoms = A B C D\n"
        "distance { atoms = C3 C4\n target = 1.5 }\n angle { atoms = A B C\n target = 120 } }"
    )
    assert [(r.source, r.target) for r in found] == [
        ("restraints.distance 1 (C1 C2)", 1.4),
        ("restraints.distance 2 (C3 C4)", 1.5),
        ("restraints.angle 1 (A B C)", 120),
        ("restraints.plane 1 (A B C D)", None),
    ]


@pytest.mark.parametrize(
    "phil, message",
    [
        ("distance.target = 1.5", "restraints.distance 1: atoms are missing"),
        ("distance { atoms = A B\n symmetry = x,y,z }", "1 symmetry operations for 2 atoms"),
        ("plane { atoms = A B C D\n sigma = None }", "sigma is missing"),
    ],
)
def test_wrong_parameters_are_one_sentence(phil, message) -> None:
    with pytest.raises(ValueError, match=message):
        from_phil(f"restraints {{ {phil} }}")
