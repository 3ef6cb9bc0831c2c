"""What dials.hybrid_simulate puts in, dials.hybrid_refine gets out."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate
from dials_hybrid_refine.io.structure import read_structure

#: Angstrom at the first, middle and last angle of the scan (-30, 0 and 30 degrees)
THICKNESS = (450.0, 600.0, 700.0)


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    """Summary of the refinement of noisy data from a wrong start, and the true structure.

    Poisson noise of 4000 counts on average makes an intensity good to 2 %, the s.u. of
    coordinates below 0.001 Angstrom.
    """
    folder: Path = tmp_path_factory.mktemp("synthetic")
    shipped = resources.files("dials_hybrid_refine") / "data"
    truth = Path(str(shipped / "quartz_demo.cif"))
    simulated = {suffix: folder / f"simulated.{suffix}" for suffix in ("expt", "refl")}
    hybrid_simulate.run(
        [
            str(shipped / "quartz_demo.expt"),
            str(truth),
            "d_min=0.6",
            "thickness.mean=" + ",".join(map(str, THICKNESS)),
            "thickness.std=50",
            "noise.poisson=True",
            "mean_intensity=4000",
            f"output.experiments={simulated['expt']}",
            f"output.reflections={simulated['refl']}",
            f"output.log={folder / 'simulate.log'}",
        ]
    )
    structure = read_structure(truth).structure
    start = structure.deep_copy_scatterers()
    cell = structure.unit_cell()
    for scatterer, direction in zip(start.scatterers(), ((-1, 3**0.5, 0), (1, -1, 1))):
        step = 0.1 * np.array(direction) / np.linalg.norm(direction)
        scatterer.site = tuple(np.array(scatterer.site) + cell.fractionalize(tuple(step)))
    start.apply_symmetry_sites()
    with (folder / "start.cif").open("w") as stream:
        start.as_cif_simple(out=stream)
    hybrid_refine.run(
        [
            str(simulated["expt"]),
            str(simulated["refl"]),
            str(folder / "start.cif"),
            f"thickness.start={np.mean(THICKNESS) / 2}",
            f"output.structure={folder / 'refined.cif'}",
            f"output.json={folder / 'summary.json'}",
            f"output.log={folder / 'refine.log'}",
            "output.experiments=None",
            "output.html=None",
            "output.reflections=None",
            "absolute_structure.test=False",
        ]
    )
    return json.loads((folder / "summary.json").read_text()), structure


def test_sites_come_back(recovered: tuple[dict[str, Any], Any]) -> None:
    summary, truth = recovered
    assert summary["status"] == "converged"
    for atom, scatterer in zip(summary["structure"]["atoms"], truth.scatterers()):
        difference = np.array(atom["site"]) - scatterer.site
        distance = truth.unit_cell().length(tuple(difference - np.round(difference)))
        assert distance < 0.003, f"{atom['label']} is {distance:.4f} Angstrom off"


def test_displacement_parameters_come_back(recovered: tuple[dict[str, Any], Any]) -> None:
    summary, truth = recovered
    for atom, scatterer in zip(summary["structure"]["atoms"], truth.scatterers()):
        assert atom["u_iso"] == pytest.approx(scatterer.u_iso, abs=max(0.0005, 4 * atom["u_su"]))


def test_thickness_profile_comes_back(recovered: tuple[dict[str, Any], Any]) -> None:
    """Within 3 % where the data determine it as well as that, elsewhere as well as it says itself."""
    entries = recovered[0]["thickness"]
    truth = np.array([np.interp(entry["phi"], (-30, 0, 30), THICKNESS) for entry in entries])
    deviation = np.array([entry["mean"] for entry in entries]) - truth
    su = np.array([entry["mean_su"] for entry in entries])
    determined = su < 0.03 * truth
    assert determined.mean() > 0.5
    assert np.sqrt(np.mean((deviation / truth)[determined] ** 2)) < 0.03
    assert (np.abs(deviation) < np.maximum(0.05 * truth, 4 * su)).all()


def test_fit_is_as_good_as_the_noise(recovered: tuple[dict[str, Any], Any]) -> None:
    statistics = recovered[0]["statistics"]
    assert statistics["r_obs"] < 0.03
    assert abs(statistics["r_obs_held_out"] - statistics["r_obs"]) < 0.02
