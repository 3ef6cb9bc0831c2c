"""Blocks are bookkeeping: how tilts are divided among them changes nothing; segments are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation import evaluate
from examples import (
    EXACT,
    WAVELENGTH,
    Array,
    Example,
    atoms_of,
    crossing_reflections,
    fixed_thickness,
    make_scan,
    no_rotation,
    perovskite_structure,
    plan,
    quartz_structure,
)

from dials_hybrid_refine.diffraction import blocks
from dials_hybrid_refine.diffraction.beams import BeamSelection, reflections_in_sphere
from dials_hybrid_refine.diffraction.block_size import _WIDTHS, tilts_per_block
from dials_hybrid_refine.diffraction.blocks import BlockPlan, plan_blocks
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.simulator import PhysicalModels, Simulator
from dials_hybrid_refine.models.structure import composition_of

STRUCTURES = {"quartz": quartz_structure(), "perovskite": perovskite_structure()}
#: 64 tilts over the scan of 4 degrees; windows that leave the range of |S|: with tails
SELECTION = BeamSelection(g_max=0.9, s_max=0.006, tilt_step=0.0625, block_width=1.0)
TOLERANCES = [(torch.complex128, 1e-12), (torch.complex64, 1e-5)]


def divided(name: str, block_width: float | None, segment_width: float = 1.0) -> Example:
    structure = STRUCTURES[name]
    scan = make_scan(structure)
    observations = crossing_reflections(scan, 0.8, 0.009)
    selection = replace(SELECTION, block_width=block_width, segment_width=segment_width)
    return plan(structure, scan, observations, selection)


def by_segment(example: Example, settings: PropagationSettings) -> Array:
    """Intensity of each observation in each segment, (n, s)."""
    simulator = example.simulator(settings)
    models = PhysicalModels(fixed_thickness([200.0, 400.0]), no_rotation)
    with torch.no_grad():
        parts = simulator(atoms_of(example.structure), models)
    table = np.zeros((len(example.observations), len(simulator.segment_positions()[0])))
    np.add.at(table, (parts.observation.numpy(), parts.segment.numpy()), parts.value.numpy())
    return table


@pytest.mark.parametrize("dtype, tolerance", TOLERANCES, ids=str)
@pytest.mark.parametrize("segment_width", [1.0, 0.7, 4.0])
@pytest.mark.parametrize("name", STRUCTURES)
def test_segments_do_not_depend_on_blocks(
    name: str, segment_width: float, dtype: torch.dtype, tolerance: float
) -> None:
    """The same tilts in blocks of 4, 16, 64 or however many tilts."""
    settings = PropagationSettings(dtype)
    expected = by_segment(divided(name, 1.0, segment_width), EXACT)
    assert expected.shape[1] == {1.0: 4, 0.7: 6, 4.0: 1}[segment_width]
    assert (np.count_nonzero(expected, axis=1) > 1).any() or segment_width == 4.0
    for width, n_blocks in ((None, None), (0.25, 16), (1.0, 4), (4.0, 1)):
        example = divided(name, width, segment_width)
        assert sum(len(b.tail_observation) for b in example.plan.blocks) > 2
        phi = np.concatenate([b.phi for b in example.plan.blocks])
        # blocks without any observation are left out
        assert len(phi) <= 64 and len(example.plan.blocks) <= (n_blocks or 64)
        np.testing.assert_allclose(
            phi[:, None] % 0.0625, 0.03125, rtol=0, atol=1e-9, err_msg="other tilts"
        )
        found = by_segment(example, settings)
        np.testing.assert_allclose(found, expected, rtol=tolerance * 1e-3, atol=tolerance * expected.max())  # fmt: skip


def test_segments_add_up_to_the_intensity() -> None:
    """However wide they are: each part of a window is in one of them."""
    total = by_segment(divided("quartz", 1.0, 4.0), EXACT)[:, 0]
    for segment_width in (0.25, 0.7, 1.0, 2.0):
        parts = by_segment(divided("quartz", None, segment_width), EXACT)
        np.testing.assert_allclose(parts.sum(axis=1), total, rtol=1e-12)


def test_a_segment_holds_the_tilts_inside_it() -> None:
    """Middles and limits; pairs have weight only where phi is in their segment."""
    example = divided("perovskite", 4.0, 1.0)
    np.testing.assert_allclose(example.plan.segment_phi, [-1.5, -0.5, 0.5, 1.5])
    (block,) = example.plan.blocks
    assert set(block.pair_segment) >= {1, 2}
    for segment, weight in zip(block.pair_segment, block.pair_weight):
        assert np.abs(block.phi[weight > 0] - (segment - 1.5)).max() < 0.5
    # an observation in two segments has two pairs of one row
    both = np.flatnonzero(np.bincount(block.pair_observation) > 1)
    assert len(both) > 0
    for observation in both:
        assert len(set(block.pair_row[block.pair_observation == observation])) == 1


def test_gradients_do_not_depend_on_blocks() -> None:
    one, other = (
        evaluate(divided("quartz", width).simulator(), STRUCTURES["quartz"]) for width in (0.5, 4.0)
    )
    for name in one.keys() - {"value"}:
        torch.testing.assert_close(
            other[name], one[name], rtol=0, atol=1e-11 * float(one[name].abs().max())
        )


def test_segments_of_two_experiments_are_apart() -> None:
    """The second experiment's come after those of the first, whatever their number."""
    structure = STRUCTURES["perovskite"]
    composition = composition_of(structure)
    scans = [make_scan(structure), make_scan(structure, -1.0, 2.0)]
    first = crossing_reflections(scans[0], 0.8, 0.009)
    assert first.phi_start.min() > -1.0
    observations = replace(first, experiment=np.arange(len(first)) % 2)

    def plan_one(i: int) -> BlockPlan:
        def correction(phi: Array) -> Array:
            return np.zeros((len(phi), 3))

        return plan_blocks(
            i, scans[i], observations, composition, SELECTION, 1 / WAVELENGTH, correction
        )

    simulator = Simulator(scans, [plan_one(0), plan_one(1)], composition, EXACT)
    experiment, phi = simulator.segment_positions()
    assert experiment.tolist() == [0] * 4 + [1] * 3
    np.testing.assert_allclose(phi, [-1.5, -0.5, 0.5, 1.5, -0.5, 0.5, 1.5])
    models = PhysicalModels(fixed_thickness(300.0), no_rotation)
    parts = simulator(atoms_of(structure), models)
    tails = [block for block in simulator.blocks if len(block.tail_observation)]
    assert {block.experiment for block in tails} == {0, 1}
    np.testing.assert_array_equal(
        experiment[parts.segment], observations.experiment[parts.observation]
    )
    inside = (observations.phi_start[parts.observation] < phi[parts.segment].numpy() + 0.5) & (
        observations.phi_end[parts.observation] > phi[parts.segment].numpy() - 0.5
    )
    assert inside.all()
    block_experiment, block_phi = simulator.block_positions()
    assert (block_experiment[parts.block] == experiment[parts.segment]).all()
    # blocks of one degree here, like the segments
    torch.testing.assert_close(block_phi[parts.block], phi[parts.segment])


