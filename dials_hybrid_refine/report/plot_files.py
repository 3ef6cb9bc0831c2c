"""Figures as picture files, drawn by matplotlib from plotly's data and layout.

It knows the kinds of traces that the figures of this package are made of, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from dials_hybrid_refine.report.figure import Figure

_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_SYMBOLS = {"circle": "o", "diamond": "D", "x": "x"}
_SIZE = (6.4, 4.4)
#: below the axes, where it covers no data
_LEGEND: dict[str, Any] = {
    "loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 4, "fontsize": "small", "frameon": False,
}  # fmt: skip


def write_plots(figures: Iterable[Figure], folder: Path, suffix: str) -> list[Path]:
    """Write each figure to a file named after it.

    Args:
        folder: made if it does not exist.
        suffix: png, svg or pdf.

    Returns:
        The files.

    Raises:
        ValueError: if they cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            path = folder / f"{figure.name}.{suffix}"
            draw(figure).savefig(path, dpi=150)
            written.append(path)
    except OSError as error:
        raise ValueError(
            f"output.plots={folder} cannot be written ({error.strerror or error}): choose another "
            "folder, or change the permissions"
        ) from error
    return written


def draw(figure: Figure) -> Canvas:
    """The figure on a canvas of matplotlib that belongs to no window."""
    canvas = Canvas(figsize=_SIZE, layout="constrained")
    if "scene" in figure.layout:
        _draw_scene(canvas, figure)
        return canvas
    axes = canvas.add_subplot()
    for trace in figure.data:
        if trace["type"] == "heatmap":
            _draw_heatmap(canvas, axes, trace)
        else:
            _draw_scatter(axes, trace)
    for shape in figure.layout.get("shapes", ()):
        axes.axvline(shape["x0"], color=shape["line"]["color"], linestyle=":", linewidth=1)
    _set_axes(axes, figure.layout)
    axes.set_title(_mathtext(figure.title))
    has_names = len(axes.get_legend_handles_labels()[1]) > 0
    if has_names and figure.layout.get("showlegend", True):
        axes.legend(**_LEGEND)
    return canvas


def _mathtext(text: str) -> str:
    """Plotly's markup of indices as that of matplotlib."""
    text = text.replace("$", r"\$")
    text = re.sub(r"<sub>(.*?)</sub>", r"$_{\\mathrm{\1}}$", text)
    return re.sub(r"<sup>(.*?)</sup>", r"$^{\\mathrm{\1}}$", text).replace("<br>", "\n")


def _values(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _draw_scatter(axes: Axes, trace: Mapping[str, Any]) -> None:
    x, y = _values(trace["x"]), _values(trace["y"])
    style, marker = trace.get("line", {}), trace.get("marker", {})
    shown = trace.get("showlegend", True)
    label = _mathtext(trace["name"]) if shown else None
    if trace.get("fill") == "toself":
        axes.fill(x, y, color=trace["fillcolor"], alpha=trace["opacity"], label=label, linewidth=0)
        return
    if trace.get("fill") == "tozeroy":
        axes.fill_between(x, y, color=style["color"], alpha=0.5, label=label, linewidth=0)
        return
    has_line, has_points = "lines" in trace["mode"], "markers" in trace["mode"]
    axes.plot(
        x,
        y,
        color=style.get("color", marker.get("color")),
        linewidth=style.get("width", 2) * 0.75,
        linestyle=_DASHES[style.get("dash", "solid")] if has_line else "",
        marker=_SYMBOLS[marker.get("symbol", "circle")] if has_points else "",
        markersize=marker.get("size", 5) * 0.7,
        alpha=marker.get("opacity", 1.0),
        markeredgewidth=0 if marker.get("symbol") != "x" else 1,
        label=label,
    )


def _draw_heatmap(canvas: Canvas, axes: Axes, trace: Mapping[str, Any]) -> None:
    z = np.array([_values(row) for row in trace["z"]])
    mesh = axes.pcolormesh(
        _values(trace["x"]),
        _values(trace["y"]),
        z,
        cmap=trace["colorscale"].lower(),
        shading="nearest",
        rasterized=True,
    )
    canvas.colorbar(mesh, ax=axes, label=trace["colorbar"]["title"]["text"])


def _set_axes(axes: Axes, layout: Mapping[str, Any]) -> None:
    for letter, axis in (("x", layout["xaxis"]), ("y", layout["yaxis"])):
        getattr(axes, f"set_{letter}label")(_mathtext(axis["title"]["text"]))
        if axis.get("type") == "log":
            getattr(axes, f"set_{letter}scale")("log")
        elif axis.get("rangemode") == "tozero":
            low, high = getattr(axes, f"get_{letter}lim")()
            getattr(axes, f"set_{letter}lim")(min(0.0, low) if low < 0 else 0.0, high)
        if "range" in axis:
            getattr(axes, f"set_{letter}lim")(*axis["range"])
        if axis.get("zeroline"):
            axes.axhline(0, color="#444444", linewidth=0.8)
    axes.grid(color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_scene(canvas: Canvas, figure: Figure) -> None:
    axes = canvas.add_subplot(projection="3d", proj_type="ortho")
    corners = []
    handles = []
    for trace in figure.data:
        xyz = np.stack([_values(trace[k]) for k in "xyz"], axis=-1)
        corners.append(xyz[np.isfinite(xyz).all(axis=1)])
        if trace["type"] == "mesh3d":
            faces = np.stack([trace[k] for k in "ijk"], axis=-1)
            colour, alpha = trace["color"], trace["opacity"]
            axes.plot_trisurf(*xyz.T, triangles=faces, color=colour, alpha=alpha)
            handles.append(Patch(color=colour, alpha=alpha, label=trace["name"]))
        else:
            breaks = np.flatnonzero(np.isnan(xyz[:, 0]))
            pieces = [p[np.isfinite(p[:, 0])] for p in np.split(xyz, breaks)]
            style = trace["line"]
            axes.add_collection3d(
                Line3DCollection(
                    [p for p in pieces if len(p)],
                    colors=style["color"],
                    linewidths=style["width"] / 3,
                )
            )
    points = np.concatenate(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axes.set_box_aspect(np.maximum(high - low, 0.1), zoom=1.4)
    axes.view_init(elev=17, azim=-76)
    axes.set_axis_off()
    axes.set_title(figure.title)
    axes.legend(handles=handles, **{**_LEGEND, "bbox_to_anchor": (0.5, 0.02)})
