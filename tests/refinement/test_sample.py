"""Many data: most of the way is refined against a sample of them, and normal matrices serve on."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from examples import quartz_structure
from small_refinement import OPTIONS, data

from dials_hybrid_refine.refinement import dataset, program
from dials_hybrid_refine.refinement.journal import Entry, Journal
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.schedule import Controls

QUICK = replace(
    OPTIONS,
    absolute_structure=replace(OPTIONS.absolute_structure, test=False),
    schedule=replace(OPTIONS.schedule, cycles=4),
)


def refine(journal: Journal, stop_in: str = "") -> Result:
    scan, observations = data()
    stages: list[str] = []
    controls = Controls(lambda i: stages.append(i.stage), lambda: stop_in in stages, journal)
    return program.run_refinement([scan], observations, quartz_structure(), QUICK, controls)


@lru_cache(maxsize=None)
def whole() -> tuple[Result, list[Journal]]:
    """The refinement of all reflections, and what its journal was each time it was saved."""
    kept: list[Journal] = []
    return refine(Journal(save=lambda j: kept.append(Journal(list(j.entries), j.running)))), kept


def test_a_sample_needs_little_of_the_scan() -> None:
    """Also where some reflections pass for long, which would have the stretches between calculated."""
    scan, few = data()
    scan = replace(scan, phi_points=np.array([-60.0, 60.0]))
    generator = np.random.default_rng(0)
    n = 12000
    observations = few.select(generator.integers(len(few), size=n))
    middle = generator.uniform(-57, 57, n)
    width = np.where(generator.random(n) < 0.1, 6.0, generator.uniform(0.6, 1.4, n))
    observations = replace(
        observations, phi_start=middle - width / 2, phi_end=middle + width / 2, phi=middle
    )
    whole = dataset.Dataset([scan], observations, np.zeros(n, dtype=bool))
    chosen = whole.sample(4000).observations
    assert 0.8 * 4000 < len(chosen) < 1.1 * 4000
    grid = np.arange(-60, 60, 0.05)
    covered = np.zeros(len(grid), dtype=bool)
    for start, end in zip(chosen.phi_start, chosen.phi_end):
        covered |= (grid >= start) & (grid <= end)
    # stretches of 3 degrees out of 9, and half a window on both sides
    assert covered.mean() < (3 + 1.1) / 9 + 0.02
    assert whole.sample(7000) is whole


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> int:
    """Every other degree is enough for the first steps; the number of all reflections."""
    n = len(data()[1])
    whole()  # without
    monkeypatch.setattr(dataset, "_STRETCH", 1.0)
    monkeypatch.setattr(program, "_COARSE_REFLECTIONS", n // 2)
    monkeypatch.setattr(program, "_SMALL_SHARE", 1.0)
    return n


def test_the_result_is_that_of_all_reflections(sampled: int) -> None:
    usual, _ = whole()
    entries: list[Entry] = []

    def save(journal: Journal) -> None:
        if journal.running is None:
            entries.append(journal.entries[-1])

    result = refine(Journal(save=save))
    rejected = {
        entry.name: entry.content["fit"]["rejected"] for entry in entries if "fit" in entry.content
    }
    assert len(rejected["sample"]) < 0.7 * sampled == 0.7 * len(rejected["cycle 1"])
    stages = list(dict.fromkeys(i.stage for i in result.history))
    assert stages[:4] == ["start", "coarse", "sample", "cycle 1"]
    assert len(result.calculated) == sampled
    assert "sample" not in {i.stage for i in usual.history}
    assert result.covariance is not None
    own, others = (np.array([s.site for s in r.structure.scatterers()]) for r in (result, usual))
    # both have come to the same minimum, to a share of the noise
    assert np.abs(own - others).max() < 0.2 * np.sqrt(result.covariance.diagonal()).max()


def test_interrupted_with_the_sample_it_speaks_of_all_and_goes_on(sampled: int) -> None:
    complete = refine(Journal())
    journal = Journal()
    stopped = refine(journal, stop_in="sample")
    assert stopped.status == "interrupted" and stopped.history[-1].stage == "sample"
    assert len(stopped.calculated) == sampled and np.isfinite(stopped.calculated).all()
    again = refine(Journal(list(journal.entries), journal.running))
    assert again.calculated.tolist() == complete.calculated.tolist()
    assert [i.loss for i in again.history] == [i.loss for i in complete.history]


def test_a_large_sample_is_for_the_coarse_calculation_only(
    sampled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_SMALL_SHARE", 0.1)
    result = refine(Journal())
    stages = list(dict.fromkeys(i.stage for i in result.history))
    assert stages[:3] == ["start", "coarse", "cycle 1"]
    assert len(result.calculated) == sampled


def test_a_normal_matrix_serves_in_the_next_cycle() -> None:
    """Where few outliers have changed; the journal keeps the last one only."""
    _, kept = whole()
    ends = [k.entries[-1] for k in kept if k.running is None]
    served = 0
    for before, after in zip(ends, ends[1:]):
        given = before.content.get("hessian")
        steps = [k.running for k in kept if k.running and k.running.name == after.name]
        if given is None or not steps:
            continue
        first = steps[0].content
        if before.content["n_changed"] == 0 and first["hessian"] is not None:
            assert np.array_equal(first["hessian"], given)
            assert first["hessian_age"] == before.content["hessian_age"] + 1
            served += 1
    assert served
    last = kept[-1].entries[-1].name
    assert last.startswith("cycle")
    assert {e.name for e in kept[-1].entries if "hessian" in e.content} == {last}
