"""Several crystals refined together against each alone, on simulated data.

    OMP_NUM_THREADS=1 python -m benchmarks.several_crystals FOLDER [--crystals 5] [--width 40]

Crystals of quartz in random orientations, each with a profile of thickness of its own, are simulated over
one wedge of rotation each with Poisson noise by dials.hybrid_simulate. They are refined by
dials.hybrid_refine from a structure whose oxygen is 0.08 Angstrom away: each alone, the first two
together, all together, and the first two together with a crystal of an invented compound in the same cell
(crystals.exclude_bad=True). Limits of the calculation are those of the simulation, so that noise is the only
error. FOLDER/several_crystals.json gets the figures of ``docs/several_crystals.md``; runs that are there
already are not repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

import iotbx.cif
from cctbx import crystal, xray
from dxtbx.model.experiment_list import ExperimentListFactory

#: mean thickness (Angstrom) at evenly spaced angles of each wedge
PROFILES = [(250, 350), (420, 300), (500, 400, 500), (200, 260, 230), (380, 380)]
#: what simulation and refinement share
LIMITS = ["beams.g_max=1.4", "beams.s_max=0.012", "beams.tilt_step=0.1", "nproc=1"]
SIMULATE = [*LIMITS, "d_min=0.8", "noise.poisson=True", "thickness.std=30"]
REFINE = [*LIMITS, "absolute_structure.test=False", "difference_map=False", "output.html=None"]
#: the oxygen of the starting structure, and atoms that are not those of quartz
TRUE_SITE, DISPLACED = "0.8534 0.5865", "0.8434 0.5945"


def _run(command: str, folder: Path, *arguments: str) -> None:
    module = f"dials_hybrid_refine.command_line.{command}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / f"{command}.out", "w") as stream:
        subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=environment,
            stdout=stream,
            check=True,
        )


def write_crystal(folder: Path, number: int, width: int) -> None:
    """``number``.expt: a wedge of so many images of a degree in an orientation of its own."""
    shipped = resources.files("dials_hybrid_refine") / "data" / "quartz_demo.expt"
    content = copy.deepcopy(json.loads(shipped.read_text()))
    scan = content["scan"][0]
    scan.update(image_range=[1, width], oscillation=[-20.0 + 7 * number, 1.0])
    for name in ("exposure_time", "epochs"):
        scan[name] = [0.0] * width
    content["experiment"][0]["identifier"] = f"crystal-{number}"
    path = folder / f"{number}.expt"
    path.write_text(json.dumps(content))
    experiments = ExperimentListFactory.from_json_file(str(path), check_format=False)
    a = np.array(experiments[0].crystal.get_A()).reshape(3, 3)
    turn = Rotation.random(random_state=number).as_matrix()
    experiments[0].crystal.set_A(tuple((turn @ a).ravel()))
    experiments.as_file(str(path))


def write_structures(folder: Path) -> None:
    """truth.cif, model.cif (displaced) and other.cif (another compound in the same cell)."""
    shipped = resources.files("dials_hybrid_refine") / "data" / "quartz_demo.cif"
    text = shipped.read_text()
    (folder / "truth.cif").write_text(text)
    (folder / "model.cif").write_text(text.replace(TRUE_SITE, DISPLACED))
    structure = next(iter(iotbx.cif.reader(input_string=text).build_crystal_structures().values()))
    other = xray.structure(crystal.special_position_settings(structure.crystal_symmetry()))
    for label, site in (("Ti1", (0.0, 0.18, 5 / 6)), ("N1", (0.38, 0.11, 0.27))):
        other.add_scatterer(xray.scatterer(label, site, u=0.01, scattering_type=label[:-1]))
    with open(folder / "other.cif", "w") as stream:
        other.as_cif_simple(out=stream, data_name="other")


def refine(folder: Path, name: str, members: Sequence[str], *more: str) -> dict[str, Any]:
    """The JSON summary of a refinement of some crystals; read where it is there already."""
    place = folder / name
    summary = place / "dials.hybrid_refine.json"
    if not summary.exists():
        place.mkdir(exist_ok=True)
        files = [f"../{m}.{kind}" for m in members for kind in ("expt", "refl")]
        _run("hybrid_refine", place, *files, "../model.cif", *REFINE, *more)
    found: dict[str, Any] = json.loads(summary.read_text())
    return found


def _oxygen(summary: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates and s.u. of the oxygen."""
    atom = next(a for a in summary["structure"]["atoms"] if a["element"] == "O")
    return np.array(atom["site"]), np.array(atom["site_su"])


