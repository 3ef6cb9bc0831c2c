"""The files with plots: the page, the plots' JSON, and picture files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.report.html_report import ReportContext, html_report
from dials_hybrid_refine.report.plots import all_figures, plots_as_json


@dataclass(frozen=True)
class ReportFiles:
    """Names of the files, None for none.

    Attributes:
        html, plots_json: files.
        plots: folder; ``plots_format``: suffix of the files in it.
    """

    html: str | None
    plots_json: str | None
    plots: str | None
    plots_format: str


def report_writers(
    files: ReportFiles, result: Result, summary: Mapping[str, Any], context: ReportContext
) -> list[tuple[str, str | None, Callable[[str], object]]]:
    """What each file is, its name, and a function that writes it to a path.

    Args:
        summary: the JSON summary of the result.
    """
    figures = all_figures(result) if files.html or files.plots_json else []

    def write_page(path: str) -> None:
        page = html_report(result, summary, figures, context)
        Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")

    def write_json(path: str) -> None:
        Path(path).write_text(plots_as_json(figures), encoding="utf-8", errors="backslashreplace")

    return [("report", files.html, write_page), ("plots' data", files.plots_json, write_json)]


def write_plot_files(files: ReportFiles, result: Result) -> None:
    """Write the plots as pictures, if a folder is named.

    Raises:
        ValueError: if that cannot be done.
    """
    if files.plots is None:
        return
    # matplotlib takes half a second to import, which only those who ask for pictures should wait
    from dials_hybrid_refine.report.plot_files import write_plots

    write_plots(all_figures(result), Path(files.plots), files.plots_format)
