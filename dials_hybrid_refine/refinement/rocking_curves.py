"""Simulated rocking curves of a few reflections, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel


@dataclass(frozen=True)
class RockingCurve:
    """The calculated intensity of one reflection as the crystal turns.

    Attributes:
        observation: index of the observation.
        kind: "strongest" or "worst".
        phi: shape (n,), degrees, increasing: the simulated tilts, which reach beyond the window.
        intensity: shape (n,), counts per degree; its integral over the window is the calculated
            intensity, but for the tails where the beam is far from the Ewald sphere (0 here).
        slices: shape (k, 3), first and last angle in degrees and observed intensity in counts of each
            slice; k = 0 for data that hold whole reflections.
    """

    observation: int
    kind: str
    phi: NDArray[np.float64]
    intensity: NDArray[np.float64]
    slices: NDArray[np.float64]


def strongest_and_worst(
    intensity: NDArray[np.float64],
    residual: NDArray[np.float64],
    is_calculated: NDArray[np.bool_],
    number: int,
) -> dict[int, str]:
    """Which reflections to show: the strongest, then the worst that are not among them.

    Args:
        intensity, residual, is_calculated: shape (n,); reflections without a calculated intensity have
            no curve.
        number: of each kind, at most.

    Returns:
        Index -> "strongest" or "worst", in order.
    """
    candidates = np.flatnonzero(is_calculated)
    strongest = candidates[np.argsort(-intensity[candidates], kind="stable")[:number]]
    rest = np.setdiff1d(candidates, strongest)
    worst = rest[np.argsort(-np.abs(residual[rest]), kind="stable")[:number]]
    return {
        **{int(i): "strongest" for i in strongest},
        **{int(i): "worst" for i in worst},
    }


def rocking_curves(
    simulator: Simulator,
    model: HybridModel,
    observations: Observations,
    reflection: NDArray[np.int64],
    scale: NDArray[np.float64],
    chosen: Mapping[int, str],
) -> tuple[RockingCurve, ...]:
    """The curves of chosen reflections, for one evaluation of the simulation.

    Args:
        observations: n, of the simulator. reflection: shape (n,), whose slice each is.
        scale: shape (m,) of reflections, counts per fraction of the incident beam and degree.
        chosen: index of the reflection -> kind.

    Returns:
        One for each chosen reflection that has a beam on in its window.
    """
    with torch.no_grad():
        models = model.physical_models()
        curves = simulator.rocking_curves(model.atoms(), models)
        angles = simulator.recorded_angles(models)
    wanted = torch.tensor(list(chosen), dtype=torch.int64)
    owner = torch.from_numpy(reflection)
    pieces: dict[int, list[tuple[NDArray, NDArray]]] = {i: [] for i in chosen}
    for batch, curve, angle in zip(simulator.batches, curves, angles):
        for pair in torch.isin(owner[batch.pair_observation], wanted).nonzero()[:, 0].tolist():
            block, row = int(batch.pair_block[pair]), int(batch.pair_row[pair])
            phi = angle[block].numpy()
            values = curve[block, row].detach().cpu().double().numpy()
            pieces[int(owner[batch.pair_observation[pair]])].append((phi, values))
    result = []
    for i, found in pieces.items():
        if found:
            # a block that two segments of the scan share comes twice
            phi, first = np.unique(np.concatenate([p for p, _ in found]), return_index=True)
            values = np.concatenate([v for _, v in found])[first]
            slices = _slices_of(observations.select(reflection == i))
            result.append(RockingCurve(i, chosen[i], phi, values * scale[i], slices))
    return tuple(result)


def _slices_of(observations: Observations) -> NDArray[np.float64]:
    """Windows and intensities (k, 3) of the slices of one reflection, by angle; none of a whole one."""
    order = np.argsort(observations.phi_start)[: len(observations) if len(observations) > 1 else 0]
    return np.stack([observations.phi_start, observations.phi_end, observations.intensity], axis=1)[
        order
    ]
