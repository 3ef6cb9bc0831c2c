"""Refine synthetic, simulated and measured data with known or published answers; write the tables.

    python -m benchmarks.validation [--list] [--only PATTERN ...] [--quick] [--nproc N]
        [--output FOLDER] [--paper FOLDER] [--limit MINUTES] [--again] [--same-commit]
        [--tables-only] [--docs FOLDER]

Run from the root of the repository. Each row is a run of the real commands in a folder of its own
below --output, where its result is written as soon as it is there; interrupted, the same command
goes on with the row that was interrupted. A row is run again if it failed, or if its arguments, its
files or the version of the program changed. At the end docs/validation.md and docs/validation.json
are written from all rows of the list that have run.

The data are the files of doi 10.1038/s41467-026-71673-9 (--paper: the folder that holds quartz and
cspbbr3) and quartz_processed of the package dials_data (DIALS_DATA, or a network).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.validation.picture import write_pictures
from benchmarks.validation.rows import all_rows, select
from benchmarks.validation.run_row import (
    REPOSITORY,
    Settings,
    current_commit,
    is_done,
    run_row,
)
from benchmarks.validation.table import read_results, write_documents


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--list", action="store_true", help="print the names of the selected rows and stop")
    add("--only", nargs="+", default=[], metavar="PATTERN", help="parts of names, or with * and ?")
    add("--quick", action="store_true", help="a few rows that are cheap")
    add("--output", type=Path, default=Path("validation"), help="folder of all runs")
    add("--paper", type=Path, default=REPOSITORY.parent / "shared" / "paper")
    add("--nproc", type=int, default=os.cpu_count() or 1, help="threads of the commands")
    add("--limit", type=float, default=60.0, metavar="MINUTES", help="for the refinement of a row")
    add("--again", action="store_true", help="run the selected rows even if they are done")
    add("--same-commit", action="store_true", help="rows done by another commit are not done")
    add("--tables-only", action="store_true", help="run nothing, write the documents")
    add("--docs", type=Path, default=REPOSITORY / "docs", help="folder of the documents")
    return parser.parse_args()


def main() -> None:
    options = _options()
    rows = all_rows()
    selected = select(rows, options.only, options.quick)
    if options.list:
        print("\n".join(row.name for row in selected))
        return
    settings = Settings(
        options.output.resolve(),
        options.paper.resolve(),
        options.nproc,
        60 * options.limit,
        current_commit(),
    )
    for i, row in enumerate([] if options.tables_only else selected, 1):
        head = f"[{i} of {len(selected)}] {row.name}"
        if not options.again and is_done(row, settings, options.same_commit):
            print(f"{head}: done before", flush=True)
            continue
        print(head, flush=True)
        result = run_row(row, settings)
        print(f"    {result['status']} {result.get('message', '')}".rstrip(), flush=True)
    pictures = write_pictures(settings.output, rows, options.docs / "pictures")
    results = read_results(settings.output)
    write_documents(results, [row.name for row in rows], options.docs, pictures)


if __name__ == "__main__":
    main()
