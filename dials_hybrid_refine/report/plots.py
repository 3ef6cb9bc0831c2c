"""All plots of a finished refinement."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.report.figure import Figure
from dials_hybrid_refine.report.plots_agreement import agreement_figures
from dials_hybrid_refine.report.plots_curves import history_figures, rocking_figures
from dials_hybrid_refine.report.plots_experiment import experiment_figures
from dials_hybrid_refine.report.plots_structure import structure_figures


def all_figures(result: Result) -> list[Figure]:
    """The figures in the order of the page."""
    return [
        *experiment_figures(result),
        *agreement_figures(result),
        *rocking_figures(result),
        *history_figures(result),
        *structure_figures(result),
    ]


def plots_as_json(figures: Iterable[Figure]) -> str:
    """Plotly's data and layout by the names of the figures, as dials.report writes them."""
    content: dict[str, Any] = {figure.name: figure.as_plotly() for figure in figures}
    return json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n"
