"""What a reader learns in ten seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dials_hybrid_refine.report.html_tables import factor


@dataclass(frozen=True)
class Card:
    """One figure: what, its value, and a line below."""

    what: str
    value: str
    below: str = ""


@dataclass(frozen=True)
class Headline:
    """Verdict ("good", "doubtful" or "stopped"), its sentence and the figures."""

    verdict: str
    sentence: str
    cards: Sequence[Card]


def headline(summary: Mapping[str, Any]) -> Headline:
    """Whether it worked, the R factors, thickness and hand, from the JSON summary."""
    status, warnings = summary["status"], summary["warnings"]
    steps = summary["statistics"]["n_iterations"]
    n_warnings = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}"
    if status == "interrupted":
        verdict, sentence = "stopped", f"Interrupted after {steps} steps: not a final result."
    elif summary["breakdown"] is not None:
        verdict = "stopped"
        sentence = f"The numbers broke down after {steps} steps: not a final result, see below."
    elif status != "converged":
        verdict = "doubtful"
        sentence = f"Not converged after {steps} steps: raise refinement.max_cycles."
        if warnings:
            sentence += f" There are {n_warnings}, see below."
    elif warnings:
        verdict, sentence = "doubtful", f"Converged in {steps} steps, with {n_warnings}: see below."
    else:
        verdict, sentence = "good", f"Converged in {steps} steps, without warnings."
    return Headline(verdict, sentence, [*_agreement(summary), _thickness(summary), _hand(summary)])


def _agreement(summary: Mapping[str, Any]) -> list[Card]:
    s = summary["statistics"]
    gof = "–" if s["gof"] is None else f"{s['gof']:.2f}"
    return [
        Card("R_obs", factor(s["r_obs"]), f"{s['n_observed']} observed of {s['n_reflections']}"),
        Card(
            "R_obs, held out",
            factor(s["r_obs_held_out"]),
            f"{s['n_held_out']} reflections never refined against",
        ),
        Card("Goodness of fit", gof, f"{s['n_rejected']} rejected as outliers"),
    ]


def _thickness(summary: Mapping[str, Any]) -> Card:
    means = [row["mean"] for row in summary["thickness"] if row["mean"] is not None]
    if not means:
        return Card("Thickness", "–")
    return Card(
        "Thickness",
        f"{sum(means) / len(means):.0f} Å",
        f"mean over the scan, {min(means):.0f} to {max(means):.0f} Å",
    )


def _hand(summary: Mapping[str, Any]) -> Card:
    found = summary.get("absolute_structure")
    if not found:
        return Card("Hand", "not tested", f"space group {summary['structure']['space_group']}")
    below = [
        f"{name} {found[key]:{form}}"
        for key, name, form in (("z_score", "z", ".1f"), ("probability", "probability", ".3g"))
        if found.get(key) is not None
    ]
    if found.get("r_obs_inverted") is not None:
        below.append(f"R_obs inverted {factor(found['r_obs_inverted'])}")
    return Card("Hand", str(found.get("preferred") or "undecided"), ", ".join(below))
