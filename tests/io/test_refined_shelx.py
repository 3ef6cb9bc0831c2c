"""SHELX files of a refined model: read back by iotbx and by this package.

SHELXL and Olex2 are not at hand: they were not run.
"""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from examples import WAVELENGTH, make_structure, quartz_structure
from finished_results import finished
from numpy.testing import assert_allclose

import iotbx.shelx
from cctbx import sgtbx
from iotbx.shelx import hklf

from dials_hybrid_refine.diffraction.scattering_factors import electron_scattering_factors
from dials_hybrid_refine.io.kinematical_intensities import kinematical_intensities
from dials_hybrid_refine.io.refined_shelx import (
    ShelxModel,
    check_shelx,
    hkl_factor,
    shelx_names,
    shelx_text,
    write_hkl,
)
from dials_hybrid_refine.io.shelx_scattering import LARGEST_S, gaussian_coefficients
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.models.structure import RefinedParameters

RIDING = """\
TITL riding
CELL 0.0251 5.9 12.3 5.8 90 90 90
ZERR 4 0.001 0.001 0.001 0 0 0
LATT -1
SYMM 0.5-X,-Y,0.5+Z
SYMM -X,0.5+Y,0.5-Z
SYMM 0.5+X,0.5-Y,-Z
SFAC C H O
UNIT 8 16 4
FVAR 1
C1 1 0.48 0.50 0.52 11 0.02
C2 1 0.55 0.61 0.50 11 0.02 0.03 0.02 0.001 0.002 0.003
AFIX 137
H2A 2 0.60 0.63 0.36 11 -1.5
H2B 2 0.67 0.62 0.61 11 -1.5
H2C 2 0.41 0.65 0.54 11 -1.5
AFIX 0
O1 3 0.33 0.42 0.40 11 0.03
AFIX 148 0.98
H1 2 0.30 0.44 0.27 11 -1.2
AFIX 0
O2 3 10.10 10.05 10.10 10.5 10.03
HKLF 4
END
"""


def with_plain_elements(text: str) -> str:
    """iotbx refuses SFAC with coefficients: one instruction of symbols instead."""
    symbols = re.findall(r"^SFAC (\w+) .*=\n .*\n", text, re.MULTILINE)
    text = re.sub(r"^SFAC .*=\n .*\n", "", text, flags=re.MULTILINE)
    return text.replace("UNIT", f"SFAC {' '.join(symbols)}\nUNIT", 1)


def same_structure(one, other, site=5.1e-7, u=5.1e-6):
    """Sites, U and occupancies to the printed digits, and the symmetry."""
    assert one.space_group() == other.space_group()
    assert_allclose(one.unit_cell().parameters(), other.unit_cell().parameters(), atol=1e-5)
    assert len(one.scatterers()) == len(other.scatterers())
    cell = one.unit_cell()
    for a, b in zip(one.scatterers(), other.scatterers()):
        assert a.element_symbol() == b.element_symbol()
        assert_allclose(np.remainder(np.subtract(a.site, b.site) + 0.5, 1), 0.5, atol=site)
        assert a.flags.use_u_aniso() == b.flags.use_u_aniso()
        assert_allclose(a.u_cart_plus_u_iso(cell), b.u_cart_plus_u_iso(cell), atol=2 * u)
        assert a.occupancy == pytest.approx(b.occupancy, abs=1e-5)


def test_read_back_by_iotbx(result):
    text = shelx_text(ShelxModel(result.structure, WAVELENGTH))
    stream = io.StringIO(with_plain_elements(text))
    model = iotbx.shelx.parse_smtbx_refinement_model(file=stream)
    same_structure(model.structure, result.structure)
    for scatterer in model.structure.scatterers():
        assert scatterer.flags.grad_site()
        assert scatterer.flags.grad_occupancy()


