"""A turn about the rotation axis moves windows: against windows, scans and differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import (
    EXACT,
    Array,
    atoms_of,
    composition_of,
    constant_rotation,
    crossing_reflections,
    fixed_thickness,
    make_scan,
    plan,
    quartz_structure,
)

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.blocks import plan_blocks
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.simulator import Contributions, PhysicalModels, Simulator
from dials_hybrid_refine.diffraction.split_correction import Correction

STRUCTURE = quartz_structure()
SCAN = make_scan(STRUCTURE)
#: whole passages, out to where hardly anything is left
WHOLE = crossing_reflections(SCAN, 0.8, 0.01)
#: windows that end near the middle of the passage
CUT = replace(WHOLE, phi_end=(WHOLE.phi_start + WHOLE.phi_end) / 2)
NODES = (300.0, 500.0)
#: all beams on everywhere, so that lists of beams are the same wherever windows lie
SELECTION = BeamSelection(g_max=1.2, s_max=0.3, tilt_step=0.05, block_width=1.0)


def parts(
    observations: Observations,
    vector: Array | torch.Tensor,
    selection: BeamSelection = SELECTION,
    planned: Array | None = None,
) -> Contributions:
    """With the orientation corrected by a rotation vector in radians; planned for another."""
    wanted = np.zeros(3) if planned is None else planned
    blocks = plan_blocks(
        0, SCAN, observations, composition_of(STRUCTURE), selection, 1 / SCAN.wavelength,
        lambda phi: np.tile(wanted, (len(phi), 1)),
    )  # fmt: skip
    simulator = Simulator([SCAN], [blocks], composition_of(STRUCTURE), EXACT)
    models = PhysicalModels(fixed_thickness(NODES), constant_rotation(torch.as_tensor(vector)))
    return simulator(atoms_of(STRUCTURE), models)


def intensities(found: Contributions, n: int) -> Array:
    total = torch.zeros(n, dtype=torch.float64).index_add_(0, found.observation, found.value)
    return total.detach().numpy()


def about_axis(degrees: float) -> Array:
    return np.asarray(np.radians(degrees) * SCAN.rotation_axis)


def difference(one: Array, other: Array) -> float:
    return float(np.abs(one - other).sum() / other.sum())


@pytest.mark.parametrize("degrees", [-0.08, 0.03, 0.08])
@pytest.mark.parametrize("block_width", [0.25, 1.0, 4.0])
def test_a_turn_is_the_same_as_other_windows(degrees: float, block_width: float) -> None:
    """In blocks however narrow: a window reaches those that it is moved into."""
    selection = replace(SELECTION, block_width=block_width)
    moved = replace(CUT, phi_start=CUT.phi_start + degrees, phi_end=CUT.phi_end + degrees)
    expected = plan(STRUCTURE, SCAN, moved, selection).integrate(NODES)
    turn = about_axis(degrees)
    found = intensities(parts(CUT, turn, selection), len(CUT))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    planned = intensities(parts(CUT, turn, selection, planned=turn), len(CUT))
    np.testing.assert_allclose(planned, expected, rtol=1e-8)
    assert difference(expected, intensities(parts(CUT, np.zeros(3), selection), len(CUT))) > 0.02


def test_a_turn_changes_whole_passages_by_their_tails_alone() -> None:
    """With tilts that are too far apart for these curves: their sum would say something else."""
    coarse = replace(SELECTION, tilt_step=0.16)
    before, after = (
        intensities(parts(WHOLE, about_axis(x), coarse), len(WHOLE)) for x in (0.0, 0.05)
    )
    finest = intensities(parts(WHOLE, np.zeros(3), replace(coarse, tilt_step=0.01)), len(WHOLE))
    assert difference(before, finest) > 0.005
    assert difference(after, before) < 0.001


@pytest.mark.parametrize("are_aligned", [False, True])
def test_the_slope_is_that_of_the_intensity(are_aligned: bool) -> None:
    """By a turn about the axis, against differences; linear within a cell, so exact.

    Where windows end with a cell the two sides differ: it is their mean.
    """
    observations = CUT
    if are_aligned:
        start, end = (np.round(edge / 0.05) * 0.05 for edge in (CUT.phi_start, CUT.phi_end))
        observations = replace(CUT, phi_start=start, phi_end=end)
    found = parts(observations, np.zeros(3))
    sides = [parts(observations, about_axis(x)) for x in (1e-5, -1e-5)]
    slope = (sides[0].value - sides[1].value) / 2e-5
    assert float(found.turn_slope.abs().max()) > 0.01
    torch.testing.assert_close(found.turn_slope, slope, rtol=1e-6, atol=1e-8)


def test_the_gradient_knows_both_parts_of_a_turn() -> None:
    """Along random directions, by differences; weighted at random, so that nothing cancels."""
    generator = np.random.default_rng(4)
    start = np.array([3e-4, -2e-4, 4e-4])
    weights = torch.from_numpy(generator.normal(size=len(parts(CUT, start).value)))
    vector = torch.tensor(start, requires_grad=True)
    (gradient,) = torch.autograd.grad((weights * parts(CUT, vector).value).sum(), vector)
    for direction in (SCAN.rotation_axis, *generator.normal(size=(2, 3))):
        step = 1e-6 * direction
        sides = [float((weights * parts(CUT, start + s * step).value).sum()) for s in (1, -1)]
        expected = (sides[0] - sides[1]) / 2e-6
        assert float(gradient @ torch.from_numpy(direction)) == pytest.approx(expected, rel=1e-5)


def test_at_the_ends_of_the_scan_the_curve_is_taken_to_go_on() -> None:
    """A window that leaves the tilts keeps its width; curves of all else are as long as they were."""
    width = 0.02
    start = np.full(len(CUT), SCAN.phi_range[0])
    first = replace(CUT, phi_start=start, phi_end=start + width)
    before, after = (intensities(parts(first, about_axis(x)), len(first)) for x in (0.0, -0.02))
    np.testing.assert_allclose(after, before, rtol=1e-10)


def test_a_window_far_out_of_the_scan_keeps_its_width() -> None:
    """It belongs to the block at the end, however far it moves, if another window holds that."""
    start = np.full(len(CUT), SCAN.phi_range[0])
    width = np.where(np.arange(len(CUT)) % 2, 1.0, 0.02)
    observations = replace(CUT, phi_start=start, phi_end=start + width)
    turn = about_axis(-0.4)
    before = intensities(parts(observations, np.zeros(3)), len(CUT))
    after = intensities(parts(observations, turn, planned=turn), len(CUT))
    np.testing.assert_allclose(after[::2], before[::2], rtol=1e-10)
    assert difference(after[1::2], before[1::2]) > 0.1


def test_frames_side_by_side_keep_their_own_orientation() -> None:
    """Where the orientation runs on to that of the next frame, a turned frame goes on as it is to its end."""
    settings = np.array(SCAN.crystal_settings)
    settings[SCAN.phi_points > 0.5] *= 1.01
    scan = replace(SCAN, crystal_settings=settings)
    turn = about_axis(0.2)
    phi = np.linspace(-0.3, 0.7, 21)  # recorded up to 0.5
    found, expected = (
        Correction(s, lambda phi: np.tile(turn, (len(phi), 1)), True).bases(phi)
        for s in (scan, SCAN)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.abs(scan.reciprocal_bases(phi) - SCAN.reciprocal_bases(phi)).max() > 1e-4


def test_steps_are_turned_themselves() -> None:
    """Intensities that are sums over steps do depend on where these lie on a curve."""
    window = SCAN.phi_range
    steps = replace(
        WHOLE,
        phi_start=np.full(len(WHOLE), window[0]),
        phi_end=np.full(len(WHOLE), window[1]),
    )
    selection = replace(SELECTION, block_width=None, tilts_per_window=21)
    before, after = (parts(steps, about_axis(x), selection) for x in (0.0, 0.05))
    assert (before.turn_slope == 0).all()
    assert difference(intensities(after, len(steps)), intensities(before, len(steps))) > 0.05
