# LIBTBX_SET_DISPATCHER_NAME dials.hybrid_collect
"""Collect many refinements of dials.hybrid_refine into one table and page.

Reads the summaries (dials.hybrid_refine.json) of folders and writes which crystals agree best with the
structure, which have the same unit cell, what their tests of the hand say together, and why runs failed
or how far those came that did not end. A folder without a summary counts as a run that is not finished.

Examples::

  dials.hybrid_collect runs/*

  dials.hybrid_collect runs/* sort_by=completeness output.csv=runs.csv

  dials.hybrid_collect 'runs/**/dials.hybrid_refine.json'
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import iotbx.phil
from dials.util import show_mail_handle_errors, tabulate
from dials.util.version import dials_version

from dials_hybrid_refine import __version__
from dials_hybrid_refine.collection.compare import Comparison, compare
from dials_hybrid_refine.collection.run import Collection, sort_runs
from dials_hybrid_refine.command_line.start import check_output_files, errors_for_users, start
from dials_hybrid_refine.io.collected_runs import find_runs, read_run
from dials_hybrid_refine.io.command_input import parse_arguments
from dials_hybrid_refine.io.output_files import write_atomically
from dials_hybrid_refine.report import collection_tables as tables
from dials_hybrid_refine.report.collection_page import collection_headline, collection_page
from dials_hybrid_refine.report.page import plotly_javascript

logger = logging.getLogger("dials.hybrid_collect")

phil_scope = iotbx.phil.parse(
    """
sort_by = *r_obs_held_out r_obs completeness thickness name
  .type = choice
  .help = "What the best runs are the first by: the smallest R factor or thickness, the largest"
          "completeness, or the alphabet."
cell_tolerance = 1
  .type = float(value_min=0.01, value_max=20)
  .help = "Unit cells whose lengths differ by less than about so many per cent are the same."
output {
  csv = dials.hybrid_collect.csv
    .type = path
    .help = "A line for each run. None: not written; so for all output files."
  json = dials.hybrid_collect.json
    .type = path
    .help = "The same, with clusters, hands and failures, for programs."
  html = dials.hybrid_collect.html
    .type = path
    .help = "A page that opens without a network."
  log = dials.hybrid_collect.log
    .type = path
}
"""
)


def check_output(output: Any, inputs: Sequence[str]) -> None:
    """Whether all files can be written.

    Raises:
        ValueError: names the parameter and the remedy.
    """
    check_output_files(output, inputs)
    if output.html is not None:
        plotly_javascript()


def as_json(collection: Collection, comparison: Comparison) -> str:
    """All that is known of the runs, as in the table; null is not known."""
    finished = [run.name for run, _ in collection.finished]
    runs = [asdict(run) for run in collection.runs]
    content = {
        "program": "dials.hybrid_collect",
        "version": __version__,
        "runs": runs,
        "cell_clusters": [
            {
                "runs": [finished[i] for i in cluster.members],
                "median": cluster.median,
                "spread": cluster.spread,
            }
            for cluster in comparison.clusters
        ],
        "r_outliers": [finished[i] for i in sorted(comparison.outliers)],
        "hands": [{**asdict(hand), "verdict": hand.verdict} for hand in comparison.hands],
        "failures": [asdict(group) for group in comparison.failures],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def log_tables(collection: Collection, comparison: Comparison) -> None:
    """The tables that have rows."""
    for table in (
        tables.runs_table(collection, comparison),
        tables.cluster_table(collection, comparison),
        tables.hand_table(comparison),
        tables.failure_table(comparison),
        tables.unfinished_table(collection),
    ):
        if table.rows:
            logger.info("\n%s\n%s", table.title, tabulate(table.rows, table.header))


@show_mail_handle_errors()
def run(args: Sequence[str] | None = None, phil: Any = phil_scope) -> None:
    """Run the program with command-line arguments (default: those of the process)."""
    usage = "dials.hybrid_collect [options] folders"
    arguments = list(sys.argv[1:] if args is None else args)
    with errors_for_users():
        command, names = parse_arguments(phil, usage, __doc__, arguments or ["-h"])
        params = command.params
        start(command, "dials.hybrid_collect", check_output)
        collection = sort_runs([read_run(path) for path in find_runs(names)], params.sort_by)
        comparison = compare(collection, params.cell_tolerance / 100)
        log_tables(collection, comparison)
        logger.info("\n%s", collection_headline(collection, comparison).sentence)
        date = datetime.now().strftime("%Y-%m-%d %H:%M")
        texts = {
            "table": (params.output.csv, lambda: tables.as_csv(collection, comparison)),
            "summary": (params.output.json, lambda: as_json(collection, comparison)),
            "page": (
                params.output.html,
                lambda: collection_page(
                    collection,
                    comparison,
                    str(Path(params.output.html).parent),
                    command.changed,
                    dials_version(),
                    date,
                ),
            ),
        }
        for what, (path, text) in texts.items():
            if path is not None:
                logger.info("Saving the %s to %s", what, path)
                content = text()
                write_atomically(
                    path, lambda name: Path(name).write_text(content, encoding="utf-8")
                )


if __name__ == "__main__":
    run()
