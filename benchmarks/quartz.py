"""Refine the DIALS quartz data set and print time, memory and the figures reached.

    python benchmarks/quartz.py [PARAMETER=VALUE ...]

Needs the data set ``quartz_processed`` of the ``dials_data`` package (DIALS_DATA, or a network).
Starts from the X-ray structure of Levien et al. (1980) displaced by 0.1 Angstrom.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import dials_data.download

from dials_hybrid_refine.io.structure import read_structure


def _start(folder: Path) -> Path:
    shipped = resources.files("dials_hybrid_refine") / "data" / "quartz_demo.cif"
    structure = read_structure(str(shipped)).structure
    structure.convert_to_anisotropic()
    oxygen = structure.scatterers()[1]
    step = structure.unit_cell().fractionalize((-0.06, 0.05, 0.06))
    oxygen.site = tuple(x + dx for x, dx in zip(oxygen.site, step))
    path = folder / "start.cif"
    with path.open("w") as stream:
        structure.as_cif_simple(out=stream)
    return path


def main() -> None:
    data = Path(dials_data.download.DataFetcher()("quartz_processed"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        module = "dials_hybrid_refine.command_line.hybrid_refine"
        files = [str(data / f"integrated.{suffix}") for suffix in ("expt", "refl")]
        options = ["absolute_structure.test=False", *sys.argv[1:]]
        command = [sys.executable, "-m", module, *files, str(_start(folder)), *options]
        started = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        summary = json.loads((folder / "dials.hybrid_refine.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    statistics, timing = summary["statistics"], summary["timing"]
    print(f"status                {summary['status']}")
    print(f"whole command         {seconds:.0f} s, of which refinement {timing['refine_s']:.0f} s")
    print(
        f"iterations            {statistics['n_iterations']}, {timing['per_iteration_s']:.2f} s each"
    )
    print(
        f"beams                 {timing['n_beams_mean']:.0f} on average, {timing['n_beams_max']} at most"
    )
    print(f"peak memory           {peak:.2f} GB")
    print(f"R_obs, held out       {statistics['r_obs']:.4f}, {statistics['r_obs_held_out']:.4f}")


if __name__ == "__main__":
    main()