def test_read_back_by_this_package(result, tmp_path):
    path = tmp_path / "model.res"
    path.write_text(shelx_text(ShelxModel(result.structure, WAVELENGTH)))
    read = read_structure(path)
    same_structure(read.structure, result.structure)
    assert not read.unsupported and not read.warnings
    labels = [s.label for s in result.structure.scatterers()]
    assert [s.label for s in read.structure.scatterers()] == labels


def test_lines(results):
    """Each line of the format: lengths, order of instructions, symmetry, contents, end."""
    lines = shelx_text(ShelxModel(results["CsPbBr3"].structure, WAVELENGTH)).splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines]
    order = ["TITL", "CELL", "ZERR", "LATT", "SYMM", "SFAC", "UNIT", "WGHT", "FVAR", "HKLF", "END"]
    assert [names.index(name) for name in order] == sorted(map(names.index, order))
    assert lines[names.index("CELL")].startswith("CELL 0.025079 8.11890 8.35900 11.75900 90.")
    assert names.count("SYMM") == 3 and "LATT 1" in lines
    assert lines[names.index("ZERR")].split()[1] == "4"
    unit = [float(n) for n in lines[names.index("UNIT")].split()[1:]]
    symbols = [line.split()[1] for line in lines if line.startswith("SFAC")]
    assert dict(zip(symbols, unit)) == pytest.approx({"Br": 8 + 4 * 0.93, "Cs": 4, "Pb": 4}, 1e-2)
    assert lines[-2:] == ["HKLF 4", "END"]


def test_what_is_fixed_is_written_fixed():
    """10 is added to parameters that were not refined; those of special positions need no code."""
    refined = RefinedParameters(sites=False, displacements=True, occupancies=False)
    result = finished(quartz_structure(), refined)
    text = shelx_text(ShelxModel(result.structure, WAVELENGTH))
    atom = next(line for line in text.splitlines() if line.startswith("Si0")).split()
    assert_allclose([float(x) for x in atom[2:6]], [10.4697, 10, 10.666667, 10.5], atol=1e-6)
    assert float(atom[6]) < 5
    stream = io.StringIO(with_plain_elements(text))
    read = iotbx.shelx.parse_smtbx_refinement_model(file=stream).structure
    for scatterer in read.scatterers():
        flags = scatterer.flags
        assert not flags.grad_site() and flags.grad_u_aniso() and not flags.grad_occupancy()
    same_structure(read, result.structure)


@pytest.fixture(scope="module")
def riding(tmp_path_factory):
    """A structure with riding hydrogen atoms and one fixed atom, as read and as refined."""
    path = tmp_path_factory.mktemp("riding") / "riding.ins"
    path.write_text(RIDING)
    read = read_structure(path)
    refined = RefinedParameters(occupancies=False)
    return read, finished(read.structure, refined, tuple(read.shelx_constraints), d_min=2.0)


def described(constraints):
    """Kinds of constraints and what they hold but for lengths, sorted."""
    return sorted(
        (type(c).__name__, *(repr(getattr(c, name, None)) for name in (
            "pivot", "constrained_site_indices", "rotating", "stretching",
            "u_iso_scatterer_idx", "u_eq_scatterer_idx", "multiplier",
        )))
        for c in constraints
    )  # fmt: skip


def test_riding_atoms(riding, tmp_path):
    """AFIX, bond lengths and U in units of the pivot's come back as they were."""
    read, result = riding
    model = ShelxModel(result.structure, WAVELENGTH, constraints=read.shelx_constraints)
    text = shelx_text(model)
    # lengths as they are: that of smtbx for methyl groups, and the refined one
    atoms = {s.label: s.site for s in result.structure.scatterers()}
    stretched = result.structure.unit_cell().distance(atoms["O1"], atoms["H1"])
    afix = re.findall("^AFIX .*", text, re.M)
    assert afix == ["AFIX 137 0.96", "AFIX 0", f"AFIX 148 {stretched:.6g}", "AFIX 0"]
    assert re.search(r"^H2B .* -1\.50000$", text, re.M)
    assert re.search(r"^H1 .* -1\.20000$", text, re.M)
    (tmp_path / "again.res").write_text(text)
    again = read_structure(tmp_path / "again.res")
    assert len(read.shelx_constraints) == 6
    assert described(again.shelx_constraints) == described(read.shelx_constraints)
    same_structure(again.structure, result.structure)
    fixed = again.structure.scatterers()[-1].flags
    assert not (fixed.grad_site() or fixed.grad_u_iso())


