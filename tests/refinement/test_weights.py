"""Which reflections are outliers."""

from __future__ import annotations

import numpy as np

from dials_hybrid_refine.refinement.weights import PLAY, Weighting, find_outliers

#: half of the sizes are below 1 / 1.4826, so that residuals are in robust standard deviations
_TYPICAL = np.tile([0.2, -0.5, 1 / 1.4826, -0.9, 1.3], 40)
_NONE = np.zeros(len(_TYPICAL) + 3, dtype=bool)
_ALL = ~_NONE


def _outliers(sizes, before=None, candidates=_ALL, **weighting):
    residual = np.concatenate([_TYPICAL, sizes])
    return find_outliers(residual, candidates, Weighting(**weighting), before)


def test_residuals_above_the_threshold_are_outliers():
    found = _outliers([3.9, 4.1, -4.1])
    assert list(np.flatnonzero(found)) == [201, 202]


def test_reflections_near_the_limit_keep_their_side():
    before = _NONE.copy()
    before[-2] = True
    limit = 4.0
    assert not _outliers([0, 0, limit * (1 + PLAY) - 0.1], before)[-1]
    assert _outliers([0, 0, limit * (1 + PLAY) + 0.1], before)[-1]
    assert _outliers([0, limit * (1 - PLAY) + 0.1, 0], before)[-2]
    assert not _outliers([0, limit * (1 - PLAY) - 0.1, 0], before)[-2]


def test_the_worst_go_first_where_too_many_would():
    found = _outliers([5.0, -6.0, 7.0], max_rejected=0.01)
    assert list(np.flatnonzero(found)) == [201, 202]


def test_reflections_that_take_no_part_are_not_judged():
    candidates = _ALL.copy()
    candidates[-1] = False
    found = _outliers([5.0, -6.0, 70.0], candidates=candidates)
    assert list(np.flatnonzero(found)) == [200, 201]
