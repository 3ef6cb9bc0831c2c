"""What the validation compares and writes."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cctbx import sgtbx, xray
from dxtbx.model import ExperimentList

from benchmarks.validation import run_row
from benchmarks.validation.compare import (
    displacement_deviations,
    mean_and_largest,
    orientation_deviations,
    refined_structure,
    site_deviations,
    thickness_deviations,
)
from benchmarks.validation.perturb import SmoothRotation, turn_left, turned
from benchmarks.validation.rows import Dataset, Row, Start, all_rows, select
from benchmarks.validation.run_row import ProgramError, Settings, is_done
from benchmarks.validation.structures import (
    displaced,
    nitrobenzene,
    package_file,
    start_structure,
    true_structure,
)
from benchmarks.validation.table import document, median_and_range, write_documents
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.models.thickness.given import GivenThickness


@pytest.fixture
def quartz_truth() -> xray.structure:
    structure = read_structure(package_file("quartz_demo.cif")).structure
    structure.convert_to_anisotropic()
    for scatterer in structure.scatterers():  # tensors that symmetry operations do change
        scatterer.u_star = tuple(np.array(scatterer.u_star) * (1, 1.2, 0.7, 1, 1, 1))
    structure.apply_symmetry_u_stars()
    return structure


def _equivalent(structure: xray.structure, operation: str) -> xray.structure:
    """The same crystal, its atoms written down at equivalent places."""
    op = sgtbx.rt_mx(operation)
    turn = np.array(op.r().as_double()).reshape(3, 3)
    copy = structure.deep_copy_scatterers()
    for scatterer in copy.scatterers():
        scatterer.site = op * scatterer.site
        u11, u22, u33, u12, u13, u23 = scatterer.u_star
        u = turn @ [[u11, u12, u13], [u12, u22, u23], [u13, u23, u33]] @ turn.T
        scatterer.u_star = (u[0, 0], u[1, 1], u[2, 2], u[0, 1], u[0, 2], u[1, 2])
    return copy


def test_equivalent_atoms_do_not_deviate(quartz_truth: xray.structure) -> None:
    found = _equivalent(quartz_truth, "-y+3,x-y-1,z+2/3")
    assert max(site_deviations(found, quartz_truth).values()) < 1e-9
    assert max(displacement_deviations(found, quartz_truth).values()) < 1e-9
    swapped = _equivalent(quartz_truth, "y,x,z")  # no operation of the space group
    assert max(site_deviations(swapped, quartz_truth).values()) > 0.3


def test_known_shift_is_found_at_an_equivalent_place(quartz_truth: xray.structure) -> None:
    shifted = quartz_truth.deep_copy_scatterers()
    oxygen = shifted.scatterers()[1]
    step = shifted.unit_cell().fractionalize((0.03, -0.04, 0.0))
    oxygen.site = tuple(np.add(oxygen.site, step))
    oxygen.u_star = tuple(1.1 * u for u in oxygen.u_star)
    found = _equivalent(shifted, "x-y,-y,-z+1/3")
    assert site_deviations(found, quartz_truth) == pytest.approx({"Si1": 0, "O1": 0.05}, abs=1e-9)
    assert displacement_deviations(found, quartz_truth) == pytest.approx(
        {"Si1": 0, "O1": 0.1}, abs=1e-9
    )


def test_polar_axis_is_free() -> None:
    """P 21: a shift along b and an operation that turns b round do nothing, one along a does."""
    truth = nitrobenzene()
    found = truth.deep_copy_scatterers()
    operation = sgtbx.rt_mx("-x,y+1/2,-z")
    for i, scatterer in enumerate(found.scatterers()):
        site = np.add(scatterer.site, (0, 0.03, 0))
        scatterer.site = operation * tuple(site) if i % 2 else tuple(site)
    assert max(site_deviations(found, truth).values()) < 1e-9
    for scatterer in found.scatterers():
        scatterer.site = tuple(np.add(scatterer.site, (0.01, 0, 0)))
    assert min(site_deviations(found, truth).values()) == pytest.approx(0.062, rel=1e-6)


def test_inverted_molecule_deviates() -> None:
    truth = nitrobenzene()
    found = truth.deep_copy_scatterers()
    for scatterer in found.scatterers():
        scatterer.site = tuple(-np.array(scatterer.site))
    assert max(site_deviations(found, truth).values()) > 0.3


def test_atoms_of_the_summary_are_matched_by_label(quartz_truth: xray.structure) -> None:
    atoms = [
        {"label": "O1", "site": [0.1, 0.2, 0.3], "u_cif": [0.01, 0.02, 0.03, 0, 0, 0]},
        {"label": "Si1", "site": [0.0, 0.47, 0.8333], "u_iso": 0.007},
    ]
    found = refined_structure({"structure": {"atoms": atoms}}, quartz_truth)
    silicon, oxygen = found.scatterers()
    assert silicon.site == (0.0, 0.47, 0.8333) and silicon.u_iso == 0.007
    assert oxygen.site == (0.1, 0.2, 0.3)
    with pytest.raises(ValueError, match="other atoms"):
        refined_structure({"structure": {"atoms": atoms[:1]}}, quartz_truth)


def test_hydrogen_is_apart() -> None:
    truth = nitrobenzene()
    deviations = {s.label: 0.001 for s in truth.scatterers()} | {"H7": 0.02, "N12": 0.01}
    figures = mean_and_largest(deviations, truth)
    assert figures["largest"] == 0.01 and figures["largest_hydrogen"] == 0.02
    assert figures["mean"] == pytest.approx((8 * 0.001 + 0.01) / 9)


def test_molecule_is_packed_without_overlap() -> None:
    """Bonds as many as they should be; no more neighbours within 2.2 Angstrom (H...H 2.23, 0.97 of
    the van der Waals distances) than atoms of the molecule itself have."""
    structure = nitrobenzene()
    assert structure.space_group_info().type().number() == 4
    bonds = {"C": 3, "H": 1, "N": 3, "O": 1}
    neighbours = structure.pair_asu_table(1.6).pair_counts()
    assert list(neighbours) == [bonds[s.element_symbol()] for s in structure.scatterers()]
    sites = structure.sites_cart()
    alone = [sum(0 < (np.subtract(a, b) ** 2).sum() < 2.2**2 for b in sites) for a in sites]
    assert list(structure.pair_asu_table(2.2).pair_counts()) == alone


def test_starts_are_as_far_as_they_say() -> None:
    truth = true_structure(Dataset("x", "simulated", "quartz"), Path())
    for seed in (1, 2):
        start = start_structure(
            Dataset("x", "simulated", "quartz"), Start("far", "truth", 0.3, 1.5, seed), Path()
        )
        distances = site_deviations(start, truth)
        assert np.mean(list(distances.values())) == pytest.approx(0.3, abs=1e-6)
        assert start.scatterers()[0].u_iso == pytest.approx(1.5 * truth.scatterers()[0].u_iso)
        # Si stays on its twofold axis
        assert start.scatterers()[0].site[0] == pytest.approx(truth.scatterers()[0].site[0])
    again = displaced(truth, 0.3, 2)
    np.testing.assert_array_equal(again.sites_frac(), start.sites_frac())


def test_synthetic_truth_is_that_of_the_file(shared: Path) -> None:
    """start_1 is a mean of 0.073 Angstrom from the truth of CsPbBr3, over the atoms that move."""
    paper = shared / "paper"
    data = next(r.dataset for r in all_rows() if r.dataset.name == "synthetic-cspbbr3")
    truth = true_structure(data, paper)
    start = start_structure(data, Start("start_1", "synthetic_start_1.cif"), paper)
    distances = site_deviations(start, truth)
    assert distances["Pb1"] == 0
    moved = [d for label, d in distances.items() if label != "Pb1"]
    assert np.mean(moved) == pytest.approx(0.0975, abs=0.0005)
    assert np.mean(list(distances.values())) == pytest.approx(0.073, abs=0.0005)
    far = start_structure(data, Start("far_1", "synthetic_start_1.cif", 0.3, 2.0, 1), paper)
    moved = [d for label, d in site_deviations(far, truth).items() if label != "Pb1"]
    assert np.mean(moved) == pytest.approx(0.3, abs=1e-6)
    assert far.scatterers()[0].u_iso_or_equiv(far.unit_cell()) == pytest.approx(0.05, abs=1e-6)


def test_turn_is_smooth_and_as_large_as_said() -> None:
    phi = np.linspace(-50.0, 50.0, 1001)
    turn = SmoothRotation((-50.0, 50.0), 0.2, seed=3).at(phi)
    assert np.linalg.norm(turn, axis=1).max() == pytest.approx(0.2, rel=1e-3)
    # the fastest term has three periods in 100 degrees
    assert np.abs(np.diff(turn, n=2, axis=0)).max() / 0.1**2 < 0.2 * (2 * np.pi * 3 / 100) ** 2
    assert not np.allclose(turn, SmoothRotation((-50.0, 50.0), 0.2, seed=4).at(phi))


def test_turned_experiment_has_turned_reciprocal_vectors() -> None:
    """g' = R g in the laboratory, for a goniometer with fixed and setting rotations."""
    shipped = resources.files("dials_hybrid_refine") / "data" / "quartz_demo.expt"
    (experiment,) = ExperimentList.from_file(str(shipped), check_format=False)
    scan = scan_geometry(experiment)
    rotation = SmoothRotation(scan.phi_range, 0.2)
    phi = scan.phi_points
    after = scan_geometry(turned(experiment, rotation)).reciprocal_bases(phi)
    turns = Rotation.from_rotvec(np.radians(rotation.at(phi))).as_matrix()
    np.testing.assert_allclose(after, turns @ scan.reciprocal_bases(phi), atol=1e-12)