def test_names():
    """SHELX has four characters, and no difference between Ca and CA."""
    structure = make_structure(
        (6, 7, 8, 90, 90, 90), "P 1", [("C", (0.1 * i, 0.2, 0.3), 0.02, 1.0) for i in range(5)]
    )
    for scatterer, label in zip(structure.scatterers(), ["CA", "Ca", "C_long1", "C1", "O1'"]):
        scatterer.label = label
    assert shelx_names(structure) == ["CA", "C2", "C3", "C1", "C4"]
    text = shelx_text(ShelxModel(structure, WAVELENGTH))
    assert "REM C3 is the atom C_long1 of the CIF" in text


def test_an_origin_that_shelx_does_not_know():
    structure = make_structure((8, 8, 8, 90, 90, 90), "F d -3 m :1", [("Si", (0, 0, 0), 0.01, 1.0)])
    with pytest.raises(ValueError, match="centre of symmetry.*F d -3 m.*output.res=None"):
        check_shelx(structure)
    check_shelx(structure.change_basis(sgtbx.change_of_basis_op("x-1/8,y-1/8,z-1/8")))


@pytest.mark.parametrize("z", [1, 6, 8, 14, 35, 55, 82, 103])
def test_scattering_factors(z):
    """Four Gaussians and a constant are within 1 % of the factors of the simulation."""
    s = np.linspace(0, LARGEST_S, 300)
    *pairs, c = gaussian_coefficients(z)
    a, b = np.array(pairs[::2]), np.array(pairs[1::2])
    fitted = (a * np.exp(-b * s[:, None] ** 2)).sum(1) + c
    assert_allclose(fitted, electron_scattering_factors([z], 2 * s)[0], rtol=0.01)
    assert (b > 0).all()


def test_hkl(result, tmp_path):
    """The intensities, at most 99999.99, to two decimals and more than four digits."""
    data = kinematical_intensities(result, WAVELENGTH)
    path = tmp_path / "data.hkl"
    write_hkl(data, str(path))
    factor = hkl_factor(data)
    lines = path.read_text().splitlines()
    assert lines[-1].split() == ["0", "0", "0", "0.00", "0.00"]
    assert all(len(line) == 28 for line in lines)
    with path.open() as stream:
        (array,) = hklf.reader(file_object=stream).as_miller_arrays(result.structure)
    read = array.set_observation_type_xray_intensity().merge_equivalents().array()
    ours, read = data.intensities(factor).common_sets(read)
    assert len(ours.data()) == len(data.hkl)
    assert_allclose(np.array(read.data()), np.array(ours.data()), atol=0.0051)
    assert_allclose(np.array(read.sigmas()), np.array(ours.sigmas()), atol=0.0051)
    assert 1e4 < np.array(ours.data()).max() < 1e5


def test_scale_goes_with_the_hkl_file(results):
    data = kinematical_intensities(results["quartz"], WAVELENGTH)
    scale = hkl_factor(data) ** 0.5
    text = shelx_text(ShelxModel(results["quartz"].structure, WAVELENGTH, overall_scale=scale))
    (written,) = re.findall(r"^FVAR (.*)$", text, re.M)
    # osf^2 F_c^2 is fitted to the intensities of the file
    observed = data.intensity * hkl_factor(data)
    assert_allclose(observed / (float(written) ** 2 * np.abs(data.f_calc) ** 2), 1, atol=0.11)
