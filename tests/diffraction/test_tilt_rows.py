"""Intensities recorded in steps are plain sums over the steps of their window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from examples import crossing_reflections, make_scan, plan, quartz_structure

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.tilt_rows import stepped_rows

STRUCTURE = quartz_structure()
SCAN = make_scan(STRUCTURE)
NODES = (200.0, 400.0)
SELECTION = BeamSelection(g_max=1.2, s_max=0.03, tilt_step=0.02, block_width=0.5)
#: of one frame: all windows from -0.7 to 0.5 degrees
FRAME = (-0.7, 0.5)


def frame(observations):
    n = len(observations)
    return replace(observations, phi_start=np.full(n, FRAME[0]), phi_end=np.full(n, FRAME[1]))


OBSERVATIONS = frame(crossing_reflections(SCAN, 0.8, 0.006))


def integrated(observations, selection):
    return plan(STRUCTURE, SCAN, observations, selection).integrate(NODES)


@pytest.mark.parametrize("steps", [2, 7, 40])
def test_the_sum_over_single_orientations(steps: int) -> None:
    """The same from windows so narrow that they hold one orientation each."""
    expected = np.zeros(len(OBSERVATIONS))
    for phi in np.linspace(*FRAME, steps):
        start, end = (np.full(len(OBSERVATIONS), phi + side) for side in (-1e-5, 1e-5))
        narrow = replace(OBSERVATIONS, phi_start=start, phi_end=end)
        # three orientations in it, all alike
        selection = replace(SELECTION, tilts_per_window=3)
        expected += integrated(narrow, selection) / 2e-5
    width = FRAME[1] - FRAME[0]
    found = integrated(OBSERVATIONS, replace(SELECTION, tilts_per_window=steps))
    np.testing.assert_allclose(found, expected * width / steps, rtol=1e-6)


def test_many_steps_are_the_integral() -> None:
    """The ends count half a step too much: 1/N of the mean of what is there."""
    integral = integrated(OBSERVATIONS, SELECTION)
    for steps in (150, 600):
        found = integrated(OBSERVATIONS, replace(SELECTION, tilts_per_window=steps))
        assert np.abs(found - integral).max() < 2 / steps * integral.max()


def test_few_steps_are_not_the_integral() -> None:
    """Steps of 0.2 degrees miss the peaks of thin rocking curves: what the option is for."""
    integral = integrated(OBSERVATIONS, SELECTION)
    found = integrated(OBSERVATIONS, replace(SELECTION, tilts_per_window=7))
    assert np.abs(found - integral).sum() / integral.sum() > 0.05


@pytest.mark.parametrize("n_steps, n_tilts, rows, length", [(42, 16, 3, 14), (10, 4, 3, 4)])
def test_rows_are_of_one_length_and_count_each_step_once(
    n_steps: int, n_tilts: int, rows: int, length: int
) -> None:
    members = np.arange(len(OBSERVATIONS))
    found = list(stepped_rows(OBSERVATIONS, members, n_steps, n_tilts))
    assert [len(row.phi) for row in found] == [length] * rows
    weights = np.concatenate([row.weights for row in found], axis=1)
    np.testing.assert_allclose(weights.sum(axis=1), FRAME[1] - FRAME[0])
    counted = np.concatenate([row.phi for row in found])[weights[0] > 0]
    np.testing.assert_allclose(counted, np.linspace(*FRAME, n_steps))