def test_orientation_left_over() -> None:
    rotation = SmoothRotation((0.0, 10.0), 0.2)
    phi = [0.0, 4.0, 9.0]
    undone = -rotation.at(phi)
    np.testing.assert_allclose(turn_left(undone, rotation.at(phi)), 0, atol=1e-9)
    np.testing.assert_allclose(
        turn_left(np.zeros((3, 3)), rotation.at(phi)), rotation.at(phi), rtol=1e-9
    )
    su = [0.01, 0.01, 0.05]
    entries = [
        {"phi": p, "correction": c.tolist(), "correction_su": su} for p, c in zip(phi, undone)
    ]
    entries[0]["correction"][1] += 0.006
    entries[1]["correction"][2] += 0.03
    figures = orientation_deviations(entries, rotation)
    assert figures["largest"] == pytest.approx(0.03, rel=1e-3)
    assert figures["rms"] == pytest.approx((0.03**2 + 0.006**2) ** 0.5 / 3**0.5, rel=1e-3)
    # x and y are determined, z is not
    assert figures["rms_determined"] == pytest.approx(0.006 / 6**0.5, rel=1e-2)
    assert figures["largest_determined"] == pytest.approx(0.006, rel=1e-2)
    assert (figures["n_determined"], figures["n"]) == (6, 9)


