"""Plots of what varies along the scan: thickness, orientation, scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.refinement.result import Profiles, Result
from dials_hybrid_refine.report.figure import (
    BLUE,
    GREEN,
    SERIES,
    VERMILION,
    Figure,
    axis,
    band,
    layout,
    line,
    numbers,
    of_experiment,
)

PANEL = "Experiment"
_ANGLE = "Rotation angle (°)"
#: rows of the picture of a distribution whose nodes change with the angle
_ROWS = 60
#: the picture ends where all further thicknesses together hold less than this share at every angle
_NEGLIGIBLE = 1e-3


def experiment_figures(result: Result) -> Iterator[Figure]:
    """Thickness, orientation correction and scale; those of each experiment as series or figures."""
    profiles = result.profiles
    experiments = np.unique(profiles.experiment)
    for experiment in experiments:
        yield from _thickness(profiles, int(experiment), len(experiments))
    yield _orientation(profiles, experiments)
    yield _scale(profiles, experiments)


def _thickness(profiles: Profiles, experiment: int, n_experiments: int) -> Iterator[Figure]:
    mine = profiles.experiment == experiment
    suffix = "" if n_experiments == 1 else f"_{experiment}"
    phi = profiles.phi[mine]
    mean, std = profiles.thickness_mean[mine], profiles.thickness_std[mine]
    heights, density = _density(profiles.thickness_nodes[mine], profiles.thickness_weight[mine])
    if len(heights) > 1:
        outline = {"color": "white", "width": 2}
        yield Figure(
            f"thickness_distribution{suffix}",
            PANEL,
            of_experiment("Thickness distribution", experiment, n_experiments),
            "How much of the crystal has which thickness, at each angle (brighter is more): mean "
            "(solid) and mean ± standard deviation of the distribution (dotted).",
            [
                {
                    "type": "heatmap",
                    "x": numbers(phi),
                    "y": numbers(heights),
                    "z": numbers(1000 * density.T),
                    "colorscale": "Cividis",
                    "colorbar": {"title": {"text": "share / 10 Å (%)", "side": "right"}},
                    "hovertemplate": "%{x:.1f}°, %{y:.0f} Å: %{z:.2f} %<extra></extra>",
                },
                line(phi, mean, "mean", "white", showlegend=False),
                *(
                    line(
                        phi, m, "± std", "white", showlegend=False, line={**outline, "dash": "dot"}
                    )
                    for m in (mean - std, mean + std)
                ),
            ],
            layout(
                axis(_ANGLE),
                axis("Thickness (Å)", range=numbers([heights[0], heights[-1]])),
                showlegend=False,
            ),
        )
    yield Figure(
        f"thickness_profile{suffix}",
        PANEL,
        of_experiment("Mean thickness and width", experiment, n_experiments),
        "Mean and standard deviation of the distribution of thickness; bands are ± one standard "
        "uncertainty, which includes the priors, whose it is where the data say little.",
        [
            band(phi, mean, profiles.thickness_mean_su[mine], "mean ± s.u.", BLUE),
            line(phi, mean, "mean", BLUE),
            band(phi, std, profiles.thickness_std_su[mine], "width ± s.u.", VERMILION),
            line(phi, std, "width (std)", VERMILION, line={"dash": "dash"}),
        ],
        layout(axis(_ANGLE), axis("Thickness (Å)", rangemode="tozero")),
    )


def _density(
    nodes: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thicknesses (k,) and the density (b, k) there, in shares per Angstrom.

    Nodes that are the same at all angles are shown as they are; others are counted in equal steps.
    """
    if nodes.shape[1] > 1 and np.ptp(nodes, axis=0).max() < 1e-6:
        heights, density = nodes[0], weights / np.gradient(nodes[0])
    else:
        edges = np.linspace(0, 1.25 * nodes.max(), _ROWS + 1)
        heights = (edges[1:] + edges[:-1]) / 2
        density = np.stack(
            [np.histogram(n, edges, weights=w)[0] for n, w in zip(nodes, weights)]
        ) / np.diff(edges)
    beyond = np.cumsum((density * np.gradient(heights))[:, ::-1], axis=1)[:, ::-1]
    last = min(len(heights), int(np.flatnonzero((beyond > _NEGLIGIBLE).any(0)).max(initial=0)) + 2)
    return heights[:last], density[:, :last]


def _orientation(profiles: Profiles, experiments: NDArray[np.int64]) -> Figure:
    traces = []
    for experiment in experiments:
        mine = profiles.experiment == experiment
        dash = ("solid", "dash", "dot", "dashdot")[int(experiment) % 4]
        for k, (name, colour) in enumerate((("x", BLUE), ("y", VERMILION), ("z", GREEN))):
            label = of_experiment(f"about {name}", int(experiment), len(experiments))
            values = profiles.orientation[mine, k]
            if len(experiments) == 1:
                su = profiles.orientation_su[mine, k]
                uncertainty = band(profiles.phi[mine], values, su, f"{label} ± s.u.", colour)
                traces.append({**uncertainty, "showlegend": False})
            traces.append(line(profiles.phi[mine], values, label, colour, line={"dash": dash}))
    bands = (
        " Bands are ± one standard uncertainty, which includes the prior, whose it is where the data say little: about the beam, "
        "and mostly about the rotation axis."
    )
    return Figure(
        "orientation_correction",
        PANEL,
        "Orientation correction",
        "Components of the rotation vector that turns the crystal from its integrated to its refined "
        "orientation, in the laboratory frame of DIALS." + bands * (len(experiments) == 1),
        traces,
        layout(axis(_ANGLE), axis("Correction (°)")),
    )


def _scale(profiles: Profiles, experiments: NDArray[np.int64]) -> Figure:
    traces = []
    for experiment in experiments:
        mine = profiles.experiment == experiment
        colour = SERIES[int(experiment) % len(SERIES)]
        name = of_experiment("scale", int(experiment), len(experiments))
        traces.append(line(profiles.phi[mine], profiles.scale[mine], name, colour))
    return Figure(
        "scale",
        PANEL,
        "Scale",
        "Counts per incident electron and degree of rotation: what the beam and the illuminated "
        "part of the crystal give at each angle.",
        traces,
        layout(
            axis(_ANGLE),
            axis("Scale (counts/°)", rangemode="tozero", exponentformat="power"),
            showlegend=len(traces) > 1,
        ),
    )
