"""The page of many refinements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from markupsafe import Markup

from dials_hybrid_refine.collection.compare import Comparison
from dials_hybrid_refine.collection.run import NOT_FINISHED, Collection
from dials_hybrid_refine.report import collection_tables as tables
from dials_hybrid_refine.report.collection_plots import PANEL as COMPARISON
from dials_hybrid_refine.report.collection_plots import collection_figures
from dials_hybrid_refine.report.headline import Card, Headline
from dials_hybrid_refine.report.html_tables import Table, factor
from dials_hybrid_refine.report.page import Page, Panel, html_page


def collection_headline(collection: Collection, comparison: Comparison) -> Headline:
    """How many runs have results, and the best of them."""
    n, done = len(collection.runs), len(collection.finished)
    failed = sum(len(group.runs) for group in comparison.failures)
    unfinished = len(collection.with_status(NOT_FINISHED))
    verdict = "good" if done == n else "doubtful" if done else "stopped"
    parts = [f"{done} of {n} runs have results"]
    if failed:
        reasons = len(comparison.failures)
        parts.append(f"{failed} failed ({reasons} reason{'s' if reasons > 1 else ''})")
    if unfinished:
        parts.append(f"{unfinished} not finished")
    cards = [_best(collection), _cells(comparison), _hands(comparison)]
    converged = len(collection.with_status("converged"))
    cards.insert(0, Card("Converged", f"{converged}", f"of {n} runs"))
    return Headline(verdict, ", ".join(parts) + ".", cards)


def _best(collection: Collection) -> Card:
    known = [
        (result.r_obs_held_out, run.name)
        for run, result in collection.finished
        if result.r_obs_held_out is not None
    ]
    if not known:
        return Card("Best R_obs, held out", "–")
    best, name = min(known)
    return Card("Best R_obs, held out", factor(best), name)


def _cells(comparison: Comparison) -> Card:
    sizes = [f"{len(cluster.members)}" for cluster in comparison.clusters]
    return Card("Unit cells", f"{len(sizes)}", f"crystals: {', '.join(sizes)}" if sizes else "")


def _hands(comparison: Comparison) -> Card:
    if not comparison.hands:
        return Card("Hand", "not tested")
    joint = comparison.hands[0]
    return Card("Hand", f"z = {joint.z_score:.1f}", joint.verdict)


def _linked(table: Table, collection: Collection, folder: str) -> Table:
    """With links from the names of runs to their pages, as seen from the page's folder."""
    rows: list[Sequence[str]] = []
    for (run, _), row in zip(collection.finished, table.rows):
        if run.page is not None:
            address = quote(os.path.relpath(run.page, folder))
            link = Markup('<a href="{}">{}</a>').format(address, row[0])
            row = [link, *row[1:]]
        rows.append(row)
    return replace(table, rows=rows)


def collection_page(
    collection: Collection,
    comparison: Comparison,
    folder: str,
    changed: str,
    dials: str,
    date: str,
) -> str:
    """The page as HTML.

    Args:
        folder: where it will be, for links to the pages of the runs.
        changed: the parameters that were changed, as PHIL.
        dials: name and version of DIALS. date: of the page.

    Raises:
        ValueError: if plotly.js is not installed.
    """
    panels = [
        Panel(
            "Results",
            [],
            [
                _linked(tables.runs_table(collection, comparison), collection, folder),
                tables.cluster_table(collection, comparison),
                tables.hand_table(comparison),
            ],
        ),
        Panel(COMPARISON, collection_figures(collection, comparison), []),
        Panel(
            "Without results",
            [],
            [tables.failure_table(comparison), tables.unfinished_table(collection)],
        ),
        Panel("Details", [], [], texts=[("Parameters that were changed", changed or "none")]),
    ]
    return html_page(
        Page(
            program="dials.hybrid_collect",
            title=f"{len(collection.runs)} runs",
            subtitle=f"{len(collection.runs)} runs of dials.hybrid_refine, {date}",
            headline=collection_headline(collection, comparison),
            warnings=_warnings(collection, comparison),
            panels=[
                replace(panel, tables=[table for table in panel.tables if table.rows])
                for panel in panels
            ],
            dials=dials,
        )
    )


def _warnings(collection: Collection, comparison: Comparison) -> list[str]:
    """What a person should look at."""
    said = []
    if len(comparison.clusters) > 1:
        said.append(
            f"the crystals have {len(comparison.clusters)} different unit cells: another compound, phase or "
            "indexing among them"
        )
    if comparison.outliers:
        names = ", ".join(collection.finished[i][0].name for i in sorted(comparison.outliers))
        said.append(f"R is far above that of others with the same cell: {names}")
    if any(joint.n_as_given and joint.n_inverted for joint in comparison.hands):
        said.append("crystals disagree about the hand")
    return said
