"""The scan split into blocks of rotation, each with one list of beams and a row of tilts.

The integral over a reflection's window is a sum over tilts (``tilt_rows``). Where an observed beam is farther from the Ewald sphere than s_max it is switched off
and its tail is added kinematically, averaged over the fringes: |U_g|^2 / (2 K^2 S_g^2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import (
    BeamSelection,
    nominal_excitation_errors,
    reflections_in_sphere,
)
from dials_hybrid_refine.diffraction.block_size import tilts_per_block
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.potential import CrystalComposition
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.split_correction import Correction, axis_and_beam_differ
from dials_hybrid_refine.diffraction.tilt_rows import TiltRow, continuous_rows, stepped_rows


@dataclass(frozen=True)
class BeamBlock:
    """N beams and n tilts of one block. Beam 0 is 000, beams 1 to R are observed ones.

    Attributes:
        experiment: index of the experiment.
        phi: shape (n,), tilt angles in degrees; ``phi_centre``: their middle.
        hkl: shape (N, 3).
        bases: shape (n, 3, 3), reciprocal bases at the tilts, 1/Angstrom, without correction (but for the
            crystal settings, which are those of the angles at which it was recorded).
        axes: shape (n, 3), turns about which move windows (``split_correction``), or zero.
        active: shape (N, n), whether the beam is on at the tilt.
        n_rows: R.
        pair_observation, pair_row: shape (P,), observation and its beam (1 to R).
        pair_segment: shape (P,), segment of rotation the pair is part of.
        pair_weight: shape (P, n), degrees of the window around each tilt; 0 where the beam is off
            or the tilt is in another segment.
        pair_window: shape (P, 2), first and last angle of the window in degrees, not moved.
        pair_counts: shape (P, n), where weights may be above 0.
        cell_width: degrees of rotation around each tilt; None: tilts are steps.
        is_first, is_last: whether there is no block just before it, or after it.
        tail_observation, tail_segment, tail_hkl, tail_weight: shape (T,), (T,), (T, 3), (T,):
            observations with parts of the window where their beam is off, and sum of weight / S^2
            over them in degrees Angstrom^2.
    """

    experiment: int
    phi: NDArray[np.float64]
    phi_centre: float
    hkl: NDArray[np.int64]
    bases: NDArray[np.float64]
    axes: NDArray[np.float64]
    active: NDArray[np.bool_]
    n_rows: int
    pair_observation: NDArray[np.int64]
    pair_row: NDArray[np.int64]
    pair_segment: NDArray[np.int64]
    pair_weight: NDArray[np.float64]
    pair_window: NDArray[np.float64]
    pair_counts: NDArray[np.bool_]
    cell_width: float | None
    is_first: bool
    is_last: bool
    tail_observation: NDArray[np.int64]
    tail_segment: NDArray[np.int64]
    tail_hkl: NDArray[np.int64]
    tail_weight: NDArray[np.float64]


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of one experiment, and its segments: stretches of rotation with one scale each.

    Attributes:
        blocks: those with observations.
        segment_phi: shape (S,), middle of each segment in degrees.
    """

    blocks: list[BeamBlock]
    segment_phi: NDArray[np.float64]


