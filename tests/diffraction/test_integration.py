"""Integrated intensities converge with every limit of the calculation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import (
    EXACT,
    WAVELENGTH,
    Array,
    Example,
    atoms_of,
    crossing_reflections,
    fixed_thickness,
    make_observations,
    make_scan,
    no_rotation,
    plan,
    quartz_structure,
)
from scipy.spatial.transform import Rotation

from dials_hybrid_refine.diffraction.beams import BeamSelection, nominal_excitation_errors
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.potential import CrystalPotential
from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.diffraction.tilt_rows import window_weights
from dials_hybrid_refine.models.structure import composition_of

STRUCTURE = quartz_structure()
SCAN = make_scan(STRUCTURE)
OBSERVATIONS = crossing_reflections(SCAN, 0.8, 0.006)
NODES = (200.0, 400.0)
SELECTION = BeamSelection(g_max=1.4, s_max=0.03, tilt_step=0.05, block_width=1.0)


def integrated(selection: BeamSelection, nodes: Sequence[float] = NODES) -> Array:
    return plan(STRUCTURE, SCAN, OBSERVATIONS, selection).integrate(nodes)


def difference(one: Array, other: Array) -> float:
    """sum |I_1 - I_2| / sum I_2, like an R factor."""
    return float(np.abs(one - other).sum() / other.sum())


def test_tilt_step() -> None:
    """Second order once the fringes, dS = 1/t, are sampled; 400 Angstrom: 0.125 degrees do."""
    finest = integrated(replace(SELECTION, tilt_step=0.0125))
    errors = [
        difference(integrated(replace(SELECTION, tilt_step=step)), finest)
        for step in (0.5, 0.25, 0.125, 0.0625, 0.03125)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1  # a step of 0.5 degrees is far too coarse
    assert errors[2] < 0.003
    assert errors[3] < errors[2] / 3
    assert errors[4] < 1e-4


def test_s_max() -> None:
    """Windows of |S| <= 0.006: larger limits add only beams that are weakly excited."""
    widest = integrated(replace(SELECTION, s_max=0.08))
    errors = [
        difference(integrated(replace(SELECTION, s_max=s)), widest) for s in (0.01, 0.02, 0.04)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.003


def test_g_max() -> None:
    farthest = integrated(replace(SELECTION, g_max=2.4))
    errors = [
        difference(integrated(replace(SELECTION, g_max=g)), farthest)
        for g in (0.8, 1.0, 1.2, 1.6, 2.0)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.005


@pytest.mark.parametrize("block_width", [0.25, 0.5, 2.0, 4.0])
def test_blocks_are_only_bookkeeping(block_width: float) -> None:
    """The same tilts in other blocks: beams that are off decide nothing, nor does the padding."""
    other = integrated(replace(SELECTION, block_width=block_width))
    np.testing.assert_allclose(other, integrated(SELECTION), rtol=1e-10)


def test_window_weights_sum_to_the_width_of_the_window() -> None:
    rng = np.random.default_rng(3)
    phi = -1.0 + (np.arange(20) + 0.5) * 0.1  # cells that cover -1 to 1
    start = rng.uniform(-1, 0.5, 50)
    end = start + rng.uniform(0.001, 0.5, 50)
    weights = window_weights(phi, 0.1, start, end)
    np.testing.assert_allclose(weights.sum(axis=1), end - start, atol=1e-12)
    assert weights.min() == 0
    assert weights.max() <= 0.1 + 1e-12
    # full cells inside the window count in full, those outside not at all
    inside = (phi - 0.05 >= start[:, None]) & (phi + 0.05 <= end[:, None])
    outside = (phi + 0.05 <= start[:, None]) | (phi - 0.05 >= end[:, None])
    np.testing.assert_allclose(weights[inside], 0.1)
    assert (weights[outside] == 0).all()


def test_every_window_is_covered_once_by_the_blocks() -> None:
    """Weights of pairs over all blocks add up to the window where no tilt is off."""
    example = plan(STRUCTURE, SCAN, OBSERVATIONS, SELECTION)
    total = np.zeros(len(OBSERVATIONS))
    for block in example.plan.blocks:
        np.add.at(total, block.pair_observation, block.pair_weight.sum(axis=1))
        assert (block.hkl[0] == 0).all()
        np.testing.assert_array_equal(
            block.hkl[block.pair_row], OBSERVATIONS.hkl[block.pair_observation]
        )
        assert len(np.unique(block.hkl, axis=0)) == len(block.hkl)
    np.testing.assert_allclose(total, OBSERVATIONS.phi_end - OBSERVATIONS.phi_start, rtol=1e-12)
    assert sum(len(b.pair_row) for b in example.plan.blocks) > len(OBSERVATIONS)  # some are split


def test_integral_of_a_curve_computed_by_hand() -> None:
    """Trapezoids over a fine rocking curve from one-block plans, against the package's sum."""
    (index,) = np.argsort(OBSERVATIONS.phi_end - OBSERVATIONS.phi_start)[[0]]
    one = OBSERVATIONS.select(np.array([index]))
    selection = replace(SELECTION, tilt_step=0.01, block_width=4.0)
    example = plan(STRUCTURE, SCAN, one, selection)
    (value,) = example.integrate(NODES)
    models = PhysicalModels(fixed_thickness(NODES), no_rotation)
    (curves,) = example.simulator().rocking_curves(atoms_of(STRUCTURE), models)
    phi, curve = example.plan.blocks[0].phi, curves[0, 0].numpy()
    fine = np.linspace(one.phi_start[0], one.phi_end[0], 5001)
    expected = np.trapz(np.interp(fine, phi, curve), fine)
    assert value == pytest.approx(expected, rel=1e-4)


