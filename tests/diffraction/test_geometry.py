"""Excitation errors, flux factors and rotations against their definitions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from examples import WAVELENGTH
from scipy.spatial.transform import Rotation

from dials_hybrid_refine.diffraction.beams import nominal_excitation_errors, reflections_in_sphere
from dials_hybrid_refine.diffraction.geometry import (
    BeamGeometry,
    diagonal_and_flux,
    rotation_matrices,
    wave_number_in_crystal,
)

RNG = np.random.default_rng(4)


@dataclass(frozen=True)
class Beam:
    """A unit vector along s0, one into the crystal normal to its face, and K."""

    direction: torch.Tensor
    normal: torch.Tensor
    wave_number: torch.Tensor

    @property
    def wave_vector(self) -> torch.Tensor:
        return self.wave_number * self.direction

    def diagonal_and_flux(
        self, bases: torch.Tensor, hkl: torch.Tensor, active: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of one block, each (N, n), for bases (n, 3, 3) and hkl (N, 3)."""
        on = torch.ones(len(hkl), len(bases), dtype=torch.bool) if active is None else active
        beams = BeamGeometry(hkl.double()[None], on[None], self.direction[None], self.normal[None])
        diagonal, flux = diagonal_and_flux(beams, bases[None], self.wave_number)
        return diagonal[0], flux[0]

    def of_vectors(self, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, each (N,), for g (N, 3) in 1/Angstrom."""
        diagonal, flux = self.diagonal_and_flux(torch.eye(3, dtype=torch.float64)[None], g)
        return diagonal[:, 0], flux[:, 0]


def random_beam(inclined: bool) -> Beam:
    direction = torch.tensor([0.02, 0.31, -0.95], dtype=torch.float64)
    direction = direction / direction.norm()
    normal = torch.tensor([0.2, 0.1, -1.0], dtype=torch.float64)
    normal = normal / normal.norm() if inclined else direction
    return Beam(direction, normal, torch.tensor(39.8749, dtype=torch.float64))


@pytest.mark.parametrize("inclined", [False, True])
def test_diagonal_is_the_exact_excitation_error(inclined: bool) -> None:
    """w^2 K S / K_n; (K^2 - |K+g|^2) / (2K) loses about K^2 1e-16 / 2K = 2e-15 to cancellation."""
    beam = random_beam(inclined)
    g = torch.from_numpy(RNG.normal(size=(50, 3)))
    k = beam.wave_vector
    expected = (beam.wave_number**2 - ((k + g) ** 2).sum(-1)) / (2 * beam.wave_number)
    diagonal, flux = beam.of_vectors(g)
    errors = diagonal / flux * (k @ beam.normal) / beam.wave_number
    torch.testing.assert_close(errors, expected, rtol=0, atol=1e-13)


def test_excitation_error_is_positive_inside_the_ewald_sphere() -> None:
    """K ends at 000 on the sphere; towards its centre, -K, lies the inside."""
    beam = random_beam(inclined=False)
    g = 0.01 * torch.stack([-beam.direction, beam.direction])
    diagonal, flux = beam.of_vectors(g)
    inside, outside = diagonal / flux
    assert inside == pytest.approx(0.01, rel=1e-3)
    assert outside == pytest.approx(-0.01, rel=1e-3)


def test_nominal_excitation_errors_agree_with_the_differentiable_ones() -> None:
    beam = random_beam(inclined=False)
    bases, hkl = RNG.normal(size=(4, 3, 3)) / 5, RNG.integers(-6, 7, (30, 3))
    found = nominal_excitation_errors(bases, hkl, beam.direction.numpy(), float(beam.wave_number))
    diagonal, flux = beam.diagonal_and_flux(torch.from_numpy(bases), torch.from_numpy(hkl))
    np.testing.assert_allclose(found, diagonal / flux, rtol=0, atol=1e-13)


@pytest.mark.parametrize("inclined", [False, True])
def test_flux_factor_is_the_inverse_ratio_of_normal_components(inclined: bool) -> None:
    beam = random_beam(inclined)
    g = torch.from_numpy(RNG.normal(size=(50, 3)))
    k = beam.wave_vector
    expected = (k @ beam.normal) / ((k + g) @ beam.normal)
    torch.testing.assert_close(beam.of_vectors(g)[1], expected, rtol=1e-14, atol=0)


def test_beams_that_are_off_have_no_diagonal_nor_flux() -> None:
    """The others are as they would be with all beams on."""
    beam = random_beam(inclined=True)
    bases, hkl = torch.from_numpy(RNG.normal(size=(4, 3, 3)) / 5), torch.arange(18).reshape(6, 3)
    on = torch.from_numpy(RNG.random((6, 4)) < 0.6)
    assert 5 < on.sum() < 20
    for found, expected in zip(
        beam.diagonal_and_flux(bases, hkl, on), beam.diagonal_and_flux(bases, hkl)
    ):
        assert (found[~on] == 0).all()
        assert torch.equal(found[on], expected[on])
        assert (found[on] != 0).sum() >= on.sum() - 4  # 000 has none


def test_each_block_has_its_own_beam() -> None:
    """Two blocks of a batch, of experiments with different beams."""
    one, other = random_beam(False), random_beam(True)
    other = replace(other, direction=other.normal, wave_number=one.wave_number)
    bases = torch.from_numpy(RNG.normal(size=(2, 4, 3, 3)) / 5)
    hkl = torch.from_numpy(RNG.integers(-6, 7, (2, 30, 3)))
    beams = BeamGeometry(
        hkl.double(),
        torch.ones(2, 30, 4, dtype=torch.bool),
        torch.stack([one.direction, other.direction]),
        torch.stack([one.normal, other.normal]),
    )
    found = diagonal_and_flux(beams, bases, one.wave_number)
    for i, beam in enumerate([one, other]):
        for part, expected in zip(found, beam.diagonal_and_flux(bases[i], hkl[i])):
            torch.testing.assert_close(part[i], expected, rtol=1e-13, atol=1e-15)


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