def plan_blocks(
    experiment: int,
    scan: ScanGeometry,
    observations: Observations,
    composition: CrystalComposition,
    selection: BeamSelection,
    wave_number: float,
    correction: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> BlockPlan:
    """Blocks that together cover the windows of one experiment's observations.

    Args:
        experiment: only observations of this experiment are taken.
        scan: geometry as integrated.
        observations: all observations; pairs refer to their index here.
        composition: tells which reflections the lattice centring forbids.
        selection: limits of the calculation.
        wave_number: K in the crystal, 1/Angstrom.
        correction: rotation vectors (n, 3) in radians of the orientation correction at angles (n,) in
            degrees; beams are chosen with it, ``BeamBlock.bases`` are without it.
    """
    members = np.flatnonzero(observations.experiment == experiment)
    first, last = scan.phi_range
    n_segments = max(1, round((last - first) / selection.segment_width))
    segment_width = (last - first) / n_segments
    segment_phi = first + (np.arange(n_segments) + 0.5) * segment_width
    if len(members) == 0:
        return BlockPlan([], segment_phi)
    candidates = reflections_in_sphere(scan.reciprocal_bases(np.array([first]))[0], selection.g_max)
    candidates = candidates[~composition.is_systematically_absent(candidates)]
    n_tilts = tilts_per_block(scan, candidates, selection, wave_number)
    moves_windows = selection.tilts_per_window is None and axis_and_beam_differ(scan)
    split = Correction(scan, correction, moves_windows)
    rows = list(
        continuous_rows(
            scan.phi_range,
            members,
            split.moved(_windows(observations, members)),
            selection,
            n_tilts,
        )
        if selection.tilts_per_window is None
        else stepped_rows(observations, members, selection.tilts_per_window, n_tilts)
    )
    is_needed = [False, *(bool((row.weights > 0).any()) for row in rows), False]
    blocks = [
        _plan_block(
            experiment, observations, row, (not before, not after),
            np.clip((row.phi - first) // segment_width, 0, n_segments - 1).astype(np.int64),
            candidates, selection, wave_number, split,
        )
        for row, before, needed, after in zip(rows, is_needed, is_needed[1:], is_needed[2:])
        if needed
    ]  # fmt: skip
    return BlockPlan(blocks, segment_phi)


def _windows(observations: Observations, members: NDArray[np.int64]) -> NDArray[np.float64]:
    """First and last angles (k, 2) in degrees."""
    return np.stack([observations.phi_start[members], observations.phi_end[members]], axis=1)


def _plan_block(
    experiment: int,
    observations: Observations,
    row: TiltRow,
    is_end: tuple[bool, bool],
    segments: NDArray[np.int64],
    candidates: NDArray[np.int64],
    selection: BeamSelection,
    wave_number: float,
    correction: Correction,
) -> BeamBlock:
    phi, members, weights = row.phi, row.members, row.weights
    scan = correction.scan
    bases = correction.bases(phi)
    turned = correction.matrices(phi) @ bases

    def excitation_errors(hkl: NDArray[np.int64]) -> NDArray[np.float64]:
        return nominal_excitation_errors(turned, hkl, scan.beam_direction, wave_number)

    hkl = observations.hkl[members]
    own_errors = excitation_errors(hkl)
    on = np.abs(own_errors) <= selection.s_max
    is_on = on.any(axis=1)
    observed, position = np.unique(hkl[is_on], axis=0, return_inverse=True)
    rows = np.zeros(len(members), dtype=np.int64)
    rows[is_on] = 1 + position.reshape(-1)

    # windows that nearly reach the block come in when they move, if they do
    may_move = correction.moves_windows
    pairs, tails = [], []
    for segment in np.unique(segments):
        inside = segments == segment
        part = weights * inside
        inverse_square = np.where(on, 0, part / np.where(on, 1, own_errors) ** 2).sum(axis=1)
        counts = on & inside & (may_move | (weights > 0))
        i = np.flatnonzero(counts.any(axis=1))
        pairs.append((members[i], rows[i], np.full(len(i), segment), (part * on)[i], counts[i]))
        i = np.flatnonzero(inverse_square > 0)
        tails.append((members[i], np.full(len(i), segment), hkl[i], inverse_square[i]))
    pair_observation, pair_row, pair_segment, pair_weight, pair_counts = map(
        np.concatenate, zip(*pairs)
    )
    tail_observation, tail_segment, tail_hkl, tail_weight = map(np.concatenate, zip(*tails))

    others = _strong_beams(candidates, excitation_errors, selection.s_max, observed)
    beams = np.concatenate([np.zeros((1, 3), dtype=np.int64), observed, others])
    return BeamBlock(
        experiment=experiment,
        phi=phi,
        phi_centre=float(phi.mean()),
        hkl=beams,
        bases=bases,
        axes=correction.axes(phi),
        active=np.abs(excitation_errors(beams)) <= selection.s_max,
        n_rows=len(observed),
        pair_observation=pair_observation,
        pair_row=pair_row,
        pair_segment=pair_segment,
        pair_weight=pair_weight,
        pair_window=np.stack(
            [observations.phi_start[pair_observation], observations.phi_end[pair_observation]],
            axis=1,
        ),
        pair_counts=pair_counts,
        cell_width=row.cell_width if may_move else None,
        is_first=is_end[0],
        is_last=is_end[1],
        tail_observation=tail_observation,
        tail_segment=tail_segment,
        tail_hkl=tail_hkl,
        tail_weight=tail_weight,
    )


def _strong_beams(
    candidates: NDArray[np.int64],
    excitation_errors: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    s_max: float,
    without: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Candidates (n, 3) that are on at some tilt of a block, without some others."""
    errors = excitation_errors(candidates)
    near = candidates[(np.abs(errors) <= s_max).any(axis=1)]
    _, first = np.unique(np.concatenate([without, near]), axis=0, return_index=True)
    return near[np.sort(first[first >= len(without)]) - len(without)]