def weakened(factor: float) -> Example:
    """Crystal of weak scatterers (nearly kinematical), windows out to |S| = 0.02."""
    structure = STRUCTURE.deep_copy_scatterers()
    for scatterer in structure.scatterers():
        scatterer.occupancy = factor
    observations = crossing_reflections(SCAN, 0.8, 0.016, max_half=1.8)
    return plan(structure, SCAN, observations, SELECTION)


def without_tails(example: Example) -> Example:
    empty = np.zeros(0, dtype=np.int64)
    blocks = [
        replace(
            block,
            tail_observation=empty,
            tail_segment=empty,
            tail_hkl=np.zeros((0, 3), dtype=np.int64),
            tail_weight=np.zeros(0),
        )
        for block in example.plan.blocks
    ]
    return replace(example, plan=replace(example.plan, blocks=blocks))


def test_tails_make_up_for_switched_off_beams() -> None:
    """Of a nearly kinematical crystal: s_max 0.005 in windows to 0.016 against s_max 0.03.

    The lost share is about 1/(pi^2 t s_max) = 4-8 % (physics, section 3); averaged over a
    distribution of thickness the fringes leave less than a tenth of it.
    """
    example, nodes = weakened(0.05), np.linspace(250, 550, 31)
    complete = example.integrate(nodes)
    narrow = plan(example.structure, SCAN, example.observations, replace(SELECTION, s_max=0.005))
    with_tails = difference(narrow.integrate(nodes), complete)
    cut_off = difference(without_tails(narrow).integrate(nodes), complete)
    assert 0.02 < cut_off < 0.1
    assert with_tails < cut_off / 10


def test_tail_weight_is_the_sum_of_inverse_squares() -> None:
    """Degrees of window where the beam is off, over S^2."""
    example = plan(
        STRUCTURE,
        SCAN,
        crossing_reflections(SCAN, 0.8, 0.016, max_half=1.8),
        replace(SELECTION, s_max=0.005),
    )
    observations = example.observations
    expected = np.zeros(len(observations))
    phi = np.linspace(-2, 2, 40001)
    errors = nominal_excitation_errors(
        SCAN.reciprocal_bases(phi), observations.hkl, SCAN.beam_direction, 1 / WAVELENGTH
    )
    inside = (phi >= observations.phi_start[:, None]) & (phi <= observations.phi_end[:, None])
    far = inside & (np.abs(errors) > 0.005)
    expected = np.where(far, 1e-4 / errors**2, 0).sum(axis=1)
    found = np.zeros(len(observations))
    for block in example.plan.blocks:
        np.add.at(found, block.tail_observation, block.tail_weight)
    # the limit |S| = s_max falls inside a tilt cell, whose whole width is on or off
    cell = 0.05 / 0.005**2
    assert np.abs(found - expected).max() < cell
    assert found.sum() == pytest.approx(expected.sum(), rel=0.1)


def test_a_window_without_excitation_is_all_tail() -> None:
    """A reflection that never comes near the Ewald sphere: |U|^2/(2 K^2) sum w / S^2."""
    hkl = np.array([[1, 0, 1]])
    s = nominal_excitation_errors(
        SCAN.reciprocal_bases(np.zeros(1)), hkl, SCAN.beam_direction, 1 / WAVELENGTH
    )[0, 0]
    far = make_observations(hkl, [0.0], [-0.1], [0.1])
    other = OBSERVATIONS.select(np.array([0]))
    both = Observations(
        **{
            name: np.concatenate([getattr(far, name), getattr(other, name)])
            for name in far.__dataclass_fields__
        }
    )
    selection = replace(SELECTION, s_max=min(0.03, abs(s) / 2))
    example = plan(STRUCTURE, SCAN, both, selection)
    simulator = example.simulator(EXACT)
    potential = simulator.potential(atoms_of(STRUCTURE))
    k_sq = 1 / WAVELENGTH**2 + float(potential[0].real)
    (value, _) = example.integrate(NODES)
    (u,) = CrystalPotential(hkl, composition_of(STRUCTURE), WAVELENGTH)(atoms_of(STRUCTURE))
    expected = float(torch.abs(u) ** 2) * 0.2 / (2 * k_sq * s**2)
    assert value == pytest.approx(expected, rel=0.01)


def test_no_observed_beam_is_an_error() -> None:
    far = make_observations([[1, 0, 1]], [0.0], [-0.1], [0.1])
    example = plan(STRUCTURE, SCAN, far, replace(SELECTION, s_max=1e-5))
    with pytest.raises(ValueError, match="Ewald sphere"):
        example.simulator()


def test_orientation_correction_acts_like_a_turned_crystal() -> None:
    """A rotation vector in the laboratory frame, against the same turn put into the scan.

    What of it is about the rotation axis moves the windows: the sums are over other tilts (``test_tilt_step``).
    """
    vector = np.array([6e-4, -4e-4, 9e-4])
    turn = Rotation.from_rotvec(vector).as_matrix()
    # g' = T R A = R (R^-1 T R A): a scan whose setting rotation is T
    turned = replace(SCAN, setting_rotations=np.array([turn] * len(SCAN.phi_points)))
    wide = replace(SELECTION, s_max=0.2, g_max=0.9, tilt_step=0.0125)
    # all beams on everywhere, so that both have the same ones
    expected = plan(STRUCTURE, turned, OBSERVATIONS, wide).integrate(NODES)
    example = plan(STRUCTURE, SCAN, OBSERVATIONS, wide)
    found = example.integrate(
        NODES, rotation=lambda experiment, phi: torch.from_numpy(vector).expand(*phi.shape, 3)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert difference(example.integrate(NODES), expected) > 0.01
