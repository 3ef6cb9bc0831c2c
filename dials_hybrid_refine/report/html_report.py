"""The page of a refinement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dials_hybrid_refine import __version__
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.report import html_tables
from dials_hybrid_refine.report.figure import Figure
from dials_hybrid_refine.report.headline import headline
from dials_hybrid_refine.report.html_tables import Table
from dials_hybrid_refine.report.page import Page, Panel, html_page
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
            present(
                html_tables.data_checks_table(summary),
                html_tables.exclusion_table(summary, context.n_read),
                html_tables.rejection_table(result),
            ),
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


def html_report(
    result: Result, summary: Mapping[str, Any], figures: Sequence[Figure], context: ReportContext
) -> str:
    """The page.

    Args:
        summary: the JSON summary of the result, whose numbers the page states.

    Raises:
        ValueError: if plotly.js is not installed.
    """
    name = Path(summary["input"]["structure"]).name
    return html_page(
        Page(
            program="dials.hybrid_refine",
            title=name,
            subtitle=f"{name}: {summary['structure']['space_group']}, {context.date}",
            headline=headline(summary),
            warnings=summary["warnings"],
            panels=panels(result, summary, figures, context),
            dials=context.dials,
        )
    )
