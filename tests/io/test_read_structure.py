"""Reading structures: every format, and a sentence of its own for everything that can be wrong."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.testing import assert_allclose

import iotbx.shelx
from cctbx import adptbx, crystal, xray
from smtbx.refinement import constraints

from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel

QUARTZ_MODELS = ["kinematical", "jana_dynamical", "synthetic_start_1", "synthetic_start_2"]

QUARTZ_CIF = """\
data_quartz
_cell_length_a 4.9130(6)
_cell_length_b 4.9130
_cell_length_c 5.4052
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_space_group_name_H-M_alt 'P 32 2 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
_atom_site_occupancy
Si1 Si 0.4697(2) 0 0.66667 0.008 1
O1 O 0.4135 0.2669 0.7858 0.012 1
"""

TRICLINIC_INS = """\
TITL test
CELL 0.02508 5.1 6.2 7.3 81 85 92
ZERR 2 0.001 0.001 0.001 0 0 0
LATT 1
SFAC C H O
UNIT 4 2 2
{instructions}
FVAR 1.0 0.6
O1    3  0.1000  0.2000  0.3000 11.0 0.02 0.03 =
  0.04 0.003 0.002 0.001
C1    1  0.3000  0.2000  0.3000 11.0 0.02
C2    1  0.3000  0.4000  0.3000 21.0 0.02
C3    1  0.3000  0.4500  0.4500 -21.0 0.02
HKLF 4
END
"""

PDB = """\
CRYST1   15.784   16.032   12.343  90.00  90.00  90.00 P 21 21 21    4
ATOM      1  N   ALA A   1       2.041   5.200   7.865  1.00  2.00           N
ATOM      2  CA  ALA A   1       3.092   5.061   9.229  1.00  2.00           C
ATOM      3 HB1  ALA A   1       4.368   5.068   8.334  1.00  2.00
HETATM    4 CA    CA A   2       0.100   0.068   3.334  0.50  2.00          CA2+
ANISOU    4 CA    CA A   2      200    300    400     10     20     30      CA2+
END
"""


@pytest.fixture
def read(tmp_path):
    """A function that writes text into a file and reads it as a structure."""

    def write_and_read(text, name="model.cif"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_structure(path)

    return write_and_read


def quartz(old="", new=""):
    assert old in QUARTZ_CIF
    return QUARTZ_CIF.replace(old, new)


def refused(read, text, sentence, name="model.cif"):
    with pytest.raises(ValueError, match=sentence) as raised:
        read(text, name)
    message = str(raised.value)
    assert name in message and "\n" not in message
    return message


# -- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUARTZ_MODELS)
def test_quartz_models(shared, name):
    file = read_structure(shared / "paper" / "quartz" / f"{name}.cif")
    assert str(file.structure.space_group_info()) == "P 32 2 1"
    assert_allclose(file.structure.unit_cell().parameters(), (4.9226, 4.9226, 5.4003, 90, 90, 120))
    silicon, oxygen = file.structure.scatterers()
    assert (silicon.label, silicon.scattering_type, silicon.multiplicity()) == ("Si1", "Si", 3)
    assert (oxygen.label, oxygen.scattering_type, oxygen.multiplicity()) == ("O1", "O", 6)
    assert silicon.flags.use_u_aniso() and oxygen.flags.use_u_aniso()
    assert file.structure.scattering_type_registry().last_table() == "electron"
    assert file.warnings == () and file.unsupported == () and file.shelx_constraints == []


def test_cspbbr3_in_a_setting_that_is_not_standard(shared):
    file = read_structure(shared / "paper" / "cspbbr3" / "reference.cif")
    assert str(file.structure.space_group_info()) == "P b n m"
    assert [s.multiplicity() for s in file.structure.scatterers()] == [4, 4, 8, 4]
    bromine = file.structure.scatterers()[2]
    assert_allclose(bromine.site, (0.3016, 0.70122, 0.46804), atol=1e-5)
    u_cif = adptbx.u_star_as_u_cif(file.structure.unit_cell(), bromine.u_star)
    assert_allclose(u_cif[:3], (0.0226, 0.0219, 0.0370), atol=1e-4)


def test_cif_symmetry_comes_from_the_symbol_where_there_are_no_operations(read):
    """iotbx of DIALS 3.12 takes the standard setting of the number instead."""
    cif = QUARTZ_CIF.replace("'P 32 2 1'", "'P b n m'\n_space_group_IT_number 62")
    cif = cif.replace("4.9130(6)", "8.1").replace("gamma 120", "gamma 90")
    assert str(read(cif).structure.space_group_info()) == "P b n m"


def test_number_of_the_space_group_alone(read):
    file = read(quartz("_space_group_name_H-M_alt 'P 32 2 1'", "_space_group_IT_number 154"))
    assert file.structure.space_group_info().type().number() == 154
    assert "only the number" in file.warnings[0]


def test_rhombohedral_axes(read):
    cif = QUARTZ_CIF.replace("'P 32 2 1'", "'R -3 m'").replace("5.4052", "4.9130")
    for angle, old in (("alpha", "90"), ("beta", "90"), ("gamma", "120")):
        cif = cif.replace(f"{angle} {old}", f"{angle} 80")
    assert str(read(cif).structure.space_group_info()) == "R -3 m :R"


def test_cif_with_names_of_ddlm_and_upper_case(read):
    cif = QUARTZ_CIF.replace("_atom_site_", "_atom_site.").replace("_cell_length", "_CELL.LENGTH")
    assert_allclose(read(cif).structure.scatterers()[1].site, (0.4135, 0.2669, 0.7858))


def test_magnetic_cif(read):
    operations = """\
