"""The document of all rows: docs/validation.md and docs/validation.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Result = Mapping[str, Any]

#: what "right" means: largest deviation of an atom in Angstrom
RIGHT = {"synthetic": 0.01, "simulated": 0.002}

_INTRODUCTION = """# Refinements with a known answer, or a published one

Written by `python -m benchmarks.validation` ({dates}; commit {commits}; version {versions}); all figures are in
`validation.json` too. {failures}
"""

_SYNTHETIC = """## Synthetic data of the paper

The intensities were calculated by the authors of doi 10.1038/s41467-026-71673-9 with their own program. The sites are known;
the displacement parameters are not in the files, so those found (U_eq) are listed. The starts start_1 and start_2 are the
authors'; far_N has the atoms a mean of 0.3 Angstrom away from the truth, in random directions. In all of them the orientation
was turned before the start by a rotation that changes smoothly along the scan, by up to 0.2 degrees.
"""

_SIMULATED = """## Simulated data

Made by `dials.hybrid_simulate` with Poisson noise (40 000 counts on average), the mean thickness varying with the angle and a
normal distribution about it. The start has the atoms 0.1 Angstrom away from the truth on average, and U 1.5 times as large.
All were refined with `weighting.instability=0.005`, as sigmas of simulated counts are exact. The molecular crystal was
simulated with s_max 0.025 1/Angstrom (the others 0.015) and refined with `beams.accuracy=0.004`.
"""

_MEASURED = """## Measured data

Medians (and ranges) over seeds: each has its own held-out reflections and its own start of the network. A variant with
"frames" holds out stretches of the scan. "held out less neural" compares held-out R_obs seed by seed: the same reflections held
out, with the neural model; above zero that is better. Distances are those from the structures that X-rays gave (quartz:
Levien, Prewitt & Weidner 1980; CsPbBr3: the reference of the paper), which need not be the truth for these crystals.

Variants that end with "all" hold out nothing. Neither do the data sets that end with "frames", nor do they reject outliers: they are
treated as by programs that work frame by frame (`dials.import_pets intensities=frames` with the limits of the published
refinements), each frame listing what it sees of a passage, a reflection once in each frame. Their R_obs is by our definition, "frames R_obs"
by that of those programs, on "frames observed" rows; "less rejected" is that mean without rejected reflections.
"""

_DEFINITIONS = """## Definitions

* atoms: distance from the true site or its nearest equivalent, mean and largest, hydrogen apart. Where the space group is
  polar, a common shift along the free axes is taken out.
* U: |U - U_true| / |U_true|, with the root of the sum of squares of all elements in Cartesian axes.
* orientation: angle of the rotation that remains of turn and correction, rms and largest along the scan; after "det." its
  components (about x, y, z of the laboratory) whose standard uncertainty is below 0.025 degrees, and how many these are. A turn
  about the beam changes no intensity, and one about the rotation axis little where whole passages are integrated.
* thickness, width: rms deviation of the mean and of the standard deviation, relative to the true ones, over all angles; after
  "det." over the angles where their standard uncertainties are below 3 % and 15 %, and how many these are.
* outcome: "right" if every atom that is not hydrogen is within 0.01 Angstrom (synthetic) or 0.002 Angstrom (simulated), else
  "wrong"; after it the program's own verdict. "wrong, converged" is what must not be.
* parameters: number of refined ones, in brackets the effective number, which priors leave.
* s: wall-clock seconds of dials.hybrid_refine, with the number of threads; CPU s: of all of them together.
"""


def read_results(output: Path) -> list[dict[str, Any]]:
    """The results that lie in the folder, by name."""
    found = [json.loads(path.read_text()) for path in output.rglob("result.json")]
    return sorted(found, key=lambda result: str(result["name"]))


def write_documents(
    results: Sequence[Result], order: Sequence[str], folder: Path, pictures: Sequence[str] = ()
) -> None:
    """Write validation.md and validation.json.

    Args:
        results: of read_results.
        order: names of rows in the order of the document; results of others are left out.
        pictures: names of files in the folder "pictures" beside the documents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {result["name"]: result for result in results}
    chosen = [by_name[name] for name in order if name in by_name]
    shown = "".join(f"\n![{Path(name).stem}](pictures/{name})\n" for name in pictures)
    (folder / "validation.md").write_text(document(chosen, len(order)) + shown)
    plain, definitions = _without_definitions(chosen)
    content = {"n_rows": len(order), "definitions": definitions, "rows": plain}
    (folder / "validation.json").write_text(json.dumps(content, indent=1) + "\n")


