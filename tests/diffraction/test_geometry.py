"""Excitation errors, flux factors and rotations against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import WAVELENGTH
from scipy.spatial.transform import Rotation

from dials_hybrid_refine.diffraction.beams import nominal_excitation_errors, reflections_in_sphere
from dials_hybrid_refine.diffraction.geometry import (
    IncidentBeam,
    excitation_errors,
    flux_factors,
    rotation_matrices,
    wave_number_in_crystal,
)

RNG = np.random.default_rng(4)


def random_beam(inclined: bool) -> IncidentBeam:
    direction = torch.tensor([0.02, 0.31, -0.95], dtype=torch.float64)
    direction = direction / direction.norm()
    normal = torch.tensor([0.2, 0.1, -1.0], dtype=torch.float64)
    normal = normal / normal.norm() if inclined else direction
    return IncidentBeam(direction, normal, torch.tensor(39.8749, dtype=torch.float64))


def test_excitation_error_is_the_exact_expression() -> None:
    """(K^2 - |K+g|^2) / (2K) loses about K^2 1e-16 / 2K = 2e-15 to cancellation."""
    beam = random_beam(inclined=True)
    g = torch.from_numpy(RNG.normal(size=(50, 3)))
    k = beam.wave_number * beam.direction
    expected = (beam.wave_number**2 - ((k + g) ** 2).sum(-1)) / (2 * beam.wave_number)
    torch.testing.assert_close(excitation_errors(g, beam), expected, rtol=0, atol=1e-13)


def test_excitation_error_is_positive_inside_the_ewald_sphere() -> None:
    """K ends at 000 on the sphere; towards its centre, -K, lies the inside."""
    beam = random_beam(inclined=False)
    assert excitation_errors(-0.01 * beam.direction, beam) == pytest.approx(0.01, rel=1e-3)
    assert excitation_errors(0.01 * beam.direction, beam) == pytest.approx(-0.01, rel=1e-3)


def test_nominal_excitation_errors_agree_with_the_differentiable_ones() -> None:
    beam = random_beam(inclined=False)
    bases, hkl = RNG.normal(size=(4, 3, 3)) / 5, RNG.integers(-6, 7, (30, 3))
    g = torch.from_numpy(np.einsum("tij,nj->nti", bases, hkl))
    found = nominal_excitation_errors(bases, hkl, beam.direction.numpy(), float(beam.wave_number))
    np.testing.assert_allclose(found, excitation_errors(g, beam), rtol=0, atol=1e-13)


@pytest.mark.parametrize("inclined", [False, True])
def test_flux_factor_is_the_inverse_ratio_of_normal_components(inclined: bool) -> None:
    beam = random_beam(inclined)
    g = torch.from_numpy(RNG.normal(size=(50, 3)))
    k = beam.wave_number * beam.direction
    expected = (k @ beam.normal) / ((k + g) @ beam.normal)
    torch.testing.assert_close(flux_factors(g, beam), expected, rtol=1e-14, atol=0)
    assert beam.normal_wave_number == pytest.approx(float(k @ beam.normal), rel=1e-14)


def test_wave_number_grows_by_the_inner_potential() -> None:
    u_0 = torch.tensor(0.16, dtype=torch.float64)
    assert wave_number_in_crystal(WAVELENGTH, u_0) ** 2 == pytest.approx(1 / WAVELENGTH**2 + 0.16)


def test_rotation_matrices_agree_with_scipy() -> None:
    vectors = RNG.normal(size=(6, 5, 3)) * np.array([1e-9, 1e-4, 0.01, 0.5, 1.5, 3])[:, None, None]
    found = rotation_matrices(torch.from_numpy(vectors)).numpy()
    expected = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(6, 5, 3, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-15)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6, 0.3])
def test_rotation_matrices_have_a_gradient_also_at_zero(size: float) -> None:
    """Against the matrix exponential of the skew matrix, which is analytic everywhere."""
    vector = size * torch.tensor([0.6, -0.64, 0.48], dtype=torch.float64)
    weights = torch.from_numpy(RNG.normal(size=(3, 3)))

    def exponential(v: torch.Tensor) -> torch.Tensor:
        x, y, z = v
        zero = torch.zeros_like(x)
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
        return torch.matrix_exp(skew)

    gradients = []
    for function in (rotation_matrices, exponential):
        v = vector.clone().requires_grad_()
        gradients.append(torch.autograd.grad((weights * function(v)).sum(), v)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-11)


def test_all_reflections_in_a_sphere_are_found() -> None:
    """Also in an oblique cell, against a search with generous limits."""
    basis = np.linalg.inv(np.array([[4.6, 0.3, 0.0], [-2.1, 5.0, 0.4], [1.1, 1.9, 3.8]]))
    found = reflections_in_sphere(basis, 1.1)
    grid = np.arange(-12, 13)
    everything = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)
    length = np.linalg.norm(everything @ basis.T, axis=1)
    expected = everything[(length <= 1.1) & (length > 0)]
    assert {tuple(h) for h in found.tolist()} == {tuple(h) for h in expected.tolist()}
    assert len(found) == len(expected) > 100
