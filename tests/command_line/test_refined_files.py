"""The files of dials.hybrid_refine, read by other programs and recomputed from each other."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_runs import FAST, INPUT
from numpy.testing import assert_allclose, assert_array_equal

import iotbx.cif
from cctbx import sgtbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.io.structure import read_structure

NUMBER, COUNT, TEXT, LIST = (int, float), int, str, list
KEYS = {
    "program": TEXT, "version": TEXT, "status": TEXT, "seed": COUNT,
    "input": {"experiments": LIST, "reflections": LIST, "structure": TEXT, "sha256": dict},
    "statistics": {
        "n_reflections": COUNT, "n_observed": COUNT, "n_rejected": COUNT, "n_excluded": dict,
        "n_parameters": COUNT, "r_obs": NUMBER, "r_all": NUMBER, "wr_all": NUMBER, "gof": NUMBER,
        "mr_obs": NUMBER, "mr_all": NUMBER, "r_obs_held_out": NUMBER, "n_held_out": COUNT,
        "loss_start": NUMBER, "loss_final": NUMBER, "n_iterations": COUNT,
        "mwr_all": NUMBER, "held_out_by": TEXT,
        "frames": {
            "n_frames": COUNT, "n_reflections": COUNT, "n_observed": COUNT, "r_obs_mean": NUMBER,
            "wr2_mean": NUMBER, "r_obs_mean_used": NUMBER, "wr2_mean_used": NUMBER, "rsg": NUMBER,
            "dsg": NUMBER, "semi_angle": NUMBER, "step": NUMBER,
        },
    },
    "structure": {"space_group": TEXT, "unit_cell": LIST, "atoms": LIST},
    "thickness": LIST, "orientation": LIST, "scale": LIST, "frames": LIST,
    "absorption": (dict, type(None)), "mosaicity": (dict, type(None)),
    "absolute_structure": (dict, type(None)),
    "timing": {
        "setup_s": NUMBER, "refine_s": NUMBER, "per_iteration_s": NUMBER, "device": TEXT,
        "dtype": TEXT, "n_beams_mean": NUMBER, "n_beams_max": COUNT,
    },
}  # fmt: skip
STATUS = {"used": 0, "held out": 1, "rejected": 2, "excluded": 3}


@pytest.fixture(scope="session")
def summary(refined):
    return json.loads((refined / "dials.hybrid_refine.json").read_text())


@pytest.fixture(scope="session")
def table(refined):
    return flex.reflection_table.from_file(str(refined / "hybrid_refined.refl"))


@pytest.fixture(scope="session")
def block(refined):
    cif = iotbx.cif.reader(file_path=str(refined / "hybrid_refined.cif")).model()
    return cif["hybrid_refined"]


def numpy(column):
    return np.array(column.as_numpy_array())


@pytest.mark.parametrize(
    "arguments, model, value",
    [
        (["absorption.model=proportional"], "proportional", None),
        (["absorption.model=tabulated"], "tabulated", None),
        (["absorption.model=tabulated", "absorption.factor=2"], "tabulated", 2),
    ],
)
def test_absorption_is_stated(files, capsys, arguments, model, value):
    fixed = [] if value is None else ["absorption.refine=False"]
    hybrid_refine.run([*INPUT, *FAST, *arguments, *fixed])
    summary = json.loads(Path("dials.hybrid_refine.json").read_text())
    found = summary["absorption"]
    assert found["model"] == model
    (line,) = re.findall("Absorption: .*", capsys.readouterr().out)
    assert f"= {found['value']:.4f}" in line
    if value is None:
        assert found["su"] > 0 and f"s.u. {found['su']:.4f}" in line
    else:
        assert (found["value"], found["su"]) == (value, None) and "fixed" in line
    ratio = found["value"] if model == "proportional" else None
    assert summary["absorption_ratio"] == ratio


# -- summary ------------------------------------------------------------------------------------


def check_keys(expected, found, path=""):
    for key, kind in expected.items():
        assert key in found, path + key
        if isinstance(kind, dict):
            check_keys(kind, found[key], f"{path}{key}.")
        else:
            assert isinstance(found[key], kind) and not isinstance(found[key], bool), path + key


def test_keys(summary):
    check_keys(KEYS, summary)
    assert summary["status"] in ("converged", "max_iterations")
    assert summary["program"] == "dials.hybrid_refine"
    for name, entry in {
        "thickness": {
            "experiment": COUNT,
            "phi": NUMBER,
            "mean": NUMBER,
            "std": NUMBER,
            "mean_su": NUMBER,
            "std_su": NUMBER,
        },
        "orientation": {"experiment": COUNT, "phi": NUMBER, "correction": LIST},
        "scale": {"experiment": COUNT, "phi": NUMBER, "scale": NUMBER},
    }.items():
        assert len(summary[name]) == 20, name
        for item in summary[name]:
            check_keys(entry, item, f"{name}.")
    for atom in summary["structure"]["atoms"]:
        expected = {"label": TEXT, "element": TEXT, "site": LIST, "site_su": LIST}
        check_keys({**expected, "occupancy": NUMBER, "u_iso": NUMBER, "u_su": NUMBER}, atom)


def test_numbers_are_finite_numbers(refined):
    def refuse(text):
        raise AssertionError(text)

    text = (refined / "dials.hybrid_refine.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    del content["version"]

    def strings(value, path=""):
        if isinstance(value, dict):
            for key, item in value.items():
                strings(item, f"{path}.{key}")
        elif isinstance(value, list):
            for item in value:
                strings(item, path)
        elif isinstance(value, str):
            assert not re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?|nan|inf", value.lower()), path

    strings(content)


def test_input_is_identified(refined, summary):
    assert summary["input"]["experiments"] == ["data.expt"]
    assert summary["input"]["reflections"] == ["data.refl"]
    assert summary["input"]["structure"] == "model.cif"
    for name in INPUT:
        digest = hashlib.sha256((refined / name).read_bytes()).hexdigest()
        assert summary["input"]["sha256"][name] == digest


def test_every_reflection_is_counted(refined, summary, table):
    rows = len(flex.reflection_table.from_file(str(refined / "data.refl")))
    counted = summary["statistics"]
    excluded = sum(counted["n_excluded"].values())
    assert (
        counted["n_reflections"] + counted["n_held_out"] + counted["n_rejected"] + excluded == rows
    )
    status = numpy(table["hybrid_refine.status"])
    assert (status == STATUS["used"]).sum() == counted["n_reflections"] > 50
    assert (status == STATUS["held out"]).sum() == counted["n_held_out"] > 0
    assert (status == STATUS["rejected"]).sum() == counted["n_rejected"]
    assert (status == STATUS["excluded"]).sum() == excluded


def r_factors(observed, sigma, calculated):
    """R_obs, R_all, wR_all and the weighted sum of squares, on F = sqrt(I)."""
    f_o, f_c = (np.sqrt(np.maximum(x, 0)) for x in (observed, calculated))
    weak = observed < 0.01 * sigma
    sigma_f = np.where(weak, 5 * np.sqrt(sigma), sigma / (2 * np.where(weak, 1, f_o)))
    w = 1 / (sigma_f**2 + (0.01 * f_o) ** 2)
    strong = observed > 3 * sigma
    sums = (w * (f_o - f_c) ** 2).sum()
    return (
        np.abs(f_o - f_c)[strong].sum() / f_o[strong].sum(),
        np.abs(f_o - f_c).sum() / f_o.sum(),
        np.sqrt(sums / (w * f_o**2).sum()),
        sums,
        strong.sum(),
    )


def equivalents(hkl, space_group):
    """A number for each set of reflections that the Laue group makes equivalent."""
    laue = sgtbx.space_group_info(space_group).group().build_derived_laue_group()
    rotations = np.array([op.r().num() for op in laue.all_ops()]).reshape(-1, 3, 3)
    images = np.einsum("nj,mji->nmi", hkl, rotations)
    keys = [max(tuple(h) for h in mates) for mates in images]
    return np.unique(keys, axis=0, return_inverse=True)[1].ravel()


def test_r_factors_follow_from_the_reflections(summary, table):
    statistics = summary["statistics"]
    observed, calculated = (
        numpy(table[n]) for n in ("intensity.prf.value", "hybrid_refine.intensity.calc")
    )
    sigma = np.sqrt(numpy(table["intensity.prf.variance"]))
    status, scale = (numpy(table[f"hybrid_refine.{n}"]) for n in ("status", "scale"))
    used, held = status == STATUS["used"], status == STATUS["held out"]

    r_obs, r_all, wr_all, sums, n_observed = r_factors(
        observed[used], sigma[used], calculated[used]
    )
    found = [statistics[name] for name in ("r_obs", "r_all", "wr_all", "n_observed")]
    assert_allclose(found, [r_obs, r_all, wr_all, n_observed], rtol=1e-9)
    freedom = used.sum() - statistics["n_parameters_effective"]
    assert statistics["gof"] == pytest.approx(np.sqrt(sums / freedom))
    r_held_out = r_factors(observed[held], sigma[held], calculated[held])[0]
    assert statistics["r_obs_held_out"] == pytest.approx(r_held_out)

    groups = equivalents(
        np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3).round().astype(int)[used],
        summary["structure"]["space_group"],
    )
    o, s, c = (x[used] / scale[used] for x in (observed, sigma, calculated))
    members = [groups == g for g in range(groups.max() + 1)]
    assert len(members) < used.sum()
    merged = r_factors(
        np.array([o[m].mean() for m in members]),
        np.array([np.sqrt((s[m] ** 2).sum()) / m.sum() for m in members]),
        np.array([c[m].mean() for m in members]),
    )
    found = [statistics[name] for name in ("mr_obs", "mr_all", "mwr_all")]
    assert_allclose(found, merged[:3], rtol=1e-9)


def test_weights(table):
    status = numpy(table["hybrid_refine.status"])
    used = status == STATUS["used"]
    weight = numpy(table["hybrid_refine.weight"])
    intensity = np.maximum(numpy(table["intensity.prf.value"]), 0)
    instability = hybrid_refine.phil_scope.extract().weighting.instability
    variance = numpy(table["intensity.prf.variance"]) + (instability * intensity) ** 2
    product = (weight * variance)[used]
    assert_allclose(product, product[0], rtol=1e-9)
    assert (weight[status == STATUS["excluded"]] == 0).all()


def test_the_refinement_did_something(summary):
    """Oxygen goes back to where it was simulated; the thickness is that of the simulation."""
    oxygen = summary["structure"]["atoms"][1]["site"]
    assert np.abs(np.array(oxygen) - [0.8534, 0.5865, 0.6191]).max() < 0.003
    assert all(250 < item["mean"] < 350 for item in summary["thickness"])


# -- CIF ----------------------------------------------------------------------------------------


def value_and_su(text):
    """Value, s.u. (0 without brackets) and size of the last digit of a number in a CIF."""
    number, su = re.fullmatch(r"(-?\d+(?:\.\d*)?)(?:\((\d+)\))?", text).groups()
    unit = 10.0 ** -len(number.partition(".")[2])
    return float(number), int(su or 0) * unit, unit


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


@pytest.fixture(scope="session")
def dictionary(shared):
    """Data names of the core dictionary, in lower case, with the values each allows."""
    text = (shared / "dictionaries" / "cif_core.dic").read_text()
    text = re.sub(r"^;.*?^;", "", text, flags=re.MULTILINE | re.DOTALL)  # descriptions
    names = {}
    for frame in re.split(r"^save_(?=\S)", text, flags=re.MULTILINE):
        found = re.findall(r"^ *_definition\.id\s+'?(_[^\s']+)", frame, re.MULTILINE)
        for aliases in re.findall(
            r"_alias\.definition_id(.*?)(?=_definition\.|\n\n)", frame, re.DOTALL
        ):
            found += re.findall(r"'(_[^\s']+)'", aliases)
        allowed = re.search(r"_enumeration_set\.state(.*?)(?:\n\s*_(?!enum)|\Z)", frame, re.DOTALL)
        states = (
            re.findall(r"^ +'?([\w.+-]+)'?(?=\s|$)", allowed.group(1), re.MULTILINE)
            if allowed
            else None
        )
        names.update({name.lower(): states for name in found})
    assert len(names) > 2000
    return names


def test_data_names_and_codes_are_of_the_core_dictionary(block, dictionary):
    for name in block.keys():
        assert name.lower() in dictionary, name
    codes = [name for name in block.keys() if dictionary[name.lower()]]
    assert {"_refine.diffraction_theory", "_diffrn_radiation_probe"} <= set(codes)
    assert len(codes) >= 8, codes
    for name in codes:
        values = [block[name]] if isinstance(block[name], str) else block[name]
        assert set(values) <= set(dictionary[name.lower()]), name


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
    for name, key in (
        ("_refine_ls_R_factor_gt", "r_obs"),
        ("_refine_ls_R_factor_all", "r_all"),
        ("_refine_ls_wR_factor_ref", "wr_all"),
        ("_refine_ls_goodness_of_fit_ref", "gof"),
        ("_refine_ls_number_reflns", "n_reflections"),
        ("_refine_ls_number_reflns_gt", "n_observed"),
        ("_refine_ls_number_parameters", "n_parameters"),
    ):
        value, _, unit = value_and_su(block[name])
        assert abs(value - statistics[key]) <= 0.5001 * unit, name


# -- experiments and reflections ----------------------------------------------------------------


def experiment_of(path):
    return ExperimentListFactory.from_json_file(str(path), check_format=False)[0]


def rotation(vector):
    """Rodrigues' formula for a rotation vector in radians."""
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle if angle else (0, 0, 1)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def laboratory_setting(experiment, i):
    """S R(phi) F A at a scan point."""
    goniometer = experiment.goniometer
    setting, fixed = (
        np.array(m).reshape(3, 3)
        for m in (goniometer.get_setting_rotation(), goniometer.get_fixed_rotation())
    )
    start, width = experiment.scan.get_oscillation()
    turn = rotation(np.radians(start + i * width) * np.array(goniometer.get_rotation_axis_datum()))
    crystal = experiment.crystal
    a = crystal.get_A_at_scan_point(i) if crystal.num_scan_points else crystal.get_A()
    return setting @ turn @ fixed @ np.array(a).reshape(3, 3)