def _without_definitions(results: Iterable[Result]) -> tuple[list[Result], Mapping[str, str]]:
    """The results, and the definitions of statistics that each of them repeats."""
    plain: list[Result] = []
    definitions: dict[str, str] = {}
    for result in results:
        if "statistics" in result:
            statistics = dict(result["statistics"])
            definitions |= statistics.pop("definitions", {})
            result = {**result, "statistics": statistics}
        plain.append(result)
    return plain, definitions


def document(results: Sequence[Result], n_rows: int) -> str:
    """The document in Markdown.

    Args:
        n_rows: number of rows that there are, run or not.
    """
    bad = [r for r in results if r["status"] in ("failed", "timed out")]
    failures = f"{len(results)} of {n_rows} rows have run"
    failures += f", {len(bad)} of them failed or ran out of time (see the end)." if bad else "."
    parts = [
        _INTRODUCTION.format(
            dates=_span(r["date"] for r in results),
            commits=_all(r["commit"] for r in results),
            versions=_all(r["version"] for r in results),
            failures=failures,
        )
    ]
    finished = [r for r in results if "statistics" in r]
    for name, introduction, table in (
        ("synthetic", _SYNTHETIC, _synthetic_table),
        ("simulated", _SIMULATED, _simulated_table),
        ("measured", _MEASURED, _measured_tables),
    ):
        rows = [r for r in finished if r["table"] == name]
        if rows:
            parts += [introduction, table(rows)]
    _, definitions = _without_definitions(results)
    parts += [_DEFINITIONS + "".join(f"* {k}: {v}\n" for k, v in definitions.items())]
    if bad:
        parts += ["## Rows that failed or ran out of time\n", _failures(bad)]
    return "\n".join(parts)


def _span(values: Iterable[str]) -> str:
    """First and last of the values in alphabetical order."""
    different = sorted(set(values))
    return " to ".join(dict.fromkeys(different[:1] + different[-1:])) or "-"


def _all(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values))) or "-"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with a line end."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def number(value: float | None, digits: int, factor: float = 1.0) -> str:
    """Fixed decimals; a dash for None."""
    return "-" if value is None else f"{factor * value:.{digits}f}"


def outcome(result: Result) -> str:
    """Whether the atoms are right, and what the program said."""
    right = result["sites"]["largest"] <= RIGHT[result["table"]]
    return f"{'right' if right else 'wrong'}, {result['status']}".replace("_", " ")


def _atoms(result: Result) -> list[str]:
    return [number(result["sites"][key], 4) for key in ("mean", "largest")]


def _time(result: Result) -> list[str]:
    seconds = f"{result['seconds']:.0f} ({result['nproc']})"
    return [str(result["statistics"]["n_iterations"]), seconds, f"{result['cpu_seconds']:.0f}"]


def _parameters(result: Result) -> str:
    statistics = result["statistics"]
    return f"{statistics['n_parameters']} ({number(statistics['n_parameters_effective'], 0)})"


def _fit(result: Result) -> list[str]:
    return [number(result["statistics"][key], 4) for key in ("r_obs", "r_all", "r_obs_held_out")]


def _synthetic_table(rows: Sequence[Result]) -> str:
    header = [
        "row", "outcome", "atoms mean A", "largest A", "orientation rms deg", "largest deg",
        "det. rms deg", "largest deg", "R_obs", "R_all", "held out", "U_eq found A^2", "parameters", "steps", "s", "CPU s",
    ]  # fmt: skip
    lines = []
    for r in rows:
        u = ", ".join(f"{label} {value:.4f}" for label, value in r["u_eq"].items())
        turn = r["orientation"]
        left = [number(turn[key], 3) for key in ("rms", "largest")]
        share = f"{turn['n_determined']} of {turn['n']}"
        left.append(number(turn["rms_determined"], 3))
        left.append(f"{number(turn['largest_determined'], 3)} ({share})")
        lines.append(
            [r["name"], outcome(r), *_atoms(r), *left, *_fit(r), u, _parameters(r), *_time(r)]
        )
    return markdown_table(header, lines)


