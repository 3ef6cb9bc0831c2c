"""The CIF of a refined structure: valid by the dictionary, read back by others, equal to the result."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from cif_numbers import check_statistics, value_and_su
from examples import WAVELENGTH, make_structure, quartz_structure
from finished_results import caesium_lead_bromide, finished, one_thickness, polar_structure
from numpy.testing import assert_allclose

import iotbx.cif
import iotbx.cif.model
from cctbx import sgtbx
from smtbx.refinement.constraints.rigid import rigid_riding_expandable_group

from dials_hybrid_refine.diffraction.electron import accelerating_voltage
from dials_hybrid_refine.io.cif_atoms import hydrogen_treatment
from dials_hybrid_refine.io.cif_experiment import (
    PETS2,
    MeasuredCell,
    MeasuredScan,
    Measurement,
    hall_symbol,
    measured_cell,
    stated_cell,
)
from dials_hybrid_refine.io.cif_refinement import (
    RefinementModel,
)
from dials_hybrid_refine.io.cif_reflections import measured_reflections, merged_reflections
from dials_hybrid_refine.io.cif_text import measured
from dials_hybrid_refine.io.formula import formula_of
from dials_hybrid_refine.io.kinematical_intensities import kinematical_intensities
from dials_hybrid_refine.io.refined_cif import CifContext, refined_cif
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.io.summary_json import InputFiles, summary
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.structure import RefinedParameters
from dials_hybrid_refine.refinement.absolute_structure import AbsoluteStructure
from dials_hybrid_refine.refinement.difference_map import DifferenceMap
from dials_hybrid_refine.refinement.effect_values import EffectValues
from dials_hybrid_refine.refinement.result import AbsorptionStrength
from dials_hybrid_refine.refinement.weights import Weighting

MEASUREMENT = Measurement(
    scans=(MeasuredScan(WAVELENGTH, (-10.0, 10.0), 0.5),),
    cell=None,
    intensity="profile",
    n_excluded={"window too wide": 3, "flagged bad by DIALS": 0},
)
MODEL = RefinementModel(Weighting(), "neural")


def written(result, context=None):
    """The text of the CIF."""
    return str(refined_cif(result, context or CifContext(MEASUREMENT, MODEL)))


def block_of(result, context=None):
    return iotbx.cif.reader(input_string=written(result, context)).model()["hybrid_refined"]


def with_cell(cell):
    return CifContext(replace(MEASUREMENT, cell=cell), MODEL)


def check(text, value, su):
    """A number in the CIF is a value with its s.u., as far as its digits go."""
    found, found_su, unit = value_and_su(text)
    assert abs(found - value) <= 0.5001 * unit, text
    if su is None or su < 1e-8:
        assert "(" not in text, text
        assert unit <= 1e-6 or value == found, text
    else:
        assert abs(found_su - su) <= 0.5001 * unit, text
        assert 2 <= round(found_su / unit) <= 19, text


# -- dictionary ------------------------------------------------------------------------------------


HAND = AbsoluteStructure(
    z_score=5.31,
    probability=1.0,
    n_compared=200,
    n_closer=138,
    z_score_all=4.2,
    r_obs=0.05,
    r_obs_inverted=0.08,
    r_all=0.07,
    r_all_inverted=0.1,
    r_obs_held_out=None,
    r_obs_held_out_inverted=None,
    loss=200.0,
    loss_inverted=300.0,
    space_group="P 21",
    space_group_inverted="P 21",
    is_chiral=True,
    status_inverted="converged",
    seconds=1.0,
)


def everything(result):
    """The result with all that may be in a CIF, and the context that goes with it."""
    result = replace(
        result,
        absorption=AbsorptionStrength("tabulated", 1.21, 0.04),
        mosaicity=(0.053, 0.004),
        warnings=("the occupancy of X is 1.1",),
        effects=(
            EffectValues(
                "decay", "pkg", "1", {"rate": np.ones(2)}, {"rate": np.array([0.1, np.nan])}
            ),
        ),
        absolute_structure=HAND,
        difference_map=DifferenceMap(
            coefficients=None, model=None, maximum=0.6, minimum=-0.4, rms=0.1, peaks=()
        ),
    )
    cell = result.structure.unit_cell().parameters()
    own = MeasuredCell(tuple(cell), (1e-3, 2e-3, 4e-3, 0.01, 7e-20, 0.0), 0.2)
    data = kinematical_intensities(result, WAVELENGTH)
    context = CifContext(
        replace(MEASUREMENT, cell=own),
        replace(MODEL, thickness_model="cylinder", tilt_correction=True),
        disorder=Disorder(tuple(range(len(result.structure.scatterers())))),
        loops=[merged_reflections(data, result.structure.unit_cell().volume())],
    )
    return result, context


def test_valid(result, core_dictionary):
    assert core_dictionary.violations(written(result)) == []


def test_valid_with_everything(result, core_dictionary):
    assert core_dictionary.violations(written(*everything(result))) == []


def test_valid_with_measured_reflections(results, core_dictionary):
    """The dictionary does not foresee negative intensities, which are stated as measured."""
    result = results["quartz"]
    context = CifContext(MEASUREMENT, MODEL, loops=[measured_reflections(result)])
    assert core_dictionary.violations(written(result, context)) == []
    intensity = np.where(np.arange(len(result.observations)) == 4, -7, result.calculated)
    result = replace(result, observations=replace(result.observations, intensity=intensity))
    context = CifContext(MEASUREMENT, MODEL, loops=[measured_reflections(result)])
    assert core_dictionary.violations(written(result, context)) == ["_refln.intensity_meas: -7.00"]


@pytest.mark.parametrize(
    "old, new, part",
    [
        ("_refine_ls_R_factor_gt ", "_refine_ls_R_faktor_gt ", "not in the dictionary"),
        ("_refine.diffraction_theory ", "_refine_diffraction_theory ", "not in the dictionary"),
        (r"(_diffrn_radiation_probe +)electron", r"\1electrons", "_diffrn_radiation.probe"),
        (r"(_refine.diffraction_theory +)dynamical", r"\1full", "_refine.diffraction_theory"),
        (r"(_cell_length_a +)\S+", r"\1long", "_cell.length_a: long"),
        (r"(_cell_angle_beta +)\S+", r"\g<1>190", "_cell.angle_beta: 190"),
        (r"(_diffrn_source_voltage +)\S+", r"\1-200", "_diffrn_source.voltage: -200"),
        (r"(_refine_ls_number_reflns +)\d+", r"\g<1>1.5", "_refine_ls.number_reflns: 1.5"),
        (r" Uani ", " Uaniso ", "_atom_site.adp_type"),
        (r"  _atom_site_label\n", "  _atom_site_refinement_flags\n", "key"),
    ],
)  # fmt: skip
def test_the_dictionary_objects(results, core_dictionary, old, new, part):
    """A misspelt name, an illegal code, number or range, and a loop without its key are found."""
    text = written(results["quartz"])
    wrong, n = re.subn(old, new, text)
    assert n > 0
    violations = core_dictionary.violations(wrong)
    assert violations and any(part in violation for violation in violations), violations


# -- structure ----------------------------------------------------------------------------------


def test_numbers_are_those_of_the_summary(result):
    """Each atom's parameters and s.u., U_eq by its definition."""
    atoms = summary(result, InputFiles([], [], "", {}), {}, 0)["structure"]["atoms"]
    block = block_of(result)
    assert list(block["_atom_site_label"]) == [atom["label"] for atom in atoms]
    anisotropic = iter(range(len(block.get("_atom_site_aniso_label", []))))
    cell = result.structure.unit_cell()
    for i, (atom, scatterer) in enumerate(zip(atoms, result.structure.scatterers())):
        for k, axis in enumerate("xyz"):
            check(block[f"_atom_site_fract_{axis}"][i], atom["site"][k], atom["site_su"][k])
        check(block["_atom_site_occupancy"][i], atom["occupancy"], atom["occupancy_su"])
        assert block["_atom_site_type_symbol"][i] == atom["element"]
        equivalent = block["_atom_site_U_iso_or_equiv"][i]
        if "u_iso" in atom:
            check(equivalent, atom["u_iso"], atom["u_su"])
            assert block["_atom_site_adp_type"][i] == "Uiso"
            continue
        assert "(" in equivalent and block["_atom_site_adp_type"][i] == "Uani"
        assert value_and_su(equivalent)[0] == pytest.approx(scatterer.u_iso_or_equiv(cell), rel=0.1)
        j = next(anisotropic)
        assert block["_atom_site_aniso_label"][j] == atom["label"]
        for k, name in enumerate(("11", "22", "33", "12", "13", "23")):
            check(block[f"_atom_site_aniso_U_{name}"][j], atom["u_cif"][k], atom["u_su"][k])


