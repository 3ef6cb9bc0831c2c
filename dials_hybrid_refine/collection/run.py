"""One refinement of a batch, as far as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

#: of runs that have results
FINISHED = ("converged", "max_iterations", "interrupted")
FAILED, NOT_FINISHED = "failed", "not finished"

#: what tables can be sorted by, and whether large values are better
SORT_KEYS = {
    "r_obs_held_out": False,
    "r_obs": False,
    "completeness": True,
    "thickness": False,
    "name": False,
}


@dataclass(frozen=True)
class Hand:
    """The test of the absolute structure: z_score > 0 favours the structure of the file.

    ``clear``: whether it determines the hand.
    """

    z_score: float
    clear: bool


@dataclass(frozen=True)
class RunResult:
    """What a run with results found; None where its summary does not say.

    Attributes:
        r_obs, r_obs_held_out: R factors.
        n_reflections, n_observed, n_rejected: numbers of reflections.
        d_min: in Angstrom. completeness: of the unique reflections to d_min.
        unit_cell: of the experiment (mean of several), in Angstrom and degrees.
        space_group: of the structure.
        thickness: mean over the scan, thickness_range: smallest and largest mean, in Angstrom.
        hand: None where it was not tested.
        model: what the starting structure is known by (a hash of its file).
        seconds: of the refinement.
    """

    r_obs: float | None
    r_obs_held_out: float | None
    n_reflections: int
    n_observed: int
    n_rejected: int
    d_min: float | None
    completeness: float | None
    unit_cell: tuple[float, ...]
    space_group: str
    thickness: float | None
    thickness_range: tuple[float, float] | None
    hand: Hand | None
    model: str
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A data set of a batch.

    Attributes:
        name: of its folder.
        status: that of the summary, "failed" or "not finished".
        reason: of a run without results; how far it came, if it was killed.
        result: None without results.
        page: the report of the run, if there is one.
    """

    name: str
    status: str
    reason: str = ""
    result: RunResult | None = None
    page: str | None = None


@dataclass(frozen=True)
class Collection:
    """The runs of a batch, sorted.

    ``finished``: (run, result) of those with results.
    """

    runs: Sequence[Run]
    finished: Sequence[tuple[Run, RunResult]] = field(init=False)

    def __post_init__(self) -> None:
        pairs = tuple((run, run.result) for run in self.runs if run.result is not None)
        object.__setattr__(self, "finished", pairs)

    def with_status(self, status: str) -> list[Run]:
        """The runs of a status."""
        return [run for run in self.runs if run.status == status]


def sort_runs(runs: Sequence[Run], key: str) -> Collection:
    """The best first, by one of ``SORT_KEYS``; runs that do not state it, and those without results,
    at the end, by name."""

    def place(run: Run) -> tuple[int, float, str]:
        if run.result is None:
            return (2, 0.0, run.name)
        if key == "name":
            return (0, 0.0, run.name)
        value = getattr(run.result, key)
        if value is None:
            return (1, 0.0, run.name)
        return (0, -value if SORT_KEYS[key] else value, run.name)

    return Collection(tuple(sorted(runs, key=place)))