def test_orientation_is_applied(refined, summary):
    """g' = R(c) g in the laboratory, at every scan point."""
    before, after = (experiment_of(refined / f"{n}.expt") for n in ("data", "hybrid_refined"))
    assert after.crystal.num_scan_points == 21
    for name in ("get_setting_rotation", "get_fixed_rotation"):
        matrix = np.array(getattr(before.goniometer, name)()).reshape(3, 3)
        assert np.abs(matrix - np.eye(3)).max() > 0.1
    phi = [item["phi"] for item in summary["orientation"]]
    corrections = np.array([item["correction"] for item in summary["orientation"]])
    assert np.abs(corrections).max() > 1e-3
    for i in range(21):
        at_point = [np.interp(-30 + i, phi, corrections[:, k]) for k in range(3)]
        expected = rotation(np.radians(at_point)) @ laboratory_setting(before, i)
        assert_allclose(laboratory_setting(after, i), expected, rtol=0, atol=1e-9)


def test_the_rest_of_the_experiment_is_as_before(refined):
    before, after = (experiment_of(refined / f"{n}.expt") for n in ("data", "hybrid_refined"))
    assert after.identifier == before.identifier != ""
    for name in ("beam", "detector", "goniometer", "scan"):
        assert getattr(after, name) == getattr(before, name), name
    assert_allclose(
        after.crystal.get_unit_cell().parameters(), before.crystal.get_unit_cell().parameters()
    )


