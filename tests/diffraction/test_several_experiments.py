"""Several experiments in one simulation: what one crystal does, another does not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import (
    EXACT,
    Example,
    atoms_of,
    crossing_reflections,
    fixed_thickness,
    make_scan,
    no_rotation,
    plan,
    quartz_structure,
)

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.blocks import plan_blocks
from dials_hybrid_refine.diffraction.electron import relativistic_factor
from dials_hybrid_refine.diffraction.observations import joined
from dials_hybrid_refine.diffraction.potential import AtomicParameters, CrystalPotential
from dials_hybrid_refine.diffraction.simulator import PhysicalModels, Simulator
from dials_hybrid_refine.models.structure import composition_of

STRUCTURE = quartz_structure()
SELECTION = BeamSelection(1.1, 0.006, 0.25, 1.0)
#: of 200, 300 and 200 kV
WAVELENGTHS = (0.0250793, 0.0196875, 0.0250793)
RANGES = ((-3.0, 2.0), (40.0, 45.0), (-1.0, 3.0))


def example(number: int) -> Example:
    """One crystal: each has an angle range and a wavelength of its own."""
    scan = make_scan(STRUCTURE, *RANGES[number])
    scan = replace(scan, wavelength=WAVELENGTHS[number])
    observations = crossing_reflections(scan, 1.1, 0.004, 1 / scan.wavelength)
    return plan(STRUCTURE, scan, observations, SELECTION)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [example(i) for i in range(3)]


def together(examples: list[Example]) -> Simulator:
    observations = joined([one.observations for one in examples])
    plans = [
        plan_blocks(
            i,
            one.scan,
            observations,
            composition_of(STRUCTURE),
            SELECTION,
            1 / one.scan.wavelength,
            lambda phi: np.zeros((len(phi), 3)),
        )
        for i, one in enumerate(examples)
    ]
    scans = [one.scan for one in examples]
    return Simulator(scans, plans, composition_of(STRUCTURE), EXACT)


def absorbing(strengths: tuple[float, ...]):
    """Thermal diffuse absorption, each crystal with a strength of its own."""

    def absorption(
        atoms: AtomicParameters, crystal: CrystalPotential, u: torch.Tensor, experiment: int
    ) -> torch.Tensor:
        return strengths[experiment] * crystal.thermal_diffuse(atoms)

    return absorption


def spreading(widths: tuple[float, ...]):
    """Two parts of each crystal, so many radians to both sides."""
    sides = torch.tensor([[1.0, 0.5, 0.0], [-1.0, -0.5, 0.0]], dtype=torch.float64)
    return lambda experiment: widths[experiment] * sides


@pytest.mark.parametrize("effects", ["none", "absorption", "spread", "both"])
def test_together_as_alone(examples: list[Example], effects: str) -> None:
    """Intensities and their gradient are those of a simulation of each crystal by itself."""
    strengths, widths = (0.5, 2.0, 4.0), (1e-3, 2e-3, 4e-3)
    absorbs, spreads = effects in ("absorption", "both"), effects in ("spread", "both")

    def models(chosen: tuple[int, ...]) -> PhysicalModels:
        return PhysicalModels(
            fixed_thickness(300.0),
            no_rotation,
            absorbing(tuple(strengths[i] for i in chosen)) if absorbs else None,
            spreading(tuple(widths[i] for i in chosen)) if spreads else None,
        )

    def run(
        simulator: Simulator, chosen: tuple[int, ...], n: int
    ) -> tuple[np.ndarray, torch.Tensor]:
        atoms = atoms_of(STRUCTURE)
        sites = atoms.sites.requires_grad_()
        parts = simulator(replace(atoms, sites=sites), models(chosen))
        total = torch.zeros(n, dtype=torch.float64).index_add(0, parts.observation, parts.value)
        (gradient,) = torch.autograd.grad((total**2).sum(), sites)
        return total.detach().numpy(), gradient

    counts = [len(one.observations) for one in examples]
    assert min(counts) > 4
    found, gradient = run(together(examples), (0, 1, 2), sum(counts))
    alone = [run(one.simulator(), (i,), counts[i]) for i, one in enumerate(examples)]
    np.testing.assert_allclose(found, np.concatenate([values for values, _ in alone]), rtol=1e-11)
    torch.testing.assert_close(gradient, sum(g for _, g in alone), rtol=1e-9, atol=1e-12)


def test_derivatives_by_thickness_together_as_alone(examples: list[Example]) -> None:
    models = PhysicalModels(fixed_thickness([200.0, 350.0]), no_rotation)
    atoms = atoms_of(STRUCTURE)

    def sums(simulator: Simulator, n: int) -> torch.Tensor:
        with torch.no_grad():
            derivatives = torch.cat(simulator.thickness_derivatives(atoms, models), dim=1)
            parts = simulator(atoms, models)
        total = torch.zeros(n, derivatives.shape[1], dtype=torch.float64)
        return total.index_add(0, parts.observation, derivatives)

    counts = [len(one.observations) for one in examples]
    found = sums(together(examples), sum(counts))
    alone = [sums(one.simulator(), n) for one, n in zip(examples, counts)]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-10, atol=1e-14)


def test_potential_at_another_wavelength() -> None:
    """U is proportional to the relativistic mass; tables of absorption to that over the speed."""
    hkl = np.array([[0, 0, 0], [1, 0, 1], [2, -1, 3]])
    composition, atoms = composition_of(STRUCTURE), atoms_of(STRUCTURE)
    first, second = (CrystalPotential(hkl, composition, w) for w in WAVELENGTHS[:2])
    first.thermal_diffuse(atoms)  # its tables must not be those of the other
    moved = first.at_wavelength(WAVELENGTHS[1])
    torch.testing.assert_close(moved(atoms), second(atoms), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        moved.thermal_diffuse(atoms), second.thermal_diffuse(atoms), rtol=1e-13, atol=0
    )
    ratio = relativistic_factor(WAVELENGTHS[1]) / relativistic_factor(WAVELENGTHS[0])
    assert ratio > 1.1
    assert first.ratio_to(WAVELENGTHS[1]) == pytest.approx(ratio, rel=1e-14)
