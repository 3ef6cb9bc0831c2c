"""Reflections that cannot be used: one sentence that says what, where and what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest
from command_runs import INPUT
from refusals import GIVE_EXPT, GIVE_REFL, refused

from dials.array_family import flex


@pytest.fixture
def change_reflections(files):
    """A function that lets another one change data.refl in place."""

    def change(edit):
        table = flex.reflection_table.from_file("data.refl")
        table = found if (found := edit(table)) is not None else table
        table.as_file("data.refl")
        return table

    return change


def _drop(*names):
    def edit(table):
        for name in names:
            del table[name]

    return edit


def _two_experiments(table):
    half = len(table) // 2
    table["id"] = flex.int([0] * half + [1] * (len(table) - half))
    table.experiment_identifiers()[1] = "another"


REFLECTIONS = {
    "only found": (
        lambda t: t.unset_flags(flex.bool(len(t), True), t.flags.integrated),
        [],
        ["data.refl: the reflection file holds no integrated reflections", GIVE_REFL],
    ),
    "no indices": (_drop("miller_index"), [], ["data.refl:", GIVE_REFL]),
    "no profile intensity": (
        _drop("intensity.prf.value"),
        [],
        ["data.refl: the reflection file has no column intensity.prf.value", "intensity=sum"],
    ),
    "no summed intensity": (
        _drop("intensity.sum.variance"),
        ["intensity=sum"],
        ["data.refl:", "no column intensity.sum.variance", "intensity=profile"],
    ),
    "no windows": (
        _drop("phi_start"),
        [],
        ["data.refl:", "no profile model", GIVE_EXPT],
    ),
    "no rows": (lambda t: t[:0], [], ["data.refl holds no reflections", GIVE_REFL]),
    "of two experiments": (
        _two_experiments,
        [],
        ["data.refl holds reflections of 2 experiments", "belong together"],
    ),
    "all of no use": (
        lambda t: t.set_flags(flex.bool(len(t), True), t.flags.bad_for_refinement),
        [],
        ["data.refl: no reflection is left", "flagged bad by DIALS"],
    ),
    "all filtered": (lambda t: None, ["d_min=50"], ["data.refl: no reflection is left", "d_min"]),
    "too few": (lambda t: t[:9], [], ["reflections are left", "give more data"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFLECTIONS)
def test_reflections(files, change_reflections, case):
    edit, arguments, parts = REFLECTIONS[case]
    change_reflections(edit)
    refused(files, [*INPUT, *arguments, "nproc=1"], *parts)


def test_numbers_that_are_none(files, change_reflections, stop_before_refinement, capsys):
    """Excluded before the refinement, and counted."""
    bad = {3: ("value", "nan"), 5: ("variance", "nan"), 8: ("variance", -1), 9: ("variance", 0)}

    def spoil(table):
        for row, (what, number) in bad.items():
            column = table[f"intensity.prf.{what}"]
            column[row] = float(number)
            table[f"intensity.prf.{what}"] = column

    n_rows = len(change_reflections(spoil))
    refused(files, INPUT, "the input was good")
    observations = stop_before_refinement[0][1]
    assert not set(bad) & set(observations.row)
    assert np.isfinite(observations.intensity).all() and (observations.sigma > 0).all()
    log = capsys.readouterr().out
    assert re.search(r"intensity or variance not usable \| +-4 ", log), log
    assert re.search(rf"read +\| +{n_rows} ", log)
