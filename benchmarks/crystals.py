"""Crystals and scans that the benchmarks calculate: geometry from the literature or made up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cctbx import adptbx, crystal, xray

from dials_hybrid_refine.diffraction.beams import (
    BeamSelection,
    nominal_excitation_errors,
    reflections_in_sphere,
)
from dials_hybrid_refine.diffraction.blocks import plan_blocks
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.potential import AtomicParameters
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.simulator import PhysicalModels, Simulator
from dials_hybrid_refine.io.symmetry import unique_indices
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import composition_of
from dials_hybrid_refine.models.thickness.given import GivenThickness

WAVELENGTH = 0.0250793  # 200 kV

Atom = tuple[str, tuple[float, float, float], float]


def make_structure(cell: tuple[float, ...], group: str, atoms: list[Atom]) -> xray.structure:
    """A structure of atoms (element, site, U_iso)."""
    symmetry = crystal.symmetry(cell, space_group_symbol=group)
    structure = xray.structure(crystal.special_position_settings(symmetry))
    for i, (element, site, u_iso) in enumerate(atoms):
        structure.add_scatterer(
            xray.scatterer(f"{element}{i + 1}", site, u_iso, scattering_type=element)
        )
    return structure


def quartz() -> xray.structure:
    """Alpha quartz, Levien, Prewitt & Weidner (1980), Am. Mineral. 65, 920."""
    atoms: list[Atom] = [
        ("Si", (0.4697, 0.0, 2 / 3), 0.006),
        ("O", (0.4135, 0.2669, 0.7858), 0.012),
    ]
    return make_structure((4.916, 4.916, 5.4054, 90, 90, 120), "P 32 2 1", atoms)


def cspbbr3() -> xray.structure:
    """CsPbBr3 as a distorted perovskite, parameters rounded."""
    atoms: list[Atom] = [
        ("Cs", (0.015, 0.25, 0.993), 0.04),
        ("Pb", (0.0, 0.0, 0.5), 0.015),
        ("Br", (0.499, 0.25, 0.061), 0.03),
        ("Br", (0.201, 0.032, 0.801), 0.03),
    ]
    return make_structure((8.36, 11.76, 8.12, 90, 90, 90), "P n m a", atoms)


def organic(
    n_atoms: int = 40, volume: float = 4000.0, group: str = "P 21 21 21", apart: float = 0.0
) -> xray.structure:
    """Made up: C, N and O atoms at random in a cell of an axial ratio of 3 : 4 : 5.

    apart: least distance between atoms in Angstrom.
    """
    generator = np.random.default_rng(1)
    edge = (volume / 60) ** (1 / 3)
    elements = generator.choice(["C", "C", "C", "N", "O"], n_atoms)
    cell = (3 * edge, 4 * edge, 5 * edge, 90, 90, 90)
    atoms: list[Atom] = []
    while len(atoms) < n_atoms:
        site = tuple(generator.uniform(size=3))
        more: list[Atom] = [*atoms, (str(elements[len(atoms)]), site, 0.03)]
        pairs = apart and make_structure(cell, group, more).pair_asu_table(apart).pair_counts()
        if not pairs or not sum(pairs):
            atoms = more
    return make_structure(cell, group, atoms)


def displaced(structure: xray.structure, distance: float, u_iso: float) -> xray.structure:
    """A copy with each atom moved by a distance (Angstrom) in a random direction, and one U."""
    moved = structure.deep_copy_scatterers()
    generator = np.random.default_rng(0)
    for scatterer in moved.scatterers():
        direction = generator.normal(size=3)
        step = moved.unit_cell().fractionalize(
            tuple(distance * direction / np.linalg.norm(direction))
        )
        scatterer.site = tuple(np.array(scatterer.site) + step)
        scatterer.u_iso = u_iso
    moved.apply_symmetry_sites()
    return moved


def atoms_of(structure: xray.structure, requires_grad: bool = False) -> AtomicParameters:
    """The parameters of a structure as tensors."""
    cell = structure.unit_cell()
    u_star = [adptbx.u_iso_as_u_star(cell, s.u_iso) for s in structure.scatterers()]
    parts = (
        [s.site for s in structure.scatterers()],
        u_star,
        [s.occupancy for s in structure.scatterers()],
    )
    return AtomicParameters(
        *(torch.tensor(p, dtype=torch.float64, requires_grad=requires_grad) for p in parts)
    )


@dataclass(frozen=True)
class Case:
    """A crystal, a scan of so many degrees, the limits of the calculation, nodes of thickness."""

    name: str
    structure: xray.structure
    width: float
    d_min: float
    selection: BeamSelection
    largest_thickness: float
    n_nodes: int = 20

    def scan(self) -> ScanGeometry:
        """A scan about x, the beam along -z, far from a zone axis."""
        n = 2 + round(self.width)
        fraction = np.array(self.structure.unit_cell().fractionalization_matrix()).reshape(3, 3)
        setting = Rotation.from_rotvec([0.4, -0.7, 1.1]).as_matrix() @ fraction.T
        return ScanGeometry(
            wavelength=WAVELENGTH,
            beam_direction=np.array([0.0, 0.0, -1.0]),
            rotation_axis=np.array([1.0, 0.0, 0.0]),
            phi_points=np.linspace(0, self.width, n),
            crystal_settings=np.repeat(setting[None], n, axis=0),
            setting_rotations=np.repeat(np.eye(3)[None], n, axis=0),
            image_width=1.0,
        )

    def observations(self, scan: ScanGeometry) -> Observations:
        """Reflections that cross the Ewald sphere in the scan, windows of +- 0.4 degrees."""
        phi = np.arange(0, self.width, 0.05)
        bases = scan.reciprocal_bases(phi)
        hkl = reflections_in_sphere(bases[0], 1 / self.d_min)
        hkl = hkl[~composition_of(self.structure).is_systematically_absent(hkl)]
        errors = nominal_excitation_errors(bases, hkl, scan.beam_direction, 1 / WAVELENGTH)
        which, place = np.nonzero(errors[:, :-1] * errors[:, 1:] < 0)
        centre = phi[place] + 0.025
        zeros = np.zeros(len(which), dtype=np.int64)
        return Observations(
            experiment=zeros,
            hkl=hkl[which],
            phi_start=centre - 0.4,
            phi_end=centre + 0.4,
            phi=centre,
            intensity=np.ones(len(which)),
            sigma=np.ones(len(which)),
            unique_index=zeros,
            row=np.arange(len(which)),
        )

    def measured(self, scan: ScanGeometry, thickness: float, std: float) -> Observations:
        """The observations with intensities (300 counts on average) and noise; Angstrom."""
        planned = self.observations(scan)
        inside = (planned.phi_start >= 0) & (planned.phi_end <= self.width)
        observations = Observations(**{k: v[inside] for k, v in vars(planned).items()})
        fractions = simulate_intensities(
            scan,
            observations,
            self.structure,
            GivenThickness([thickness], std, scan.phi_range),
            None,
            self.selection,
            PropagationSettings(dtype=torch.complex64, n_threads=1),
        )
        expected = 300 / fractions.mean() * fractions
        sigma = np.sqrt(expected + 100)
        return replace(
            observations,
            intensity=expected + sigma * np.random.default_rng(0).normal(size=len(expected)),
            sigma=sigma,
            unique_index=unique_indices(observations.hkl, self.structure),
            row=np.arange(len(expected)),
        )

    def simulator(self, settings: PropagationSettings) -> Simulator:
        """Blocks of the whole scan, planned."""
        scan = self.scan()
        composition = composition_of(self.structure)
        plan = plan_blocks(
            0,
            scan,
            self.observations(scan),
            composition,
            self.selection,
            1 / WAVELENGTH,
            lambda phi: np.zeros((len(phi), 3)),
        )
        return Simulator([scan], [plan], composition, settings)

    def nodes(self) -> torch.Tensor:
        """Thicknesses in Angstrom."""
        return torch.linspace(0.05, 1, self.n_nodes, dtype=torch.float64) * self.largest_thickness


def models_of(nodes: torch.Tensor, weight: torch.Tensor) -> PhysicalModels:
    """The same distribution everywhere, the orientation as it is."""

    def thickness(experiment: torch.Tensor, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return nodes.expand(len(phi), -1), weight.expand(len(phi), -1)

    def rotation(experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*phi.shape, 3, dtype=torch.float64, requires_grad=True)

    return PhysicalModels(thickness, rotation)


def standard_cases() -> list[Case]:
    """Quartz (N about 50, 1000 tilts), CsPbBr3 (N about 570, 64 tilts), one of 2000 beams."""
    return [
        Case("quartz", quartz(), 50.0, 0.55, BeamSelection(2.0, 0.012, 0.05), 1000.0),
        Case("CsPbBr3", cspbbr3(), 3.0, 0.5, BeamSelection(2.1, 0.016, 0.05), 800.0),
        Case("2000 beams", organic(), 0.6, 0.6, BeamSelection(1.9, 0.018, 0.02), 1000.0),
    ]