def number_of_tilts(name: str, selection: BeamSelection, last: float = 2.0) -> int:
    structure = STRUCTURES[name]
    scan = make_scan(structure, -2.0, last)
    candidates = reflections_in_sphere(scan.reciprocal_bases(np.zeros(1))[0], selection.g_max)
    return tilts_per_block(scan, candidates, selection, 1 / WAVELENGTH)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("step", [0.3, 0.1, 0.03, 0.01])
def test_the_number_of_tilts_is_one_of_a_few(name: str, step: float) -> None:
    """The finer the steps, the more tilts: a block then covers less, and beams last longer."""
    selection = replace(SELECTION, tilt_step=step, s_max=0.012)
    found = number_of_tilts(name, selection)
    assert found in _WIDTHS
    assert found >= number_of_tilts(name, replace(selection, tilt_step=3 * step))
    # far from turning over all beams
    assert found * step < 6


def test_wide_blocks_where_steps_are_fine_and_narrow_ones_where_they_are_coarse() -> None:
    assert number_of_tilts("quartz", replace(SELECTION, tilt_step=0.5), 58.0) == 16
    fine = replace(SELECTION, tilt_step=0.002, s_max=0.03)
    assert number_of_tilts("quartz", fine) >= 64


@pytest.mark.parametrize("last", [-1.9, -1.5])
def test_a_scan_of_few_tilts_is_one_block(last: float) -> None:
    """Fewer tilts than the narrowest block has: no more blocks than one, nor an error."""
    selection = replace(SELECTION, tilt_step=0.05)
    assert number_of_tilts("quartz", selection, last) == _WIDTHS[0]
    scan = make_scan(STRUCTURES["quartz"], -2.0, last, image_width=0.1)
    observations = crossing_reflections(make_scan(STRUCTURES["quartz"]), 0.8, 0.004)
    middle = (scan.phi_range[0] + last) / 2
    n = len(observations)
    observations = replace(
        observations, phi=np.full(n, middle), phi_start=np.full(n, -2.0), phi_end=np.full(n, last)
    )
    example = plan(STRUCTURES["quartz"], scan, observations, replace(selection, block_width=None))
    (block,) = example.plan.blocks
    assert len(block.phi) == _WIDTHS[0]
    assert len(example.plan.segment_phi) == 1
    assert np.ptp(block.phi) < last + 2


@pytest.mark.parametrize("width", [16, 32, 64])
def test_intensities_do_not_depend_on_the_number_chosen(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that divide the 64 tilts of the scan, so that the tilts are the same."""
    expected = by_segment(divided("perovskite", 0.25), EXACT)
    monkeypatch.setattr(blocks, "tilts_per_block", lambda *_: width)
    example = divided("perovskite", None)
    assert {len(b.phi) for b in example.plan.blocks} == {width}
    found = by_segment(example, EXACT)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * expected.max())
