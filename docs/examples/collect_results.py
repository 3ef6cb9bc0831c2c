"""Prints a table of many refinements as CSV: collect_results.py SUMMARY.json ..."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

KEYS = ("n_observed", "n_rejected", "r_obs", "r_obs_held_out", "mr_obs")


def row(path: Path) -> list[object]:
    """What a batch is judged by; a run that did not finish has no summary."""
    if not path.exists():
        return [path.parent, "failed"]
    summary = json.loads(path.read_text())
    statistics = summary["statistics"]
    means = [entry["mean"] for entry in summary["thickness"]]
    hand = summary["absolute_structure"] or {}
    return [
        path.parent,
        summary["status"],
        *(statistics[key] for key in KEYS),
        round(sum(means) / len(means)),
        hand.get("z_score"),
        "; ".join(summary["warnings"]),
    ]


def main() -> None:
    """Write one line for each file."""
    table = csv.writer(sys.stdout)
    table.writerow(["folder", "status", *KEYS, "thickness", "z_score", "warnings"])
    for name in sys.argv[1:]:
        table.writerow(row(Path(name)))


if __name__ == "__main__":
    main()