def test_thickness_is_judged_where_it_is_determined() -> None:
    truth = GivenThickness([400.0, 600.0], 50.0, (0.0, 10.0))
    width = float(truth(torch.zeros(1), torch.zeros(1)).standard_deviation()[0])
    assert width == pytest.approx(50 * 0.97, rel=0.01)  # 15 nodes within 2.5 sigma
    entries = [
        {"phi": 0.0, "mean": 404.0, "std": 1.1 * width, "mean_su": 4.0, "std_su": 5.0},
        {"phi": 5.0, "mean": 500.0, "std": width, "mean_su": 4.0, "std_su": 20.0},
        {"phi": 10.0, "mean": 1200.0, "std": 3 * width, "mean_su": 300.0, "std_su": None},
    ]
    figures = thickness_deviations(entries, truth)
    assert figures["mean"] == pytest.approx(((0.01**2 + 1) / 3) ** 0.5)
    assert figures["mean_determined"] == pytest.approx(0.01 / 2**0.5)
    assert figures["width_determined"] == pytest.approx(0.1)
    assert (figures["n_mean_determined"], figures["n_width_determined"]) == (2, 1)


def test_rows_have_unique_names_and_can_be_selected() -> None:
    rows = all_rows()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert [r.name for r in select(rows, ["*cspbbr3/start_?/neural/*"], False)] == [
        "synthetic-cspbbr3/start_1/neural/seed0",
        "synthetic-cspbbr3/start_2/neural/seed0",
    ]
    assert 3 <= len(select(rows, [], True)) <= 6
    assert select(rows, ["no such row"], False) == []


def _result(row: Row, **changes: Any) -> dict[str, Any]:
    return {
        "name": row.name,
        "table": row.dataset.table,
        "dataset": row.dataset.name,
        "start": row.start.name,
        "variant": row.variant,
        "seed": row.seed,
        "version": "0.1",
        "commit": "abc",
        "date": "2026-01-02",
        "nproc": 2,
        "limit_s": 60.0,
        "status": "converged",
        "seconds": 10.0,
        "cpu_seconds": 20.0,
        "absorption_ratio": None,
        "statistics": {
            "r_obs": 0.05 + 0.01 * row.seed,
            "r_all": 0.06,
            "mr_obs": 0.05,
            "r_obs_held_out": None,
            "n_parameters": 40,
            "n_parameters_effective": 30.4,
            "n_iterations": 12,
            "frames": {"r_obs_mean": 0.0412, "wr2_mean": 0.05},
            "definitions": {"r_obs": "a definition"},
        },
        "sites": {"mean": 0.004, "largest": 0.011, "largest_hydrogen": None},
        "u": {"mean": 0.01, "largest": 0.02, "largest_hydrogen": None},
        "u_eq": {"Si1": 0.00871},
        "orientation": {
            "rms": 0.02,
            "largest": 0.04,
            "rms_determined": 0.01,
            "largest_determined": 0.02,
            "n_determined": 99,
            "n": 297,
        },
        **changes,
    }


