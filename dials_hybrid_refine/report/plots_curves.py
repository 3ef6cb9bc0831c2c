"""Plots of rocking curves and of the course of the refinement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.rocking_curves import RockingCurve
from dials_hybrid_refine.report.figure import (
    BLUE,
    GREEN,
    SKY,
    VERMILION,
    Figure,
    axis,
    degrees,
    layout,
    line,
    numbers,
    of_experiment,
)

CURVES_PANEL = "Rocking curves"
CURVES_NOTE = (
    "Calculated intensity (line) of the strongest reflections and of the worst ones as the crystal turns, "
    "and the window over which it is integrated (shaded). Data hold only the integral, which is shown as "
    "the mean over the window that gives the observed intensity (dashed), or that of each slice (steps)."
)
HISTORY_PANEL = "Convergence"


def rocking_figures(result: Result) -> Iterator[Figure]:
    """A figure for each curve, in their order: the strongest, then the worst."""
    n_experiments = len(np.unique(result.observations.experiment))
    for number, curve in enumerate(result.rocking_curves, start=1):
        yield _rocking(result, curve, number, n_experiments)


def _rocking(result: Result, curve: RockingCurve, number: int, n_experiments: int) -> Figure:
    i, data = curve.observation, result.observations
    start, end = float(data.phi_start[i]), float(data.phi_end[i])
    inside = curve.phi[(curve.phi > start) & (curve.phi < end)]
    window = np.concatenate([[start], inside, [end]])
    hkl = " ".join(map(str, data.hkl[i]))
    state = "rejected" if result.rejected[i] else "used"
    return Figure(
        f"rocking_curve_{number:02d}",
        CURVES_PANEL,
        of_experiment(f"{hkl} at {degrees(data.phi[i])}", int(data.experiment[i]), n_experiments),
        f"{curve.kind.capitalize()}, {state}: I_obs {data.intensity[i]:.0f}({data.sigma[i]:.0f}), "
        f"I_calc {result.calculated[i]:.0f} counts, residual {result.residual[i]:+.1f} s.u.",
        [
            line(
                window,
                np.interp(window, curve.phi, curve.intensity),
                "window",
                SKY,
                fill="tozeroy",
                line={"width": 0},
            ),
            line(curve.phi, curve.intensity, "calculated", BLUE, line={"width": 1.5}),
            _observed(curve, start, end, float(data.intensity[i])),
        ],
        layout(
            axis("Rotation angle (°)"),
            axis("Intensity (counts/°)", rangemode="tozero", exponentformat="power"),
            showlegend=False,
        ),
    )


def _observed(curve: RockingCurve, start: float, end: float, intensity: float) -> dict[str, Any]:
    """The observed intensity as the mean over its window, or of each slice over the slice's."""
    if len(curve.slices):
        edges, height = (
            curve.slices[:, :2],
            curve.slices[:, 2] / np.ptp(curve.slices[:, :2], axis=1),
        )
        name = "I<sub>obs</sub> / slice"
        return line(edges.ravel(), np.repeat(height, 2), name, VERMILION, line={"width": 1.5})
    mean = [intensity / (end - start)] * 2
    style = {"dash": "dash", "width": 1.5}
    return line([start, end], mean, "I<sub>obs</sub> / window", VERMILION, line=style)


def history_figures(result: Result) -> Iterator[Figure]:
    """R factors, loss and mean thickness, step by step."""
    history = result.history
    if not history:
        return
    steps = np.arange(1, len(history) + 1)
    stages = [f"{item.stage}, step {item.number}" for item in history]
    boundaries = [
        k + 0.5 for k in range(1, len(history)) if history[k].stage != history[k - 1].stage
    ]
    shapes = [
        {
            "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": "#BBBBBB", "width": 1, "dash": "dot"},
        }
        for x in boundaries
    ]  # fmt: skip
    step_axis = axis("Step", tickformat="d", rangemode="tozero")

    def percent(values: list[float | None]) -> list[float]:
        return [np.nan if v is None else 100 * v for v in values]

    more = {"mode": "lines+markers", "text": stages, "hovertemplate": "%{text}: %{y:.4g}"}
    yield Figure(
        "convergence_r",
        HISTORY_PANEL,
        "R factors",
        "After each step; dotted lines separate the stages (first steps, coarse calculation, cycles "
        "of the full one).",
        [
            line(steps, percent([h.r_obs for h in history]), "used", BLUE, **more),
            line(
                steps,
                percent([h.r_obs_held_out for h in history]),
                "held out",
                VERMILION,
                **more,
                line={"dash": "dash"},
            ),
        ],
        layout(step_axis, axis("R<sub>obs</sub> (%)", rangemode="tozero"), shapes=shapes),
    )
    yield Figure(
        "convergence_loss",
        HISTORY_PANEL,
        "Loss",
        "Weighted sum of squares with the priors. The spread of the residuals is estimated anew "
        "between stages, so that only steps of one stage compare.",
        [line(steps, [h.loss for h in history], "loss", BLUE, **more)],
        layout(step_axis, axis("Loss", type="log"), shapes=shapes, showlegend=False),
    )
    yield Figure(
        "convergence_thickness",
        HISTORY_PANEL,
        "Mean thickness",
        "Mean over the scan of the mean thickness.",
        [line(steps, numbers([h.mean_thickness for h in history]), "mean", GREEN, **more)],
        layout(
            step_axis, axis("Thickness (Å)", rangemode="tozero"), shapes=shapes, showlegend=False
        ),
    )
