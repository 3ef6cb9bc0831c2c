"""Plots of how well calculated intensities agree with observed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from dials_hybrid_refine.refinement.binned_agreement import AgreementBin
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.report.figure import (
    BLUE,
    GREY,
    MOST_POINTS,
    PURPLE,
    SERIES,
    VERMILION,
    Figure,
    axis,
    layout,
    line,
    of_experiment,
    points,
)

PANEL = "Agreement"
_R = "R<sub>obs</sub> (%)"


def agreement_figures(result: Result) -> Iterator[Figure]:
    """R factors against angle and resolution, F_obs against F_calc, residuals."""
    yield _amplitudes(result)
    if result.binned is not None:
        yield _r_by_angle(result, result.binned.by_angle)
        yield _r_by_resolution(result.binned.by_resolution)
        yield _r_by_significance(result.binned.by_significance)
    yield from _residuals(result)
    yield _normal_probability(result)


def _groups(result: Result) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Name, colour and indices of used, held-out and rejected reflections, few enough to draw.

    Where there are too many the worst are kept, and an even sample of the others.
    """
    everything = np.arange(len(result.observations))
    groups = []
    for name, colour, mask in (
        ("used", BLUE, ~result.held_out & ~result.rejected),
        ("held out", VERMILION, result.held_out),
        ("rejected", PURPLE, result.rejected),
    ):
        members = everything[mask]
        if len(members) > MOST_POINTS:
            order = members[np.argsort(-np.abs(result.residual[members]), kind="stable")]
            worst, rest = np.split(order, [MOST_POINTS // 10])
            sample = rest[:: -(-len(rest) // (MOST_POINTS - len(worst)))]
            members = np.sort(np.concatenate([worst, sample]))
        if len(members):
            groups.append((name, colour, members))
    return groups


def _shown(result: Result) -> str:
    n_shown, n = sum(len(m) for _, _, m in _groups(result)), len(result.observations)
    return "" if n_shown == n else f" {n_shown} of {n} reflections are shown, the worst included."


def _scatter(
    result: Result, x: NDArray[np.float64], y: NDArray[np.float64], hover: str
) -> list[dict[str, Any]]:
    """A series of points for each group of reflections, the few on top of the many."""
    hkl, phi = result.observations.hkl, result.observations.phi
    symbols = {"used": "circle", "held out": "diamond", "rejected": "x"}
    return [
        points(
            x[members],
            y[members],
            name,
            colour,
            marker={
                "size": 4 if name == "used" else 7,
                "opacity": 0.55 if name == "used" else 0.9,
                "symbol": symbols[name],
            },
            text=[f"{' '.join(map(str, hkl[i]))} at {phi[i]:.1f}°" for i in members],
            hovertemplate="%{text}<br>" + hover + "<extra>" + name + "</extra>",
        )
        for name, colour, members in _groups(result)
    ]


def _amplitudes(result: Result) -> Figure:
    observed, calculated = (
        np.sqrt(np.clip(values, 0, None))
        for values in (result.observations.intensity, result.calculated)
    )
    most = float(max(observed.max(initial=0), calculated.max(initial=0)))
    return Figure(
        "f_obs_f_calc",
        PANEL,
        "Observed against calculated amplitudes",
        "F = sqrt(I), in the square root of counts; on the line they agree." + _shown(result),
        [
            line([0, most], [0, most], "F<sub>obs</sub> = F<sub>calc</sub>", GREY, line={"width": 1}),
            *_scatter(result, calculated, observed, "F_calc %{x:.1f}, F_obs %{y:.1f}"),
        ],
        layout(
            axis("F<sub>calc</sub> (counts<sup>1/2</sup>)", rangemode="tozero"),
            axis("F<sub>obs</sub> (counts<sup>1/2</sup>)", rangemode="tozero"),
        ),
    )  # fmt: skip


def _r_series(
    bins: Sequence[AgreementBin], name: str, colour: str, held_out: bool
) -> list[dict[str, Any]]:
    """R_obs in % at the middle of bins; a series for used or held-out reflections."""
    rows = [(b, b.held_out if held_out else b.used) for b in bins]
    rows = [(b, figures) for b, figures in rows if figures.r_obs is not None and figures.n_observed]
    if not rows:
        return []
    return [
        points(
            [(b.lower + b.upper) / 2 for b, _ in rows],
            [100 * (figures.r_obs or 0.0) for _, figures in rows],
            name,
            colour,
            mode="markers" if held_out else "lines+markers",
            line={"color": colour, "width": 1.5},
            marker={
                "symbol": "diamond" if held_out else "circle",
                "size": 7 if held_out else 5,
            },
            text=[
                f"{b.lower:.3g} to {b.upper:.3g}: {figures.n_observed} observed reflections"
                for b, figures in rows
            ],
            hovertemplate="%{text}<br>R_obs %{y:.1f} %<extra>" + name + "</extra>",
        )
    ]


def _r_by_angle(result: Result, bins: Sequence[AgreementBin]) -> Figure:
    experiments = sorted({b.experiment for b in bins})
    traces: list[dict[str, Any]] = []
    frames = result.statistics.frames
    for e in experiments:
        mine = [b for b in bins if b.experiment == e]
        colour = SERIES[e % len(SERIES)] if len(experiments) > 1 else BLUE
        rows = [i for i, row in enumerate(frames.rows) if frames.frames.experiment[i] == e]
        r_frames = [frames.rows[i].r_obs for i in rows]
        if any(r is not None for r in r_frames):
            traces.append(
                line(
                    frames.frames.phi[rows],
                    [np.nan if r is None else 100 * r for r in r_frames],
                    of_experiment("virtual frames", e, len(experiments)),
                    GREY,
                    line={"width": 1},
                )
            )
        traces += _r_series(mine, of_experiment("used", e, len(experiments)), colour, False)
        held = VERMILION if len(experiments) == 1 else colour
        traces += _r_series(mine, of_experiment("held out", e, len(experiments)), held, True)
    width = bins[0].upper - bins[0].lower if bins else 0.0
    return Figure(
        "r_by_angle",
        PANEL,
        "R along the scan",
        f"R_obs of used and held-out reflections in steps of {width:g}° (held-out points are often "
        "single reflections), and of virtual frames, each with a scale of its own, rejected "
        "reflections included.",
        traces,
        layout(axis("Rotation angle (°)"), axis(_R, rangemode="tozero")),
    )


def _r_by_resolution(bins: Sequence[AgreementBin]) -> Figure:
    return Figure(
        "r_by_resolution",
        PANEL,
        "R against resolution",
        "R_obs in shells with equal numbers of used reflections.",
        [*_r_series(bins, "used", BLUE, False), *_r_series(bins, "held out", VERMILION, True)],
        layout(axis("1/d (Å<sup>−1</sup>)"), axis(_R, rangemode="tozero")),
    )


def _r_by_significance(bins: Sequence[AgreementBin]) -> Figure:
    return Figure(
        "r_by_significance",
        PANEL,
        "R against I/σ(I)",
        "R_obs in shells with equal numbers of used reflections; below 3 none counts as observed.",
        [*_r_series(bins, "used", BLUE, False), *_r_series(bins, "held out", VERMILION, True)],
        layout(axis("I/σ(I)", type="log"), axis(_R, rangemode="tozero")),
    )


def _residuals(result: Result) -> Iterator[Figure]:
    observations, cell = result.observations, result.structure.unit_cell()
    d_star = np.array([1 / cell.d(tuple(int(i) for i in hkl)) for hkl in observations.hkl])
    label = axis("(I<sub>obs</sub> − I<sub>calc</sub>) / s.u.", zeroline=True)
    hover = "%{x:.3g}, residual %{y:+.1f}"
    positive = np.where(result.calculated > 0, result.calculated, np.nan)
    for name, title, x, x_axis in (
        (
            "residual_by_intensity", "Residuals against intensity", positive,
            axis("I<sub>calc</sub> (counts)", type="log", exponentformat="power"),
        ),
        (
            "residual_by_resolution", "Residuals against resolution", d_star,
            axis("1/d (Å<sup>−1</sup>)"),
        ),
        (
            "residual_by_angle", "Residuals along the scan", observations.phi,
            axis("Rotation angle (°)"),
        ),
    ):  # fmt: skip
        yield Figure(
            name,
            PANEL,
            title,
            "Weighted residuals in units of their robust spread; good ones scatter about 0 without a "
            "trend." + _shown(result),
            _scatter(result, x, result.residual, hover),
            layout(x_axis, label),
        )


def _normal_probability(result: Result) -> Figure:
    used = np.flatnonzero(~result.held_out & ~result.rejected)
    order = used[np.argsort(result.residual[used], kind="stable")]
    expected = norm.ppf((np.arange(len(order)) + 0.5) / max(1, len(order)))
    step = -(-len(order) // MOST_POINTS) if len(order) else 1
    reach = float(np.abs(expected).max(initial=1))
    return Figure(
        "normal_probability",
        PANEL,
        "Normal probability plot",
        "Sorted residuals of used reflections against those of a normal distribution (Abrahams & "
        "Keve, 1971): a straight line means that the weights are right, tails that bend away are "
        "errors they do not describe.",
        [
            line([-reach, reach], [-reach, reach], "normal", GREY, line={"width": 1}),
            points(expected[::step], result.residual[order][::step], "used", BLUE),
        ],
        layout(axis("Expected residual"), axis("Residual / s.u.")),
    )
