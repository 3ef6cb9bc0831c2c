"""Whole stretches of the scan set aside, and the scale each gets for comparison."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dials_hybrid_refine.refinement.held_out import (
    choose_held_out_stretches,
    scan_stretches,
    with_own_scales,
)

PHI = -49.95 + 0.1 * np.arange(1000)
STRETCH = scan_stretches(np.zeros(1000, dtype=np.int64), PHI, [(-50.0, 50.0)], 2.0)


def test_stretches_divide_each_scan_evenly():
    """100 degrees in 50 parts of 2; 5 degrees in 2 parts, numbered on; the last angle belongs."""
    assert_array_equal(np.bincount(STRETCH), [20] * 50)
    experiment, phi = np.array([0, 1, 1, 1]), np.array([50.0, 10.0, 12.6, 15.0])
    found = scan_stretches(experiment, phi, [(-50.0, 50.0), (10.0, 15.0)], 2.0)
    assert_array_equal(found, [49, 50, 51, 51])


@pytest.mark.parametrize("fraction, n", [(0.0, 0), (0.05, 3), (0.5, 25)])
def test_whole_stretches_until_the_share_is_reached(fraction, n):
    held_out = choose_held_out_stretches(STRETCH, fraction, seed=3)
    shares = np.bincount(STRETCH, weights=held_out) / np.bincount(STRETCH)
    assert set(shares) <= {0.0, 1.0}
    assert shares.sum() == n


def test_the_seed_decides():
    first, again, other = (choose_held_out_stretches(STRETCH, 0.05, seed) for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert (first != other).any()


def test_too_few_stretches():
    with pytest.raises(ValueError, match="only 2 stretches .* held_out.frame_width smaller"):
        choose_held_out_stretches(STRETCH // 25, 0.05, seed=0)
    assert not choose_held_out_stretches(STRETCH // 25, 0.0, seed=0).any()


def test_scales_of_stretches():
    """sum w I_o I_c / sum w I_c^2 by hand; others stay, and so does what has no intensity."""
    stretch = np.array([-1, 4, 4, 7, 9, -1])
    calculated = np.array([10.0, 10.0, 20.0, 0.0, 5.0, 3.0])
    intensity = np.array([99.0, 30.0, 20.0, 5.0, -5.0, 99.0])
    weight = np.array([1.0, 1.0, 0.5, 1.0, 1.0, 1.0])
    found = with_own_scales(calculated, intensity, weight, stretch)
    factor = (300 + 0.5 * 400) / (100 + 0.5 * 400)
    assert_allclose(found, [10, 10 * factor, 20 * factor, 0, 0, 3])
    assert calculated[1] == 10  # not changed in place
