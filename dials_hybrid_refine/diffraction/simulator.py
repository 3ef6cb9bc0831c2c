"""The forward model: integrated intensities of a rotating crystal from many-beam theory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dials_hybrid_refine.diffraction.batches import BlockBatch, DifferenceTable, make_batches
from dials_hybrid_refine.diffraction.blocks import BeamBlock
from dials_hybrid_refine.diffraction.geometry import (
    IncidentBeam,
    excitation_errors,
    flux_factors,
    rotation_matrices,
    wave_number_in_crystal,
)
from dials_hybrid_refine.diffraction.potential import (
    AtomicParameters,
    CrystalComposition,
    CrystalPotential,
)
from dials_hybrid_refine.diffraction.propagation import (
    BatchInput,
    NodeIntensities,
    PropagationSettings,
    propagate,
    propagate_nodes,
)
from dials_hybrid_refine.diffraction.scan import ScanGeometry


@dataclass(frozen=True)
class Contributions:
    """Parts of integrated intensities: observation i gets the sum of its parts.

    Attributes:
        value: shape (P,), fraction of the incident beam times degrees, float64.
        observation, block: shape (P,), which observation and which block of rotation.
    """

    value: torch.Tensor
    observation: torch.Tensor
    block: torch.Tensor


@dataclass(frozen=True)
class PhysicalModels:
    """The functions of a model that the simulation calls.

    Attributes:
        thickness: (experiment (B,), phi_centre (B,)) -> thicknesses (B, m) in Angstrom and their
            weights (B, m).
        rotation: (experiment (B,), phi (B, n)) -> rotation vectors (B, n, 3) in radians, the
            correction of the crystal's orientation: g' = R g.
        absorption: U (n_h,), complex -> U' (n_h,), or None without absorption.
        curve_effects: each changes rocking curves: (curves (B, R, n), batch) -> (B, R, n).
    """

    thickness: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    rotation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    absorption: Callable[[torch.Tensor], torch.Tensor] | None = None
    curve_effects: Sequence[Callable[[torch.Tensor, BlockBatch], torch.Tensor]] = ()


class Simulator:
    """Integrated intensities of fixed blocks of rotation, differentiable in all parameters."""

    def __init__(
        self,
        scans: Sequence[ScanGeometry],
        blocks: Sequence[BeamBlock],
        composition: CrystalComposition,
        settings: PropagationSettings,
    ) -> None:
        """
        Args:
            scans: geometry of each experiment; all must have one wavelength.
            blocks: planned blocks (``plan_blocks``) of all experiments.
            composition: the structure's invariant part.
            settings: precision, threads, memory, device.

        Raises:
            ValueError: if no block holds an observed beam.
        """
        if not any(block.n_rows for block in blocks):
            raise ValueError("no observed reflection crosses the Ewald sphere inside its window")
        self.settings = settings
        self.blocks = blocks
        tails = np.concatenate([block.tail_hkl for block in blocks])
        table = DifferenceTable(blocks, tails)
        self._potential = CrystalPotential(table.hkl, composition, scans[0].wavelength)
        self._wavelength = scans[0].wavelength
        self._directions = torch.from_numpy(np.array([s.beam_direction for s in scans]))
        self.batches = make_batches(blocks, table)
        self._tail_index = torch.from_numpy(table.positions(tails).astype(np.int64))
        self._tail_weight = torch.from_numpy(np.concatenate([b.tail_weight for b in blocks]))
        tail_observation = np.concatenate([b.tail_observation for b in blocks])
        tail_block = np.repeat(np.arange(len(blocks)), [len(b.tail_observation) for b in blocks])
        self._observation = torch.cat(
            [*(b.pair_observation for b in self.batches), torch.from_numpy(tail_observation)]
        )
        self._block = torch.cat(
            [*(b.block[b.pair_block] for b in self.batches), torch.from_numpy(tail_block)]
        )

    @property
    def n_beams(self) -> list[int]:
        """Number of beams of each block."""
        return [len(block.hkl) for block in self.blocks]

    def block_positions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Experiment (b,) and middle angle (b,) in degrees of each block."""
        experiment = torch.tensor([block.experiment for block in self.blocks])
        return experiment, torch.tensor([b.phi_centre for b in self.blocks], dtype=torch.float64)

    def potential(self, atoms: AtomicParameters) -> torch.Tensor:
        """U of the differences between beams, 1/Angstrom^2; the first one is U_0."""
        return self._potential(atoms)

    def rocking_curves(self, atoms: AtomicParameters, models: PhysicalModels) -> list[torch.Tensor]:
        """For each batch the intensities (B, R, n) of its observed beams at its tilts."""
        return self._curves(self.potential(atoms), models)

    def __call__(self, atoms: AtomicParameters, models: PhysicalModels) -> Contributions:
        """The parts of all integrated intensities, in a fixed order."""
        potential = self.potential(atoms)
        curves = self._curves(potential, models)
        parts = [
            (curve[batch.pair_block, batch.pair_row] * batch.pair_weight).sum(-1)
            for batch, curve in zip(self.batches, curves)
        ]
        wave_number_sq = 1 / self._wavelength**2 + potential[0].real
        u_tail = potential[self._tail_index]
        tails = (
            torch.view_as_real(u_tail).square().sum(-1) * self._tail_weight / (2 * wave_number_sq)
        )
        return Contributions(torch.cat([*parts, tails]), self._observation, self._block)

    def thickness_derivatives(
        self, atoms: AtomicParameters, models: PhysicalModels
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Derivatives of ``Contributions.value`` with respect to weights and thicknesses.

        Returns:
            Two tensors of shape (P, m): d value / d weight_m and d value / d thickness_m of
            the contribution's block, detached. Curve effects are not taken into account.
        """
        inputs, table = self._inputs(self.potential(atoms), models)

        def reduce(position: int, nodes: NodeIntensities) -> tuple[torch.Tensor, torch.Tensor]:
            batch = self.batches[position]
            window = batch.pair_weight[:, None].to(nodes.intensity.dtype)
            by_weight, by_thickness = (
                (part[batch.pair_block, :, batch.pair_row] * window).sum(-1).double()
                for part in (nodes.intensity, nodes.slope)
            )
            weight = inputs[position].weight[batch.pair_block]
            return by_weight, by_thickness * weight

        parts = propagate_nodes(inputs, table, self.settings, reduce)
        tails = parts[0][0].new_zeros(len(self._tail_weight), parts[0][0].shape[1])
        by_weight, by_thickness = (torch.cat([*column, tails]) for column in zip(*parts))
        return by_weight, by_thickness

    def _inputs(
        self, potential: torch.Tensor, models: PhysicalModels
    ) -> tuple[list[BatchInput], torch.Tensor]:
        wave_number = wave_number_in_crystal(self._wavelength, potential[0].real)
        absorptive = models.absorption(potential) if models.absorption else None
        full = potential if absorptive is None else potential + 1j * absorptive
        table = torch.cat([full / (2 * wave_number), full.new_zeros(1)])
        mean_absorption = None if absorptive is None else absorptive[0] / (2 * wave_number)
        inputs = [self._batch_input(b, wave_number, mean_absorption, models) for b in self.batches]
        return inputs, table

    def _curves(self, potential: torch.Tensor, models: PhysicalModels) -> list[torch.Tensor]:
        inputs, table = self._inputs(potential, models)
        curves = propagate(inputs, table, self.settings)
        for effect in models.curve_effects:
            curves = [effect(curve, batch) for curve, batch in zip(curves, self.batches)]
        return curves

    def _batch_input(
        self,
        batch: BlockBatch,
        wave_number: torch.Tensor,
        mean_absorption: torch.Tensor | None,
        models: PhysicalModels,
    ) -> BatchInput:
        rotations = rotation_matrices(models.rotation(batch.experiment, batch.phi))
        g = torch.einsum("btij,bnj->bnti", rotations @ batch.bases, batch.hkl)
        # the surface is taken normal to the beam, so that K_n = K
        direction = self._directions[batch.experiment][:, None, None]
        beam = IncidentBeam(direction, direction, wave_number)
        flux = torch.where(batch.active, flux_factors(g, beam), 0)
        diagonal = flux * excitation_errors(g, beam)
        if mean_absorption is not None:
            diagonal = diagonal + 1j * flux * mean_absorption.real
        thickness, weight = models.thickness(batch.experiment, batch.phi_centre)
        return BatchInput(batch.coupling_index, batch.n_rows, flux, diagonal, thickness, weight)