def test_all_rows_and_columns_are_kept(refined, table):
    before = flex.reflection_table.from_file(str(refined / "data.refl"))
    assert len(table) == len(before)
    assert set(table.keys()) - set(before.keys()) == {
        f"hybrid_refine.{name}" for name in ("intensity.calc", "scale", "weight", "status")
    }
    for name in before.keys():
        assert list(table[name]) == list(before[name]), name
    assert dict(table.experiment_identifiers()) == dict(before.experiment_identifiers()) != {}


# -- other models and data --------------------------------------------------------------------------


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


def test_data_from_a_microscope(quartz, shared, run_in_tmp_path):
    """A scan-varying crystal, a profile model, and reflections without windows of their own."""
    model = shared / "paper" / "quartz" / "kinematical.cif"
    names = [str(quartz / f"integrated.{suffix}") for suffix in ("expt", "refl")]
    hybrid_refine.run([*names, str(model), *FAST, "d_min=1.2", "thickness.start=400"])
    summary = json.loads((run_in_tmp_path / "dials.hybrid_refine.json").read_text())
    counted = summary["statistics"]
    assert 1653 == sum(
        counted[name] for name in ("n_reflections", "n_held_out", "n_rejected")
    ) + sum(counted["n_excluded"].values())
    before, after = (experiment_of(n) for n in (names[0], "hybrid_refined.expt"))
    assert before.crystal.num_scan_points == after.crystal.num_scan_points == 101
    phi = [item["phi"] for item in summary["orientation"]]
    corrections = np.array([item["correction"] for item in summary["orientation"]])
    for i in range(0, 101, 10):
        at_point = [np.interp(-50 + i, phi, corrections[:, k]) for k in range(3)]
        expected = rotation(np.radians(at_point)) @ laboratory_setting(before, i)
        assert_allclose(laboratory_setting(after, i), expected, rtol=0, atol=1e-9)
    table = flex.reflection_table.from_file("hybrid_refined.refl")
    assert len(table) == 1653 and "s1" in table and "bbox" in table


