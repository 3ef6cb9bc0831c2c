"""Figures as plotly understands them: dictionaries of data and layout, as in DIALS' reports.

One description serves the page, the JSON of plots for other viewers and the picture files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: colours that colour-blind people tell apart: Okabe & Ito (2008), https://jfly.uni-koeln.de/color
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F7F7F",
)
#: one for each experiment, over again where there are more
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)

#: most points of a scatter plot: more would make the page large and slow without showing more
MOST_POINTS = 5000

#: at the lower edge of the figure
LEGEND = {
    "orientation": "h",
    "x": 0.5,
    "xanchor": "center",
    "y": 0,
    "yanchor": "bottom",
    "yref": "container",
}


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        name: its key in the JSON and the stem of its file.
        panel: name of the panel of the page it belongs to.
        title: heading. caption: what is seen, one or two sentences.
        data, layout: of plotly.
    """

    name: str
    panel: str
    title: str
    caption: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]

    def as_plotly(self) -> dict[str, Any]:
        """Data, layout with the title, and caption ("help"), as dials.scale writes them."""
        layout = {"title": {"text": self.title}, **self.layout}
        return {"data": list(self.data), "layout": layout, "help": self.caption}


def numbers(values: ArrayLike) -> list[Any]:
    """Numbers for JSON, to six significant digits; None for those that are not finite."""
    array = np.asarray(values, dtype=float)
    if array.ndim > 1:
        return [numbers(row) for row in array]
    return [float(f"{x:.6g}") if np.isfinite(x) else None for x in array]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with quantity and unit."""
    return {"title": {"text": title}, "automargin": True, "zeroline": False, **more}


def layout(x: Mapping[str, Any], y: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The layout all figures share: legend below the plot, so that it covers no data."""
    return {
        "xaxis": dict(x),
        "yaxis": dict(y),
        "legend": LEGEND,
        "hovermode": "closest",
        **more,
    }


def line(x: ArrayLike, y: ArrayLike, name: str, colour: str, **more: Any) -> dict[str, Any]:
    """A line through points."""
    style = {"color": colour, "width": 2, **more.pop("line", {})}
    trace = {"type": "scatter", "mode": "lines", "x": numbers(x), "y": numbers(y), "name": name}
    return {**trace, "line": style, **more}


def points(x: ArrayLike, y: ArrayLike, name: str, colour: str, **more: Any) -> dict[str, Any]:
    """Single points."""
    style = {"color": colour, "size": 5, **more.pop("marker", {})}
    trace = {"type": "scatter", "mode": "markers", "x": numbers(x), "y": numbers(y), "name": name}
    return {**trace, "marker": style, **more}


def band(
    x: ArrayLike, middle: ArrayLike, half_width: ArrayLike, name: str, colour: str
) -> dict[str, Any]:
    """A filled band of middle +- half width."""
    x, middle, half = (np.asarray(v, dtype=float) for v in (x, middle, half_width))
    return {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(np.concatenate([x, x[::-1]])),
        "y": numbers(np.concatenate([middle + half, (middle - half)[::-1]])),
        "name": name,
        "fill": "toself",
        "fillcolor": colour,
        "opacity": 0.3,
        "line": {"width": 0, "color": colour},
        "hoverinfo": "skip",
    }


def of_experiment(text: str, experiment: int, n_experiments: int) -> str:
    """A name with the number of its experiment where there are several."""
    return text if n_experiments == 1 else f"{text}, experiment {experiment}"


def degrees(angle: float) -> str:
    """An angle as text, with a minus sign that is one."""
    return f"{angle:.1f}°".replace("-", "−")
