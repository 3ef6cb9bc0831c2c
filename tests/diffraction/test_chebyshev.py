"""The Chebyshev expansion of single matrices against closed forms and dense linear algebra."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import all_waves, random_matrices, symmetric_matrix, two_beams
from scipy.special import jv, jvp

from dials_hybrid_refine.diffraction.chebyshev import (
    chebyshev_coefficients,
    chebyshev_gradient,
    chebyshev_vectors,
    chebyshev_waves,
)
from dials_hybrid_refine.diffraction.spectrum import ScatteringMatrices, rigorous_bounds

THICKNESSES = torch.tensor([40.0, 260.0, 900.0], dtype=torch.float64)
real_and_complex = pytest.mark.parametrize("is_real", [True, False], ids=["real", "complex"])


@pytest.mark.parametrize("largest", [0.3, 5.0, 60.0, 500.0])
def test_coefficients_are_bessel_functions(largest: float) -> None:
    """c_k = (2 - delta_k0) J_k(2 pi rho t), and the first one left out is small.

    J_k(x) is known to about x 1e-16 |J_k'| = 0.1 x 1e-16, and so is that of scipy.
    """
    tolerance = 1e-15 + 4e-17 * largest
    half_width = 0.013
    argument = np.array([0.0, 0.4, 0.77, 1.0]) * largest
    thickness = torch.from_numpy(argument / (2 * np.pi * half_width))[None]
    values, slopes = chebyshev_coefficients(thickness, half_width, torch.float64)
    n_terms = values.shape[1]
    orders = np.arange(n_terms)[:, None]
    factor = np.where(orders == 0, 1, 2)
    np.testing.assert_allclose(values[0] / factor, jv(orders, argument), rtol=0, atol=tolerance)
    slope = 2 * np.pi * half_width * jvp(orders, argument)
    np.testing.assert_allclose(
        slopes[0] / factor, slope, rtol=0, atol=tolerance * 2 * np.pi * half_width
    )
    assert np.abs(jv(np.arange(n_terms, n_terms + 50), largest)).max() <= 2e-15
    assert np.abs(jv(n_terms - 1, largest)) > 5e-16


def test_coefficients_of_blocks_of_different_thickness() -> None:
    """Nodes that blocks share are evaluated once, and each block gets its own."""
    thickness = torch.tensor([[100.0, 300.0], [300.0, 20.0]], dtype=torch.float64)
    values, slopes = chebyshev_coefficients(thickness, 0.02, torch.float32)
    assert values.shape == slopes.shape == (2, values.shape[1], 2)
    assert values.dtype == slopes.dtype == torch.float32
    orders = np.arange(values.shape[1])[:, None]
    for block, nodes in zip(values, thickness.numpy()):
        expected = np.where(orders == 0, 1, 2) * jv(orders, 2 * np.pi * 0.02 * nodes)
        np.testing.assert_allclose(block, expected, rtol=0, atol=1e-7)


@real_and_complex
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_flux_is_conserved(dtype: torch.dtype, tolerance: float, is_real: bool) -> None:
    """Round-off of a sum of about 300 terms; without the flux factors the sum is off by percents."""
    matrices = random_matrices(30, 7, seed=1, dtype=dtype, is_real=is_real)
    psi = all_waves(matrices, THICKNESSES)
    total = psi.abs().square().sum(1)
    assert (total - 1).abs().max() < tolerance
    phi = psi * matrices.flux[0].sqrt()
    assert (phi.abs().square().sum(1) - 1).abs().max() > 1e-3


@real_and_complex
@pytest.mark.parametrize("method", ["matrix_exp", "eigh"])
def test_agrees_with_dense_linear_algebra(method: str, is_real: bool) -> None:
    """Intensities and, up to the phase common to all beams, amplitudes.

    Bessel coefficients below 1e-15 are left out, and round-off grows with the number of terms.
    """
    matrices = random_matrices(25, 5, seed=2, is_real=is_real)
    psi = all_waves(matrices, THICKNESSES)
    for tilt in range(5):
        m = symmetric_matrix(matrices, tilt)
        for t, found in zip(THICKNESSES, psi[:, :, tilt]):
            if method == "matrix_exp":
                expected = torch.matrix_exp(2j * torch.pi * t * m)[:, 0]
            else:
                values, vectors = torch.linalg.eigh(m)
                phase = torch.exp(2j * torch.pi * t * values)
                expected = vectors @ (phase * vectors[0].conj())
            torch.testing.assert_close(found * found[0].conj(), expected * expected[0].conj(),
                                       rtol=0, atol=1e-12)  # fmt: skip


def test_degenerate_eigenvalues_do_no_harm() -> None:
    """Equal rows: many equal eigenvalues, and |psi|^2 of all diffracted beams the same."""
    n = 12
    coupling = torch.full((1, n, n), 2e-3, dtype=torch.float64)
    coupling[0].fill_diagonal_(0)
    matrices = ScatteringMatrices(
        coupling, torch.ones(1, n, 1, dtype=torch.float64), torch.zeros(1, n, 1, dtype=torch.float64)
    )  # fmt: skip
    intensity = all_waves(matrices, THICKNESSES)[:, 1:, 0].abs().square()
    # eigenvalues (n-1) u and -u: psi = (exp(2 pi i t n u) - 1) / n up to a phase
    expected = (2 - 2 * torch.cos(2 * torch.pi * THICKNESSES * n * 2e-3)) / n**2
    torch.testing.assert_close(intensity, expected[:, None].expand(-1, n - 1), rtol=0, atol=1e-12)


def test_two_beam_closed_form() -> None:
    """I_g = sin^2(pi t sqrt(S^2 + 1/xi^2)) / (1 + (S xi)^2), 1/xi = |U_g| / K."""
    s = torch.linspace(-0.02, 0.02, 41, dtype=torch.float64)
    t = torch.linspace(1, 1500, 40, dtype=torch.float64)
    u, k = 0.05 + 0.07j, 39.88
    inverse_xi = abs(u) / k
    effective = torch.sqrt(s**2 + inverse_xi**2)
    expected = (inverse_xi / effective * torch.sin(torch.pi * t[:, None] * effective)) ** 2
    psi = all_waves(two_beams(s, u, k), t)
    torch.testing.assert_close(psi[:, 1].abs().square(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(psi[:, 0].abs().square(), 1 - expected, rtol=0, atol=1e-12)


def test_the_phase_of_a_diffracted_beam() -> None:
    """Thin crystal: psi_g / psi_0 -> i pi t U_g / K, positive U is attraction and delays."""
    u, k, t = 0.05 + 0.07j, 39.88, 0.5
    matrices = two_beams(torch.zeros(1, dtype=torch.float64), u, k)
    psi = all_waves(matrices, torch.tensor([t], dtype=torch.float64))
    ratio = complex(psi[0, 1, 0] / psi[0, 0, 0])
    # next term: (pi t |U| / K)^3 / 3 = 1.3e-8
    assert ratio == pytest.approx(1j * np.pi * t * u / k, abs=2e-8)


@real_and_complex
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n_terms", [2, 3, 17, 18, 35, 100])
def test_keeping_no_vectors_changes_no_bit(n_terms: int, dtype: torch.dtype, is_real: bool) -> None:
    """The waves and the last two vectors; made again, all of them."""
    matrices = random_matrices(9, 3, seed=8, dtype=dtype, is_real=is_real, n_blocks=2)
    bounds = rigorous_bounds(matrices)
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(2, n_terms, 2, generator=generator, dtype=dtype)
    kept, all_vectors = chebyshev_waves(matrices, bounds, coefficients, 4, keep=True)
    other, last = chebyshev_waves(matrices, bounds, coefficients, 4, keep=False)
    assert all_vectors.stored.shape == (n_terms, 2, matrices.n_parts, 9, 3)
    assert len(last.stored) == 2
    assert last.n_terms == all_vectors.n_terms == n_terms
    assert torch.equal(last.stored, all_vectors.stored[-2:])
    assert torch.equal(other, kept)
    again = chebyshev_vectors(matrices, bounds, n_terms)
    assert torch.equal(again.stored, all_vectors.stored)


class WavesOfMatrices(torch.autograd.Function):
    """``chebyshev_waves`` with its gradient, bounds held fixed."""

    @staticmethod
    def forward(
        ctx: Any, context: tuple[Any, ...], coupling: torch.Tensor, flux: torch.Tensor,
        diagonal: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        matrices, bounds, coefficients, n_rows = context
        # units in which one step suits all
        matrices = replace(matrices, coupling=1e-3 * coupling, flux=flux, diagonal=1e-2 * diagonal)
        waves, vectors = chebyshev_waves(matrices, bounds, coefficients, n_rows, keep=True)
        ctx.rest = matrices, bounds, vectors, coefficients
        return waves

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        found = chebyshev_gradient(*ctx.rest, gradient)
        return None, 1e-3 * found.coupling, found.flux, 1e-2 * found.diagonal


@real_and_complex
@pytest.mark.parametrize("largest", [4.0, 30.0])
def test_gradcheck_of_the_adjoint(is_real: bool, largest: float) -> None:
    """Every element of coupling, flux and diagonal, with one beam off at one tilt; 24 and 65 terms.

    The coupling is perturbed element by element, so that no symmetry of it may be relied on.
    """
    matrices = random_matrices(4, 3, seed=9, is_real=is_real, n_blocks=2)
    on = torch.ones(2, 4, 3, dtype=torch.bool)
    on[1, 2, 0] = False
    bounds = rigorous_bounds(matrices)
    thickness = torch.tensor([[0.6, 1.0], [0.3, 0.8]], dtype=torch.float64)
    thickness = thickness * largest / (2 * np.pi * bounds.half_width)
    coefficients, _ = chebyshev_coefficients(thickness, bounds.half_width, torch.float64)
    context = (matrices, bounds, coefficients, 3)

    def waves(coupling, flux, diagonal):  # type: ignore[no-untyped-def]
        flux, diagonal = torch.where(on, flux, 0), torch.where(on, diagonal, 0)
        return WavesOfMatrices.apply(context, coupling, flux, diagonal)

    inputs = (1e3 * matrices.coupling, matrices.flux, 1e2 * matrices.diagonal)
    assert torch.autograd.gradcheck(
        waves,
        tuple(x.detach().requires_grad_() for x in inputs),
        eps=1e-5,
        atol=1e-7,
        rtol=1e-6,
    )
