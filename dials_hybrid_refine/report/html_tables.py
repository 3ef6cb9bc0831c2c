"""Tables of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctbx import adptbx
from libtbx.utils import format_float_with_standard_uncertainty

from dials_hybrid_refine.refinement.result import Result

#: most rejected reflections listed; all are in the .refl file and in the log
_MOST_ROWS = 200


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; ``note``: what a reader should know."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def factor(value: float | None) -> str:
    """An R factor in per cent."""
    return "–" if value is None else f"{100 * value:.2f} %"


def _with_su(value: float, su: float | None, digits: int = 4) -> str:
    if su is None or not su > 0:
        return f"{value:.{digits}f}"
    return str(format_float_with_standard_uncertainty(value, su))


def statistics_table(summary: Mapping[str, Any]) -> Table:
    """Figures of merit of used and held-out reflections."""
    s = summary["statistics"]
    frames = s["frames"]
    gof = "–" if s["gof"] is None else f"{s['gof']:.2f}"
    shift = s["shift_over_su_max"]
    rows = [
        ["Reflections", f"{s['n_reflections']}", f"{s['n_held_out']}"],
        ["Observed, I > 3σ(I)", f"{s['n_observed']}", ""],
        ["R_obs", factor(s["r_obs"]), factor(s["r_obs_held_out"])],
        ["R_all", factor(s["r_all"]), ""],
        ["wR_all", factor(s["wr_all"]), ""],
        ["Goodness of fit", gof, ""],
        ["MR_obs", factor(s["mr_obs"]), ""],
        ["MR_all", factor(s["mr_all"]), ""],
        ["MwR_all", factor(s["mwr_all"]), ""],
        ["Mean R_obs of frames", factor(frames["r_obs_mean"]), factor(frames["r_obs_mean_held_out"])],
        ["Mean wR2 of frames", factor(frames["wr2_mean"]), factor(frames["wr2_mean_held_out"])],
        ["Rejected as outliers", f"{s['n_rejected']}", ""],
        ["Largest shift/s.u.", "–" if shift is None else f"{shift:.2f}", ""],
        ["Parameters", f"{s['n_parameters']}", ""],
        ["Effective parameters", f"{s['n_parameters_effective']:.0f}", ""],
    ]  # fmt: skip
    slices = s["slices"]
    if slices is not None:
        rows += [
            ["Slices", f"{slices['n_slices']}", f"{slices['n_held_out']}"],
            ["R_obs of slices", factor(slices["r_obs"]), factor(slices["r_obs_held_out"])],
            ["Slices rejected as outliers", f"{slices['n_rejected']}", ""],
        ]
    return Table("statistics", "Figures of merit", ["", "used", "held out"], rows)


def crystal_table(summary: Mapping[str, Any]) -> Table | None:
    """The fit of each crystal where there are several, and those that were left out."""
    crystals, excluded = summary.get("crystals") or [], summary.get("excluded_crystals") or []
    if len(crystals) + len(excluded) < 2:
        return None
    rows = []
    for crystal in crystals:
        absorption, mosaicity = crystal["absorption"], crystal["mosaicity"]
        rows.append(
            [
                f"{crystal['experiment']}",
                crystal["name"],
                "{:g} to {:g}".format(*crystal["phi_range"]),
                f"{crystal['n_reflections']} ({crystal['n_observed']})",
                factor(crystal["r_obs"]),
                factor(crystal["r_obs_held_out"]),
                f"{crystal['n_rejected']}",
                f"{crystal['thickness']:.0f}",
                f"{crystal['scale']:.4g}",
                "–" if absorption is None else _with_su(absorption["value"], absorption["su"]),
                "–" if mosaicity is None else _with_su(mosaicity["value"], mosaicity["su"]),
                crystal["reindexed"] or "–",
            ]
        )
    rows += [["–", one["name"], f"left out: {one['reason']}", *["–"] * 9] for one in excluded]
    header = [
        "", "experiment", "rotation (°)", "reflections (observed)", "R_obs", "held out", "rejected",
        "thickness (Å)", "scale", "absorption", "mosaicity (°)", "reindexed",
    ]  # fmt: skip
    return Table("crystals", "Crystals", header, rows)


def atom_table(result: Result, summary: Mapping[str, Any]) -> Table:
    """Coordinates and displacement parameters with s.u., and how far each atom moved."""
    cell = result.structure.unit_cell()
    start = result.start.scatterers() if result.start is not None else None
    rows = []
    for i, atom in enumerate(summary["structure"]["atoms"]):
        site_su = atom["site_su"] or [None] * 3
        if "u_cif" in atom:
            u_eq, u_su = adptbx.u_cif_as_u_iso(cell, tuple(atom["u_cif"])), None
        else:
            u_eq, u_su = atom["u_iso"], atom["u_su"]
        moved = "–"
        if start is not None:
            moved = f"{_distance(cell, atom['site'], start[i].site):.3f}"
        rows.append(
            [
                atom["label"],
                atom["element"],
                *(_with_su(x, su) for x, su in zip(atom["site"], site_su)),
                _with_su(u_eq, u_su),
                "anisotropic" if "u_cif" in atom else "isotropic",
                f"{atom['occupancy']:.3f}",
                moved,
            ]
        )
    return Table(
        "atoms",
        "Atoms",
        ["atom", "element", "x", "y", "z", "U_eq (Å²)", "displacement", "occupancy", "shift (Å)"],
        rows,
        "Standard uncertainties in units of the last digit; the shift is from the starting structure.",
    )


def _distance(cell: Any, site: Sequence[float], other: Sequence[float]) -> float:
    difference = np.array(site) - other
    return float(cell.length(tuple(difference - np.round(difference))))


def exclusion_table(summary: Mapping[str, Any], n_read: int) -> Table:
    """Where the reflections went."""
    s = summary["statistics"]
    excluded = s["n_excluded"]
    rows = [["read", f"{n_read}"]]
    rows += [[f"excluded: {reason}", f"{n}"] for reason, n in excluded.items() if n]
    rows += [
        [f"held out ({s['held_out_by']})", f"{s['n_held_out']}"],
        ["rejected as outliers", f"{s['n_rejected']}"],
        ["used", f"{s['n_reflections']}"],
    ]
    return Table("excluded", "Where the reflections went", ["reflections", "number"], rows)


def data_checks_table(summary: Mapping[str, Any]) -> Table | None:
    """What the checks of the data found; None if they found nothing."""
    found = summary["data_checks"]
    rows = [[f["name"].replace("_", " "), f["severity"], f["sentence"]] for f in found]
    header = ["check", "", "found"]
    return Table("data-checks", "Checks of the data", header, rows) if rows else None


def rejection_table(result: Result) -> Table:
    """The rejected reflections, worst first."""
    data = result.observations
    rejected = np.flatnonzero(result.rejected)
    worst = rejected[np.argsort(-np.abs(result.residual[rejected]), kind="stable")]
    rows = [
        [
            " ".join(map(str, data.hkl[i])),
            f"{data.experiment[i]}",
            f"{data.phi[i]:.2f}",
            f"{data.intensity[i]:.1f}",
            f"{data.sigma[i]:.1f}",
            f"{result.calculated[i]:.1f}",
            f"{result.residual[i]:+.1f}",
        ]
        for i in worst[:_MOST_ROWS]
    ]
    note = "All differ from the calculated intensity by more than weighting.outlier_threshold."
    if len(worst) > _MOST_ROWS:
        note += f" The worst {_MOST_ROWS} of {len(worst)}; all are in the log."
    return Table(
        "rejected",
        "Rejected reflections",
        ["h k l", "experiment", "angle (°)", "I_obs", "σ", "I_calc", "residual / s.u."],
        rows,
        note if rows else "No reflection was rejected.",
    )


def convergence_table(summary: Mapping[str, Any]) -> Table | None:
    """What raising the limits of the calculation does, if that was asked for."""
    found = summary.get("convergence")
    if not found:
        return None
    rows = [
        [r["setting"], f"{r['value']:.4g}", f"{r['raised']:.4g}", f"{100 * r['change']:.3f}"]
        for r in found
    ]
    header = ["setting", "value", "raised to", "change of F (%)"]
    return Table("limits", "Limits of the calculation", header, rows)


def effects_table(summary: Mapping[str, Any]) -> Table | None:
    """Strengths that are refined once: absorption, mosaicity, effects of other packages."""
    rows = []
    if summary.get("absorption"):
        absorption = summary["absorption"]
        what = "U′/U" if absorption["model"] == "proportional" else "factor on the tabulated U′"
        rows.append([f"absorption, {what}", _with_su(absorption["value"], absorption["su"])])
    if summary.get("mosaicity"):
        rows.append(["mosaicity (°)", _with_su(*summary["mosaicity"].values())])
    for effect in summary.get("effects") or []:
        for name, entry in effect["parameters"].items():
            rows.append([f"{effect['name']}: {name}", _text(entry["value"])])
    return (
        Table("effects", "Absorption and other effects", ["quantity", "value"], rows)
        if rows
        else None
    )


def other_tables(summary: Mapping[str, Any], keys: Mapping[str, str]) -> list[Table]:
    """Parts of the summary that are shown as they are, where present.

    Args:
        keys: key of the summary -> heading. Their values are dictionaries of values or lists of
            dictionaries with the same keys.
    """
    tables = []
    for key, title in keys.items():
        content = summary.get(key)
        if isinstance(content, Mapping):
            for name, value in content.items():
                if _is_table(value):
                    tables.append(_of_rows(f"{key}_{name}", f"{title}: {_words(name)}", value))
            single = [[_words(n), _text(v)] for n, v in content.items() if not _is_table(v)]
            if single:
                tables.append(Table(key, title, ["quantity", "value"], single))
        elif _is_table(content):
            tables.append(_of_rows(key, title, content or []))
    return tables


def _is_table(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def _of_rows(name: str, title: str, content: Sequence[Mapping[str, Any]]) -> Table:
    header = list(content[0])
    rows = [[_text(row.get(key)) for key in header] for row in content[:_MOST_ROWS]]
    return Table(name, title, [_words(key) for key in header], rows)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{_words(str(k))} {_text(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(v) for v in value)
    return str(value)