def profile_error(summary: dict[str, Any], profiles: Sequence[Sequence[float]]) -> list[float]:
    """Root mean square error (Angstrom) of the mean thickness along the scan of each crystal."""
    errors = []
    for i, profile in enumerate(profiles):
        rows = [row for row in summary["thickness"] if row["experiment"] == i]
        first, last = summary["crystals"][i]["phi_range"]
        phi = np.array([row["phi"] for row in rows])
        truth = np.interp(phi, np.linspace(first, last, len(profile)), profile)
        found = np.array([row["mean"] for row in rows])
        errors.append(float(np.sqrt(((found - truth) ** 2).mean())))
    return errors


def figures(summary: dict[str, Any], truth: np.ndarray, profiles: Any) -> dict[str, Any]:
    """What the study reports of a refinement."""
    site, su = _oxygen(summary)
    return {
        "status": summary["status"],
        "r_obs": summary["statistics"]["r_obs"],
        "r_obs_held_out": summary["statistics"]["r_obs_held_out"],
        "n_reflections": summary["statistics"]["n_reflections"],
        "site_su": su.tolist(),
        "error_over_su": ((site - truth) / su).tolist(),
        "profile_error": profile_error(summary, profiles),
        "excluded": summary["excluded_crystals"],
        "seconds": summary["timing"]["refine_s"],
    }


def combined_su(found: dict[str, Any], number: int) -> np.ndarray:
    """s.u. (3,) of the weighted mean of what the first crystals give alone: (sum 1 / s^2)^(-1/2)."""
    weights = [1 / np.array(found[f"alone-{k}"]["site_su"]) ** 2 for k in range(number)]
    return np.asarray(np.sum(weights, axis=0) ** -0.5)


def main() -> None:
    """Run what is not there yet, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crystals", type=int, default=5)
    parser.add_argument("--width", type=int, default=40)
    chosen = parser.parse_args()
    folder = chosen.folder
    folder.mkdir(exist_ok=True, parents=True)
    write_structures(folder)
    n = chosen.crystals
    for k in range(n + 1):
        if not (folder / f"{k}.refl").exists():
            write_crystal(folder, k, chosen.width)
            means = PROFILES[k] if k < n else (300,)
            model = "truth.cif" if k < n else "other.cif"
            written = [f"output.experiments={k}.expt", f"output.reflections={k}.refl"]
            thickness = "thickness.mean=" + ",".join(map(str, means))
            _run(
                "hybrid_simulate",
                folder,
                f"{k}.expt",
                model,
                thickness,
                *SIMULATE,
                f"seed={k}",
                *written,
            )
    text = (folder / "truth.cif").read_text()
    structure = next(iter(iotbx.cif.reader(input_string=text).build_crystal_structures().values()))
    truth = np.array(structure.scatterers()[1].site)
    found: dict[str, Any] = {}

    def study(name: str, members: Sequence[int], *more: str) -> None:
        summary = refine(folder, name, [str(m) for m in members], *more)
        kept = [PROFILES[m] for m in members if m < n]
        found[name] = figures(summary, truth, kept)
        (folder / "several_crystals.json").write_text(json.dumps(found, indent=1))
        print(name, json.dumps(found[name]), flush=True)

    study("two", range(2))
    study("all", range(n))
    for k in range(n):
        study(f"alone-{k}", [k])
    study("intruder", [0, n, 1], "crystals.exclude_bad=True")
    for name, number in (("two", 2), ("all", n)):
        print(f"{name}: s.u. over those of the weighted mean of {number} crystals alone", end=" ")
        print((np.array(found[name]["site_su"]) / combined_su(found, number)).round(2))


if __name__ == "__main__":
    main()
