"""The refined structure as CIF, SHELX and MTZ files: read by other programs, equal to the summary."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from cif_numbers import check_statistics, value_and_su
from command_runs import FAST, INPUT, numpy
from numpy.testing import assert_allclose

import iotbx.cif
import iotbx.mtz
from dials.array_family import flex
from iotbx.shelx import hklf

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.io.structure import read_structure


def test_cif_holds_the_refined_structure(summary, block):
    atoms = summary["structure"]["atoms"]
    assert list(block["_atom_site_label"]) == [atom["label"] for atom in atoms]
    n_refined = 0
    for i, atom in enumerate(atoms):
        numbers = [
            (f"_atom_site_fract_{x}", atom["site"][k], atom["site_su"][k])
            for k, x in enumerate("xyz")
        ]
        for name, expected, su in [
            *numbers,
            ("_atom_site_U_iso_or_equiv", atom["u_iso"], atom["u_su"]),
        ]:
            value, written_su, unit = value_and_su(block[name][i])
            assert abs(value - expected) <= 0.5001 * unit, name
            if su > 1e-9:
                assert abs(written_su - su) <= 0.5001 * unit and written_su > 0, name
                n_refined += 1
            else:
                assert written_su == 0 and "(" not in block[name][i], name
        assert value_and_su(block["_atom_site_occupancy"][i])[0] == atom["occupancy"] == 1
        assert "(" not in block["_atom_site_occupancy"][i]
    assert n_refined == 1 + 3 + 2  # y of Si, x y z of O, two U; Si stands on a twofold axis
    cell = [value_and_su(block[f"_cell_{n}"])[0] for n in (
        "length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")]  # fmt: skip
    assert_allclose(cell, summary["structure"]["unit_cell"], rtol=2e-6)


def test_cif_in_iotbx(refined, summary):
    structures = iotbx.cif.reader(
        file_path=str(refined / "hybrid_refined.cif")
    ).build_crystal_structures()
    (structure,) = structures.values()
    assert str(structure.space_group_info()) == summary["structure"]["space_group"] == "P 32 2 1"
    for scatterer, atom in zip(structure.scatterers(), summary["structure"]["atoms"]):
        assert_allclose(scatterer.site, atom["site"], atol=1e-3)
    assert [s.multiplicity() for s in structure.scatterers()] == [3, 6]


def test_cif_in_gemmi(refined, summary):
    gemmi = pytest.importorskip("gemmi")
    path = str(refined / "hybrid_refined.cif")
    structure = gemmi.read_small_structure(path)
    assert structure.spacegroup.hm == "P 32 2 1"
    assert_allclose(structure.cell.parameters, summary["structure"]["unit_cell"], rtol=2e-6)
    for site, atom in zip(structure.sites, summary["structure"]["atoms"]):
        assert (site.label, site.element.name) == (atom["label"], atom["element"])
        assert_allclose(site.fract.tolist(), atom["site"], atol=1e-3)
    theory = gemmi.cif.read(path).sole_block().find_values("_refine.diffraction_theory")
    assert list(theory) == ["dynamical"]


def test_experiment_in_the_cif(refined, summary, block):
    means = [item["mean"] for item in summary["thickness"]]
    assert float(block["_refine_ls.sample_thickness"]) == pytest.approx(
        np.mean(means) / 10, abs=0.06
    )
    assert block["_diffrn_radiation_probe"] == "electron"
    assert float(block["_diffrn_source_voltage"]) == pytest.approx(200, abs=0.1)  # kV
    assert float(block["_diffrn_radiation_wavelength"]) == pytest.approx(0.02508, abs=1e-5)
    assert block["_chemical_formula_sum"] == "O2 Si"
    statistics = summary["statistics"]
    check_statistics(block, statistics)


def test_anisotropic_displacements(files):
    structure = read_structure("model.cif").structure
    structure.convert_to_anisotropic()
    with open("aniso.cif", "w") as stream:
        structure.as_cif_simple(out=stream)
    hybrid_refine.run([*INPUT[:2], "aniso.cif", *FAST])
    summary = json.loads((files / "dials.hybrid_refine.json").read_text())
    block = iotbx.cif.reader(file_path="hybrid_refined.cif").model()["hybrid_refined"]
    for i, atom in enumerate(summary["structure"]["atoms"]):
        assert len(atom["u_cif"]) == len(atom["u_su"]) == 6 and "u_iso" not in atom
        for k, name in enumerate(("11", "22", "33", "12", "13", "23")):
            value, su, unit = value_and_su(block[f"_atom_site_aniso_U_{name}"][i])
            assert abs(value - atom["u_cif"][k]) <= 0.5001 * unit
            assert abs(su - atom["u_su"][k]) <= 0.5001 * unit
            assert su > 0
    # Si on the twofold axis along b: 2 U12 = U11, U13 = 2 U23
    u_11, _, _, u_12, u_13, u_23 = summary["structure"]["atoms"][0]["u_cif"]
    assert 2 * u_12 == pytest.approx(u_11) and u_13 == pytest.approx(2 * u_23)


def test_what_is_not_refined_has_no_uncertainty(files):
    hybrid_refine.run([*INPUT, *FAST, "structure.sites=False"])
    before = read_structure("model.cif").structure
    summary = json.loads((files / "dials.hybrid_refine.json").read_text())
    block = iotbx.cif.reader(file_path="hybrid_refined.cif").model()["hybrid_refined"]
    for i, atom in enumerate(summary["structure"]["atoms"]):
        assert_allclose(atom["site"], before.scatterers()[i].site, atol=1e-12)
        assert atom["site_su"] is None
        assert not any("(" in block[f"_atom_site_fract_{x}"][i] for x in "xyz")
        assert "(" in block["_atom_site_U_iso_or_equiv"][i] and atom["u_su"] > 0


def test_cif_is_valid(refined, core_dictionary):
    text = (refined / "hybrid_refined.cif").read_text()
    assert core_dictionary.violations(text) == []
    assert "F_squared" not in text and "intensity_meas" not in text


def test_reflections_in_the_cif(files, core_dictionary):
    hybrid_refine.run([*INPUT, *FAST, "cif.reflections=merged", "output.mtz=merged.mtz"])
    block = iotbx.cif.reader(file_path="hybrid_refined.cif").model()["hybrid_refined"]
    merged = iotbx.mtz.object("merged.mtz")
    assert len(block["_refln_F_squared_meas"]) == merged.n_reflections()
    assert core_dictionary.violations((files / "hybrid_refined.cif").read_text()) == []


def test_shelx_model_is_the_same(refined):
    """To the digits of the .res file, which has more than the s.u. allow in the CIF."""
    of_res, of_cif = (
        read_structure(refined / f"hybrid_refined.{suffix}").structure for suffix in ("res", "cif")
    )
    summary = json.loads((refined / "dials.hybrid_refine.json").read_text())
    assert of_res.space_group() == of_cif.space_group()
    for scatterer, atom in zip(of_res.scatterers(), summary["structure"]["atoms"]):
        assert scatterer.label == atom["label"]
        assert_allclose(scatterer.site, atom["site"], atol=5.1e-7)
        assert scatterer.u_iso == pytest.approx(atom["u_iso"], abs=5.1e-6)
        assert scatterer.occupancy == pytest.approx(1)


def test_merged_intensities_agree_with_the_model(refined, summary):
    """The data of SHELX and MTZ are the same; against FC they are as good as the refinement.

    R of |F_o| against |F_c|, averaged over equivalents, is close to MR_all, which is the same
    sum with dynamical intensities.
    """
    arrays = {
        array.info().labels[0]: array
        for array in iotbx.mtz.object(str(refined / "hybrid_refined.mtz")).as_miller_arrays()
    }
    observed, calculated = arrays["FOBS"].common_sets(arrays["FC"])
    r_all = flex.sum(flex.abs(observed.data() - flex.abs(calculated.data())))
    r_all /= flex.sum(observed.data())
    assert r_all == pytest.approx(summary["statistics"]["mr_all"], abs=0.02)
    with open(refined / "hybrid_refined.hkl") as stream:
        (shelx,) = hklf.reader(file_object=stream).as_miller_arrays(observed)
    shelx = shelx.set_observation_type_xray_intensity().merge_equivalents().array()
    shelx, mtz = shelx.common_sets(arrays["IOBS"])
    assert len(shelx.data()) == len(observed.data())
    ratio = numpy(shelx.data()) / numpy(mtz.data())
    strong = numpy(mtz.data()) > 0.1
    (scale,) = re.findall(
        r"^FVAR (.*)$", (refined / "hybrid_refined.res").read_text(), re.MULTILINE
    )
    assert_allclose(ratio[strong], float(scale) ** 2, rtol=1e-3)
    assert arrays["FreeR_flag"].data().count(1) > 0
