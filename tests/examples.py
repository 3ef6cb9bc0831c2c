"""Small crystals, scans and simulations shared by the physics tests, and a dense reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from cctbx import adptbx, crystal, sgtbx, xray

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.beams import (
    BeamSelection,
    nominal_excitation_errors,
    reflections_in_sphere,
)
from dials_hybrid_refine.diffraction.blocks import BlockPlan, plan_blocks
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.potential import AtomicParameters
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.simulator import PhysicalModels, Simulator
from dials_hybrid_refine.models.structure import composition_of

Array = NDArray[np.float64]
WAVELENGTH = 0.0250793  # 200 kV
EXACT = PropagationSettings(dtype=torch.complex128)


def make_structure(
    cell: tuple[float, ...],
    symbol: str,
    atoms: list[tuple[str, tuple[float, ...], float | tuple[float, ...], float]],
) -> xray.structure:
    """A structure of atoms (element, site, U_iso or U_cif, occupancy)."""
    symmetry = crystal.symmetry(cell, space_group_symbol=symbol)
    structure = xray.structure(crystal.special_position_settings(symmetry))
    for i, (element, site, u, occupancy) in enumerate(atoms):
        anisotropic = isinstance(u, tuple)
        u_star = adptbx.u_cif_as_u_star(symmetry.unit_cell(), u) if anisotropic else u
        structure.add_scatterer(
            xray.scatterer(f"{element}{i}", site, u_star, occupancy, scattering_type=element)
        )
    return structure


def quartz_structure() -> xray.structure:
    """Alpha quartz in P 32 2 1, Si on the twofold axis."""
    return make_structure(
        (4.9137, 4.9137, 5.4047, 90, 90, 120),
        "P 32 2 1",
        [
            ("Si", (0.4697, 0.0, 2 / 3), (0.0066, 0.0051, 0.0060, 0.00255, -0.0001, -0.0002), 1.0),
            ("O", (0.4135, 0.2669, 0.7858), (0.016, 0.011, 0.012, 0.009, -0.003, -0.005), 1.0),
        ],
    )


def triclinic_structure(symbol: str = "P 1") -> xray.structure:
    """An invented structure in general positions, partly occupied, mixed U."""
    return make_structure(
        (4.61, 5.37, 4.18, 81.3, 103.9, 97.4),
        symbol,
        [
            ("Ca", (0.037, 0.112, 0.083), (0.012, 0.009, 0.015, 0.003, -0.002, 0.001), 1.0),
            ("Si", (0.412, 0.571, 0.338), 0.010, 1.0),
            ("O", (0.691, 0.233, 0.574), (0.020, 0.014, 0.018, 0.004, 0.005, -0.003), 0.7),
            ("H", (0.178, 0.779, 0.806), 0.030, 0.9),
        ],
    )


def perovskite_structure() -> xray.structure:
    """CsPbBr3 in P n m a, heavy atoms, centrosymmetric about the origin."""
    return make_structure(
        (8.25, 11.75, 8.20, 90, 90, 90),
        "P n m a",
        [
            ("Cs", (0.0304, 0.25, 0.9932), 0.040, 1.0),
            ("Pb", (0.0, 0.0, 0.5), 0.015, 1.0),
            ("Br", (0.4983, 0.25, 0.0514), 0.035, 1.0),
            ("Br", (0.2061, 0.0269, 0.7940), (0.03, 0.05, 0.04, 0.004, 0.012, -0.002), 1.0),
        ],
    )


def off_centre(structure: xray.structure) -> xray.structure:
    """The same crystal in a setting whose origin lies elsewhere."""
    return structure.change_basis(sgtbx.change_of_basis_op("x+1/8,y-1/12,z+5/24"))


def inverted(structure: xray.structure) -> xray.structure:
    """The other hand: x to -x, in the enantiomorphic space group."""
    return structure.change_basis(sgtbx.change_of_basis_op("-x,-y,-z"))


def atoms_of(structure: xray.structure) -> AtomicParameters:
    """The parameters of a structure as plain tensors."""
    cell, scatterers = structure.unit_cell(), structure.scatterers()
    u_star = [
        s.u_star if s.flags.use_u_aniso() else adptbx.u_iso_as_u_star(cell, s.u_iso)
        for s in scatterers
    ]
    return AtomicParameters(
        torch.tensor([s.site for s in scatterers], dtype=torch.float64),
        torch.tensor(u_star, dtype=torch.float64),
        torch.tensor([s.occupancy for s in scatterers], dtype=torch.float64),
    )


def reciprocal_basis(structure: xray.structure, rotation_vector: ArrayLike) -> Array:
    """A = U B in 1/Angstrom of a crystal turned by a rotation vector in radians."""
    fraction = np.array(structure.unit_cell().fractionalization_matrix()).reshape(3, 3)
    return np.asarray(Rotation.from_rotvec(rotation_vector).as_matrix() @ fraction.T)


def make_scan(
    structure: xray.structure, first: float = -2.0, last: float = 2.0, image_width: float = 0.5
) -> ScanGeometry:
    """A scan about an axis that is not quite normal to the beam, the crystal far from a zone axis."""
    n = 1 + round((last - first) / image_width)
    axis = np.array([0.96, 0.25, 0.1])
    beam = np.array([0.03, -0.02, -1.0])
    return ScanGeometry(
        wavelength=WAVELENGTH,
        beam_direction=beam / np.linalg.norm(beam),
        rotation_axis=axis / np.linalg.norm(axis),
        phi_points=np.linspace(first, last, n),
        crystal_settings=np.repeat(reciprocal_basis(structure, [0.4, -0.7, 1.1])[None], n, axis=0),
        setting_rotations=np.repeat(np.eye(3)[None], n, axis=0),
        image_width=image_width,
    )


def make_observations(
    hkl: ArrayLike, phi: ArrayLike, start: ArrayLike, end: ArrayLike
) -> Observations:
    """Observations with unit sigma and no intensity yet."""
    index = np.asarray(hkl, dtype=np.int64).reshape(-1, 3)
    n = len(index)
    return Observations(
        experiment=np.zeros(n, dtype=np.int64),
        hkl=index,
        phi_start=np.asarray(start, dtype=float),
        phi_end=np.asarray(end, dtype=float),
        phi=np.asarray(phi, dtype=float),
        intensity=np.zeros(n),
        sigma=np.ones(n),
        unique_index=np.arange(n),
        row=np.arange(n),
    )


def crossing_reflections(
    scan: ScanGeometry,
    g_max: float,
    s_window: float,
    wave_number: float = 1 / WAVELENGTH,
    max_half: float = 1.0,
    step: float = 0.01,
) -> Observations:
    """Reflections that pass the Ewald sphere, windows of about |S| <= s_window inside the scan.

    ``step``: degrees between which S is taken as linear.
    """
    first, last = scan.phi_range
    phi = np.linspace(first, last, 1 + round((last - first) / step))
    bases = scan.reciprocal_bases(phi)
    hkl = reflections_in_sphere(bases[0], g_max)
    errors = nominal_excitation_errors(bases, hkl, scan.beam_direction, wave_number)
    found = []
    for h, s in zip(hkl, errors):
        for i in np.flatnonzero(np.diff(np.sign(s)) != 0):
            slope = (s[i + 1] - s[i]) / step
            centre, half = phi[i] - s[i] / slope, s_window / abs(slope)
            if half < max_half and first < centre - half and centre + half < last:
                found.append((h, centre, half))
    centres, halves = (np.array([row[i] for row in found]) for i in (1, 2))
    return make_observations([row[0] for row in found], centres, centres - halves, centres + halves)


def no_rotation(experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """The orientation as integrated."""
    return torch.zeros(*phi.shape, 3, dtype=torch.float64)


def constant_rotation(
    vector: torch.Tensor,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The same rotation vector (radians) everywhere."""
    return lambda experiment, phi: vector.expand(*phi.shape, 3)


