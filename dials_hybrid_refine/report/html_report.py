"""The page of a refinement: one file that opens without a network.

DIALS' own templates load plotly, bootstrap and katex from a network or from a web server, so that this
page brings a template of its own, with plotly.js from the Python package plotly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from dials_hybrid_refine import __version__
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.report import html_tables
from dials_hybrid_refine.report.figure import Figure
from dials_hybrid_refine.report.headline import headline
from dials_hybrid_refine.report.html_tables import Table
from dials_hybrid_refine.report.plots_agreement import PANEL as AGREEMENT
from dials_hybrid_refine.report.plots_curves import CURVES_NOTE, CURVES_PANEL, HISTORY_PANEL
from dials_hybrid_refine.report.plots_experiment import PANEL as EXPERIMENT
from dials_hybrid_refine.report.plots_structure import PANEL as STRUCTURE

_REFLECTIONS, _DETAILS = "Reflections", "Details"

#: parts of the JSON summary that are shown as tables where they are present, by panel
_FURTHER = {
    STRUCTURE: {
        "absolute_structure": "Absolute structure",
        "difference_map": "Difference map",
        "restraints": "Restraints",
        "geometry": "Geometry",
    },
    _DETAILS: {"timing": "Time and size of the calculation"},
}

#: oldest release of plotly, as in setup.cfg
_PLOTLY = 6

#: quantities with an index, as the log writes them
_SYMBOL = re.compile(r"\b(M?w?R2?|[IFUE])_(obs|all|calc|eq|o|c)\b")

CITE = (
    "dials_hybrid_refine, version "
    + __version__
    + ": dynamical refinement with a neural model of the "
    "crystal's thickness.",
    "DIALS: Winter, G. et al. (2018). Acta Cryst. D74, 85–97.",
    "cctbx: Grosse-Kunstleve, R. W. et al. (2002). J. Appl. Cryst. 35, 126–136.",
    "Scattering factors: Lobato, I. & Van Dyck, D. (2014). Acta Cryst. A70, 636–649.",
    "Dynamical refinement of electron diffraction data: Palatinus, L., Petříček, V. & Corrêa, C. A. "
    "(2015). Acta Cryst. A71, 235–244; Klar, P. B. et al. (2023). Nat. Chem. 15, 848–855.",
)


@dataclass(frozen=True)
class Panel:
    """A tab of the page."""

    name: str
    figures: Sequence[Figure]
    tables: Sequence[Table]
    lists: Sequence[tuple[str, Sequence[str]]] = ()
    texts: Sequence[tuple[str, str]] = ()
    note: str = ""

    @property
    def identifier(self) -> str:
        """For the address of the tab."""
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True)
class ReportContext:
    """What the page states beyond result and summary.

    Attributes:
        changed: the parameters that were changed, as PHIL.
        n_read: number of reflections read.
        dials: name and version of DIALS.
        date: of the report.
    """

    changed: str
    n_read: int
    dials: str
    date: str


def plotly_javascript() -> str:
    """The source of plotly.js.

    Raises:
        ValueError: if the package plotly is missing or old; that of Debian 12 brings twice the size
            and lacks some of what the layouts ask for.
    """
    try:
        import plotly
        from plotly.offline import get_plotlyjs
    except ImportError:
        version = None
    else:
        version = str(plotly.__version__)
    if version is None or int(version.split(".")[0]) < _PLOTLY:
        found = "it is not installed" if version is None else f"this is {version}"
        raise ValueError(
            f"output.html needs the Python package plotly {_PLOTLY} or newer ({found}): run "
            f"'pip install \"plotly>={_PLOTLY}\"', or give output.html=None for no page"
        )
    source: str = get_plotlyjs()
    return source


def panels(
    result: Result, summary: Mapping[str, Any], figures: Sequence[Figure], context: ReportContext
) -> list[Panel]:
    """The tabs in their order."""

    def of(panel: str) -> list[Figure]:
        return [figure for figure in figures if figure.panel == panel]

    def further(panel: str) -> list[Table]:
        return html_tables.other_tables(summary, _FURTHER.get(panel, {}))

    def present(*tables: Table | None) -> list[Table]:
        return [table for table in tables if table is not None]

    files = [name for key in ("experiments", "reflections") for name in summary["input"][key]]
    return [
        Panel(
            EXPERIMENT,
            of(EXPERIMENT),
            present(html_tables.crystal_table(summary), html_tables.effects_table(summary)),
        ),
        Panel(AGREEMENT, of(AGREEMENT), [html_tables.statistics_table(summary)]),
        Panel(CURVES_PANEL, of(CURVES_PANEL), [], note=CURVES_NOTE),
        Panel(
            STRUCTURE,
            of(STRUCTURE),
            [html_tables.atom_table(result, summary), *further(STRUCTURE)],
        ),
        Panel(HISTORY_PANEL, of(HISTORY_PANEL), present(html_tables.convergence_table(summary))),
        Panel(
            _REFLECTIONS,
            [],
            [
                html_tables.exclusion_table(summary, context.n_read),
                html_tables.rejection_table(result),
            ],
        ),
        Panel(
            _DETAILS,
            [],
            further(_DETAILS),
            [
                ("Definitions", list(summary["statistics"]["definitions"].values())),
                ("Input", [*files, summary["input"]["structure"]]),
                ("How to cite", CITE),
            ],
            [("Parameters that were changed", context.changed.strip() or "none")],
        ),
    ]


def _subscripts(text: str) -> Markup:
    """R_obs with a subscript."""
    return Markup(_SYMBOL.sub(r"\1<sub>\2</sub>", str(escape(text))))


def html_report(
    result: Result, summary: Mapping[str, Any], figures: Sequence[Figure], context: ReportContext
) -> str:
    """The page.

    Args:
        summary: the JSON summary of the result, whose numbers the page states.

    Raises:
        ValueError: if plotly.js is not installed.
    """
    folder = resources.files("dials_hybrid_refine.report") / "templates"

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["subscripts"] = _subscripts
    tabs = panels(result, summary, figures, context)
    return environment.from_string(text("report.html")).render(
        title=Path(summary["input"]["structure"]).name,
        summary=summary,
        headline=headline(summary),
        panels=tabs,
        plots={figure.name: figure.as_plotly() for figure in figures},
        context=context,
        version=__version__,
        # these three are the package's own, and must not be escaped
        css=Markup(text("report.css")),
        javascript=Markup(text("report.js")),
        plotly=Markup(plotly_javascript()),
    )
