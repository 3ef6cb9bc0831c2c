"""Pictures of the thickness found, with its uncertainty as a band, and the true one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.validation.rows import Row


def write_pictures(output: Path, rows: Iterable[Row], folder: Path) -> list[str]:
    """An SVG for each simulated row that has been run; returns their names.

    A row of which only the result is left keeps the picture that it has.

    Args:
        output: folder of all runs.
    """
    names = []
    for row in (row for row in rows if row.dataset.simulation is not None):
        summary = output / row.name / "dials.hybrid_refine.json"
        picture = folder / f"thickness-{row.dataset.name}.svg"
        if summary.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _draw(json.loads(summary.read_text())["thickness"], row, picture)
        if picture.is_file():
            names.append(picture.name)
    return names


def _draw(entries: list[dict[str, float]], row: Row, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    simulation = row.dataset.simulation
    assert simulation is not None
    phi, mean, std, mean_su, std_su = (
        np.array([e[key] for e in entries]) for key in ("phi", "mean", "std", "mean_su", "std_su")
    )
    half = 0.5 * (phi[1] - phi[0])
    angles = np.linspace(phi[0] - half, phi[-1] + half, len(simulation.thickness))
    figure, axes = pyplot.subplots(2, 1, sharex=True, figsize=(6, 5), layout="constrained")
    for axis, found, su, true, label in (
        (axes[0], mean, mean_su, np.interp(phi, angles, simulation.thickness), "mean"),
        (axes[1], std, std_su, np.full(len(phi), simulation.width), "standard deviation"),
    ):
        axis.fill_between(phi, found - 2 * su, found + 2 * su, alpha=0.3, label="2 s.u.")
        axis.plot(phi, found, label="found")
        axis.plot(phi, true, "k--", label="true")
        axis.set_ylabel(f"{label} of thickness (Å)")
        axis.set_ylim(bottom=0)
    axes[0].legend()
    axes[1].set_xlabel("rotation angle (degrees)")
    figure.savefig(path)
    pyplot.close(figure)
