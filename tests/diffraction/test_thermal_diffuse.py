"""The absorptive potential of thermal diffuse scattering, and what it does to beams."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from examples import (
    WAVELENGTH,
    atoms_of,
    dense_curves,
    dense_settings,
    fixed_thickness,
    no_rotation,
    perovskite_structure,
    quartz_structure,
    small_example,
    triclinic_structure,
)
from scipy.integrate import trapezoid

from cctbx import xray

from dials_hybrid_refine.diffraction.absorptive_factors import (
    absorptive_scattering_factors,
    interpolation_weights,
)
from dials_hybrid_refine.diffraction.electron import relativistic_factor, speed_ratio
from dials_hybrid_refine.diffraction.potential import (
    AtomicParameters,
    CrystalPotential,
    equivalent_isotropic_u,
)
from dials_hybrid_refine.diffraction.scattering_factors import electron_scattering_factors
from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.models.structure import composition_of

STRUCTURES = {
    "quartz": quartz_structure,
    "triclinic": triclinic_structure,
    "centrosymmetric": lambda: triclinic_structure("P -1"),
    "perovskite": perovskite_structure,
}
HKL = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (-1, 2, 0), (1, 1, 1), (-1, -1, -1), (2, -3, 1), (4, 0, 5)])  # fmt: skip


@pytest.fixture(params=STRUCTURES)
def structure(request: pytest.FixtureRequest) -> Iterator[xray.structure]:
    yield STRUCTURES[request.param]()


def crystal_of(
    structure: xray.structure, hkl: np.ndarray = HKL, wavelength: float = WAVELENGTH
) -> CrystalPotential:
    return CrystalPotential(hkl, composition_of(structure), wavelength)


def test_is_the_sum_over_all_atoms_of_the_cell(structure: xray.structure) -> None:
    """gamma / (pi Omega) sum occ f'(s, B_eq) T(g) exp(-2 pi i g r), by cctbx' own symmetry, U_eq
    and temperature factors."""
    expected = np.zeros(len(HKL), dtype=complex)
    cell = structure.unit_cell()
    for scatterer in structure.expand_to_p1(sites_mod_positive=True).scatterers():
        b = 8 * np.pi**2 * scatterer.u_iso_or_equiv(cell)
        weights = interpolation_weights(torch.tensor([b], dtype=torch.float64))[0].numpy()
        (z,) = {
            number
            for number, other in zip(
                composition_of(structure).atomic_numbers, structure.scatterers()
            )
            if other.scattering_type == scatterer.scattering_type
        }
        for i, h in enumerate(HKL.tolist()):
            g = 2 * np.sqrt(cell.stol_sq(h))
            factor = weights @ absorptive_scattering_factors([z], np.array([g]))[0, :, 0]
            if scatterer.flags.use_u_aniso():
                h11, h22, h33 = h
                u = scatterer.u_star
                exponent = (
                    u[0] * h11**2 + u[1] * h22**2 + u[2] * h33**2
                    + 2 * (u[3] * h11 * h22 + u[4] * h11 * h33 + u[5] * h22 * h33)
                )  # fmt: skip
            else:
                exponent = scatterer.u_iso * g**2
            amplitude = scatterer.occupancy * factor * np.exp(-2 * np.pi**2 * exponent)
            expected[i] += amplitude * np.exp(-2j * np.pi * np.dot(h, scatterer.site))
    expected *= relativistic_factor(WAVELENGTH) / speed_ratio(WAVELENGTH)
    expected /= np.pi * cell.volume()
    found = crystal_of(structure).thermal_diffuse(atoms_of(structure)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * expected[0].real)


def test_equivalent_isotropic_u(structure: xray.structure) -> None:
    cell = structure.unit_cell()
    expected = [s.u_iso_or_equiv(cell) for s in structure.scatterers()]
    metric = composition_of(structure).metric
    found = equivalent_isotropic_u(atoms_of(structure).u_star, metric)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("wavelength", [WAVELENGTH, 0.0334922])
def test_mean_absorption_is_the_cross_section(structure: xray.structure, wavelength: float) -> None:
    """exp(-2 pi U'_0 t / K) = exp(-N sigma t), sigma = Int |gamma f|^2 (1 - exp(-2 B s^2)) dOmega.

    dOmega = lambda^2 d^2 g at small angles. f(s)^2 falls as s^-4, hence the range of integration.
    The fits are good to 0.6 %.
    """
    s = np.geomspace(1e-4, 100, 6000)
    cell, density = structure.unit_cell(), 0.0
    atoms = zip(composition_of(structure).atomic_numbers, structure.scatterers())
    for z, scatterer in atoms:
        b = 8 * np.pi**2 * scatterer.u_iso_or_equiv(cell)
        f = relativistic_factor(wavelength) * electron_scattering_factors([z], 2 * s)[0]
        integrand = f**2 * (1 - np.exp(-2 * b * s**2)) * 2 * np.pi * (2 * s) * 2
        sigma = wavelength**2 * trapezoid(integrand, s)
        density += scatterer.multiplicity() * scatterer.occupancy * sigma / cell.volume()
    mean = crystal_of(structure, wavelength=wavelength).thermal_diffuse(atoms_of(structure))[0]
    assert 2 * np.pi * float(mean.real) * wavelength == pytest.approx(density, rel=0.006)


def test_size_and_symmetry(structure: xray.structure) -> None:
    """A share of U of a per cent to some per cent; U'(-h) the conjugate of U'(h)."""
    crystal, atoms = crystal_of(structure), atoms_of(structure)
    u, absorptive = crystal(atoms), crystal.thermal_diffuse(atoms)
    assert float(absorptive[0].imag) == 0
    assert 0.005 < float((absorptive[0] / u[0]).real) < 0.1
    torch.testing.assert_close(absorptive[4], absorptive[5].conj())
    if composition_of(structure).inversion_centre() is not None:
        assert float(absorptive.imag.abs().max()) < 1e-12 * float(absorptive[0].real)


def test_total_intensity_falls_monotonically(structure: xray.structure) -> None:
    """Of all beams, by dense matrices: exp(2 pi i t M) of growing t."""
    example = small_example(structure, dense=True)
    simulator, atoms = example.simulator(), atoms_of(structure)
    potential = simulator.potential(atoms)
    absorptive = simulator._potential.thermal_diffuse(atoms)
    rotation = torch.zeros(3, dtype=torch.float64)
    batch = simulator.batches[0]
    settings = dense_settings(
        batch, example.scan.beam_direction, WAVELENGTH, potential, absorptive, rotation
    )
    k = np.sqrt(1 / WAVELENGTH**2 + float(potential[0].real))
    mean = 2 * np.pi * float(absorptive[0].real) / k
    for setting in itertools.islice(settings, 3):
        step = torch.matrix_exp(2j * torch.pi * 10 * setting.matrix)
        wave = torch.zeros(len(step), dtype=torch.complex128)
        wave[0] = 1
        totals = [1.0]
        for _ in range(100):
            wave = step @ wave
            totals.append(float(wave.abs().square().sum()))
        assert (np.diff(totals) < 0).all()
        # the waves' own absorption lies about the mean one
        assert 0.3 * mean < -np.log(totals[-1]) / 1000 < 3 * mean


def test_simulation_agrees_with_dense_matrices(structure: xray.structure) -> None:
    """Rocking curves with the tabulated absorption, to round-off."""
    example = small_example(structure)
    simulator, atoms = example.simulator(), atoms_of(structure)
    thickness, weight = torch.tensor([300.0, 500.0]).double(), torch.tensor([0.4, 0.6]).double()
    models = PhysicalModels(
        fixed_thickness(thickness, weight), no_rotation, lambda a, c, u, e: c.thermal_diffuse(a)
    )
    potential = simulator.potential(atoms)
    absorptive = simulator._potential.thermal_diffuse(atoms)
    rotation = torch.zeros(3, dtype=torch.float64)
    for batch, found in zip(simulator.batches, simulator.rocking_curves(atoms, models)):
        settings = dense_settings(
            batch, example.scan.beam_direction, WAVELENGTH, potential, absorptive, rotation
        )
        expected = dense_curves(batch, settings, thickness, weight)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.max()))


def test_gradient_of_the_potential(structure: xray.structure) -> None:
    """With respect to sites, U and occupancies, against finite differences."""
    crystal, atoms = crystal_of(structure), atoms_of(structure)
    scale = float(crystal.thermal_diffuse(atoms)[0].real)

    def function(sites: torch.Tensor, u: torch.Tensor, occupancies: torch.Tensor) -> torch.Tensor:
        found = crystal.thermal_diffuse(AtomicParameters(sites, u, occupancies))
        return torch.view_as_real(found) / scale

    inputs = [t.clone().requires_grad_() for t in (atoms.sites, atoms.u_star, atoms.occupancies)]
    assert torch.autograd.gradcheck(function, inputs, eps=1e-7, atol=1e-5, rtol=1e-5)


def test_summing_in_chunks_changes_nothing(
    structure: xray.structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate() -> list[torch.Tensor]:
        atoms = atoms_of(structure)
        inputs = [t.requires_grad_() for t in (atoms.sites, atoms.u_star, atoms.occupancies)]
        values = crystal_of(structure).thermal_diffuse(AtomicParameters(*inputs))
        loss = (values.real + 0.3 * values.imag).sum()
        return [values.detach(), *torch.autograd.grad(loss, inputs)]

    whole = evaluate()
    monkeypatch.setattr(CrystalPotential, "_CHUNK", 1)
    for found, expected in zip(evaluate(), whole):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["sites", "u_star"])
def test_gradient_of_intensities(structure: xray.structure, name: str) -> None:
    """Through the simulation, along a random direction, against a central difference."""
    simulator, atoms = small_example(structure).simulator(), atoms_of(structure)
    # scaled so that U'_0 = 0.06 U_0, to matter in the gradient of light atoms too
    crystal = simulator._potential
    factor = float(0.06 * (crystal(atoms)[0] / crystal.thermal_diffuse(atoms)[0]).real)
    models = PhysicalModels(
        fixed_thickness([300.0, 420.0]),
        no_rotation,
        lambda a, c, u, e: factor * c.thermal_diffuse(a),
    )
    start: dict[str, torch.Tensor] = dict(vars(atoms))
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(start[name].shape, generator=generator, dtype=torch.float64)
    step = {"sites": 1e-5, "u_star": 1e-7}[name]

    def total(shift: float | torch.Tensor, absorbs: bool = True) -> torch.Tensor:
        moved = AtomicParameters(**{**start, name: start[name] + shift * direction})
        used = models if absorbs else PhysicalModels(models.thickness, no_rotation)
        value: torch.Tensor = simulator(moved, used).value.sum()
        return value

    gradients = []
    for absorbs in (True, False):
        shift = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        gradients.append(float(torch.autograd.grad(total(shift, absorbs), shift)[0]))
    expected = float(total(step) - total(-step)) / (2 * step)
    assert gradients[0] == pytest.approx(expected, rel=1e-5)
    assert gradients[0] != pytest.approx(gradients[1], rel=0.02)
