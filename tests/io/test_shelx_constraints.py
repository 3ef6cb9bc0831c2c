"""Constraints of SHELX files: what AFIX, EADP, EXYZ, SUMP, ANIS, PART and free variables do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cctbx import xray

from dials_hybrid_refine.io.structure import StructureFile, read_structure
from dials_hybrid_refine.models.prepare import Model, ModelChoices, prepare
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.models.structure import StructureModel

HEAD = """\
TITL test
CELL 0.02508 10 11 12 90 90 90
ZERR 2 0.001 0.001 0.001 0 0 0
LATT {latt}
{symm}SFAC C H O
UNIT 4 2 2
{instructions}
FVAR 1.0 {variables}
"""


class Ins:
    """Writes a file, reads it, and makes the model that is refined."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "model.ins"

    def read(
        self,
        atoms: str,
        instructions: str = "",
        variables: str = "",
        latt: int = -1,
        symm: str = "",
    ) -> StructureFile:
        head = HEAD.format(latt=latt, symm=symm, instructions=instructions, variables=variables)
        self._path.write_text(f"{head}{atoms}\nHKLF 4\nEND\n")
        return read_structure(self._path)

    def model(self, *arguments: str, **options: object) -> StructureModel:
        file = self.read(*arguments, **options)
        model, _ = prepare(
            Model(file.structure, file.shelx_constraints, file.disorder), ModelChoices()
        )
        return StructureModel(
            model.structure, RefinedParameters(), model.constraints, model.disorder
        )


@pytest.fixture
def ins(tmp_path: Path) -> Ins:
    return Ins(tmp_path)