def test_document_has_medians_outcomes_and_failures(tmp_path: Path) -> None:
    rows = all_rows()
    measured = select(rows, ["measured-quartz/*/wedge/*"], False)
    synthetic, failed = select(rows, ["synthetic-quartz/start_*"], False)
    results = [_result(row) for row in measured]
    results.append(_result(synthetic, status="max_iterations"))
    base = {k: v for k, v in _result(failed).items() if k not in ("statistics", "sites")}
    results.append({**base, "status": "failed", "message": "Sorry: no such model"})
    write_documents(results, [row.name for row in rows], tmp_path)
    text = (tmp_path / "validation.md").read_text()
    assert "| wedge | 5 of 5 | 0.0700 (0.0500-0.0900) | 0.0600 |" in text
    assert f"| {synthetic.name} | wrong, max iterations | 0.0040 | 0.0110 | 0.020 | 0.040 |" in text
    assert f"| {failed.name} | failed | Sorry: no such model |" in text
    assert "* r_obs: a definition" in text and "abc" in text and "2026-01-02" in text
    content = json.loads((tmp_path / "validation.json").read_text())
    assert len(content["rows"]) == 7 and content["definitions"] == {"r_obs": "a definition"}
    assert "definitions" not in content["rows"][0]["statistics"]
    for block in text.split("\n\n"):  # every table is rectangular
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1


def test_held_out_r_factors_are_compared_seed_by_seed() -> None:
    """Each with that of the neural model on the same held-out data, reflections or frames."""
    results = []
    for name, above in (
        ("neural", 0.0),
        ("wedge", 0.002),
        ("neural+frames", 0.05),
        ("wedge+frames", 0.06),
    ):
        rows = select(all_rows(), [f"measured-quartz/*/{name}/seed[012]"], False)
        assert len(rows) == (1 if name.endswith("+frames") else 3)
        for row in rows[: 2 if name == "neural" else 3]:
            result = _result(row)
            result["statistics"]["r_obs_held_out"] = 0.08 + 0.01 * row.seed + above
            results.append(result)
    lines = [line for line in document(results, 9).splitlines() if line.startswith("| wedge")]
    assert [line.split("|")[-2].strip() for line in lines] == ["0.0020", "0.0100"]
    neural = next(
        line for line in document(results, 9).splitlines() if line.startswith("| neural |")
    )
    assert neural.endswith("| - |")


def test_document_without_results_and_ranges() -> None:
    assert "0 of 5 rows have run." in document([], 5)
    assert median_and_range([0.2, None, 0.1, 0.4], 1) == "0.2 (0.1-0.4)"
    assert median_and_range([None], 1) == "-"
    assert median_and_range([0.2, 0.2], 1) == "0.2"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "out", tmp_path, nproc=1, limit=60.0, commit="abc")


def _stored(row: Row, settings: Settings, **changes: Any) -> None:
    folder = settings.output / row.name
    folder.mkdir(parents=True, exist_ok=True)
    result = {"status": "converged", "commit": "abc", "limit_s": 60.0, **changes}
    (folder / "result.json").write_text(json.dumps(result))


def test_row_is_done_until_something_changes(settings: Settings) -> None:
    (row,) = select(all_rows(), ["simulated-quartz"], False)
    key = run_row.key_of(row, settings.paper)
    assert not is_done(row, settings, False)
    _stored(row, settings, key=key)
    assert is_done(row, settings, True)
    _stored(row, settings, key=key, commit="other")
    assert is_done(row, settings, False) and not is_done(row, settings, True)
    _stored(row, settings, key=key, status="failed")
    assert not is_done(row, settings, False)
    _stored(row, settings, key=key, status="timed out", limit_s=30.0)
    assert not is_done(row, settings, False)
    _stored(row, settings, key=key, status="timed out")
    assert is_done(row, settings, False)
    _stored(row, settings, key="of other arguments")
    assert not is_done(row, settings, False)


def test_missing_file_and_failed_command_are_recorded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (missing,) = select(all_rows(), ["synthetic-quartz/start_1"], False)
    result = run_row.run_row(missing, settings)
    assert result["status"] == "failed" and "--paper" in result["message"]
    assert run_row.stored(missing, settings.output) == result

    def fails(*_: Any) -> bool:
        raise ProgramError("dials.hybrid_simulate: Sorry: this")

    monkeypatch.setattr(run_row, "_run_program", fails)
    (row,) = select(all_rows(), ["simulated-quartz"], False)
    assert run_row.run_row(row, settings)["message"] == "dials.hybrid_simulate: Sorry: this"


def test_commands_run_and_their_errors_are_named(tmp_path: Path) -> None:
    """The real command, with a file that is not there."""
    with pytest.raises(ProgramError, match="dials.import_pets: .*nothing.cif_pets"):
        run_row._run_program("import_pets", ["nothing.cif_pets"], tmp_path, None)
    assert run_row._run_program("import_pets", ["-h"], tmp_path, 0.0) is False  # out of time
