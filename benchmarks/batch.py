"""Refine a batch of simulated data sets with dask, some of them broken on purpose, and collect them.

    OMP_NUM_THREADS=1 python -m benchmarks.batch [DATA_SETS] [WORKERS] [FOLDER]

Simulates images of the demo's quartz, each data set with its own thickness and noise, breaks three of them
(a truncated reflection file, an X-ray wavelength, no reflections), runs docs/examples/refine_dask.py and
dials.hybrid_collect, and states what came out. FOLDER keeps the files.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dials.array_family import flex

from benchmarks.demo_images import write_demo
from dials_hybrid_refine.command_line import hybrid_collect, hybrid_simulate

RECIPE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "refine_dask.py"
N_IMAGES = 20
SETTINGS = [
    "nproc=1",
    "thickness.max=900",
    "refinement.coarse_steps=3",
    "refinement.max_cycles=1",
    "refinement.max_steps=4",
    "absolute_structure.test=True",
    "difference_map=False",
]


def make_data_set(folder: Path, source: tuple[Path, Path], number: int) -> None:
    """integrated.expt, integrated.refl and a model.cif whose oxygen is a little displaced."""
    folder.mkdir(parents=True)
    structure = source[1]
    thickness = 250 + 37 * (number % 11)
    hybrid_simulate.run(
        [
            *map(str, source),
            "d_min=0.7",
            f"thickness.mean={thickness},{thickness + 60}",
            f"mean_intensity={500 + 100 * (number % 5)}",
            "noise.poisson=True",
            f"seed={number}",
            "nproc=1",
            f"output.experiments={folder / 'integrated.expt'}",
            f"output.reflections={folder / 'integrated.refl'}",
            "output.log=None",
        ]
    )
    # each command adds handlers to DIALS' loggers
    for name in ("dials", "dxtbx"):
        logging.getLogger(name).handlers.clear()
    text = structure.read_text().replace("0.8534 0.5865", "0.8434 0.5945")
    (folder / "model.cif").write_text(text)


def truncate(folder: Path) -> None:
    """Half of the reflection file is missing."""
    path = folder / "integrated.refl"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_x_rays(folder: Path) -> None:
    """The beam has the wavelength of Mo K-alpha."""
    path = folder / "integrated.expt"
    content = json.loads(path.read_text())
    content["beam"][0]["wavelength"] = 0.7107
    path.write_text(json.dumps(content))


def empty(folder: Path) -> None:
    """No reflection was integrated."""
    path = str(folder / "integrated.refl")
    flex.reflection_table.from_file(path)[:0].as_file(path)


BREAK = (truncate, make_x_rays, empty)


def run_recipe(folders: list[Path], workers: int, parameters: list[str]) -> str:
    """Run refine_dask.py with the commands of this Python; what it has said."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, str(RECIPE), "--workers", str(workers), *map(str, folders), *parameters],
        env={**os.environ, "PATH": beside},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def main() -> None:
    """Make, refine, collect."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(sys.argv[3] if len(sys.argv) > 3 else temporary).resolve()
        here.mkdir(parents=True, exist_ok=True)
        source = write_demo(here, N_IMAGES)
        folders = [here / f"crystal_{number:02d}" for number in range(1, n + 1)]
        for number, folder in enumerate(folders, 1):
            make_data_set(folder, source, number)
        for spoil, folder in zip(BREAK, folders[1::6]):
            spoil(folder)
        start = time.perf_counter()
        print(run_recipe(folders, workers, SETTINGS))
        seconds = time.perf_counter() - start
        os.chdir(here)
        start = time.perf_counter()
        hybrid_collect.run([folder.name for folder in folders])
        print(f"{n} runs, {workers} at a time: {seconds:.0f} s", end=", ")
        print(f"collected in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