def test_uncertainty_of_equivalent_u(results):
    """In an orthogonal cell U_eq is the mean of U11, U22, U33; their covariance counts."""
    result = results["CsPbBr3"]
    cell = result.structure.unit_cell()
    i = 3  # general enough: on the mirror plane
    start = result.structure.parameter_map()[i].u_aniso
    to_u = np.diag([cell.parameters()[k] ** 2 for k in range(3)])
    covariance = to_u @ result.covariance[start : start + 3, start : start + 3] @ to_u
    expected = np.sqrt(covariance.sum()) / 3
    check(
        block_of(result)["_atom_site_U_iso_or_equiv"][i],
        result.structure.scatterers()[i].u_iso_or_equiv(cell),
        expected,
    )


#: coordinates without s.u.: those that the site symmetry fixes
FIXED = {
    "triclinic": set(),
    "polar": set(),
    "quartz": {("Si0", "y"), ("Si0", "z")},
    "CsPbBr3": {("Cs0", "z"), ("Pb1", "x"), ("Pb1", "y"), ("Pb1", "z"), ("Br3", "z")},
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_coordinates_have_no_uncertainty(results, name):
    block = block_of(results[name])
    without = {
        (label, axis)
        for axis in "xyz"
        for label, text in zip(block["_atom_site_label"], block[f"_atom_site_fract_{axis}"])
        if "(" not in text
    }
    assert without == FIXED[name]
    special = {label for label, _ in FIXED[name]}
    for label, position in zip(
        block["_atom_site_label"], block["_atom_site_refinement_flags_posn"]
    ):
        assert position == ("S" if label in special else ".")


def test_what_is_not_refined_has_no_uncertainty():
    result = finished(quartz_structure(), RefinedParameters(False, True, False))
    block = block_of(result)
    names = [f"_atom_site_fract_{axis}" for axis in "xyz"] + ["_atom_site_occupancy"]
    assert not any("(" in text for name in names for text in block[name])
    assert all("(" in text for text in block["_atom_site_aniso_U_33"])
    flags = dict(zip(block["_atom_site_label"], block["_atom_site_refinement_flags_adp"]))
    assert flags == {"Si0": "T", "O1": "."}


def test_without_covariance(results):
    assert "(" not in "".join(
        block_of(replace(results["polar"], covariance=None))["_atom_site_fract_x"]
    )


def test_read_back_by_iotbx_and_gemmi(result):
    """The same cell, symmetry, sites, U and occupancies, to the printed digits."""
    gemmi = pytest.importorskip("gemmi")
    text = written(result)
    (structure,) = iotbx.cif.reader(input_string=text).build_crystal_structures().values()
    other = gemmi.make_small_structure_from_block(gemmi.cif.read_string(text).sole_block())
    expected = result.structure
    assert structure.space_group() == expected.space_group()
    assert other.spacegroup.number == expected.space_group_info().type().number()
    assert_allclose(other.cell.parameters, expected.unit_cell().parameters(), atol=1e-5)
    assert_allclose(
        structure.unit_cell().parameters(), expected.unit_cell().parameters(), atol=1e-5
    )
    cell = expected.unit_cell()
    for ours, read, site in zip(expected.scatterers(), structure.scatterers(), other.sites):
        assert ours.label == read.label == site.label
        assert ours.element_symbol() == read.element_symbol() == site.element.name
        assert_allclose(read.site, ours.site, atol=5.1e-3)
        assert_allclose(site.fract.tolist(), read.site, atol=5.1e-7)  # iotbx takes 2/3
        assert read.multiplicity() == ours.multiplicity()
        assert_allclose(read.u_cart_plus_u_iso(cell), ours.u_cart_plus_u_iso(cell), atol=1e-3)
        assert site.occ == read.occupancy == pytest.approx(ours.occupancy, abs=5.1e-3)


def test_read_back_by_this_package(result, tmp_path):
    (tmp_path / "refined.cif").write_text(written(result))
    read = read_structure(tmp_path / "refined.cif")
    assert read.structure.space_group() == result.structure.space_group()
    assert len(read.structure.scatterers()) == len(result.structure.scatterers())


def test_symmetry_is_stated(result):
    block = block_of(result)
    info = result.structure.space_group_info()
    assert int(block["_space_group_IT_number"]) == info.type().number()
    assert sgtbx.space_group(block["_space_group_name_Hall"]) == info.group()
    assert block["_space_group_name_H-M_alt"] == str(info)
    assert len(block["_space_group_symop_operation_xyz"]) == info.group().order_z()


def test_hall_symbols_are_those_of_the_tables():
    """cctbx itself writes '-P 2ac 2n (z,x,y)'."""
    for symbol, hall in [
        ("P b n m", "-P 2c 2ab"),
        ("P 1 21/n 1", "-P 2yn"),
        ("P 32 2 1", 'P 32 2"'),
    ]:
        assert hall_symbol(sgtbx.space_group_info(symbol).group()) == hall
    other = sgtbx.space_group("-C 1")
    assert sgtbx.space_group(hall_symbol(other)) == other


def test_measured_fraction(results):
    """All reflections to the limit are measured; of half of them half."""
    for name in ("quartz", "CsPbBr3"):
        result = results[name]
        assert float(block_of(result)["_diffrn_measured_fraction_theta_max"]) == 1
        observations = result.observations
        unique = np.unique(observations.unique_index)
        kept = np.isin(observations.unique_index, unique[::2])
        part = replace(
            result,
            observations=replace(
                observations, **{k: v[kept] for k, v in vars(observations).items()}
            ),
            held_out=result.held_out[kept],
            rejected=result.rejected[kept],
            calculated=result.calculated[kept],
        )
        assert float(block_of(part)["_diffrn_measured_fraction_theta_max"]) == pytest.approx(
            0.5, abs=0.03
        )


def test_riding_atoms_and_disorder(results):
    """calc_flag, refinement flag R, and the parts of a disordered structure."""

    result = results["polar"]
    model = replace(MODEL, constraints=[rigid_riding_expandable_group(1, (2,), False)])
    block = block_of(
        result, CifContext(MEASUREMENT, model, disorder=Disorder((0, 2, 0), (0, 0, 1)))
    )
    assert list(block["_atom_site_calc_flag"]) == ["d", "d", "calc"]
    assert list(block["_atom_site_refinement_flags_posn"]) == [".", ".", "R"]
    assert list(block["_atom_site_disorder_group"]) == [".", "2", "-1"]
    assert block["_refine_ls_hydrogen_treatment"] == "constr"


@pytest.mark.parametrize(
    "refined, code",
    [
        (RefinedParameters(True, True), "refall"),
        (RefinedParameters(True, False), "refxyz"),
        (RefinedParameters(False, True), "refU"),
        (RefinedParameters(False, False), "noref"),
    ],
)
def test_hydrogen_treatment(refined, code):
    assert hydrogen_treatment(finished(polar_structure(), refined, d_min=3.0).structure) == code
    assert hydrogen_treatment(quartz_structure()) == "undef"


# -- cell, formula, experiment ------------------------------------------------------------------


def test_cell_with_uncertainties(results):
    """Those of DIALS' crystal where the cells are the same, none on what symmetry fixes."""
    result = results["quartz"]
    cell = result.structure.unit_cell()
    su = (0.0004, 0.0004, 0.0011, 7e-20, 0.0, 0.0)
    block = block_of(result, with_cell(MeasuredCell(tuple(cell.parameters()), su, 0.024)))
    assert block["_cell_length_a"] == "4.9137(4)" and block["_cell_length_c"] == "5.4047(11)"
    assert block["_cell_angle_gamma"] == "120.0000"
    check(block["_cell_volume"], cell.volume(), 0.024)
    assert "_cell_special_details" not in block


def test_cell_with_uncertainties_of_the_model(results):
    """Where the experiment has none. V = a^2 c sqrt(3)/2: (s(V)/V)^2 = (2 s(a)/a)^2 + (s(c)/c)^2."""
    result = results["quartz"]
    cell = stated_cell(result.structure, (6e-4, 6e-4, 8e-4, 0.0, 0.0, 0.0))
    block = block_of(result, with_cell(cell))
    assert block["_cell_length_a"] == "4.9137(6)" and block["_cell_length_c"] == "5.4047(8)"
    assert block["_cell_angle_gamma"] == "120.0000"
    relative = ((2 * 6e-4 / 4.9137) ** 2 + (8e-4 / 5.4047) ** 2) ** 0.5
    assert cell.volume_su == pytest.approx(
        relative * result.structure.unit_cell().volume(), rel=1e-4
    )
    assert "those of the starting model" in block["_cell_special_details"]
    assert stated_cell(result.structure, None) is None


def test_the_uncertainties_of_another_cell_are_not_taken(results):
    other = MeasuredCell((4.90, 4.90, 5.40, 90, 90, 120), (0.001, 0.001, 0.002, 0, 0, 0), 0.02)
    block = block_of(results["quartz"], with_cell(other))
    assert block["_cell_length_a"] == "4.91370"
    assert "4.9000(10), 4.9000(10), 5.400(2)" in " ".join(block["_cell_special_details"].split())


def test_cell_of_an_experiment(quartz):
    from dxtbx.model.experiment_list import ExperimentListFactory

    name = str(quartz / "integrated.expt")
    crystal = ExperimentListFactory.from_json_file(name, check_format=False)[0].crystal
    cell = measured_cell(crystal)
    assert cell.parameters == crystal.get_unit_cell().parameters()
    assert 1e-5 < cell.su[0] < 0.01 and cell.su[3] < 1e-8
    crystal.reset_unit_cell_errors()
    assert measured_cell(crystal) is None


def alanine():
    """C3 H7 N O2, the atoms' sites of no meaning."""
    atoms = [("C", 3), ("H", 7), ("N", 1), ("O", 2)]
    elements = [element for element, n in atoms for _ in range(n)]
    return make_structure(
        (6.03, 12.34, 5.78, 90, 90, 90),
        "P 21 21 21",
        [
            (e, (0.07 * i + 0.01, 0.05 * i + 0.02, 0.11 * i), 0.02, 1.0)
            for i, e in enumerate(elements)
        ],
    )


@pytest.mark.parametrize(
    "make, formula, z, weight, density",
    [
        (quartz_structure, "O2 Si", 3, 60.083, 2.649),
        (alanine, "C3 H7 N O2", 4, 89.094, 1.376),
    ],
)  # fmt: skip
def test_formula(make, formula, z, weight, density):
    structure = make()
    found = formula_of(structure)
    assert (str(found), found.z) == (formula, z)
    assert found.weight == pytest.approx(weight, abs=0.005)
    block = block_of(finished(structure, d_min=2.0))
    assert block["_chemical_formula_sum"] == formula
    assert float(block["_exptl_crystal_density_diffrn"]) == pytest.approx(density, abs=0.002)
    assert int(block["_cell_formula_units_Z"]) == z


def test_formula_of_a_perovskite():
    structure = caesium_lead_bromide()
    # 0.93 of the bromine on a site of half the multiplicity of the other
    assert (str(formula_of(structure)), formula_of(structure).z) == ("Br2.93 Cs Pb", 4)
    structure.scatterers()[3].occupancy = 1.0
    found = formula_of(structure)
    assert (str(found), found.z) == ("Br3 Cs Pb", 4)
    assert found.weight == pytest.approx(579.8, abs=0.1)


def test_mean_inner_potential(results):
    """F_000 in volts: 47.878 V A^2 sum f(0) / volume; 12.6 V for quartz of free neutral atoms."""
    block = block_of(results["quartz"])
    occupancies = [s.occupancy for s in results["quartz"].structure.scatterers()]
    # f(0) in International Tables C 4.3.2: Si 5.828, O 1.983 Angstrom; other tables differ by 1 %
    expected = 47.878 * (3 * 5.83 * occupancies[0] + 6 * 1.98 * occupancies[1]) / 113.0
    assert float(block["_exptl_crystal_F_000"]) == pytest.approx(expected, rel=0.02)


def test_experiment(results):
    result = results["CsPbBr3"]
    block = block_of(result)
    assert block["_diffrn_radiation_probe"] == "electron"
    assert block["_diffrn_measurement.rotation_mode"] == "rotation"
    voltage = float(block["_diffrn_source_voltage"])
    assert voltage == pytest.approx(accelerating_voltage(WAVELENGTH) / 1000, abs=0.051)
    assert float(block["_diffrn_radiation_wavelength"]) == pytest.approx(WAVELENGTH, abs=5.1e-7)
    hkl = result.observations.hkl
    for k, axis in enumerate("hkl"):
        assert int(block[f"_diffrn_reflns_limit_{axis}_max"]) == hkl[:, k].max()
        assert int(block[f"_diffrn_reflns_limit_{axis}_min"]) == hkl[:, k].min()
    assert int(block["_diffrn_reflns_number"]) == len(hkl) + 3
    assert int(block["_reflns_number_total"]) == len(hkl)
    spacing = 1 / np.linalg.norm(
        hkl / np.array(result.structure.unit_cell().parameters()[:3]), axis=1
    )
    assert float(block["_reflns_d_resolution_high"]) == pytest.approx(spacing.min(), abs=5.1e-5)
    theta = np.degrees(np.arcsin(WAVELENGTH / (2 * spacing.min())))
    assert float(block["_diffrn_reflns_theta_max"]) == pytest.approx(theta, abs=5.1e-4)
    assert "from -10 to 10 degrees" in " ".join(block["_diffrn_measurement_method"].split())
    assert block["_diffrn_ambient_temperature"] == "?"


def test_data_recorded_in_steps(results, core_dictionary):
    measurement = replace(MEASUREMENT, steps=21, reduction=PETS2)
    text = written(results["polar"], CifContext(measurement, MODEL))
    assert core_dictionary.violations(text) == []
    block = iotbx.cif.reader(input_string=text).model()["hybrid_refined"]
    assert block["_diffrn_measurement.rotation_mode"] == "stepwise"
    assert "sum over 21 orientations" in " ".join(block["_diffrn_measurement_method"].split())
    assert "PETS2" in block["_computing_data_reduction"]


# -- refinement -----------------------------------------------------------------------------------


def test_statistics_are_those_of_the_summary(result):
    statistics = summary(result, InputFiles([], [], "", {}), {}, 0)["statistics"]
    block = block_of(result)
    check_statistics(block, statistics)
    details = " ".join(block["_refine_special_details"].split())
    assert f"Held out: {statistics['n_held_out']} reflections, by reflections" in details
    for key in ("r_obs_held_out", "mr_obs", "mr_all", "mwr_all"):
        assert f"{statistics[key]:.4f}" in details, key
    for text in statistics["definitions"].values():
        assert text in details


def test_thickness(results):
    """One thickness has the s.u. it was refined with; a mean over the scan has none of its own."""
    block = block_of(results["quartz"])
    assert block["_refine_ls.sample_thickness"] == "44.75"  # nm
    details = " ".join(block["_refine_ls.sample_shape_details"].split())
    assert "40.00 to 49.50 nm, its s.u. 0.30 to 0.49 nm" in details
    assert "_refine_ls.sample_shape_expression" not in block
    model = replace(MODEL, thickness_model="constant")
    block = block_of(one_thickness(results["quartz"], 523.4, 6.1), CifContext(MEASUREMENT, model))
    assert block["_refine_ls.sample_thickness"] == "52.3(6)"
    assert "F(\\t) = 0" in block["_refine_ls.sample_shape_expression"]


def test_absorption_mosaicity_effects(results):
    result, context = everything(results["polar"])
    block = block_of(result, context)
    assert block["_exptl_crystal.mosaicity"] == "0.053(4)"
    theory = " ".join(block["_refine.diffraction_theory_details"].split())
    assert "times a factor of 1.21(4), refined." in theory
    assert "Effect decay of pkg 1: rate 1.00(10) 1.000000." in theory
    fixed = replace(
        result, absorption=AbsorptionStrength("proportional", 0.1, None), mosaicity=None
    )
    block = block_of(fixed)
    assert "ratio U'/U 0.1000, fixed." in " ".join(
        block["_refine.diffraction_theory_details"].split()
    )
    assert "_exptl_crystal.mosaicity" not in block


def test_items_for_other_results(results):
    """z-score from the view of the structure that is written, difference potential in e/Angstrom."""
    result, context = everything(results["polar"])
    block = block_of(result, context)
    assert block["_refine_ls.abs_structure_z-score"] == "5.31"
    assert block["_chemical_absolute_configuration"] == "dyn"
    for name, value in (("max", 0.6), ("min", -0.4), ("RMS", 0.1)):
        assert float(block[f"_refine_diff.potential_{name}"]) == value
    inverted = replace(result, absolute_structure=replace(HAND, applied=True))
    block = block_of(inverted, context)
    assert block["_refine_ls.abs_structure_z-score"] == "-5.31"
    assert "_chemical_absolute_configuration" not in block
    assert block_of(results["CsPbBr3"])["_refine_ls.abs_structure_z-score"] == "."


# -- reflections -----------------------------------------------------------------------------------


def test_measured_reflections(results):
    result = results["CsPbBr3"]
    context = CifContext(MEASUREMENT, MODEL, loops=[measured_reflections(result)])
    block = block_of(result, context)
    columns = {name: np.array(block[f"_refln_{name}"], dtype=float) for name in (
        "index_h", "index_k", "index_l", "intensity_meas", "intensity_sigma", "intensity_calc"
    )}  # fmt: skip
    assert_allclose(np.stack([columns[f"index_{x}"] for x in "hkl"], 1), result.observations.hkl)
    assert_allclose(columns["intensity_meas"], result.observations.intensity, atol=0.0051)
    assert_allclose(columns["intensity_sigma"], result.observations.sigma, atol=0.0051)
    assert_allclose(columns["intensity_calc"], result.calculated, atol=0.0051)
    status = np.array(block["_refln_include_status"])
    assert ((status == "x") == result.rejected).all()
    weak = result.observations.intensity <= 3 * result.observations.sigma
    assert ((status == "<") == (weak & ~result.rejected)).all()
    excluded = np.array(block["_refln_refinement_status"]) == "excl"
    assert (excluded == (result.held_out | result.rejected)).all()


def test_merged_reflections_are_read_by_iotbx(results):
    """F^2 in squares of volts, F and phases: as arrays of Miller indices."""
    result = results["CsPbBr3"]
    data = kinematical_intensities(result, WAVELENGTH)
    volume = result.structure.unit_cell().volume()
    loops = [merged_reflections(data, volume)]
    text = written(result, CifContext(MEASUREMENT, MODEL, loops=loops))
    arrays = iotbx.cif.reader(input_string=text).as_miller_arrays()
    (observed,) = (a for a in arrays if a.is_xray_intensity_array() and a.sigmas() is not None)
    (phased,) = (a for a in arrays if a.is_complex_array())
    volt = 47.878 / volume
    for array, expected in ((observed, data.intensities()), (phased, data.structure_factors())):
        ours, read = expected.common_sets(array)
        assert len(read.data()) == len(data.hkl)
        scale = volt**2 if array is observed else volt
        assert_allclose(np.array(read.data()), scale * np.array(ours.data()), rtol=1e-4, atol=2e-3)


# -- numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, su, text",
    [
        (0.46971, 0.00053, "0.4697(5)"),
        (0.46971, 0.00015, "0.46971(15)"),
        (0.46971, 0.00195, "0.470(2)"),
        (-0.0021, 0.0007, "-0.0021(7)"),
        (523.4, 12.0, "523(12)"),
        (523.4, 61.0, "520(60)"),
        (0.5, 0.0, "0.500000"),
        (0.5, 1e-17, "0.500000"),
        (2 / 3, None, "0.666667"),
        (float("nan"), None, "?"),
        (0.5, float("nan"), "0.500000"),
    ],
)
def test_numbers(value, su, text):
    assert measured(value, su) == text


def test_further_loops(results):
    loop = iotbx.cif.model.loop(
        header=[
            "_geom_bond_atom_site_label_1",
            "_geom_bond_atom_site_label_2",
            "_geom_bond_distance",
        ],
        data=["Si0", "O1", "1.609(3)"],
    )
    block = block_of(results["quartz"], CifContext(MEASUREMENT, MODEL, loops=[loop]))
    assert list(block["_geom_bond_distance"]) == ["1.609(3)"]
