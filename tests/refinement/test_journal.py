"""A refinement that goes on from its journal takes the same course to the same numbers."""

from __future__ import annotations

from dataclasses import astuple, replace
from functools import lru_cache

import numpy as np
import pytest
from examples import quartz_structure
from small_refinement import OPTIONS, data

from dials_hybrid_refine.refinement.journal import Entry, Journal
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.result import Iteration, Result
from dials_hybrid_refine.refinement.schedule import Controls


def refine(journal: Journal, options: RefinementOptions = OPTIONS, stop_in: str = "") -> Result:
    scan, observations = data()
    stages: list[str] = []

    def observe(iteration: Iteration) -> None:
        stages.append(iteration.stage)

    controls = Controls(observe, lambda: stop_in in stages, journal)
    return run_refinement([scan], observations, quartz_structure(), options, controls)


def recorder() -> tuple[Journal, list[Journal]]:
    """A journal, and what it was each time it was saved."""
    kept: list[Journal] = []

    def save(journal: Journal) -> None:
        kept.append(Journal(list(journal.entries), journal.running))

    return Journal(save=save), kept


def numbers(result: Result) -> list[object]:
    """All that must be the same: of the structure as given, of its inverse, and on the way."""
    hand = result.absolute_structure
    assert hand is not None and result.covariance is not None
    return [
        result.status,
        [(*s.site, s.u_iso) for s in result.structure.scatterers()],
        result.covariance.tolist(),
        result.calculated.tolist(),
        result.profiles.thickness_weight.tolist(),
        result.profiles.orientation.tolist(),
        [astuple(replace(iteration, seconds=0.0)) for iteration in result.history],
        astuple(replace(hand, seconds=0.0)),
        replace(result.statistics, frames=None),
    ]


@lru_cache(maxsize=None)
def whole() -> tuple[Result, list[Journal]]:
    journal, kept = recorder()
    return refine(journal), kept


@pytest.mark.parametrize(
    "stage, step",
    [
        ("start", 2),
        ("limits of the calculation", 0),
        ("cycle 1", 1),
        ("inverse 1", 1),
    ],
)
def test_going_on_changes_nothing(stage: str, step: int) -> None:
    """From the middle of a stage, after a step, and from the end of one, step 0: bit for bit."""
    result, kept = whole()

    def suits(journal: Journal) -> bool:
        if step:
            running = journal.running
            return running is not None and (running.name, running.content["number"]) == (
                stage,
                step,
            )
        return journal.running is None and journal.entries[-1].name == stage

    journal = next(journal for journal in kept if suits(journal))
    again = refine(Journal(list(journal.entries), journal.running))
    assert numbers(again) == numbers(result)


def test_interrupted_runs_go_on() -> None:
    """Ctrl-C: the journal is of the last step, even where not every step is kept."""
    result, _ = whole()
    journal, kept = recorder()
    journal.every = 100
    stopped = refine(journal, stop_in="cycle 1")
    assert stopped.status == "interrupted" and stopped.history[-1].stage == "cycle 1"
    running = kept[-1].running
    assert running is not None and (running.name, running.content["number"]) == ("cycle 1", 1)
    assert numbers(refine(kept[-1])) == numbers(result)


def test_more_cycles_go_on_from_the_last() -> None:
    """What comes after (the hand) is done anew."""
    result, kept = whole()
    longer = replace(OPTIONS, schedule=replace(OPTIONS.schedule, cycles=3))
    more = refine(kept[-1], longer)
    n = len(result.history)
    assert [i.loss for i in more.history[:n]] == [i.loss for i in result.history]
    assert {i.stage for i in more.history[n:]} == {"cycle 3"}


@pytest.mark.parametrize(
    "change",
    [
        {"rejected": np.zeros(3, dtype=bool)},
        {"rejected": np.zeros(3)},
        {"spread": None},
        {"spread": float("nan")},
        {"parameters": {}},
    ],
)
def test_entries_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    _, kept = whole()
    entries = list(kept[-1].entries)
    place = next(i for i, entry in enumerate(entries) if entry.name == "start")
    content = dict(entries[place].content)
    content["fit"] = {**content["fit"], **change}
    entries[place] = Entry("start", content)
    with pytest.raises(ValueError, match="checkpoint does not suit this refinement"):
        refine(Journal(entries))