def fixed_thickness(
    thickness: ArrayLike | torch.Tensor, weight: ArrayLike | torch.Tensor | None = None
) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The same nodes (m,) and weights (m,) for all blocks (weights: equal)."""
    nodes = torch.atleast_1d(torch.as_tensor(thickness, dtype=torch.float64))
    if weight is None:
        weight = torch.full_like(nodes, 1 / len(nodes))
    weights = torch.as_tensor(weight, dtype=torch.float64)

    def distribution(experiment: torch.Tensor, phi: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shape = (len(phi), len(nodes))
        return nodes.expand(shape), weights.expand(shape)

    return distribution


@dataclass(frozen=True)
class Example:
    """A structure, a scan with observations, and planned blocks."""

    structure: xray.structure
    scan: ScanGeometry
    observations: Observations
    plan: BlockPlan

    def simulator(self, settings: PropagationSettings = EXACT) -> Simulator:
        return Simulator([self.scan], [self.plan], composition_of(self.structure), settings)

    def integrate(
        self, thickness: ArrayLike, settings: PropagationSettings = EXACT, **options: object
    ) -> Array:
        """Integrated intensity of each observation in degrees."""
        models = PhysicalModels(fixed_thickness(thickness), no_rotation)
        models = replace(models, **options)
        with torch.no_grad():
            parts = self.simulator(settings)(atoms_of(self.structure), models)
        total = np.zeros(len(self.observations))
        np.add.at(total, parts.observation.numpy(), parts.value.numpy())
        return total


def plan(
    structure: xray.structure,
    scan: ScanGeometry,
    observations: Observations,
    selection: BeamSelection,
) -> Example:
    """Plan the blocks of observations, without an orientation correction."""
    block_plan = plan_blocks(
        0,
        scan,
        observations,
        composition_of(structure),
        selection,
        wave_number=1 / scan.wavelength,
        correction=lambda phi: np.zeros((len(phi), 3)),
    )
    return Example(structure, scan, observations, block_plan)


def small_example(structure: xray.structure | None = None, dense: bool = False) -> Example:
    """A scan of 4 degrees in blocks of 1 degree with about 20 (dense: 45) beams each.

    With the smaller |S| limit some beams are off at some tilts.
    """
    structure = structure or quartz_structure()
    scan = make_scan(structure)
    g_max, s_max, step = (1.0, 0.03, 0.1) if dense else (0.8, 0.006, 0.25)
    observations = crossing_reflections(scan, 0.8, 0.004)
    return plan(structure, scan, observations, BeamSelection(g_max, s_max, step, 1.0))


def still_intensities(
    structure: xray.structure,
    basis: Array,
    thickness: float,
    g_max: float = 0.9,
    s_max: float = 0.05,
    settings: PropagationSettings = EXACT,
    **options: object,
) -> dict[tuple[int, int, int], float]:
    """Intensities of all beams but 000 at one orientation: g = basis h, beam along -z."""
    scan = ScanGeometry(
        wavelength=WAVELENGTH,
        beam_direction=np.array([0.0, 0.0, -1.0]),
        rotation_axis=np.array([1.0, 0.0, 0.0]),
        phi_points=np.array([-5e-10, 5e-10]),
        crystal_settings=np.repeat(basis[None], 2, axis=0),
        setting_rotations=np.repeat(np.eye(3)[None], 2, axis=0),
        image_width=1e-9,
    )
    hkl = reflections_in_sphere(basis, g_max)
    hkl = hkl[~composition_of(structure).is_systematically_absent(hkl)]
    errors = nominal_excitation_errors(
        scan.reciprocal_bases(np.zeros(1)), hkl, scan.beam_direction, 1 / WAVELENGTH
    )[:, 0]
    hkl = hkl[np.abs(errors) < s_max - 1e-6]
    zero = np.zeros(len(hkl))
    selection = BeamSelection(g_max, s_max, tilt_step=1e-9, block_width=1e-9)
    example = plan(structure, scan, make_observations(hkl, zero, zero - 1, zero + 1), selection)
    models = replace(PhysicalModels(fixed_thickness(thickness), no_rotation), **options)
    with torch.no_grad():
        (curves,) = example.simulator(settings).rocking_curves(atoms_of(structure), models)
    beams = example.plan.blocks[0].hkl[1 : 1 + len(hkl)]
    return dict(zip(map(tuple, beams.tolist()), curves[0, :, 0].tolist()))


@dataclass(frozen=True)
class DenseSetting:
    """The active beams at one tilt of one block and their M, written out from its definition.

    M_gg = w_g^2 (K S_g + i U'_0/2) / K_n, M_gh = w_g w_h U_(g-h) / (2 K_n), K_n = K.
    """

    block: int
    tilt: int
    beams: torch.Tensor
    matrix: torch.Tensor


def dense_settings(
    batch: BlockBatch,
    beam_direction: ArrayLike,
    wavelength: float,
    potential: torch.Tensor,
    absorptive: torch.Tensor | None = None,
    rotation_vector: torch.Tensor | None = None,
) -> Iterator[DenseSetting]:
    """M (N, N) at each tilt of a batch, for autograd through ``potential`` and the rotation.

    ``potential``, ``absorptive``: U and U' of the simulator's list of differences.
    """
    wave_number = torch.sqrt(1 / wavelength**2 + potential[0].real)
    full = potential if absorptive is None else potential + 1j * absorptive
    table = torch.cat([torch.zeros_like(full[:1]), full[1:]])
    index = batch.coupling_index()
    k_vector = wave_number * torch.as_tensor(beam_direction, dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64)
    if rotation_vector is not None:
        x, y, z = rotation_vector
        zero = torch.zeros_like(x)
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
        turn = torch.matrix_exp(skew)
    for block in range(len(batch.block)):
        for tilt in range(batch.geometry.active.shape[2]):
            beams = torch.nonzero(batch.geometry.active[block, :, tilt])[:, 0]
            if len(beams) == 0:
                continue  # padding
            g = batch.geometry.hkl[block, beams] @ (turn @ batch.bases[block, tilt]).T
            ks = ((k_vector**2).sum() - ((k_vector + g) ** 2).sum(-1)) / 2
            w = (1 + g @ k_vector / wave_number**2) ** -0.5
            coupling = table[index[block][beams][:, beams]]
            diagonal = ks.to(torch.complex128)
            if absorptive is not None:
                diagonal = diagonal + 0.5j * absorptive[0].real
            matrix = (coupling / 2 + torch.diag(diagonal)) / wave_number
            yield DenseSetting(block, tilt, beams, w[:, None] * matrix * w)


def dense_curves(
    batch: BlockBatch,
    settings: Iterator[DenseSetting],
    thickness: torch.Tensor,
    weight: torch.Tensor,
    exponential: Callable[[torch.Tensor], torch.Tensor] = torch.matrix_exp,
) -> torch.Tensor:
    """Rocking curves (B, R, n) by a dense matrix exponential, for nodes (m,) and weights (m,)."""
    shape = (*batch.geometry.active.shape[:2], batch.geometry.active.shape[2])
    columns: dict[tuple[int, int], torch.Tensor] = {}
    for setting in settings:
        waves = exponential(2j * torch.pi * thickness[:, None, None] * setting.matrix)[:, :, 0]
        power = torch.view_as_real(waves).square().sum(-1)
        column = torch.zeros(shape[1], dtype=torch.float64)
        columns[setting.block, setting.tilt] = column.index_add(0, setting.beams, weight @ power)
    empty = torch.zeros(shape[1], dtype=torch.float64)
    full = torch.stack(
        [
            torch.stack([columns.get((b, t), empty) for t in range(shape[2])], dim=-1)
            for b in range(shape[0])
        ]
    )
    return full[:, 1 : 1 + batch.n_rows]
