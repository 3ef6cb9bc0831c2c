"""The forward model: integrated intensities of a rotating crystal from many-beam theory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.batch_propagation import BatchInput, Coupling, NodeIntensities
from dials_hybrid_refine.diffraction.batches import BlockBatch, DifferenceTable, make_batches
from dials_hybrid_refine.diffraction.blocks import BlockPlan
from dials_hybrid_refine.diffraction.geometry import rotation_matrices, wave_number_in_crystal
from dials_hybrid_refine.diffraction.moved_windows import (
    ObservationWindows,
    over_windows,
    weights_in,
)
from dials_hybrid_refine.diffraction.parts import (
    IntensityParts,
    directional_derivative,
    intensity_parts,
)
from dials_hybrid_refine.diffraction.potential import (
    AtomicParameters,
    CrystalComposition,
    CrystalPotential,
)
from dials_hybrid_refine.diffraction.propagation import propagate, propagate_nodes
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.shared_batches import SharedBatches


@dataclass(frozen=True)
class Contributions:
    """Parts of integrated intensities: observation i gets the sum of its parts.

    Attributes:
        value: shape (P,), fraction of the incident beam times degrees, float64.
        turn_slope: shape (P,), its derivative, before any intensity effect, by a turn about the rotation axis,
            1/degree, detached; zero where such a turn does not move windows (``Simulator.moves_windows``).
        observation, block, segment: shape (P,), which observation, block and segment of rotation.
    """

    value: torch.Tensor
    turn_slope: torch.Tensor
    observation: torch.Tensor
    block: torch.Tensor
    segment: torch.Tensor


@dataclass(frozen=True)
class PhysicalModels:
    """The functions of a model that the simulation calls.

    Attributes:
        thickness: (experiment (B,), phi_centre (B,)) -> thicknesses (B, m) in Angstrom and their
            weights (B, m).
        rotation: (experiment (B,), phi (B, n)) -> rotation vectors (B, n, 3) in radians, the
            correction of the crystal's orientation: g' = R g.
        absorption: (atoms, crystal, its U (n_h,), experiment) -> U' (n_h,) of the same reflections,
            complex, or None without absorption.
        spread: experiment -> rotation vectors (k, 3) in radians, laboratory frame, of k parts of the
            crystal of equal volume, whose intensities are averaged; None for perfect crystals.
        curve_effects: each changes rocking curves: (curves (B, R, n), batch) -> (B, R, n).
        intensity_effects: each changes parts of integrated intensities: (values (P,), parts) -> (P,).
        potential_change: shape (n_unique,), complex: added to the atoms' U of
            ``Simulator.crystal.unique_hkl`` in 1/Angstrom^2, for electrons of the wavelength of
            ``Simulator.crystal``; None: nothing.
    """

    thickness: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    rotation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    absorption: (
        Callable[[AtomicParameters, CrystalPotential, torch.Tensor, int], torch.Tensor] | None
    ) = None
    spread: Callable[[int], torch.Tensor] | None = None
    curve_effects: Sequence[Callable[[torch.Tensor, BlockBatch], torch.Tensor]] = ()
    intensity_effects: Sequence[Callable[[torch.Tensor, IntensityParts], torch.Tensor]] = ()
    potential_change: torch.Tensor | None = None

    def change_curves(self, curves: torch.Tensor, batch: BlockBatch) -> torch.Tensor:
        """Rocking curves (B, R, n) after all curve effects, in their order."""
        for effect in self.curve_effects:
            curves = effect(curves, batch)
        return curves


class Simulator:
    """Integrated intensities of fixed blocks of rotation, differentiable in all parameters."""

    def __init__(
        self,
        scans: Sequence[ScanGeometry],
        plans: Sequence[BlockPlan],
        composition: CrystalComposition,
        settings: PropagationSettings,
    ) -> None:
        """
        Args:
            scans: geometry of each experiment.
            plans: planned blocks (``plan_blocks``) of each experiment.
            composition: the structure's invariant part.
            settings: precision, threads, memory, device, processes.

        Raises:
            ValueError: if no block holds an observed beam.
        """
        self.blocks = blocks = [block for plan in plans for block in plan.blocks]
        if not any(block.n_rows for block in blocks):
            raise ValueError("no observed reflection crosses the Ewald sphere inside its window")
        self.settings = settings
        self._wavelengths = [scan.wavelength for scan in scans]
        self._segment_phi = [plan.segment_phi for plan in plans]
        tails = np.concatenate([block.tail_hkl for block in blocks])
        table = DifferenceTable(blocks, tails)
        self._potential = CrystalPotential(table.hkl, composition, self._wavelengths[0])
        crystals = {
            w: self._potential if w == self._wavelengths[0] else self._potential.at_wavelength(w)
            for w in self._wavelengths
        }
        self._crystals = [crystals[w] for w in self._wavelengths]
        # seen from a centre of symmetry the potential is real; intensities do not see the origin
        centre = composition.inversion_centre()
        self._is_centric = centre is not None
        shift = np.zeros(3) if centre is None else centre
        self._phase = torch.from_numpy(np.exp(2j * np.pi * (table.hkl @ shift)))
        directions = np.array([scan.beam_direction for scan in scans])
        #: unit vectors along s0 of each experiment, shape (n_experiments, 3)
        self.beam_directions = torch.from_numpy(directions)
        self.batches = make_batches(
            blocks, table, directions, self._is_centric, settings.device, settings.ranks.size
        )
        self._shared = SharedBatches(self.batches, settings.ranks)
        self._tail_index = torch.from_numpy(table.positions(tails).astype(np.int64))
        self._tail_weight = torch.from_numpy(np.concatenate([b.tail_weight for b in blocks]))
        # the blocks come experiment by experiment
        self._tail_counts = [sum(len(b.tail_weight) for b in plan.blocks) for plan in plans]
        offsets = np.cumsum([0, *(len(plan.segment_phi) for plan in plans)])
        self._set_places(offsets)
        #: mean rotation axes of the experiments, unit vectors of shape (n_experiments, 3)
        self.rotation_axes = torch.from_numpy(np.array([scan.middle_axis for scan in scans]))
        #: whether a turn about the rotation axis moves windows instead of the crystal, in all experiments
        self.moves_windows = all(batch.edges is not None for batch in self.batches)
        self._windows = ObservationWindows(scans, self.batches)

    def recorded_angles(self, models: PhysicalModels) -> list[torch.Tensor]:
        """For each batch the angles (B, n) in degrees at which the tilts, turned about the axis, come."""
        angles = []
        for batch in self.batches:
            vectors = models.rotation(batch.experiment, batch.phi)
            angles.append(batch.phi - (vectors * batch.axes).sum(-1) * (180 / math.pi))
        return angles

    def _set_places(self, offsets: NDArray[np.int64]) -> None:
        """Where the contributions belong; offsets: first segment of each experiment."""
        blocks = self.blocks
        self._pair_counts = [len(batch.pair_block) for batch in self.batches]
        tail_counts = [len(b.tail_observation) for b in blocks]
        offset = torch.from_numpy(offsets)

        def join(pairs: list[torch.Tensor], tails: list[NDArray[np.int64]]) -> torch.Tensor:
            return torch.cat([*pairs, torch.from_numpy(np.concatenate(tails))])

        self._observation = join(
            [b.pair_observation for b in self.batches], [b.tail_observation for b in blocks]
        )
        self._block = join(
            [b.block[b.pair_block] for b in self.batches],
            [np.repeat(np.arange(len(blocks)), tail_counts)],
        )
        self._segment = join(
            [b.pair_segment + offset[b.experiment[b.pair_block]] for b in self.batches],
            [b.tail_segment + offsets[b.experiment] for b in blocks],
        )

    @property
    def n_beams(self) -> list[int]:
        """Number of beams of each block."""
        return [len(block.hkl) for block in self.blocks]

    @property
    def crystal(self) -> CrystalPotential:
        """The potential of the structure, at the differences between beams, for electrons of the
        first experiment's wavelength."""
        return self._potential

    def block_positions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Experiment (b,) and middle angle (b,) in degrees of each block."""
        experiment = torch.tensor([block.experiment for block in self.blocks])
        return experiment, torch.tensor([b.phi_centre for b in self.blocks], dtype=torch.float64)

    def segment_positions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Experiment (s,) and middle angle (s,) in degrees of each segment."""
        counts = [len(phi) for phi in self._segment_phi]
        experiment = np.repeat(np.arange(len(counts)), counts)
        return torch.from_numpy(experiment), torch.from_numpy(np.concatenate(self._segment_phi))

    def overlaps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The stretches of rotation that blocks and segments have in common.

        Returns:
            Stretch (P,) of each contribution; experiment (q,) and middle angle (q,) in degrees of
            each stretch.
        """
        n_segments = len(self.segment_positions()[0])
        keys, index = torch.unique(self._block * n_segments + self._segment, return_inverse=True)
        block, segment = keys // n_segments, keys % n_segments
        tilts = torch.tensor([[b.phi[0], b.phi[-1]] for b in self.blocks], dtype=torch.float64)
        half_widths = [
            np.full(len(phi), np.diff(phi).mean() / 2 if len(phi) > 1 else np.inf)
            for phi in self._segment_phi
        ]
        half_width = torch.from_numpy(np.concatenate(half_widths))[segment]
        middle = self.segment_positions()[1][segment]
        first = torch.maximum(tilts[block, 0], middle - half_width)
        last = torch.minimum(tilts[block, 1], middle + half_width)
        return index, self.block_positions()[0][block], (first + last) / 2

    def window_places(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where the windows are whose turns about the axis the contributions have.

        Returns:
            Place (P,) of each contribution (any of tails, which have none); experiment (q,) and middle
            angle (q,) in degrees of each place, to a tenth of a degree.
        """
        place, experiment, phi = self._windows.places()
        tails = torch.zeros(len(self._tail_weight), dtype=torch.int64)
        return torch.cat([place, tails]), experiment, phi

    def potential(self, atoms: AtomicParameters) -> torch.Tensor:
        """U of the differences between beams, 1/Angstrom^2, as ``crystal`` has it; the first is U_0."""
        return self._potential(atoms)

    def _potentials(self, atoms: AtomicParameters, models: PhysicalModels) -> list[torch.Tensor]:
        """U of the differences between beams for the electrons of each experiment."""
        potential = self.potential(atoms)
        change = models.potential_change
        if change is not None:
            potential = potential + self.crystal.expand(change)
        scaled = {
            w: potential
            if w == self._potential.wavelength
            else self._potential.ratio_to(w) * potential
            for w in self._wavelengths
        }
        return [scaled[w] for w in self._wavelengths]

    def rocking_curves(self, atoms: AtomicParameters, models: PhysicalModels) -> list[torch.Tensor]:
        """For each batch the intensities (B, R, n) of its observed beams at its tilts."""
        return self._changed_curves(
            self._inputs(atoms, self._potentials(atoms, models), models), models
        )

    def _changed_curves(
        self, inputs: Sequence[BatchInput], models: PhysicalModels
    ) -> list[torch.Tensor]:
        """Rocking curves of all batches after the curve effects, in all processes.

        Effects are calculated in every process, so that each has the whole gradient by their parameters.
        """
        shapes = [(len(b.block), b.n_rows, b.phi.shape[1]) for b in self.batches]
        curves = self._shared.gather(
            lambda: self._from_curves(inputs, lambda curve, batch: curve.reshape(-1)),
            [math.prod(shape) for shape in shapes],
        )
        return [
            models.change_curves(curve.reshape(shape), batch)
            for curve, shape, batch in zip(curves, shapes, self.batches)
        ]

    @cached_property
    def parts(self) -> IntensityParts:
        """What the integrated intensities are made of, in the order of the contributions."""
        return intensity_parts(self.batches, self.blocks, self._segment_phi)

    def __call__(self, atoms: AtomicParameters, models: PhysicalModels) -> Contributions:
        """The parts of all integrated intensities, in a fixed order."""
        value, slope = self._integrated(atoms, models)
        value = self._change_values(value, models)
        return Contributions(value, slope, self._observation, self._block, self._segment)

    def _integrated(
        self, atoms: AtomicParameters, models: PhysicalModels
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The values (P,) before any intensity effect, and their derivatives by a turn about the axis."""
        potentials = self._potentials(atoms, models)
        inputs = self._inputs(atoms, potentials, models)
        turns = self._windows.turns(models.rotation)
        windows = self._windows.moved(turns)
        if models.curve_effects:
            curves = self._changed_curves(inputs, models)
            found = [
                over_windows(curve, batch, window)
                for curve, batch, window in zip(curves, self.batches, windows)
            ]
        else:
            window_of = dict(zip(map(id, self.batches), windows))
            found = self._shared.gather(
                lambda: self._from_curves(
                    inputs,
                    lambda curve, batch: over_windows(curve, batch, window_of[id(batch)]),
                    2,
                ),
                self._pair_counts,
                (2,),
            )
        values, slopes = torch.cat(found).unbind(1)
        slopes = slopes.detach()
        # nothing is added but the gradient that windows have
        values = values + slopes * (turns - turns.detach())
        tails = torch.cat(self._tails(potentials))
        return torch.cat([values, tails]), torch.cat([slopes, torch.zeros_like(tails.detach())])

    def _tails(self, potentials: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The kinematical tails of each experiment."""
        indices = self._tail_index.split(self._tail_counts)
        weights = self._tail_weight.split(self._tail_counts)
        tails = []
        for wavelength, potential, index, weight in zip(
            self._wavelengths, potentials, indices, weights
        ):
            wave_number_sq = 1 / wavelength**2 + potential[0].real
            u_tail = potential[index]
            tails.append(
                torch.view_as_real(u_tail).square().sum(-1) * weight / (2 * wave_number_sq)
            )
        return tails

    def _change_values(self, values: torch.Tensor, models: PhysicalModels) -> torch.Tensor:
        for effect in models.intensity_effects:
            values = effect(values, self.parts)
        return values

    def thickness_derivatives(
        self, atoms: AtomicParameters, models: PhysicalModels, slopes: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Derivatives of ``Contributions.value`` with respect to weights and thicknesses.

        Args:
            slopes: whether those with respect to thicknesses are wanted.

        Returns:
            Two tensors of shape (P, m): d value / d weight_m and, or None, d value / d thickness_m of
            the contribution's block, detached. Effects are linearised at the current curves and
            values; one that mixes parts of several blocks is taken as if all blocks moved alike.
        """

        windows = self._windows.moved(self._windows.turns(models.rotation))
        window_of = dict(zip(map(id, self.batches), windows))

        def integrate(batch: BlockBatch, part: torch.Tensor) -> torch.Tensor:
            weights = weights_in(batch, window_of[id(batch)])[:, None].to(part.dtype)
            return (part[batch.pair_block, :, batch.pair_row] * weights).sum(-1).double()

        def reduce(part: BatchInput, nodes: NodeIntensities) -> torch.Tensor:
            nodes = _after_effects(nodes, part.weight, models, part.batch)
            by_weight = integrate(part.batch, nodes.intensity)
            if nodes.slope is None:
                return by_weight
            weight = part.weight[part.batch.pair_block]
            return torch.cat([by_weight, integrate(part.batch, nodes.slope) * weight], dim=1)

        inputs = self._inputs(atoms, self._potentials(atoms, models), models)
        own = [inputs[i] for i in self._own_inputs(inputs)]

        def of_own() -> list[torch.Tensor]:
            parts = propagate_nodes(
                own, self.settings, lambda position, nodes: reduce(own[position], nodes), slopes
            )
            return self._means(parts)

        first = self.batches[0]
        m = models.thickness(first.experiment, first.phi_centre)[0].shape[1]
        width = 2 * m if slopes else m
        found = self._shared.gather(of_own, self._pair_counts, (width,))
        tails = found[0].new_zeros(len(self._tail_weight), width)
        derivatives = torch.cat([*found, tails])
        by_weight, by_thickness = derivatives[:, :m], derivatives[:, m:] if slopes else None
        if not models.intensity_effects:
            return by_weight, by_thickness
        with torch.no_grad():
            values, _ = self._integrated(atoms, models)

        def change(derivatives: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                changed = [
                    directional_derivative(lambda v: self._change_values(v, models), values, d)
                    for d in derivatives.T
                ]
            return torch.stack(changed, dim=1)

        return change(by_weight), None if by_thickness is None else change(by_thickness)

    def _inputs(
        self,
        atoms: AtomicParameters,
        potentials: Sequence[torch.Tensor],
        models: PhysicalModels,
    ) -> list[BatchInput]:
        """What the propagation of all batches needs; of mosaic crystals all batches once for each part.

        Args:
            potentials: U (n,) for each experiment.
        """
        couplings: dict[float, Coupling] = {}
        inputs = []
        for batch in self.batches:
            experiment = int(batch.experiment[0])
            # crystals may absorb differently
            key = self._wavelengths[experiment] if models.absorption is None else experiment
            if key not in couplings:
                couplings[key] = self._coupling(atoms, potentials[experiment], models, experiment)
            vectors = models.rotation(batch.experiment, batch.phi)
            about_axis = (vectors * batch.axes).sum(-1, keepdim=True) * batch.axes
            rotations = rotation_matrices(vectors - about_axis)
            thickness, weight = models.thickness(batch.experiment, batch.phi_centre)
            bases = rotations @ batch.bases
            inputs.append(BatchInput(batch, bases, thickness, weight, couplings[key]))
        if models.spread is None:
            return inputs
        experiments = [int(batch.experiment[0]) for batch in self.batches]
        turns = {
            e: rotation_matrices(models.spread(e)).unbind(0) for e in dict.fromkeys(experiments)
        }
        return [
            replace(part, bases=turns[e][k] @ part.bases)
            for k in range(len(turns[experiments[0]]))
            for e, part in zip(experiments, inputs)
        ]

    def _coupling(
        self,
        atoms: AtomicParameters,
        potential: torch.Tensor,
        models: PhysicalModels,
        experiment: int,
    ) -> Coupling:
        wave_number = wave_number_in_crystal(self._wavelengths[experiment], potential[0].real)
        absorbs = models.absorption is not None
        if models.absorption is None:
            values, diagonal = potential, torch.zeros_like(potential[:1])
        else:
            absorptive = models.absorption(atoms, self._crystals[experiment], potential, experiment)
            values, diagonal = potential + 1j * absorptive, 1j * absorptive[:1].real
        values = torch.cat([diagonal, values[1:]]) * self._phase / (2 * wave_number)
        return Coupling(values, wave_number, self._is_centric and not absorbs, absorbs)

    def _own_inputs(self, inputs: Sequence[BatchInput]) -> list[int]:
        """Positions of this process' batches among the inputs, part by part."""
        n_batches = len(self.batches)
        return [
            start + i for start in range(0, len(inputs), n_batches) for i in self._shared.positions
        ]

    def _from_curves(
        self,
        inputs: Sequence[BatchInput],
        reduce: Callable[[torch.Tensor, BlockBatch], torch.Tensor],
        *width: int,
    ) -> list[torch.Tensor]:
        """``reduce(curves, batch)``, (k, *width), for each of this process' batches, and an empty tensor that
        takes the process into the backward pass."""
        *found, link = propagate(inputs, self.settings, self._own_inputs(inputs))
        own = [self.batches[i] for i in self._shared.positions]
        reduced = [reduce(curve, batch) for curve, batch in zip(self._means(found), own)]
        return [*reduced, link.reshape(0, *width)]

    def _means(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One value for each of this process' batches from those of all parts of mosaic crystals."""
        n_own = len(self._shared.positions)
        if len(values) == n_own:
            return list(values)
        return [torch.stack(list(values[i::n_own])).mean(0) for i in range(n_own)]


def _after_effects(
    nodes: NodeIntensities, weight: torch.Tensor, models: PhysicalModels, batch: BlockBatch
) -> NodeIntensities:
    """What the curve effects, linearised, make of single thicknesses with weights (B, m)."""
    if not models.curve_effects:
        return nodes
    # in double precision: differences of single-precision curves would lose their digits
    intensity = nodes.intensity.double()
    curves = (weight[:, :, None, None] * intensity).sum(1)

    def change(part: torch.Tensor) -> torch.Tensor:
        changed = [
            directional_derivative(lambda c: models.change_curves(c, batch), curves, direction)
            for direction in part.double().unbind(1)
        ]
        return torch.stack(changed, dim=1)

    return NodeIntensities(change(intensity), None if nodes.slope is None else change(nodes.slope))
