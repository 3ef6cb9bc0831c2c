"""Simulate a small data set of alpha-quartz and refine it from a wrong start.

``make demo`` runs this. It calls the two commands as a user would, in the directory ``demo``,
and prints what was true, what the refinement started from and what it found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np

from dials.util import tabulate

from dials_hybrid_refine.io.structure import read_structure

#: mean thickness in Angstrom at the beginning, the middle and the end of the scan
THICKNESS = (450.0, 650.0, 500.0)
#: the refinement starts from half of it
START_THICKNESS = 260.0
#: displacement in Angstrom of each atom in the starting structure, and its U in Angstrom^2
DISPLACEMENT = 0.1
START_U_ISO = 0.02
#: where Si and O are moved (Cartesian); Si stays on its twofold axis, along b here
_DIRECTIONS = ((-1.0, 3.0**0.5, 0.0), (-1.0, 0.5, 1.0))

_FOLDER = Path("demo")


def _write_start(truth: Path, start: Path) -> None:
    """The true structure with displaced atoms and too large displacement parameters."""
    structure = read_structure(truth).structure
    cell = structure.unit_cell()
    for scatterer, direction in zip(structure.scatterers(), _DIRECTIONS):
        step = DISPLACEMENT * np.array(direction) / np.linalg.norm(direction)
        scatterer.site = tuple(np.array(scatterer.site) + cell.fractionalize(tuple(step)))
        scatterer.u_iso = START_U_ISO
    structure.apply_symmetry_sites()
    with start.open("w") as stream:
        structure.as_cif_simple(out=stream)


def _run(command: str, *arguments: str) -> None:
    module = f"dials_hybrid_refine.command_line.{command}"
    print(f"\n$ dials.{command} {' '.join(arguments)}\n", flush=True)
    finished = subprocess.run([sys.executable, "-m", module, *arguments], cwd=_FOLDER)
    if finished.returncode:
        sys.exit(finished.returncode)


def _report() -> str:
    summary = json.loads((_FOLDER / "dials.hybrid_refine.json").read_text())
    truth, start = (
        read_structure(_FOLDER / f"{name}.cif").structure for name in ("truth", "start")
    )
    rows = []
    for true, first, atom in zip(
        truth.scatterers(), start.scatterers(), summary["structure"]["atoms"]
    ):
        for i, axis in enumerate("xyz"):
            su = atom["site_su"][i]
            rows.append(
                [f"{true.label} {axis}", f"{true.site[i]:.4f}", f"{first.site[i]:.4f}",
                 f"{atom['site'][i]:.4f}" + (f" +- {su:.4f}" if su > 1e-9 else "")]
            )  # fmt: skip
        rows.append(
            [f"{true.label} U", f"{true.u_iso:.4f}", f"{first.u_iso:.4f}", f"{atom['u_iso']:.4f}"]
        )
    profile = summary["thickness"]
    angles = np.linspace(profile[0]["phi"], profile[-1]["phi"], 5)
    knots = np.linspace(-30, 30, len(THICKNESS))
    for angle in angles:
        entry = min(profile, key=lambda item: abs(item["phi"] - angle))
        rows.append(
            [f"thickness at {entry['phi']:.1f} deg", f"{np.interp(entry['phi'], knots, THICKNESS):.0f} A",
             f"{START_THICKNESS:.0f} A", f"{entry['mean']:.0f} A"]
        )  # fmt: skip
    statistics = summary["statistics"]
    rows.append(["R_obs", "", "", f"{statistics['r_obs']:.4f}"])
    rows.append(["R_obs, held out", "", "", f"{statistics['r_obs_held_out']:.4f}"])
    table: str = tabulate(rows, ["", "truth", "start", "refined"], disable_numparse=True)
    return table


def main() -> None:
    """Run the demo in the directory ``demo`` below the current one."""
    _FOLDER.mkdir(exist_ok=True)
    shipped = resources.files("dials_hybrid_refine") / "data"
    (_FOLDER / "quartz.expt").write_text((shipped / "quartz_demo.expt").read_text())
    (_FOLDER / "truth.cif").write_text((shipped / "quartz_demo.cif").read_text())
    _write_start(_FOLDER / "truth.cif", _FOLDER / "start.cif")
    means = ",".join(f"{t:g}" for t in THICKNESS)
    _run(
        "hybrid_simulate", "quartz.expt", "truth.cif", "d_min=0.75", f"thickness.mean={means}",
        "thickness.std=60", "noise.poisson=True",
    )  # fmt: skip
    _run(
        "hybrid_refine", "hybrid_simulated.expt", "hybrid_simulated.refl", "start.cif",
        f"thickness.start={START_THICKNESS:g}",
    )  # fmt: skip
    print(f"\n{_report()}\nAll files are in {_FOLDER.resolve()}")


if __name__ == "__main__":
    main()
