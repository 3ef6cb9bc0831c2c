"""The restraints in the log."""

from __future__ import annotations

from dials.util import tabulate

from dials_hybrid_refine.refinement.restraint_summary import RestraintRow, RestraintSummary

#: rows shown, of which the worst come first
_MOST_ROWS = 50


def restraint_table(restraints: RestraintSummary) -> str:
    """All restraints, the worst first: target, value, deviation and the same over sigma."""
    worst = sorted(restraints.rows, key=lambda row: -abs(row.ratio))
    rows = [
        [
            row.kind.replace("_", " "),
            _atoms(row),
            "-" if row.target is None else f"{row.target:.4f}",
            f"{row.value:.4f}",
            f"{row.sigma:.4f}",
            f"{row.deviation:+.4f}",
            f"{row.ratio:+.2f}",
        ]
        for row in worst[:_MOST_ROWS]
    ]
    header = ["restraint", "atoms", "target", "value", "sigma", "deviation", "dev./sigma"]
    hidden = len(worst) - len(rows)
    note = [f"{hidden} more deviate less; the JSON summary has them all."] if hidden else []
    total = (
        f"{len(worst)} restraints, {restraints.n_equations} equations, sum of squares "
        f"{restraints.chi_square:.2f}; restrained S {restraints.restrained_s:.2f} (weights of the loss)"
    )
    return "\n".join([tabulate(rows, header, disable_numparse=True), *note, total])


def _atoms(row: RestraintRow) -> str:
    return " ".join(
        label if operation == "x,y,z" else f"{label}({operation})"
        for label, operation in zip(row.labels, row.operations)
    )