loop_
_space_group_symop_magn_operation.xyz
x,y,z,+1
-x,-y,-z,-1
loop_
_space_group_symop_magn_centering.xyz
x,y,z,+1
x+1/2,y+1/2,z,-1
"""
    cif = quartz("_space_group_name_H-M_alt 'P 32 2 1'\n", operations)
    assert read(cif, "model.mcif").structure.space_group().order_z() == 4


def test_cif_b_factors(read):
    file = read(quartz("U_iso_or_equiv", "B_iso_or_equiv"))
    assert_allclose(file.structure.scatterers()[0].u_iso, 0.008 / (8 * np.pi**2))


ANISO = """\
loop_
_atom_site_aniso_label
_atom_site_aniso_{0}_11
_atom_site_aniso_{0}_22
_atom_site_aniso_{0}_33
_atom_site_aniso_{0}_23
_atom_site_aniso_{0}_13
_atom_site_aniso_{0}_12
O1 {1}
"""


@pytest.mark.parametrize("kind", ["U", "B", "beta"])
def test_cif_anisotropic_atoms(read, kind):
    u = np.array([0.01, 0.02, 0.03, 0.001, 0.002, 0.006])  # order of the file: 23 13 12
    cell = (4.913, 4.913, 5.4052)
    a_star = np.array([1 / (cell[0] * np.sin(np.radians(120)))] * 2 + [1 / cell[2]])
    lengths = np.array(
        [a_star[i] * a_star[j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    )
    values = {"U": u, "B": u * 8 * np.pi**2, "beta": u * 2 * np.pi**2 * lengths}[kind]
    text = QUARTZ_CIF + ANISO.format(kind, " ".join(f"{v:.10f}" for v in values))
    silicon, oxygen = read(text).structure.scatterers()
    assert silicon.flags.use_u_iso() and silicon.u_iso == 0.008
    assert_allclose(oxygen.u_star, (u * lengths)[[0, 1, 2, 5, 4, 3]], rtol=1e-6)


def test_shelx_and_cif_agree(read, tmp_path):
    structure = read(QUARTZ_CIF).structure
    text = "".join(
        iotbx.shelx.writer.generator(
            structure, wavelength=0.02508, full_matrix_least_squares_cycles=1
        )
    )
    for name in ("model.res", "model.ins"):
        again = read(text, name).structure
        assert [s.label.upper() for s in again.scatterers()] == ["SI1", "O1"]
        assert_allclose(
            again.sites_frac().as_double(), structure.sites_frac().as_double(), atol=1e-6
        )
        assert [s.occupancy for s in again.scatterers()] == [1.0, 1.0]


def test_shelx_instructions_that_are_not_applied_are_named(read):
    instructions = (
        "EADP C1 C2\nEXYZ C2 C3\nSAME C1 > C3\nBUMP\nSUMP 1 0.1 1 2\nDFIX_1 1.5 C1 C2\nXNPD\nNEUT"
    )
    file = read(TRICLINIC_INS.format(instructions=instructions), "model.ins")
    assert file.unsupported == (
        "BUMP",
        "DFIX_1 1.5 C1 C2",
        "NEUT",
        "SAME",
        "SUMP 1 0.1 1 2",
        "XNPD",
    )
    assert "not applied: BUMP, DFIX_1 1.5 C1 C2, NEUT" in file.warnings[0]


def test_shelx_constraints_can_be_used(read):
    text = TRICLINIC_INS.format(instructions="").replace(
        "HKLF", "AFIX 43\nH1 2 0.5 0.2 0.3 11.0 -1.2\nAFIX 0\nHKLF"
    )
    file = read(text, "model.res")
    kinds = [type(c) for c in file.shelx_constraints]
    assert constraints.occupancy.occupancy_pair_affine_constraint in kinds
    assert constraints.adp.u_iso_proportional_to_pivot_u_eq in kinds
    oxygen, carbon = file.structure.scatterers()[0], file.structure.scatterers()[3]
    cell = file.structure.unit_cell()
    assert_allclose(
        adptbx.u_star_as_u_cif(cell, oxygen.u_star), (0.02, 0.03, 0.04, 0.001, 0.002, 0.003)
    )
    assert carbon.occupancy == pytest.approx(0.4)
    pair = [c for c in file.shelx_constraints if hasattr(c, "linear_form")]
    free, tied = (
        StructureModel(file.structure, RefinedParameters(occupancies=True), constraints_)
        for constraints_ in ([], pair)
    )
    assert tied.n_parameters == free.n_parameters - 1


def test_shelx_scattering_factors_in_the_file_are_replaced(read):
    """Electron diffraction needs SFAC with coefficients, which iotbx does not read."""
    coefficients = " ".join(["0.1"] * 9) + " =\n 0 0 0 0.7 12.0"
    text = TRICLINIC_INS.format(instructions="").replace(
        "SFAC C H O", f"SFAC C {coefficients}\nSFAC D {coefficients}\nSFAC O2- {coefficients}"
    )
    file = read(text, "model.ins")
    assert [s.scattering_type for s in file.structure.scatterers()] == ["O", "C", "C", "C"]
    assert "D is taken as H, O2- is taken as O" in file.warnings[0]


def test_shelx_atoms_keep_their_names_and_defaults(read):
    text = TRICLINIC_INS.format(instructions="").replace(
        "C1    1  0.3000  0.2000  0.3000 11.0 0.02", "Ca1 1 0.3 0.2 0.3"
    )
    atom = read(text, "model.ins").structure.scatterers()[1]
    assert (atom.label, atom.occupancy, atom.u_iso) == ("Ca1", 1.0, 0.05)


def test_pdb(read):
    structure = read(PDB, "model.pdb").structure
    assert str(structure.space_group_info()) == "P 21 21 21"
    assert [s.label for s in structure.scatterers()] == ["N_A1", "CA_A1", "HB1_A1", "CA_A2"]
    assert [s.scattering_type for s in structure.scatterers()] == ["N", "C", "H", "Ca"]
    assert_allclose(structure.sites_cart()[1], (3.092, 5.061, 9.229))
    assert structure.scatterers()[0].u_iso == pytest.approx(2 / (8 * np.pi**2))
    calcium = structure.scatterers()[3]
    u_cart = adptbx.u_star_as_u_cart(structure.unit_cell(), calcium.u_star)
    assert_allclose(u_cart, (0.02, 0.03, 0.04, 0.001, 0.002, 0.003))
    assert calcium.occupancy == 0.5


def test_mmcif(read):
    """The same model as PDB and as mmCIF."""
    names = """type_symbol id label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id Cartn_x
        Cartn_y Cartn_z occupancy B_iso_or_equiv auth_asym_id auth_seq_id pdbx_PDB_model_num"""
    atoms = """
        N  1 N   . ALA A 1 2.041 5.200 7.865 1.0 2.0 A 1 1
        C  2 CA  . ALA A 1 3.092 5.061 9.229 1.0 2.0 A 1 1
        H  3 HB1 . ALA A 1 4.368 5.068 8.334 1.0 2.0 A 1 1
        CA 4 CA  . CA  B . 0.100 0.068 3.334 0.5 2.0 A 2 1
        """
    cell = zip(("length_a", "length_b", "length_c"), (15.784, 16.032, 12.343))
    text = "data_1ABC\n" + "".join(f"_cell.{name} {value}\n" for name, value in cell)
    text += "".join(f"_cell.angle_{x} 90\n" for x in ("alpha", "beta", "gamma"))
    text += "_symmetry.space_group_name_H-M 'P 21 21 21'\n"
    text += "loop_\n" + "".join(f"_atom_site.{name}\n" for name in names.split()) + atoms
    tensor = [
        f"_atom_site_anisotrop.U[{i}][{j}]\n" for i, j in ("11", "22", "33", "12", "13", "23")
    ]
    text += (
        "\nloop_\n_atom_site_anisotrop.id\n" + "".join(tensor) + "4 .02 .03 .04 .001 .002 .003\n"
    )
    structure, expected = read(text).structure, read(PDB, "model.pdb").structure
    assert structure.is_similar_symmetry(expected)
    for atom, other in zip(structure.scatterers(), expected.scatterers()):
        assert (atom.label, atom.scattering_type) == (other.label, other.scattering_type)
        assert_allclose(
            [*atom.site, atom.occupancy, atom.u_iso], [*other.site, other.occupancy, other.u_iso]
        )
        assert_allclose(atom.u_star, other.u_star)
    refused(read, text.replace("0.5 2.0 A 2 1", "0.5 2.0 A 2 2"), "several models")


def test_format_is_told_from_the_content(read):
    assert read(QUARTZ_CIF, "model.txt").structure.scatterers().size() == 2
    assert (
        read(TRICLINIC_INS.format(instructions=""), "model.cif").structure.scatterers().size() == 4
    )


def test_names_and_comments_in_any_script(read):
    cif = "# Å é 石英\n" + QUARTZ_CIF.replace("\n", "\r\n")
    assert read(cif, "石英 αβ.cif").structure.scatterers().size() == 2
    assert read(cif.encode("utf-8-sig")).structure.scatterers().size() == 2
    assert read("# Å\n".encode("latin-1") + QUARTZ_CIF.encode()).structure.scatterers().size() == 2


# -- what is repaired, with a warning ------------------------------------------------------------


def test_ions_become_neutral(read):
    cif = QUARTZ_CIF.replace("Si1 Si ", "Si1 Si4+ ").replace("O1 O ", "O1 O2- ")
    file = read(cif)
    assert [s.scattering_type for s in file.structure.scatterers()] == ["Si", "O"]
    assert "Si4+ is taken as Si, O2- is taken as O" in file.warnings[0]
    assert not list(file.structure.scattering_type_registry(table="electron").unassigned_types())


def test_uncertainties_of_the_cell(read):
    """In parentheses, or after ZERR; None where all are missing or zero."""
    assert read(QUARTZ_CIF).cell_su == pytest.approx((6e-4, 0, 0, 0, 0, 0))
    text = QUARTZ_CIF.replace("4.9130(6)", "4.9130").replace("gamma 120", "gamma 120.0(12)")
    assert read(text).cell_su == pytest.approx((0, 0, 0, 0, 0, 1.2))
    assert read(text.replace("120.0(12)", "120")).cell_su is None
    ins = TRICLINIC_INS.format(instructions="")
    assert read(ins, "model.ins").cell_su == pytest.approx((1e-3, 1e-3, 1e-3, 0, 0, 0))
    assert read(ins.replace("0.001", "0"), "model.ins").cell_su is None
    assert read(ins.replace("ZERR", "REM"), "model.ins").cell_su is None


def test_deuterium_is_hydrogen(read):
    file = read(quartz("O1 O ", "D1 D "))
    assert file.structure.scatterers()[1].scattering_type == "H"
    assert "D is taken as H" in file.warnings[0]


def test_element_from_label(read):
    cif = QUARTZ_CIF.replace("_atom_site_type_symbol\n", "").replace("Si1 Si", "Si1")
    cif = cif.replace("O1 O ", "Ow1 ")
    assert [s.scattering_type for s in read(cif).structure.scatterers()] == ["Si", "O"]


def test_repeated_labels(read):
    cif = QUARTZ_CIF + "O1 O 0.1 0.2 0.3 0.02 1\nO1_2 O 0.1 0.2 0.9 0.02 1\n"
    file = read(cif)
    assert [s.label for s in file.structure.scatterers()] == ["Si1", "O1", "O1_3", "O1_2"]
    assert "labels O1 occur more than once" in file.warnings[0]


@pytest.mark.parametrize("value", [".", "?", "0", "0.000"])
def test_missing_displacement(read, value):
    file = read(quartz("0.008", value))
    assert file.structure.scatterers()[0].u_iso == 0.01
    assert file.structure.scatterers()[1].u_iso == 0.012
    assert "Si1" in file.warnings[0] and "O1" not in file.warnings[0]


def test_lost_anisotropic_displacement(read):
    cif = QUARTZ_CIF.replace("_atom_site_occupancy", "_atom_site_adp_type")
    cif = cif.replace("0.008 1", "0.008 Uani").replace("0.012 1", "0.012 Uiso")
    assert read(cif).warnings == (
        "Si1 should be anisotropic, but have no U_ij: isotropic is assumed",
    )


def test_sites_move_onto_special_positions(read):
    """Si at 0.4697 0.03 2/3 is 0.08 Angstrom from its axis."""
    file = read(quartz("0.4697(2) 0 0.66667", "0.4697 0.03 0.66667"))
    silicon = file.structure.scatterers()[0]
    assert silicon.multiplicity() == 3 and silicon.site[1] == 0
    assert "special positions" in file.warnings[0] and "Si1 (0.1" in file.warnings[0]
    assert read(quartz("0.4697(2) 0 0.66667", "0.4697 0.005 0.66667")).warnings == ()


def test_sites_of_shelx_files_move_too(read):
    text = TRICLINIC_INS.format(instructions="").replace(
        "0.3000  0.2000  0.3000 11.0", "0.47 0 0 10.5"
    )
    file = read(text, "model.ins")
    assert file.structure.scatterers()[1].site == (0.5, 0, 0)
    assert file.structure.scatterers()[1].occupancy == 1
    assert "C1 (0.15 Angstrom)" in file.warnings[0]


def test_multiplicity_in_the_file(read):
    cif = QUARTZ_CIF.replace("_atom_site_occupancy", "_atom_site_site_symmetry_multiplicity")
    cif = cif.replace("0.008 1", "0.008 3").replace("0.012 1", "0.012 6")
    assert read(cif).warnings == ()
    wrong = cif.replace("0.66667", "0.10")  # a twofold axis is at 2/3, not here
    assert "Si1 (3 in the file, 6 from its coordinates)" in read(wrong).warnings[0]


def test_large_occupancy(read):
    assert "O1 (1.2) is larger than 1" in read(quartz("0.012 1", "0.012 1.2")).warnings[0]


def test_alternatives_that_share_a_site(read):
    shared = quartz("0.012 1", "0.012 0.6") + "N1 N 0.4140 0.2669 0.7858 0.02 0.4\n"
    assert read(shared).warnings == ()


# -- what is refused ---------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="nowhere.cif does not exist: give"):
        read_structure(tmp_path / "nowhere.cif")
    with pytest.raises(ValueError, match="is a folder"):
        read_structure(tmp_path)


def test_not_a_structure(read):
    refused(read, "", "is empty")
    refused(read, b"\x00\x01data_", "is not a text file")
    refused(read, '{"__id__": "ExperimentList"}', "is not a structure", "model.expt")
    refused(read, "\n_cell_length_a 3\n", "is no CIF file", "model.cif")
    refused(read, "hello", "is no SHELX file", "model.res")


def test_corrupt_cif(read):
    refused(read, QUARTZ_CIF + "O2 O 0.1\n", "not readable as CIF file .*truncated or corrupt")
    refused(read, quartz("0.2669", "0.26x"), "_atom_site_fract_y has the value '0.26x'")


def test_no_atoms(read):
    refused(read, QUARTZ_CIF.split("loop_")[0], "no atoms")
    refused(read, PDB.splitlines()[0], "no atoms", "model.pdb")
    ins = TRICLINIC_INS.format(instructions="")
    refused(read, ins.split("O1 ")[0] + "HKLF 4\n", "no atoms", "model.ins")


def test_several_blocks(read):
    other = QUARTZ_CIF.replace("data_quartz", "data_other")
    refused(read, QUARTZ_CIF + other, r"several data blocks hold atoms \(quartz, other\)")
    no_atoms = "data_global\n_publ_section_title 'x'\n"
    assert read(no_atoms + QUARTZ_CIF).structure.scatterers().size() == 2


def test_block_of_several_by_name(shared, read, tmp_path):
    path = tmp_path / "two.cif"
    path.write_text(
        QUARTZ_CIF + QUARTZ_CIF.replace("data_quartz", "data_other").replace("0.012", "0.02")
    )
    assert read_structure(path, "other").structure.scatterers()[1].u_iso == 0.02
    with pytest.raises(ValueError, match="no data block 'third' with atoms, only quartz, other"):
        read_structure(path, "third")


RIDING = QUARTZ_CIF.replace(
    "_atom_site_occupancy\n", "_atom_site_occupancy\n{}\n_atom_site_disorder_group\n"
)


@pytest.mark.parametrize(
    "name, flags", [("calc_flag", "d d calc"), ("refinement_flags_posn", ". S DR")]
)
def test_hydrogen_that_rides_by_a_cif(read, name, flags):
    """As SHELXL and Olex2 write it; alternatives in disorder groups."""
    flag = flags.split()
    cif = RIDING.format(f"_atom_site_{name}")
    cif = cif.replace("0.008 1", f"0.008 1 {flag[0]} .").replace("0.012 1", f"0.012 1 {flag[1]} 1")
    file = read(cif + f"H1 H 0.5 0.4 0.78 0.02 0.5 {flag[2]} -2\n")
    assert file.riding == (2,)
    assert file.disorder.conformers == (0, 1, 0)
    assert file.disorder.exclusions == (0, 0, 2)


def test_hydrogens_without_coordinates_are_missed(read):
    """ICSD gives their number only."""
    cif = quartz("_atom_site_occupancy", "_atom_site_attached_hydrogens")
    file = read(cif.replace("0.008 1", "0.008 0").replace("0.012 1", "0.012 2"))
    assert "attached to O1 have no coordinates" in file.warnings[0]


@pytest.mark.parametrize(
    "symbol, order", [("F d -3 m Z", 192), ("F d -3 m :2", 192), ("P b n m", 8)]
)
def test_origin_and_setting_of_a_symbol(read, symbol, order):
    """ICSD marks the second origin with Z, Olex2 with :2."""
    cif = (
        quartz("'P 32 2 1'", f"'{symbol}'")
        .replace("5.4052", "4.9130")
        .replace("gamma 120", "gamma 90")
    )
    group = read(cif).structure.space_group()
    assert group.order_z() == order
    assert group.is_origin_centric()


def test_no_symmetry(read):
    refused(read, quartz("'P 32 2 1'", "?"), "no symmetry")
    refused(read, PDB.replace("P 21 21 21", " " * 10), "no symmetry", "model.pdb")
    ins = TRICLINIC_INS.format(instructions="")
    refused(read, ins.replace("LATT 1\n", ""), "no symmetry", "model.ins")


def test_no_cell(read):
    refused(read, quartz("_cell_length_b 4.9130\n", ""), "add _cell_length_b")
    refused(read, quartz("5.4052", "?"), "add _cell_length_c")
    refused(read, quartz("5.4052", "-5"), "impossible")
    refused(read, quartz("gamma 120", "gamma 190"), "impossible")
    pdb = PDB.splitlines(keepends=True)
    refused(read, "".join(pdb[1:]), "no unit cell", "model.pdb")
    dummy = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    refused(read, dummy + "".join(pdb[1:]), "no unit cell", "model.pdb")
    ins = TRICLINIC_INS.format(instructions="")
    refused(read, ins.replace("CELL", "REM "), "CELL", "model.ins")


def test_cell_without_the_symmetry(read):
    assert (
        read(quartz("_length_b 4.9130", "_length_b 4.92")).structure.unit_cell().parameters()[1]
        < 4.919
    )
    refused(read, quartz("gamma 120", "gamma 110"), "does not have the symmetry of .*P 32 2 1")
    ins = TRICLINIC_INS.format(instructions="").replace("LATT 1", "LATT 1\nSYMM -X,0.5+Y,-Z")
    refused(read, ins, "does not have the symmetry", "model.ins")


@pytest.mark.parametrize(
    "name", ["_space_group_name_H-M_alt 'P 31 2 1'", "_space_group_IT_number 152"]
)
def test_inconsistent_symmetry(read, name):
    """Operations of one hand under the name of the other."""
    operations = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(
        ["x,y,z", "-y,x-y,z+2/3", "-x+y,-x,z+1/3", "y,x,-z", "x-y,-y,-z+1/3", "-x,-x+y,-z+2/3"]
    )
    cif = quartz("_space_group_name_H-M_alt 'P 32 2 1'", f"{name}\n{operations}")
    refused(read, cif, r"symmetry is inconsistent.*make P 32 2 1 \(154\)")
    refused(read, cif.replace("-y,x-y,", "-q,x-y,"), "operation '-q,x-y,z.2/3' is not understood")


def test_names_that_contradict_each_other(read):
    cif = quartz("'P 32 2 1'", "'P 32 2 1'\n_space_group_IT_number 152")
    refused(read, cif, "symmetry is inconsistent")


def test_unknown_element(read):
    refused(read, quartz("O1 O ", "O1 Xx "), "'Xx' is not an element")
    refused(read, quartz("O1 O ", "Rf1 Rf "), "no electron scattering factor|not an element")
    no_types = QUARTZ_CIF.replace("_atom_site_type_symbol\n", "").replace("Si1 Si", "Si1")
    refused(read, no_types.replace("O1 O ", "X1 "), "element of atom 'X1' is unknown")
    refused(read, TRICLINIC_INS.format(instructions="").replace("SFAC C", "SFAC Zz"), "Zz", "a.ins")


def test_displacements_that_are_not_positive_definite(read):
    refused(read, quartz("0.008", "-0.008"), "of Si1 are not positive definite")
    refused(read, quartz("0.008", "nan"), "of Si1 are not positive definite")
    bad = QUARTZ_CIF + ANISO.format("U", "0.01 0.01 0.01 0 0 0.02")
    refused(read, bad, "of O1 are not positive definite")


def test_atoms_on_top_of_each_other(read):
    refused(read, QUARTZ_CIF + "O2 O 0.42 0.27 0.786 0.02 1\n", r"\(O1 and O2\)")
    # x-y, -y, 1/3-z takes O1 there
    image = QUARTZ_CIF + "O2 O 0.1466 0.7331 0.5475 0.02 1\n"
    refused(read, image, r"\(O1 and O2\)")
    partial = quartz("0.012 1", "0.012 0.7") + "N1 N 0.4140 0.2669 0.7858 0.02 0.4\n"
    refused(read, partial, r"\(O1 and N1\)")


@pytest.mark.parametrize("value", ["0", "-0.5", "nan"])
def test_occupancy_that_is_not_positive(read, value):
    refused(read, quartz("0.012 1", f"0.012 {value}"), r"occupancy of O1 \(")


@pytest.mark.parametrize("value", ["?", ".", "nan", "inf", "1e300"])
def test_coordinates_that_are_no_numbers(read, value):
    refused(read, quartz("0.2669", value), "coordinates of O1 are missing or not usable")


def test_several_models_in_a_pdb_file(read):
    first, *atoms, end = PDB.splitlines()
    text = "\n".join(
        [first, "MODEL        1", *atoms, "ENDMDL", "MODEL        2", *atoms, "ENDMDL", end]
    )
    refused(read, text, "several models", "model.pdb")


def test_pdb_in_another_frame(read):
    scale = "".join(
        f"SCALE{i}    {row}        0.00000\n"
        for i, row in enumerate(
            (
                "  0.000000  0.062375  0.000000",
                "  0.063355  0.000000  0.000000",
                "  0.000000  0.000000  0.081018",
            ),
            1,
        )
    )
    first, rest = PDB.split("\n", 1)
    refused(read, f"{first}\n{scale}{rest}", "SCALE", "model.pdb")


def test_truncated_shelx(read):
    ins = TRICLINIC_INS.format(instructions="")
    refused(read, ins.split("HKLF")[0], "truncated", "model.ins")
    refused(read, ins[: ins.index("=") + 2], "truncated", "model.ins")


def test_shelx_instructions_that_are_not_understood(read):
    ins = TRICLINIC_INS.format(instructions="")
    refused(
        read,
        ins.replace("0.4500 -21.0", "0.4500 1 -21.0"),
        "wrong number .*: C3 1 0.3000",
        "model.ins",
    )
    refused(
        read, ins.replace("LATT 1", "LATT 1\nSYMM x,q"), "instruction SYMM x,q is not", "model.ins"
    )


@pytest.mark.parametrize("kind", ["cif", "ins", "pdb", "quartz", "cspbbr3"])
def test_cut_and_garbled_files(read, kind, request):
    """Cut or garbled anywhere, a file gives a structure or a ValueError of one sentence."""
    texts = {"cif": QUARTZ_CIF, "ins": TRICLINIC_INS.format(instructions="EADP C1 C2"), "pdb": PDB}
    if kind in texts:
        content = texts[kind].encode()
    else:
        model = {"quartz": "kinematical", "cspbbr3": "reference"}[kind]
        shared = request.getfixturevalue("shared")
        content = (shared / "paper" / kind / f"{model}.cif").read_bytes()
    suffix = kind if kind in texts else "cif"
    generator = random.Random(1)
    outcomes = set()
    for i in range(40):
        cut = generator.randrange(len(content))
        damaged = content[:cut]
        if i % 2:
            damaged += bytes(generator.choices(range(1, 256), k=3)) + content[cut + 3 :]
        try:
            file = read(damaged, f"model.{suffix}")
        except ValueError as error:
            assert f"model.{suffix}" in str(error) and "\n" not in str(error)
            outcomes.add("refused")
        else:
            assert isinstance(file.structure, xray.structure)
            assert file.structure.scatterers().size() > 0
            outcomes.add("read")
    assert outcomes == {"refused", "read"}


def test_structure_is_refinable(read):
    """What is read can be expanded and has electron scattering factors throughout."""
    structure = read(QUARTZ_CIF).structure
    assert structure.expand_to_p1().scatterers().size() == 9
    assert isinstance(structure, crystal.symmetry)
    assert StructureModel(structure, RefinedParameters()).n_parameters == 1 + 3 + 2
