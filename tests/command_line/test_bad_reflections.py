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


def column(name, values):
    """An edit that gives every reflection a value, or computes all from those that are there."""

    def edit(table):
        if callable(values):
            numbers = values(np.array(table[name].as_numpy_array()))
        else:
            numbers = np.full(len(table), float(values))
        table[name] = flex.double(np.asarray(numbers, dtype=float))

    return edit


def replaced(name, kind, *value):
    """An edit that makes a column one of another type."""

    def edit(table):
        table[name] = kind(len(table), *value)

    return edit


def both(*edits):
    def edit(table):
        for one in edits:
            one(table)

    return edit


def _swap_windows(table):
    table["phi_start"], table["phi_end"] = table["phi_end"], table["phi_start"]


def _no_width(table):
    table["phi_end"] = table["phi_start"]


def _shuffle_indices(table):
    hkl = np.array(table["miller_index"].as_vec3_double()).astype(int)
    hkl = np.random.default_rng(1).permutation(hkl)
    table["miller_index"] = flex.miller_index([tuple(int(i) for i in h) for h in hkl])


def _pets_columns(**values):
    numbers = {"pets_frame": 1, "pets_n_frames": 1, "pets_frame_phi": 0, "pets_semi_angle": 1}

    def edit(table):
        for name, value in {**numbers, **values}.items():
            table[name] = flex.double(len(table), value)

    return edit


VALUE, VARIANCE = "intensity.prf.value", "intensity.prf.variance"
NAN = float("nan")
NONE_LEFT = "data.refl: no reflection is left after filtering"
UNUSABLE = [NONE_LEFT, "139 intensity or variance not usable", "give other data"]
NO_WINDOW = [NONE_LEFT, "139 window of rotation not usable"]
NOT_OF = ["the reflections do not belong to data.expt", "give the two files"]
NO_SIGNAL = ["data.refl: none of the", "is above 3 sigma", "check"]
#: columns that hold numbers no measurement has
NUMBERS = {
    "intensities nan": (column(VALUE, NAN), UNUSABLE),
    "intensities beyond range": (column(VALUE, 1e300), UNUSABLE),
    "variances nan": (column(VARIANCE, NAN), UNUSABLE),
    "variances infinite": (column(VARIANCE, float("inf")), UNUSABLE),
    "variances zero": (column(VARIANCE, 0), UNUSABLE),
    "variances negative": (column(VARIANCE, -1), UNUSABLE),
    "variances beyond range": (column(VARIANCE, 1e-300), UNUSABLE),
    "only noise": (column(VARIANCE, 1e20), NO_SIGNAL),
    "intensities zero": (column(VALUE, 0), NO_SIGNAL),
    "intensities negative": (column(VALUE, lambda i: -np.abs(i)), NO_SIGNAL),
    "all equal": (column(VALUE, 1000), ["all", "intensities are 1000", "no measurement", "check"]),
    "one reflection": (lambda t: t[:1], ["only 0 reflections are left", "give more data"]),
    "windows reversed": (_swap_windows, NO_WINDOW),
    "windows nan": (column("phi_start", NAN), NO_WINDOW),
    "windows infinite": (column("phi_end", float("inf")), NO_WINDOW),
    "windows without width": (_no_width, NO_WINDOW),
    "windows in radians": (
        both(column("phi_start", np.radians), column("phi_end", np.radians)), [NONE_LEFT, "scan"],
    ),
    "windows elsewhere": (
        both(column("phi_start", -29), column("phi_end", -28.5)),
        ["reflections are left for", "give more data"],
    ),
    "positions nan": (replaced("xyzcal.mm", flex.vec3_double, (NAN, NAN, NAN)), NO_WINDOW),
    "zeta nan": (column("zeta", NAN), [NONE_LEFT, "139 near the rotation axis"]),
    "partiality nan": (column("partiality", NAN), [NONE_LEFT, "137 partially recorded"]),
    "indices zero": (replaced("miller_index", flex.miller_index, (0, 0, 0)), [NONE_LEFT, "0 0 0"]),
    "indices beyond range": (
        replaced("miller_index", flex.miller_index, (2**31 - 1, -(2**31), 7)),
        [NONE_LEFT, "139 spacing below 0.1 Angstrom"],
    ),
    "indices of others": (_shuffle_indices, NOT_OF),
    "frames nan": (_pets_columns(pets_frame_phi=NAN), ["pets_frame_phi", "dials.import_pets"]),
    "frames beyond range": (_pets_columns(pets_n_frames=1e9), ["pets_n_frames", "import"]),
}  # fmt: skip
#: columns of another type than DIALS gives them
TYPES = {
    "miller_index": (flex.vec3_double, (1.0, 2.0, 3.0)),
    "flags": (flex.double, 256.0),
    "xyzcal.mm": (flex.double, 0.0),
    "s1": (flex.double, 1.0),
    "zeta": (flex.std_string, "x"),
    "partiality": (flex.vec3_double, (1.0, 1.0, 1.0)),
    "phi_start": (flex.std_string, "x"),
    "phi_end": (flex.miller_index, (1, 2, 3)),
    "bbox": (flex.int, 3),
    VALUE: (flex.std_string, "x"),
    VARIANCE: (flex.vec3_double, (1.0, 2.0, 3.0)),
}


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


@pytest.mark.parametrize("case", NUMBERS)
def test_impossible_numbers(files, change_reflections, case):
    edit, parts = NUMBERS[case]
    change_reflections(edit)
    refused(files, [*INPUT, "nproc=1"], *parts)


@pytest.mark.parametrize("name", TYPES)
def test_columns_of_another_type(files, change_reflections, name):
    kind, value = TYPES[name]
    change_reflections(replaced(name, kind, value))
    refused(files, INPUT, "data.refl", f"the column {name} ", kind.__name__, "give the .refl file")


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
