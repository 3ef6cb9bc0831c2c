"""Plots of many refinements."""

from __future__ import annotations

import numpy as np

from dials_hybrid_refine.collection.compare import Comparison
from dials_hybrid_refine.collection.run import Collection, Run, RunResult
from dials_hybrid_refine.report.figure import GREY, SERIES, Figure, axis, layout, line, points

PANEL = "Comparison"
_Members = list[tuple[str, list[tuple[Run, RunResult]], str]]


def collection_figures(collection: Collection, comparison: Comparison) -> list[Figure]:
    """R factors, thickness, cells and hands; colours tell clusters of cells apart."""
    if not collection.finished:
        return []
    clusters: _Members = [
        (
            f"cell {number}",
            [collection.finished[i] for i in cluster.members],
            SERIES[(number - 1) % len(SERIES)],
        )
        for number, cluster in enumerate(comparison.clusters, 1)
    ]
    figures = [_agreement(clusters), _thickness(clusters), _cells(collection)]
    if comparison.hands:
        figures.append(_hands(clusters))
    return figures


def _percent(values: list[float | None]) -> list[float]:
    return [np.nan if value is None else 100 * value for value in values]


def _names(members: list[tuple[Run, RunResult]]) -> dict[str, object]:
    return {"text": [run.name for run, _ in members], "hovertemplate": "%{text}<br>%{x}, %{y}"}


def _agreement(clusters: _Members) -> Figure:
    traces = [
        points(
            _percent([result.r_obs for _, result in members]),
            _percent([result.r_obs_held_out for _, result in members]),
            name,
            colour,
            marker={"size": 8},
            **_names(members),
        )
        for name, members, colour in clusters
    ]
    known = np.concatenate([trace["x"] for trace in traces]).astype(float)
    ends = [float(np.nanmin(known)), float(np.nanmax(known))] if np.isfinite(known).any() else []
    diagonal = line(ends, ends, "equal", GREY, line={"dash": "dot"})
    return Figure(
        "agreement",
        PANEL,
        "Agreement",
        "R_obs of held-out reflections against that of the refined ones. Far above the line: the fit does "
        "not hold for reflections it has not seen.",
        [*traces, diagonal],
        layout(axis("R<sub>obs</sub> (%)"), axis("R<sub>obs</sub>, held out (%)")),
    )


def _thickness(clusters: _Members) -> Figure:
    traces = []
    for name, members, colour in clusters:
        known = [pair for pair in members if pair[1].thickness is not None]
        if not known:
            continue
        mean = np.array([result.thickness for _, result in known], dtype=float)
        ranges = np.array([result.thickness_range for _, result in known], dtype=float)
        traces.append(
            points(
                mean,
                _percent([result.r_obs_held_out for _, result in known]),
                name,
                colour,
                marker={"size": 8},
                error_x={
                    "array": (ranges[:, 1] - mean).tolist(),
                    "arrayminus": (mean - ranges[:, 0]).tolist(),
                    "thickness": 1,
                    "color": colour,
                },
                **_names(known),
            )
        )
    return Figure(
        "thickness",
        PANEL,
        "Thickness",
        "Mean thickness along the scan; bars reach from the smallest mean to the largest.",
        traces,
        layout(axis("thickness (Å)"), axis("R<sub>obs</sub>, held out (%)")),
    )


def _cells(collection: Collection) -> Figure:
    lengths = np.array([result.unit_cell[:3] for _, result in collection.finished])
    deviation = 100 * (lengths / np.median(lengths, axis=0) - 1)
    number = np.arange(1, len(lengths) + 1)
    hover = _names(list(collection.finished))
    return Figure(
        "cells",
        PANEL,
        "Unit cells",
        "Cell lengths of the experiments, relative to the medians of all; runs as in the table.",
        [
            points(number, deviation[:, k], name, SERIES[k], marker={"size": 7}, **hover)
            for k, name in enumerate("abc")
        ],
        layout(axis("run"), axis("deviation (%)")),
    )


def _hands(clusters: _Members) -> Figure:
    traces = []
    for name, members, colour in clusters:
        tested = [(run, result) for run, result in members if result.hand is not None]
        traces.append(
            points(
                [r.n_observed for _, r in tested],
                [r.hand.z_score for _, r in tested if r.hand is not None],
                name,
                colour,
                marker={
                    "size": 8,
                    "symbol": [
                        "circle" if r.hand is not None and r.hand.clear else "circle-open"
                        for _, r in tested
                    ],
                },
                **_names(tested),
            )
        )
    return Figure(
        "hands",
        PANEL,
        "Hand",
        "z-score of each crystal's test of the hand; above 0 it favours the structure as given. Filled: "
        "clear.",
        traces,
        layout(axis("observed reflections"), axis("z")),
    )