def _simulated_table(rows: Sequence[Result]) -> str:
    header = [
        "row", "outcome", "atoms mean A", "largest A", "largest H A", "U mean %", "U largest %",
        "thickness %", "det.", "width %", "det.", "R_obs", "R_all", "held out", "parameters",
        "steps", "s", "CPU s",
    ]  # fmt: skip
    lines = []
    for r in rows:
        u, thickness = r["u"], r["thickness"]
        profile = []
        for key in ("mean", "width"):
            determined = number(thickness[f"{key}_determined"], 1, 100)
            share = f"{thickness[f'n_{key}_determined']} of {thickness['n']}"
            profile += [number(thickness[key], 1, 100), f"{determined} ({share})"]
        deviations = [*_atoms(r), number(r["sites"]["largest_hydrogen"], 4)]
        deviations += [number(u[key], 1, 100) for key in ("mean", "largest")]
        lines.append(
            [r["name"], outcome(r), *deviations, *profile, *_fit(r), _parameters(r), *_time(r)]
        )
    return markdown_table(header, lines)


#: header, value of a result, decimals
_Column = tuple[str, Callable[[Result], "float | None"], int]


def _statistic(name: str, frames: bool = False) -> Callable[[Result], float | None]:
    def value(result: Result) -> float | None:
        statistics = result["statistics"]
        found: float | None = (statistics.get("frames") or {} if frames else statistics).get(name)
        return found

    return value


_COLUMNS: tuple[_Column, ...] = (
    ("R_obs", _statistic("r_obs"), 4),
    ("R_all", _statistic("r_all"), 4),
    ("MR_obs", _statistic("mr_obs"), 4),
    ("frames R_obs", _statistic("r_obs_mean", frames=True), 4),
    ("less rejected", _statistic("r_obs_mean_used", frames=True), 4),
    ("frames observed", _statistic("n_observed", frames=True), 0),
    ("frames wR2", _statistic("wr2_mean", frames=True), 4),
    ("held out R_obs", _statistic("r_obs_held_out"), 4),
    ("parameters", _statistic("n_parameters"), 0),
    ("effective", _statistic("n_parameters_effective"), 0),
    ("atoms mean A", lambda r: r["sites"]["mean"], 4),
    ("largest A", lambda r: r["sites"]["largest"], 4),
    ("absorption ratio", lambda r: r["absorption_ratio"], 3),
    ("s", lambda r: r["seconds"], 0),
    ("CPU s", lambda r: r["cpu_seconds"], 0),
)


_ABOVE_NEURAL = "held out less neural"


def _measured_tables(rows: Sequence[Result]) -> str:
    """A table for each data set, a line for each variant."""
    parts = []
    for dataset in dict.fromkeys(r["dataset"] for r in rows):
        chosen = [r for r in rows if r["dataset"] == dataset]
        lines = []
        for variant in dict.fromkeys(r["variant"] for r in chosen):
            seeds = [r for r in chosen if r["variant"] == variant]
            converged = sum(r["status"] == "converged" for r in seeds)
            cells = [median_and_range([get(r) for r in seeds], n) for _, get, n in _COLUMNS]
            above = median_and_range(_above_neural(seeds, chosen), 4)
            lines.append([variant, f"{converged} of {len(seeds)}", *cells, above])
        header = ["variant", "converged", *(name for name, *_ in _COLUMNS), _ABOVE_NEURAL]
        parts.append(f"### {dataset}\n\n{markdown_table(header, lines)}")
    return "\n".join(parts)


def _above_neural(seeds: Iterable[Result], of_dataset: Sequence[Result]) -> list[float | None]:
    """Held-out R_obs less that of the neural model on the same held-out reflections, where it has run."""
    held_out = _statistic("r_obs_held_out")
    values: list[float | None] = []
    for result in seeds:
        by_frames = "+frames" in result["variant"]
        reference = "neural+frames" if by_frames else "neural"
        same = [
            held_out(r)
            for r in of_dataset
            if r["variant"] == reference
            and (r["start"], r["seed"]) == (result["start"], result["seed"])
        ]
        own = held_out(result)
        if same and same[0] is not None and own is not None and result["variant"] != reference:
            values.append(own - same[0])
    return values


def median_and_range(values: Sequence[float | None], digits: int) -> str:
    """Median of the values that there are, their range in brackets where they differ."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    text, *ends = (number(v, digits) for v in (median(known), min(known), max(known)))
    return text if ends[0] == ends[1] else f"{text} ({ends[0]}-{ends[1]})"


def _failures(rows: Sequence[Result]) -> str:
    lines = [
        [r["name"], r["status"], r.get("message", f"after {r['limit_s'] / 60:.0f} minutes")]
        for r in rows
    ]
    return markdown_table(["row", "status", "reason"], lines)