# -- further runs ----------------------------------------------------------------------------------


def test_its_own_output_is_good_input(refined, summary, run_in_tmp_path):
    own = [f"hybrid_refined.{suffix}" for suffix in ("expt", "refl", "cif")]
    for name in own:
        shutil.copy(refined / name, run_in_tmp_path)
    digests = {n: hashlib.sha256((run_in_tmp_path / n).read_bytes()).hexdigest() for n in own}
    hybrid_refine.run(own + FAST)
    again = json.loads((run_in_tmp_path / "dials.hybrid_refine.json").read_text())
    assert again["input"]["sha256"] == digests  # of what was read, although it is written over
    assert again["statistics"]["r_obs"] < 1.1 * summary["statistics"]["r_obs"]
    assert_allclose(again["structure"]["unit_cell"], summary["structure"]["unit_cell"], rtol=2e-6)


def test_none_disables(files):
    before = set(os.listdir(files))
    names = ("structure", "experiments", "reflections", "json", "log", "html", "res")
    known = [n for n in names if hasattr(hybrid_refine.phil_scope.extract().output, n)]
    hybrid_refine.run(INPUT + FAST + [f"output.{name}=None" for name in known])
    assert set(os.listdir(files)) == before


def test_names_in_any_script(files):
    os.mkdir("données 石英")
    os.rename("data.expt", "données 石英/my data.expt")
    os.rename("model.cif", "données 石英/α quartz.cif")
    before = set(os.listdir("données 石英"))
    hybrid_refine.run(
        ["données 石英/my data.expt", "data.refl", "données 石英/α quartz.cif", *FAST]
        + [
            f"output.{name}=données 石英/out put {name}.{suffix}"
            for name, suffix in (
                ("structure", "cif"), ("experiments", "expt"), ("reflections", "refl"),
                ("json", "json"), ("log", "log"),
            )
        ]
    )  # fmt: skip
    assert set(os.listdir("données 石英")) - before == {
        f"out put {name}"
        for name in (
            "structure.cif", "experiments.expt", "reflections.refl", "json.json", "log.log"
        )
    }  # fmt: skip
    content = json.loads((files / "données 石英/out put json.json").read_text())
    assert content["input"]["structure"] == "données 石英/α quartz.cif"
    assert "données 石英/α quartz.cif" in content["input"]["sha256"]


