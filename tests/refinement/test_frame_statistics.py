"""R factors of virtual frames, against figures written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from examples import make_observations

from dials_hybrid_refine.refinement.frame_statistics import (
    frame_agreement,
    frame_scale,
    frame_statistics,
)
from dials_hybrid_refine.refinement.frames import FrameFilter, regular_frames

#: F = 10, 20; sigma_F = 0.5, 0.5; w^2 = 1 / (0.25 + 0.01), 1 / (0.25 + 0.04)
OBSERVED, SIGMA, CALCULATED = (np.array(x, dtype=float) for x in ([100, 400], [10, 20], [64, 225]))
SCALE = (100 * 64 / 0.26 + 400 * 225 / 0.29) / (64**2 / 0.26 + 225**2 / 0.29)
R_OBS = (abs(10 - math.sqrt(SCALE * 64)) + abs(20 - math.sqrt(SCALE * 225))) / 30
WR2 = math.sqrt(
    ((SCALE * 64 - 100) ** 2 / 0.26 + (SCALE * 225 - 400) ** 2 / 0.29)
    / (100**2 / 0.26 + 400**2 / 0.29)
)


def figures(observed, sigma, calculated):
    data = [np.array(x, dtype=float) for x in (observed, sigma, calculated)]
    return frame_agreement(*data, frame_scale(*data))


def test_one_frame():
    found = figures(OBSERVED, SIGMA, CALCULATED)
    assert (found.n_reflections, found.n_observed) == (2, 2)
    assert found.scale == pytest.approx(SCALE, rel=1e-12)
    assert found.r_obs == pytest.approx(R_OBS, rel=1e-12)
    assert found.wr2 == pytest.approx(WR2, rel=1e-12)


def test_the_scale_minimises_wr2():
    best = frame_agreement(OBSERVED, SIGMA, CALCULATED, SCALE).wr2
    for factor in (0.999, 1.001):
        assert frame_agreement(OBSERVED, SIGMA, CALCULATED, factor * SCALE).wr2 > best


def test_what_is_not_positive_is_left_out():
    """It counts as a reflection, but neither for the scale nor for a factor."""
    found = figures([*OBSERVED, -50, 0], [*SIGMA, 10, 10], [*CALCULATED, 30, 30])
    assert (found.n_reflections, found.n_observed) == (4, 2)
    assert found.scale == pytest.approx(SCALE, rel=1e-12)
    assert (found.r_obs, found.wr2) == pytest.approx((R_OBS, WR2), rel=1e-12)


def test_weak_reflections_count_in_wr2_only():
    """I = 20 with sigma 10 is not observed; w^2 = 1 / (10^2 / 80 + 0.002)."""
    found = figures([*OBSERVED, 20], [*SIGMA, 10], [*CALCULATED, 5])
    w = 1 / (100 / 80 + 0.0001 * 20)
    top = 100 * 64 / 0.26 + 400 * 225 / 0.29 + w * 20 * 5
    scale = top / (64**2 / 0.26 + 225**2 / 0.29 + w * 25)
    expected = (abs(10 - math.sqrt(scale * 64)) + abs(20 - math.sqrt(scale * 225))) / 30
    assert found.n_observed == 2
    assert found.scale == pytest.approx(scale, rel=1e-12)
    assert found.r_obs == pytest.approx(expected, rel=1e-12)


def test_nothing_calculated():
    """No scale, and all that was observed is missing."""
    for calculated in ([0, 0], [-3, 0]):
        found = figures(OBSERVED, SIGMA, calculated)
        assert (found.scale, found.r_obs, found.wr2) == (None, 1.0, 1.0)


def test_nothing_observed():
    found = figures([5, -5], [10, 10], [4, 4])
    assert (found.n_reflections, found.n_observed, found.r_obs) == (2, 0, None)
    empty = figures([], [], [])
    assert (empty.n_reflections, empty.r_obs, empty.wr2, empty.scale) == (0, None, None, None)
    negative = figures([-5], [10], [4])
    assert (negative.r_obs, negative.wr2) == (None, None)


def statistics(members, intensity, calculated, held_out=(), rejected=()):
    n = len(intensity)
    observations = make_observations([(1, 0, 0)] * n, np.zeros(n), np.zeros(n), np.ones(n))
    observations = replace(observations, intensity=np.array(intensity, dtype=float))
    masks = [np.isin(np.arange(n), list(chosen)) for chosen in (held_out, rejected)]
    frames = regular_frames([(0.0, 1.0 + len(members))], 1.0, 1.0)
    return frame_statistics(
        frames,
        FrameFilter(),
        [np.array(rows, dtype=np.int64) for rows in members],
        observations,
        np.array(calculated, dtype=float),
        *masks,
    )


def test_means_over_frames_with_observed_reflections():
    """Of three frames one is empty; the others count alike, though one has three times as many."""
    members = [[0, 1, 2], [], [2]]
    result = statistics(members, [100, 100, 400], [100, 81, 400])
    first = result.rows[0]
    assert first.r_obs > 0.01 and result.rows[2].r_obs == pytest.approx(0, abs=1e-12)
    assert result.rows[1].r_obs is None
    assert result.all.n_frames == 2
    assert result.all.n_reflections == 4  # the third reflection counts in two frames
    assert result.all.n_observed == 4
    assert result.all.r_obs_mean == pytest.approx(first.r_obs / 2)
    assert result.all.wr2_mean == pytest.approx(first.wr2 / 2)


def test_rejected_ones_count_as_elsewhere_and_the_means_without_them_are_given_too():
    members = [[0, 1, 2]]
    result = statistics(members, [100, 100, 400], [200, 200, 1600], rejected=[2])
    assert result.all.n_reflections == 3 and result.used.n_reflections == 2
    assert result.all.r_obs_mean > 0.1
    assert result.used.r_obs_mean == pytest.approx(0, abs=1e-12)


def test_held_out_reflections_have_a_mean_of_their_own():
    """Their scale is that of the other reflections of the frame, or else their own."""
    members = [[0, 1], [2, 3]]
    intensity, calculated = [400, 100, 100, 400], [200, 100, 50, 200]
    result = statistics(members, intensity, calculated, held_out=[1, 2, 3])
    assert (result.all.n_reflections, result.held_out.n_reflections) == (1, 3)
    assert result.rows[0].scale == pytest.approx(2)
    # in the first frame F_c = sqrt(2 * 100) against 10, in the second all agree with scale 2
    assert result.held_out.r_obs_mean == pytest.approx((math.sqrt(2) - 1) / 2)
    assert result.held_out.n_frames == 2 and result.all.n_frames == 1


def test_no_frames_with_anything():
    result = statistics([[], []], [100], [100])
    assert result.all.r_obs_mean is None and result.all.wr2_mean is None
    assert (result.all.n_frames, result.all.n_reflections) == (0, 0)
