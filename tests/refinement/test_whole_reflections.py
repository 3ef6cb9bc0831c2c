"""Slices put together again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.whole_reflections import (
    Judged,
    are_slices,
    reflection_numbers,
    whole_reflections,
    whole_windows,
)


def judged(experiment, row, rejected=()):
    """Images of half a degree; intensities 1, 2, 4, ... so that every sum is of its own."""
    n = len(row)
    row, experiment = np.array(row), np.array(experiment)
    values = 2.0 ** np.arange(n)
    start = np.arange(n) / 2
    observations = Observations(
        experiment=experiment,
        hkl=np.stack([row, experiment, row], axis=1),
        phi_start=start,
        phi_end=start + 0.5,
        phi=row.astype(float),
        intensity=values,
        sigma=np.full(n, 3.0),
        unique_index=row,
        row=row,
    )
    outliers = np.isin(np.arange(n), rejected)
    return Judged(observations, 3 * values, 5 * values, row == 7, outliers)


def test_sums_windows_and_masks():
    """Rows 7, 2 and, of another experiment, 2 again; held out is all of a reflection or nothing."""
    whole = whole_reflections(judged([0, 0, 0, 0, 1, 1], [7, 7, 2, 2, 2, 2]))
    data = whole.observations
    assert data.row.tolist() == [7, 2, 2] and data.experiment.tolist() == [0, 0, 1]
    assert data.intensity.tolist() == [3, 12, 48]
    assert whole.calculated.tolist() == [9, 36, 144]
    assert whole.integrated.tolist() == [15, 60, 240]
    assert data.sigma == pytest.approx(np.full(3, 18**0.5))
    assert (data.phi_start.tolist(), data.phi_end.tolist()) == ([0, 1, 2], [1, 2, 3])
    assert whole.held_out.tolist() == [True, False, False]
    assert whole.used.tolist() == [False, True, True]


def test_rejected_slices_are_left_out_on_both_sides():
    """And a reflection of which nothing is left is rejected, with the sums of all."""
    whole = whole_reflections(judged([0] * 6, [1, 1, 2, 2, 3, 3], rejected=[0, 2, 3]))
    assert whole.observations.intensity.tolist() == [2, 12, 48]
    assert whole.calculated.tolist() == [6, 36, 144]
    assert whole.rejected.tolist() == [False, True, False]


def test_without_slices_nothing_changes():
    given = judged([0, 0, 1], [4, 2, 4])
    assert not are_slices(given.observations)
    assert whole_reflections(given) is given
    start, end = whole_windows(given.observations)
    assert (start == given.observations.phi_start).all() and (end - start == 0.5).all()


def test_numbers_are_in_order_of_appearance():
    data = judged([0, 0, 0, 1], [9, 3, 9, 3]).observations
    assert reflection_numbers(data).tolist() == [0, 1, 0, 2]
    none = replace(data.select(np.zeros(4, dtype=bool)))
    assert len(reflection_numbers(none)) == 0 and not are_slices(none)