def without_timing(path):
    content = json.loads(path.read_text())
    del content["timing"]
    return content


@pytest.mark.parametrize("nproc", [1, 2])
def test_same_seed_same_result(refined, files, nproc):
    hybrid_refine.run([*INPUT, *FAST, f"nproc={nproc}"])
    name = "dials.hybrid_refine.json"
    assert without_timing(files / name) == without_timing(refined / name)
    for name in ("hybrid_refined.cif", "hybrid_refined.expt"):
        assert (files / name).read_text() == (refined / name).read_text()


def test_another_seed_holds_out_others(refined, files, table):
    hybrid_refine.run([*INPUT, *FAST, "seed=1"])
    other = flex.reflection_table.from_file("hybrid_refined.refl")
    first, second = (numpy(t["hybrid_refine.status"]) == STATUS["held out"] for t in (table, other))
    assert first.any() and second.any() and (first != second).any()
    assert json.loads((files / "dials.hybrid_refine.json").read_text())["seed"] == 1


def test_held_out_mates_are_together(table):
    status = numpy(table["hybrid_refine.status"])
    hkl = np.array(table["miller_index"].as_vec3_double()).reshape(-1, 3).round().astype(int)
    groups = equivalents(hkl, "P 32 2 1")
    in_use = status != STATUS["excluded"]
    held = set(groups[in_use & (status == STATUS["held out"])])
    others = set(groups[in_use & (status != STATUS["held out"])])
    assert held and not held & others
    assert_array_equal(np.unique(status[in_use]) <= 2, True)


