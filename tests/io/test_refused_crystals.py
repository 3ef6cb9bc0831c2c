"""Twins and modulated crystals cannot be refined: instructions for them are refused, reports of them named."""

from __future__ import annotations

import pytest
from test_read_structure import QUARTZ_CIF, TRICLINIC_INS

from dials_hybrid_refine.io.structure import read_structure

#: a twin by inversion; a twofold axis; of four components
TWINS = ["TWIN\nBASF 0.2", "TWIN 1 0 0 0 -1 0 0 0 -1 2\nBASF 0.1", "TWIN 0 1 0 1 0 0 0 0 -1 -4"]

MODULATED = {
    "dimension": ("_cell_modulation_dimension 1\n", "_cell_modulation_dimension"),
    "symbol": (
        "_space_group_ssg_name 'P 32 2 1(00g)0'\n", "_space_group_ssg_name"
    ),
    "operations": (
        "loop_\n_space_group_symop_ssg_id\n_space_group_symop_ssg_operation_algebraic\n"
        "1 x1,x2,x3,x4\n2 -x1,-x2,-x3,-x4\n",
        "_space_group_symop_ssg_id",
    ),
    "wave vector": (
        "loop_\n_cell_wave_vector_seq_id\n_cell_wave_vector_x\n_cell_wave_vector_z\n1 0 0.31\n",
        "_cell_wave_vector_seq_id",
    ),
    "modulation": (
        "loop_\n_atom_site_displace_Fourier_id\n_atom_site_displace_Fourier_atom_site_label\n"
        "Si1z1 Si1\n",
        "_atom_site_displace_Fourier_id",
    ),
    "composite": ("_cell_subsystems_number 2\n", "_cell_subsystems_number"),
}  # fmt: skip


@pytest.fixture
def read(tmp_path):
    def reader(text, name="model.cif"):
        path = tmp_path / name
        path.write_text(text)
        return read_structure(path)

    return reader


@pytest.mark.parametrize("instructions", TWINS)
def test_twin_of_a_shelx_file(read, instructions):
    with pytest.raises(
        ValueError, match=r"model.ins: TWIN describes a twin.* remove TWIN and BASF"
    ):
        read(TRICLINIC_INS.format(instructions=instructions), "model.ins")


@pytest.mark.parametrize("hklf", ["HKLF 5", "HKLF 6 1"])
def test_reflections_of_several_domains(read, hklf):
    text = TRICLINIC_INS.format(instructions="BASF 0.3").replace("HKLF 4", hklf)
    with pytest.raises(ValueError, match=f"{hklf[:6]} describes a twin.* write HKLF 4"):
        read(text, "model.ins")


def test_what_only_concerns_x_ray_data_is_named(read):
    """BASF without a twin scales batches of the .hkl file, which is not read; nor is the matrix."""
    text = TRICLINIC_INS.format(instructions="BASF 0.9 1.1\nSHEL 99 0.8\nOMIT 0 0 2\nFREE C1 O1")
    text = text.replace("HKLF 4", "HKLF 4 1 0 1 0 1 0 0 0 0 1")
    file = read(text, "model.ins")
    assert file.unsupported == ("BASF", "FREE", "OMIT", "SHEL", "the matrix of HKLF")
    assert "not applied: BASF, FREE, OMIT, SHEL, the matrix of HKLF" in file.warnings[0]


def test_plain_hklf_says_nothing(read):
    for hklf in ("HKLF 4", "HKLF 4 1", "HKLF", "END"):
        text = TRICLINIC_INS.format(instructions="").replace("HKLF 4", hklf)
        assert read(text, "model.ins").unsupported == ()


@pytest.mark.parametrize("kind", MODULATED)
def test_modulated_structures(read, kind):
    items, name = MODULATED[kind]
    with pytest.raises(ValueError, match=r"modulated or a composite.*cannot be refined") as error:
        read(QUARTZ_CIF.replace("loop_\n_atom_site_label", items + "loop_\n_atom_site_label"))
    assert f"({name.lower()})" in str(error.value)


@pytest.mark.parametrize(
    "symbol", ["P n m a(0b0)s00", "P -3 1 m(1/3 1/3 g)00s", "P 32 2 1 (0 0 g)"]
)
def test_superspace_symbol_as_name(read, symbol):
    with pytest.raises(ValueError, match="_space_group_name_h-m_alt"):
        read(QUARTZ_CIF.replace("P 32 2 1", symbol))


@pytest.mark.parametrize("value", ["0", ".", "?"])
def test_crystals_that_are_not_modulated(read, value):
    """Jana writes the dimension of others too, as 0."""
    read(f"{QUARTZ_CIF}\n_cell_modulation_dimension {value}\n_space_group_ssg_name ?\n")


def test_settings_with_a_change_of_basis_are_no_superspace_groups(read):
    read(QUARTZ_CIF.replace("'P 32 2 1'", "'P 32 2 1 (a,b,c)'"))


def test_report_of_a_twin(read):
    """The structure of a twinned crystal may be the start for another one."""
    twin = (
        "loop_\n_twin_individual_id\n_twin_individual_mass_fraction_refined\n1 0.7(1)\n2 0.3(1)\n"
    )
    assert any("a twin" in w for w in read(QUARTZ_CIF + twin).warnings)
    assert not any("twin" in w for w in read(QUARTZ_CIF).warnings)


@pytest.mark.parametrize("name", ["model.m40", "model.m50", "model.txt"])
def test_files_of_jana(read, name):
    """An .m50 has lines CELL and LATTICE, as a SHELX file."""
    text = "Version Jana2020\ntitle quartz\ncell 4.91 4.91 5.4 90 90 120\nspgroup P32 21 154 3\n"
    with pytest.raises(ValueError, match="file of Jana's own: give the CIF"):
        read(text, name)


def test_a_symbol_that_is_not_understood(read):
    """The number alone would give a primitive cell of half the contents."""
    text = QUARTZ_CIF.replace("'P 32 2 1'", "'C -1'\n_space_group_IT_number 2")
    with pytest.raises(ValueError, match="symbol 'C -1' is not understood.* add the symmetry"):
        read(text.replace("gamma 120", "gamma 90"))
