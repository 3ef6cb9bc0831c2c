"""The scan split into blocks of rotation, each with one list of beams and a row of tilts.

The integral over a reflection's window is a sum over cells of rotation around the tilts, each
weighted with the part of the cell that lies inside the window (midpoint rule: no end points to
weight). Where an observed beam is farther from the Ewald sphere than s_max it is switched off
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
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.potential import CrystalComposition
from dials_hybrid_refine.diffraction.scan import ScanGeometry


@dataclass(frozen=True)
class BeamBlock:
    """N beams and n tilts of one block. Beam 0 is 000, beams 1 to R are observed ones.

    Attributes:
        experiment: index of the experiment.
        phi: shape (n,), tilt angles in degrees; ``phi_centre``: their middle.
        hkl: shape (N, 3).
        bases: shape (n, 3, 3), reciprocal bases at the tilts, 1/Angstrom, without correction.
        active: shape (N, n), whether the beam is on at the tilt.
        n_rows: R.
        pair_observation, pair_row: shape (P,), observation and its beam (1 to R).
        pair_weight: shape (P, n), degrees of the window around each tilt; 0 where off.
        tail_observation, tail_hkl, tail_weight: shape (T,), (T, 3), (T,): observations with
            parts of the window where their beam is off, and sum of weight / S^2 over them in
            degrees Angstrom^2.
    """

    experiment: int
    phi: NDArray[np.float64]
    phi_centre: float
    hkl: NDArray[np.int64]
    bases: NDArray[np.float64]
    active: NDArray[np.bool_]
    n_rows: int
    pair_observation: NDArray[np.int64]
    pair_row: NDArray[np.int64]
    pair_weight: NDArray[np.float64]
    tail_observation: NDArray[np.int64]
    tail_hkl: NDArray[np.int64]
    tail_weight: NDArray[np.float64]


def window_weights(
    phi: NDArray[np.float64],
    cell_width: float,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Degrees of each cell phi +- cell_width/2 inside each window; shape (windows, tilts)."""
    low = np.maximum(phi - cell_width / 2, start[:, None])
    high = np.minimum(phi + cell_width / 2, end[:, None])
    return np.clip(high - low, 0, None)


def plan_blocks(
    experiment: int,
    scan: ScanGeometry,
    observations: Observations,
    composition: CrystalComposition,
    selection: BeamSelection,
    wave_number: float,
    correction: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> list[BeamBlock]:
    """Blocks that together cover the windows of one experiment's observations.

    Args:
        experiment: only observations of this experiment are taken.
        scan: geometry as integrated.
        observations: all observations; pairs refer to their index here.
        composition: tells which reflections the lattice centring forbids.
        selection: limits of the calculation.
        wave_number: K in the crystal, 1/Angstrom.
        correction: rotation matrices (n, 3, 3) of the orientation correction at angles (n,) in
            degrees; beams are chosen with it, ``BeamBlock.bases`` are without it.
    """
    members = np.flatnonzero(observations.experiment == experiment)
    if len(members) == 0:
        return []
    first, last = scan.phi_range
    n_blocks = max(1, round((last - first) / selection.block_width))
    width = (last - first) / n_blocks
    n_tilts = max(1, round(width / selection.tilt_step))
    candidates = reflections_in_sphere(scan.reciprocal_bases(np.array([first]))[0], selection.g_max)
    candidates = candidates[~composition.is_systematically_absent(candidates)]

    blocks = []
    for i in range(n_blocks):
        start = first + i * width
        phi = start + (np.arange(n_tilts) + 0.5) * (width / n_tilts)
        inside = members[
            (observations.phi_end[members] > start)
            & (observations.phi_start[members] < start + width)
        ]
        if len(inside):
            blocks.append(
                _plan_block(
                    experiment, scan, observations, inside, phi, width / n_tilts,
                    candidates, selection.s_max, wave_number, correction,
                )
            )  # fmt: skip
    return blocks


def _plan_block(
    experiment: int,
    scan: ScanGeometry,
    observations: Observations,
    members: NDArray[np.int64],
    phi: NDArray[np.float64],
    cell_width: float,
    candidates: NDArray[np.int64],
    s_max: float,
    wave_number: float,
    correction: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> BeamBlock:
    bases = scan.reciprocal_bases(phi)
    turned = correction(phi) @ bases
    errors = nominal_excitation_errors(turned, candidates, scan.beam_direction, wave_number)
    near = (np.abs(errors) <= s_max).any(axis=1)
    hkl = observations.hkl[members]
    own_errors = nominal_excitation_errors(turned, hkl, scan.beam_direction, wave_number)
    weights = window_weights(
        phi, cell_width, observations.phi_start[members], observations.phi_end[members]
    )
    on = np.abs(own_errors) <= s_max
    tails = np.where(on, 0, weights / np.where(on, 1, own_errors) ** 2).sum(axis=1)
    has_tail = tails > 0
    is_pair = (weights * on > 0).any(axis=1)

    observed, pair_row = np.unique(hkl[is_pair], axis=0, return_inverse=True)
    others = candidates[near]
    known = {tuple(h) for h in observed.tolist()}
    others = others[[tuple(h) not in known for h in others.tolist()]].reshape(-1, 3)
    beams = np.concatenate([np.zeros((1, 3), dtype=np.int64), observed, others])
    beam_errors = nominal_excitation_errors(turned, beams, scan.beam_direction, wave_number)
    return BeamBlock(
        experiment=experiment,
        phi=phi,
        phi_centre=float(phi.mean()),
        hkl=beams,
        bases=bases,
        active=np.abs(beam_errors) <= s_max,
        n_rows=len(observed),
        pair_observation=members[is_pair],
        pair_row=1 + pair_row.reshape(-1),
        pair_weight=(weights * on)[is_pair],
        tail_observation=members[has_tail],
        tail_hkl=hkl[has_tail],
        tail_weight=tails[has_tail],
    )