def test_a_shape_is_chosen_by_name(files):
    """A plate-like cylinder: thickness of one shape at all angles, its width refined with its mean."""
    hybrid_refine.run(
        [*INPUT, *FAST, "thickness.model=cylinder", "thickness.tilt_correction=True", "d_min=1.0"]
    )
    profile = json.loads((files / "dials.hybrid_refine.json").read_text())["thickness"]
    relative = np.sqrt(2 / 3 - np.pi**2 / 16) / (np.pi / 4)
    for entry in profile:
        assert entry["std"] == pytest.approx(relative * entry["mean"], rel=5e-3)
        assert entry["std_su"] == pytest.approx(relative * entry["mean_su"], rel=5e-3)
        assert entry["mean_su"] > 0
    # in the log as mean(s.u.)
    number = r"\d+(\.\d+)?\(\d+\)"
    assert re.search(rf"^\| 0 +\| +-?\d+\.\d \| {number} +\| {number} +\|", _log(files), re.M)
    assert "include its priors" in _log(files)


def _log(folder):
    return (folder / "dials.hybrid_refine.log").read_text()


@pytest.mark.parametrize("model", ["neural_mean", "per_image"])
def test_models_of_one_thickness_have_no_width(files, model):
    hybrid_refine.run([*INPUT, *FAST, f"thickness.model={model}", "d_min=1.0"])
    profile = json.loads((files / "dials.hybrid_refine.json").read_text())["thickness"]
    assert all(entry["std"] == entry["std_su"] == 0 for entry in profile)
    assert all(entry["mean_su"] > 0 for entry in profile)
