"""A SHELX file, refined and written as a .res file, describes the same model when it is read again."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import WAVELENGTH
from finished_results import finished
from molecules import alanine
from test_refined_cif import HAND
from test_refined_shelx import same_structure

from cctbx import xray

from dials_hybrid_refine.command_line.refine_files import shelx_model
from dials_hybrid_refine.io.cif_experiment import MeasuredScan, Measurement
from dials_hybrid_refine.io.refined_shelx import ShelxModel, shelx_names, shelx_notes, shelx_text
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.prepare import Model, ModelChoices, prepare
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.models.restraints.build import StructureRestraints
from dials_hybrid_refine.models.restraints.request import AtomName, RestraintRequest
from dials_hybrid_refine.models.structure import StructureModel

#: a phenyl ring with one hydrogen atom, two positions of an oxygen with a methyl group, a rigid
#: group that breathes, turning and riding groups, three atoms that fill a site, one that is fixed
EVERYTHING = """\
TITL everything
CELL 0.02508 10 11 30 90 95 90
ZERR 2 0.001 0.001 0.001 0 0 0
LATT -1
SYMM -X,0.5+Y,-Z
SFAC C H O N
UNIT 4 2 2 2
EQIV $1 -X,0.5+Y,1-Z
EQIV $7 X-1,Y,Z
{instructions}
FVAR 1.0 0.6 0.5 0.3 0.2 0.7
AFIX 66
C1 1 0.300 0.300 0.160 11 0.02 0.03 0.025 0.001 0.002 0.003
C2 1 0.430 0.310 0.164 11 0.03
AFIX 43
H2 2 0.5 0.25 0.160 11 -1.2
AFIX 65
C3 1 0.500 0.420 0.160 11 0.03
C4 1 0.430 0.530 0.164 11 0.03
C5 1 0.300 0.530 0.160 11 0.03
C6 1 0.230 0.420 0.164 11 0.03
AFIX 0
PART 1
O7 3 0.160 0.200 0.160 21 0.02 0.03 0.025 0.001 0.002 0.003
C7 1 0.080 0.160 0.128 21 0.03
AFIX 137
H7A 2 0.00 0.12 0.140 21 -1.5
H7B 2 0.06 0.23 0.104 21 -1.5
H7C 2 0.13 0.09 0.112 21 -1.5
AFIX 0
PART 2
O8 3 0.165 0.210 0.172 -21 0.02 0.03 0.025 0.001 0.002 0.003
PART 0
N1 4 0.70 0.70 0.320 31 0.03
C11 1 0.70 0.70 0.320 41 0.03
O11 3 0.70 0.70 0.320 51 0.03
AFIX 9
O20 3 0.70 0.20 0.320 11 0.02
C20 1 0.80 0.20 0.320 11 0.03
C21 1 0.80 0.30 0.320 11 0.03
AFIX 0
C30 1 0.60 0.90 0.080 11 0.03
O30 3 0.74 0.90 0.080 11 0.03
AFIX 147 0.98
H30 2 0.77 0.98 0.080 11 -1.5
AFIX 0
C31 1 0.40 0.90 0.360 11 0.03
AFIX 4
H31 2 0.40 0.98 0.360 11 0.05
AFIX 0
C32 1 0.55 1.00 0.11 11 0.03
C33 1 0.55 0.80 0.05 11 0.03
C40 1 0.10 0.80 0.360 60.5 0.03
C41 1 0.10 0.90 0.280 60.25 0.03
O50 3 10.1 10.6 10.400 10.75 10.02
O51 3 0.9 0.6 0.240 0.75 0.02
HKLF 4
END
"""
CONSTRAINTS = """\
EADP O7 O8
EADP N1 C11 O11
EXYZ N1 C11 O11
SUMP 1.0 0.01 1.0 3 1.0 4 1.0 5"""
RESTRAINTS = """\
DFIX 1.45 0.015 O20 C20 O30 C30_$7
DANG 2.4 O20 C21
SADI 0.03 C1 O7 C1 O8 C30 O30_$1
FLAT 0.05 C1 > C6
CHIV 0.1 0.2 C30
SIMU 0.02 0.05 1.9
DELU 0.006 0.008 C1 O7 O8
RIGU 0.003 0.005
ISOR 0.02 0.03 O7 O8
DFIX 0.99 0.02 C20 H31_$1"""


@dataclass(frozen=True)
class Refined:
    """A model and what is refined of it, moved."""

    model: Model
    parameters: StructureModel

    def text(self, model: ShelxModel | None = None) -> str:
        return shelx_text(model or self.shelx())

    def shelx(self) -> ShelxModel:
        return ShelxModel(
            self.parameters.current_structure(), WAVELENGTH, None,
            self.model.constraints, self.model.disorder, self.model.restraints,
        )  # fmt: skip


def from_text(folder: Path, text: str, shift: float = 0.0, choices=ModelChoices()) -> Refined:  # noqa: B008
    path = folder / "model.ins"
    path.write_text(text)
    file = read_structure(path)
    assert not file.unsupported
    model = Model(file.structure, file.shelx_constraints, file.disorder, (), file.restraints)
    return refined(prepare(model, choices)[0], shift)


def refined(model: Model, shift: float) -> Refined:
    parameters = StructureModel(
        model.structure, RefinedParameters(), model.constraints, model.disorder
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        parameters.shifts.copy_(shift * torch.randn(parameters.n_parameters, generator=generator))
    return Refined(model, parameters)


def by_label(structure: xray.structure) -> list[int]:
    labels = [s.label for s in structure.scatterers()]
    return sorted(range(len(labels)), key=lambda i: labels[i])


def freedom(model: StructureModel) -> np.ndarray:
    """The projection onto the directions in which the crystallographic parameters can move, these in
    the order of the labels: whatever constraints there are, they are the same if this is."""
    jacobian = model.jacobian()
    structure = model.current_structure()
    # to Angstrom and Angstrom^2, as distances from an unmoved atom
    lengths = structure.unit_cell().parameters()[:3]
    u_star = [length**2 for length in lengths]
    u_star += [lengths[i] * lengths[j] for i, j in ((0, 1), (0, 2), (1, 2))]
    units = {"site": lengths, "u_iso": [1.0], "u_aniso": u_star, "occupancy": [1.0]}
    columns, scale = [], []
    for i in by_label(structure):
        place = structure.parameter_map()[i]
        for kind, unit in units.items():
            first = getattr(place, kind)
            columns += [first + k for k in range(len(unit))] if first >= 0 else []
            scale += unit if first >= 0 else []
    assert len(columns) == jacobian.shape[1]
    ordered = jacobian[:, columns] * scale
    ordered /= np.linalg.norm(ordered, axis=1)[:, None]
    orthonormal, singular, _ = np.linalg.svd(ordered.T, full_matrices=False)
    assert singular.min() > 1e-6 * singular.max()
    return orthonormal @ orthonormal.T


def same_model(one: Refined, other: Refined) -> None:
    """Structure, constraints, restraints, alternatives."""
    structures = [r.parameters.current_structure() for r in (one, other)]
    ordered = []
    for structure in structures:
        sorted_ = structure.select(structure.all_selection())
        sorted_.erase_scatterers()
        for i in by_label(structure):
            sorted_.add_scatterer(structure.scatterers()[i])
        ordered.append(sorted_)
    # hydrogen atoms follow the rounding of others
    same_structure(*ordered, site=2e-6, u=1e-5)
    assert [s.label for s in ordered[0].scatterers()] == [s.label for s in ordered[1].scatterers()]
    assert one.parameters.n_parameters == other.parameters.n_parameters
    np.testing.assert_allclose(freedom(one.parameters), freedom(other.parameters), atol=1e-4)
    parts = [
        [(r.model.disorder.conformers or [0] * 99)[i] for i in by_label(s)]
        for r, s in zip((one, other), structures)
    ]
    assert parts[0] == parts[1]
    assert _measures(one) == _measures(other)


def _measures(refined: Refined) -> list:
    """All single restraints with target and sigma to four digits."""
    restraints = StructureRestraints(
        refined.parameters.current_structure(), refined.model.restraints, refined.model.disorder
    )
    with torch.no_grad():
        crystal = restraints.crystal(refined.parameters())
    return [
        (
            r.kind,
            sorted(
                (
                    tuple(sorted(map(str, m.images))),
                    None if m.target is None else round(m.target, 4),
                    round(m.sigma, 4),
                )
                for m in r.measures(crystal)
            ),
        )
        for r in restraints.restraints
    ]


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Refined:
    text = EVERYTHING.format(instructions=f"{CONSTRAINTS}\n{RESTRAINTS}")
    return from_text(tmp_path_factory.mktemp("everything"), text, shift=0.1)


def test_everything(everything, tmp_path) -> None:
    text = everything.text()
    assert max(map(len, text.splitlines())) <= 80
    same_model(everything, from_text(tmp_path, text))
    assert not shelx_notes(everything.shelx())
    # and a second time, but for rounding
    again = from_text(tmp_path, text).text()
    assert [line.split()[0] for line in again.splitlines()] == [
        line.split()[0] for line in text.splitlines()
    ]


def test_instructions(everything) -> None:
    text = everything.text()
    for line in (
        "AFIX 6", "AFIX 5", "AFIX 9", "AFIX 4", "PART 1", "PART 2", "PART 0", "EADP O7 O8",
        "EXYZ N1 C11 O11", "DFIX 1.45 0.015 O20 C20 O30 C30_$1", "EQIV $1 X-1,Y,Z",
        "DANG 2.4 0.04 O20 C21", "FLAT 0.05 C1 C2 C3 C4 C5 C6", "CHIV 0.1 0.2 C30",
        "SIMU 0.02 0.05 1.9", "RIGU 0.003 0.005", "ISOR 0.02 0.03 O7 O8",
        "SUMP 1 0.0001 1 4 1 5 1 6",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert re.search(r"^O7 .* 21\.0000", text, re.M) and re.search(r"^O8 .* -21\.0000", text, re.M)


@pytest.mark.parametrize(
    "kept, absent",
    [
        ({"sites": False}, "AFIX|EXYZ"),
        ({"displacements": False}, "EADP"),
        ({"occupancies": False}, "SUMP"),
    ],
)
def test_what_was_not_refined_is_not_constrained(everything, tmp_path, kept, absent) -> None:
    """Constraints of parameters that were kept fixed would set them free."""
    model = everything.model
    parameters = StructureModel(
        model.structure, RefinedParameters(**kept), model.constraints, model.disorder
    )
    fixed = Refined(model, parameters)
    text = fixed.text()
    assert not re.search(f"^({absent})", text, re.M)
    same_model(fixed, from_text(tmp_path, text))


def test_hydrogen_atoms_follow_their_parents(tmp_path) -> None:
    """Generated ones stand at the end of the model; labels that are too long keep their AFIX."""
    structure = alanine()
    structure.scatterers()[5].label = "C3_long"
    model, _ = prepare(Model(structure), ModelChoices(hydrogens="riding"))
    alanine_refined = refined(model, 0.1)
    text = alanine_refined.text()
    atoms = [line.split()[0] for line in text.splitlines() if re.match(r"[CNOH]\w+ +\d ", line)]
    assert atoms[:2] == ["O1", "O2"] and atoms[2] == "N1" and atoms[6:8] == ["C1", "C2"]
    assert all(name.startswith("H") for name in atoms[3:6])
    again = from_text(tmp_path, text)
    renamed = dict(zip(shelx_names(structure), (s.label for s in structure.scatterers())))
    for scatterer in again.parameters._start.scatterers():
        scatterer.label = renamed[scatterer.label]
    again.parameters._restart()
    again.parameters._evaluated = None
    same_model(alanine_refined, again)


ATOMS = ("O1", "C1", "C2", "O3", "C4")


def test_occupancies_in_other_proportions(tmp_path) -> None:
    """v, 1 - v and half of 1 - v on one variable; two atoms that add up to 0.8 on a twofold axis."""
    text = (
        "TITL x\nCELL 0.02508 10 11 12 90 90 90\nZERR 2 0.001 0.001 0.001 0 0 0\nLATT -1\n"
        "SYMM -x,y,-z\nSFAC C O\nUNIT 4 2\nSUMP 0.8 0.01 1 3 1 4\nFVAR 1 0.6 0.5 0.3\n"
        "O1 2 0.1 0.2 0.3 21.0 0.02\nC1 1 0.5 0.2 0.3 -21.0 0.03\nC2 1 0.5 0.6 0.3 -20.5 0.04\n"
        "O3 2 10.0 0.8 10.0 30.5 0.02\nC4 1 10 0.5 10.5 40.5 0.02\nHKLF 4\nEND\n"
    )
    first = from_text(tmp_path, text, shift=0.1)
    written = first.text()
    same_model(first, from_text(tmp_path, written))
    occupancies = [s.occupancy for s in first.parameters.current_structure().scatterers()]
    assert sum(occupancies[3:]) == pytest.approx(0.8)
    # two atoms need no SUMP: 0.8 v and 0.8 (1 - v), half of that for the axis
    assert "SUMP" not in written
    (values,) = re.findall(r"^FVAR (.*)$", written, re.M)
    expected = [1, occupancies[3] / 0.8, occupancies[0]]
    np.testing.assert_allclose([float(v) for v in values.split()], expected, atol=1e-6)
    codes = {w[0]: float(w[5]) for line in written.splitlines() if (w := line.split())[0] in ATOMS}
    assert codes == pytest.approx({"O1": 31, "C1": -31, "C2": -30.5, "O3": 20.4, "C4": -20.4})


def test_alternatives_by_symmetry(tmp_path) -> None:
    model = Model(alanine(False), disorder=Disorder((0,) * 6, (0, 0, 0, 0, 1, 1)))
    text = refined(model, 0.0).text()
    assert text.count("PART -1") == 1 and text.rstrip().endswith("PART 0\nHKLF 4\nEND")
    assert read_structure(_written(tmp_path, text)).disorder.exclusions == (0, 0, 0, 0, 1, 1)


def _written(folder: Path, text: str) -> Path:
    (folder / "written.res").write_text(text)
    return folder / "written.res"


def asked(kind: str, atoms: str, target: float) -> RestraintRequest:
    names = tuple(AtomName(label) for label in atoms.split())
    return RestraintRequest(kind, f"restraints.{kind} 1", names, 1.5, target)


def test_chiral_volumes_keep_their_sign(tmp_path) -> None:
    """SHELXL takes the neighbours in the order of their names, which may be others than the labels."""
    structure = alanine(False)
    requests = (
        asked("chiral_volume", "C2 N1 C3 C1", 2.5),
        asked("chiral_centre", "C2", -2.5),
    )
    # after N1 by its label, before it by its name in the file, C3
    structure.scatterers()[5].label = "Z_methyl"
    requests = tuple(
        replace(
            r, atoms=tuple(AtomName("Z_methyl" if a.label == "C3" else a.label) for a in r.atoms)
        )
        for r in requests
    )
    model = Model(structure, restraints=requests)
    written = refined(model, 0.0).text()
    again = read_structure(_written(tmp_path, written))
    deviations = []
    for s, asked_for in ((structure, requests), (again.structure, again.restraints)):
        restraints = StructureRestraints(s, asked_for)
        parameters = StructureModel(s, RefinedParameters())
        deviations.append(np.abs(restraints.residuals(parameters()).detach().numpy()))
    assert len(deviations[0]) == 2
    np.testing.assert_allclose(deviations[1], deviations[0], atol=1e-4)
    assert deviations[0].max() > 2


def test_restraints_of_the_inverse(tmp_path) -> None:
    """Where the inverse was taken, the same deviations from targets as of the structure before."""
    structure = alanine(False)
    image = AtomName("N1", "-x+1/2,-y,z+1/2")
    requests = (
        RestraintRequest("chiral_centre", "CHIV", (AtomName("C2"),), 0.1, 2.5),
        RestraintRequest("distance", "DFIX", (AtomName("O1"), image), 0.02, 2.8),
    )
    model = Model(structure, restraints=requests)
    inverse = finished(structure.change_hand(), RefinedParameters(), d_min=3.0)
    inverse = replace(inverse, absolute_structure=replace(HAND, applied=True))
    measurement = Measurement((MeasuredScan(WAVELENGTH, (-10.0, 10.0), 0.1),), None, "profile", {})
    text = shelx_text(shelx_model(model, measurement, inverse, 1.0))
    again = read_structure(_written(tmp_path, text))
    assert "CHIV -2.5 0.1 C2" in text
    deviations = []
    for s, asked_for in ((structure, requests), (again.structure, again.restraints)):
        parameters = StructureModel(s, RefinedParameters())
        restraints = StructureRestraints(s, asked_for)
        deviations.append(np.abs(restraints.residuals(parameters()).detach().numpy()))
    np.testing.assert_allclose(deviations[1], deviations[0], atol=1e-3)


def test_what_shelx_cannot_say_is_a_remark(tmp_path) -> None:
    model = Model(alanine(False), restraints=(
        asked("angle", "N1 C2 C1", 109.5),
        asked("chiral_volume", "C2 C1 C3 O1", 2.5),
        asked("distance", "C1 C2", 12.0),
    ))  # fmt: skip
    example = refined(model, 0.0)
    notes = shelx_notes(example.shelx())
    assert notes[0] == (
        "restraints.angle 1 (target 109.5, s.d. 1.5) is not written: SHELX has no such restraint"
    )
    assert len(notes) == 3
    text = example.text()
    assert "REM restraints.angle 1 (target 109.5" in text
    assert not re.search("^(DFIX|DANG|CHIV)", text, re.M)
    assert not read_structure(_written(tmp_path, text)).restraints
