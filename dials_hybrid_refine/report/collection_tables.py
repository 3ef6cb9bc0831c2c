"""Tables of many refinements, for log, page and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from dials_hybrid_refine.collection.compare import Comparison
from dials_hybrid_refine.collection.run import NOT_FINISHED, Collection, Run, RunResult
from dials_hybrid_refine.report.html_tables import Table, factor

_CSV_HEADER = (
    "name status reason r_obs r_obs_held_out n_reflections n_observed n_rejected d_min completeness "
    "thickness thickness_min thickness_max a b c alpha beta gamma space_group cluster outlier z_score "
    "hand_clear seconds warnings"
).split()


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _hand(result: RunResult) -> str:
    if result.hand is None:
        return "–"
    return f"{result.hand.z_score:.1f}{'' if result.hand.clear else ' (unclear)'}"


def _run_row(run: Run, result: RunResult, cluster: int, outlier: bool) -> list[str]:
    remarks = [f"{len(result.warnings)} warnings"] if len(result.warnings) > 1 else result.warnings
    if run.status != "converged":
        remarks = [run.status.replace("_", " "), *remarks]
    if outlier:
        remarks = ["R is high for its cell", *remarks]
    return [
        run.name,
        factor(result.r_obs_held_out),
        factor(result.r_obs),
        f"{result.n_observed}",
        _number(result.completeness, ".0%"),
        _number(result.d_min, ".2f"),
        _number(result.thickness, ".0f"),
        f"{cluster}",
        _hand(result),
        "; ".join(remarks),
    ]


def runs_table(collection: Collection, comparison: Comparison) -> Table:
    """The runs with results, in their order."""
    rows = [
        _run_row(run, result, comparison.cluster_of(i), i in comparison.outliers)
        for i, (run, result) in enumerate(collection.finished)
    ]
    header = [
        "data set", "R_obs, held out", "R_obs", "observed", "complete", "d_min (Å)", "thickness (Å)",
        "cell", "z of hand", "remarks",
    ]  # fmt: skip
    return Table("runs", "Results", header, rows)


def cluster_table(collection: Collection, comparison: Comparison) -> Table:
    """The cells, with the R factors of their crystals."""
    rows = []
    for number, cluster in enumerate(comparison.clusters, 1):
        results = [collection.finished[i][1] for i in cluster.members]
        factors = sorted(r.r_obs_held_out for r in results if r.r_obs_held_out is not None)
        groups = sorted({result.space_group for result in results})
        rows.append(
            [
                f"{number}",
                f"{len(cluster.members)}",
                *(
                    f"{value:.{digits}f}"
                    + (f" ± {spread:.{digits}f}" if len(cluster.members) > 1 else "")
                    for value, spread, digits in zip(
                        cluster.median, cluster.spread, (3, 3, 3, 2, 2, 2)
                    )
                ),
                ", ".join(groups),
                f"{factor(factors[0])} to {factor(factors[-1])}" if factors else "–",
                collection.finished[cluster.members[0]][0].name,
            ]
        )
    header = [
        "cell", "crystals", "a (Å)", "b (Å)", "c (Å)", "α (°)", "β (°)", "γ (°)", "space group",
        "R_obs, held out", "first",
    ]  # fmt: skip
    return Table(
        "clusters",
        "Unit cells",
        header,
        rows,
        "Medians and standard deviations of crystals whose reduced cells are alike.",
    )


def hand_table(comparison: Comparison) -> Table:
    """The hands, for each starting structure."""
    rows = [
        [
            joint.model[:8],
            f"{joint.n_tested}",
            f"{joint.n_as_given}",
            f"{joint.n_inverted}",
            f"{joint.n_tested - joint.n_as_given - joint.n_inverted}",
            f"{joint.z_score:.1f}",
            joint.verdict,
        ]
        for joint in comparison.hands
    ]
    header = ["structure", "tested", "as given", "inverted", "unclear", "joint z", ""]
    return Table(
        "hands",
        "Hand",
        header,
        rows,
        "z above 0 favours the structure of the file (named by the beginning of its SHA-256). The joint z is Σz/√n: it takes the "
        "crystals to be of one hand and their errors to be independent.",
    )


def failure_table(comparison: Comparison) -> Table:
    """Why runs failed."""
    rows = [
        [group.reason, f"{len(group.runs)}", ", ".join(group.runs)] for group in comparison.failures
    ]
    return Table("failures", "Failed", ["reason", "runs", "data sets"], rows)


def unfinished_table(collection: Collection) -> Table:
    """Which runs did not end, and how far they came."""
    rows = [[run.name, run.reason] for run in collection.with_status(NOT_FINISHED)]
    return Table("unfinished", "Not finished", ["data set", "how far it came"], rows)


def as_csv(collection: Collection, comparison: Comparison) -> str:
    """A line for each run; what is not known is empty."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(_CSV_HEADER)
    places = {id(run): i for i, (run, _) in enumerate(collection.finished)}
    for run in collection.runs:
        line: Sequence[object] = [run.name, run.status, run.reason]
        if run.result is not None:
            line = [*line, *_csv_values(run.result, comparison, places[id(run)])]
        table.writerow([*line, *[""] * (len(_CSV_HEADER) - len(line))])
    return stream.getvalue()


def _csv_values(result: RunResult, comparison: Comparison, place: int) -> list[object]:
    thinnest, thickest = result.thickness_range or (None, None)
    return [
        result.r_obs, result.r_obs_held_out, result.n_reflections, result.n_observed, result.n_rejected,
        result.d_min, result.completeness, result.thickness, thinnest, thickest, *result.unit_cell,
        result.space_group, comparison.cluster_of(place), place in comparison.outliers,
        *((result.hand.z_score, result.hand.clear) if result.hand else (None, None)),
        round(result.seconds, 1), "; ".join(result.warnings),
    ]  # fmt: skip