def moved(model: StructureModel, size: float = 0.5) -> xray.structure:
    """The structure after random shifts of all parameters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.shifts.copy_(size * torch.randn(model.n_parameters, generator=generator))
    return model.current_structure()


def distances(structure: xray.structure, pairs: list[tuple[int, int]]) -> list[float]:
    cell, sites = structure.unit_cell(), structure.sites_frac()
    return [cell.distance(sites[i], sites[j]) for i, j in pairs]


def occupancies(structure: xray.structure) -> list[float]:
    return [s.occupancy for s in structure.scatterers()]


TWO = "O1 3 0.1 0.2 0.3 11 0.02\nC1 1 0.5 0.2 0.3 11 0.03\nC2 1 0.5 0.6 0.3 11 0.04"


def test_eadp_and_exyz(ins: Ins) -> None:
    model = ins.model(TWO, "EADP O1 C1")
    assert model.n_parameters == 9 + 2
    after = moved(model, 0.1)
    assert after.scatterers()[0].u_iso == after.scatterers()[1].u_iso != 0.02
    halves = TWO.replace("0.5 0.6 0.3 11", "0.51 0.2 0.3 10.4").replace(
        "0.5 0.2 0.3 11", "0.5 0.2 0.3 10.6"
    )
    model = ins.model(halves, "EXYZ C1 > C2")
    assert model.n_parameters == 6 + 3
    after = moved(model)
    assert after.scatterers()[1].site == after.scatterers()[2].site


def test_what_cannot_be_shared_is_named(ins: Ins) -> None:
    mixed = TWO.replace("11 0.02", "11 0.02 0.03 0.04 0 0 0")
    assert ins.read(mixed, "EADP O1 C1").unsupported == ("EADP O1 C1",)
    with pytest.raises(ValueError, match="EADP names the atom C9, which is not in the list"):
        ins.read(TWO, "EADP O1 C9")


def test_anis(ins: Ins) -> None:
    hydrogen = "\nH1 2 0.7 0.2 0.3 11 0.03"
    for instruction, n in (("ANIS", 3), ("ANIS 2", 2), ("ANIS $C", 2), ("ANIS C1", 1)):
        structure = ins.read(TWO + hydrogen, instruction).structure
        assert structure.use_u_aniso().count(True) == n


def test_occupancies_of_three_atoms_on_one_free_variable(ins: Ins) -> None:
    """v, 1 - v and half of 1 - v: iotbx and smtbx alone let the third follow the first."""
    atoms = "O1 3 0.1 0.2 0.3 21.0 0.02\nC1 1 0.5 0.2 0.3 -21.0 0.03\nC2 1 0.5 0.6 0.3 -20.5 0.04"
    model = ins.model(atoms, variables="0.6")
    assert occupancies(model.current_structure()) == pytest.approx([0.6, 0.4, 0.2])
    first, second, third = occupancies(moved(model))
    assert abs(first - 0.6) > 0.005
    assert (second, third) == (pytest.approx(1 - first), pytest.approx((1 - first) / 2))


def test_only_occupancies_that_the_file_refines(ins: Ins) -> None:
    model = ins.model(TWO.replace("11 0.02", "0.8 0.02"))
    assert model.n_parameters == 9 + 3 + 1
    assert ins.model(TWO).n_parameters == 9 + 3


def test_sump(ins: Ins) -> None:
    """Three occupancies that add up to one, two of them free."""
    atoms = "O1 3 0.1 0.2 0.3 21.0 0.02\nC1 1 0.5 0.2 0.3 31.0 0.03\nC2 1 0.5 0.6 0.3 41.0 0.04"
    model = ins.model(atoms, "SUMP 1.0 0.01 1.0 2 1.0 3 1.0 4", "0.5 0.3 0.2")
    assert model.n_parameters == 9 + 3 + 2
    after = occupancies(moved(model))
    assert sum(after) == pytest.approx(1)
    assert np.abs(np.subtract(after, [0.5, 0.3, 0.2])).min() > 1e-4


def test_common_free_variable_for_u(ins: Ins) -> None:
    atoms = "O1 3 0.1 0.2 0.3 11 21.0\nC1 1 0.5 0.2 0.3 11 21.0\nC2 1 20.5 0.6 0.3 11 0.04"
    file = ins.read(atoms, variables="0.03")
    assert any("free variables in coordinates or U of C2" in w for w in file.warnings)
    after = moved(ins.model(atoms, variables="0.03"), 0.1)
    assert after.scatterers()[0].u_iso == after.scatterers()[1].u_iso


HEXAGON = """\
AFIX 66
C1 1 0.300 0.300 0.300 11 0.03
C2 1 0.430 0.310 0.310 11 0.03
AFIX 43
H2 2 0.5 0.25 0.3 11 -1.2
AFIX 65
C3 1 0.500 0.420 0.300 11 0.03
C4 1 0.430 0.530 0.310 11 0.03
C5 1 0.300 0.530 0.300 11 0.03
C6 1 0.230 0.420 0.310 11 0.03
AFIX 0"""


def test_idealised_phenyl_ring(ins: Ins) -> None:
    """AFIX 66 with a hydrogen atom in between: sides of 1.39, diagonals twice that; C-H 1.083."""
    assert ins.read(HEXAGON).warnings == ()
    model = ins.model(HEXAGON)
    # position and orientation, 6 U
    assert model.n_parameters == 6 + 6
    after = moved(model, 1.0)
    ring = [0, 1, 3, 4, 5, 6]
    sides = [(ring[k], ring[k - 1]) for k in range(6)]
    assert distances(after, sides) == pytest.approx([1.39] * 6, abs=1e-6)
    assert distances(after, [(0, 4), (1, 5)]) == pytest.approx([2.78] * 2, abs=1e-6)
    assert distances(after, [(1, 2)]) == pytest.approx([1.083], abs=1e-6)
    with pytest.raises(ValueError, match="AFIX 66 at C1 needs 6 atoms, but 5 were found"):
        ins.read(HEXAGON.replace("C6 1 0.230 0.420 0.310 11 0.03\n", ""))


@pytest.mark.parametrize("number, extra", [(6, 3), (9, 4)])
def test_rigid_group(ins: Ins, number: int, extra: int) -> None:
    """AFIX 6 keeps all distances of a group, AFIX 9 their ratios."""
    group = f"AFIX {number}\n{TWO}\nAFIX 0"
    model = ins.model(group)
    assert model.n_parameters == 3 + extra + 3
    pairs = [(0, 1), (1, 2), (0, 2)]
    before = distances(ins.read(TWO).structure, pairs)
    ratio = np.divide(distances(moved(model), pairs), before)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    assert (abs(ratio[0] - 1) < 1e-9) == (number == 6)


def test_riding_and_turning_groups(ins: Ins) -> None:
    """AFIX 3 keeps the vector, AFIX 7 lets it turn about the bond, AFIX 1 fixes everything."""
    atoms = "C1 1 0.30 0.3 0.3 11 0.03\nO1 3 0.44 0.3 0.3 11 0.03\nAFIX {}\nH1 2 0.47 0.38 0.3 11 0.04\nAFIX 0"
    pairs = [(1, 2), (0, 2)]
    before = distances(ins.read(atoms.format(0)).structure, pairs)
    counts = {number: ins.model(atoms.format(number)).n_parameters for number in (0, 1, 3, 7)}
    assert counts == {0: 12, 1: 8, 3: 9, 7: 10}
    after = moved(ins.model(atoms.format(3)))
    vector = np.subtract(after.scatterers()[2].site, after.scatterers()[1].site)
    np.testing.assert_allclose(vector, [0.03, 0.08, 0], atol=1e-9)
    assert distances(moved(ins.model(atoms.format(7))), pairs[:1]) == pytest.approx(before[:1])


def test_afix_has_neutron_distances_unless_told(ins: Ins) -> None:
    atoms = (
        "C1 1 0.30 0.30 0.3 11 0.03\nAFIX {}\nH1 2 0.25 0.25 0.3 11 -1.2\nAFIX 0\n"
        "C2 1 0.43 0.31 0.3 11 0.03\nC3 1 0.24 0.42 0.3 11 0.03"
    )
    model = ins.model(atoms.format("43"))
    assert distances(model.current_structure(), [(0, 1)]) == pytest.approx([1.083])
    assert model.current_structure().scatterers()[1].u_iso == pytest.approx(1.2 * 0.03)
    model = ins.model(atoms.format("43 0.95"))
    assert distances(model.current_structure(), [(0, 1)]) == pytest.approx([0.95])
    stretching = ins.model(atoms.format("44"))
    assert stretching.n_parameters == model.n_parameters + 1


def test_afix_that_does_not_suit_its_atoms(ins: Ins) -> None:
    text = "C1 1 0.30 0.30 0.3 11 0.03\nAFIX {}\nH1 2 0.25 0.25 0.3 11 -1.2\nAFIX 0"
    with pytest.raises(ValueError, match="bonds of C1 do not suit .* AFIX prescribes for H1"):
        ins.model(text.format(13))
    with pytest.raises(ValueError, match="wrong number of atoms after AFIX 23 before H1"):
        ins.read(text.format(23))
    assert ins.read(text.format(176)).unsupported == ("AFIX 176",)


def test_parts_are_not_bound_to_each_other(ins: Ins) -> None:
    """Two positions of C2, in which H1 would have a fourth neighbour."""
    text = (
        "C1 1 0.30 0.30 0.30 11 0.03\nPART 1 21\nAFIX 13\nH1 2 0.27 0.27 0.38 21 -1.2\nAFIX 0\nPART 0\n"
        "C3 1 0.16 0.28 0.25 11 0.03\nO1 3 0.36 0.41 0.27 11 0.03\n"
        "PART 1\nC2 1 0.38 0.20 0.25 21 0.03\nPART 2\nC2' 1 0.40 0.22 0.30 -21 0.03\nPART 0"
    )
    assert ins.model(text, variables="0.7").n_parameters == 5 * 4 + 1
    with pytest.raises(ValueError, match="do not suit"):
        ins.model(text.replace("PART 2", "PART 1"), variables="0.7")


def test_coordinates_fixed_by_symmetry_are_left_to_it(ins: Ins) -> None:
    """On a twofold axis x and z are fixed, y floats; P 2: y of one atom is fixed as origin."""
    symmetry = {"latt": -1, "symm": "SYMM -x,y,-z\n"}
    atoms = "O1 3 10.0 0.2 10.0 10.5 0.02\nC1 1 0.3 10.25 0.3 11 0.02"
    file = ins.read(atoms, **symmetry)
    assert file.warnings == ()
    model = ins.model(atoms, **symmetry)
    assert model.n_parameters == 1 + 3 + 2
    assert model.origin_residuals().shape == (1,)
    assert model.current_structure().scatterers()[0].occupancy == 1
    odd = ins.read("C1 1 10.3 0.25 0.3 11 0.02", **symmetry)
    assert "single coordinates or U_ij of C1 are fixed" in odd.warnings[0]


def test_an_atom_that_is_fixed_fixes_the_origin(ins: Ins) -> None:
    symmetry = {"latt": -1, "symm": "SYMM -x,y,-z\n"}
    model = ins.model("O1 3 10.1 10.2 10.3 11 0.02\nC1 1 0.3 0.25 0.3 11 0.02", **symmetry)
    assert model.origin_residuals().shape == (0,)
