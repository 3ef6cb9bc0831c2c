"""Chebyshev expansion of exp(2 pi i t M) applied to the incident beam, with its adjoint.

For the tilts of a block of rotation M' = D + diag(a) U, where only the diagonal D and the flux
factors a differ between tilts, the wave at depth t is (up to a phase common to all beams)

    phi(t) = sum_k c_k(t) V_k,    c_k(t) = (2 - delta_k0) J_k(2 pi rho t),    V_k = i^k T_k(H) e_0

with H = (M' - c) / rho, c the real centre of the spectrum at each tilt and rho a bound of its
half width (Tal-Ezer & Kosloff (1984), J. Chem. Phys. 81, 3967). The V_k obey

    V_1 = i H V_0,    V_(k+1) = 2 i H V_k + V_(k-1)

and do not depend on t. One term costs one N x N by N x n matrix product for n tilts. The
gradient runs the transposed recurrence backwards (``chebyshev_gradient``): no eigenvector is
formed or differentiated, so degenerate eigenvalues and absorption do no harm.

Shapes: B blocks, N beams, n tilts, K terms. Beam 0 is the incident beam. Beams that are
switched off at a tilt have zero rows in D and a there, and stay exactly zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import jv

#: terms whose Bessel coefficient stays below this are left out
_COEFFICIENT_TOLERANCE = {torch.complex64: 1e-8, torch.complex128: 1e-15}

#: terms that the adjoint contracts in one matrix product
_ADJOINT_CHUNK = 16


@dataclass(frozen=True)
class ScatteringMatrices:
    """M' = D + diag(a) U of a batch of blocks, in 1/Angstrom.

    Attributes:
        coupling: shape (B, N, N), U_(g-h) / (2 K_n), zero diagonal, complex.
        flux: shape (B, N, n), w_g^2 where the beam is on, else 0; real.
        diagonal: shape (B, N, n), w_g^2 K S_g / K_n (plus absorption) where the beam is on,
            else 0; real, or complex with absorption.
    """

    coupling: torch.Tensor
    flux: torch.Tensor
    diagonal: torch.Tensor


@dataclass(frozen=True)
class SpectralBounds:
    """Centre (B, 1, n) and half width rho, in 1/Angstrom, of the spectrum of M'."""

    centre: torch.Tensor
    half_width: float


def spectral_bounds(matrices: ScatteringMatrices) -> SpectralBounds:
    """Rigorous bounds of the spectrum, whatever the potential.

    The 2-norm of the coupling is bounded by ||(U^+ U)^2||_F^(1/4), which exceeds it by the
    eighth root of the number of strong singular values at the most.
    """
    diagonal = matrices.diagonal.real
    low, high = diagonal.amin(1, keepdim=True), diagonal.amax(1, keepdim=True)
    gram = matrices.coupling.mH @ matrices.coupling
    scale = gram.abs().amax().clamp_min(1e-30)
    gram = gram / scale
    norms = torch.linalg.matrix_norm(gram @ gram) ** 0.25 * scale**0.5
    half_width = float(((high - low) / 2).amax()) + float(norms.amax() * matrices.flux.amax())
    if matrices.diagonal.is_complex():
        half_width += float(matrices.diagonal.imag.abs().amax())
    return SpectralBounds(centre=(low + high) / 2, half_width=1.001 * half_width)


def chebyshev_coefficients(
    thickness: torch.Tensor, half_width: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients c_k(t) and dc_k/dt, each of shape (B, K, m), for thicknesses (B, m).

    ``dtype`` is that of the wave (complex64 or complex128); it decides how many terms are kept.
    """
    # blocks often share their nodes of thickness: evaluate each only once
    unique, inverse = np.unique(thickness.detach().double().cpu().numpy(), return_inverse=True)
    argument = 2 * math.pi * half_width * unique
    largest = float(argument.max())
    # J_k(x) falls off faster than exponentially beyond k = x, over a width of x^(1/3)
    orders = np.arange(int(largest + 10 * largest ** (1 / 3) + 31))
    bessel = jv(orders[:, None], argument)
    derivative = np.empty_like(bessel)
    derivative[0] = -bessel[1]
    derivative[1:-1] = (bessel[:-2] - bessel[2:]) / 2
    tolerance = _COEFFICIENT_TOLERANCE[dtype]
    n_terms = max(2, 1 + int(np.flatnonzero(np.abs(bessel).max(axis=1) > tolerance).max()))
    factor = np.where(orders[:n_terms] == 0, 1.0, 2.0)[:, None]
    real = torch.float32 if dtype == torch.complex64 else torch.float64
    index = torch.from_numpy(inverse.reshape(thickness.shape)).to(thickness.device)

    def per_block(table: NDArray[np.float64]) -> torch.Tensor:
        rows = torch.from_numpy(factor * table[:n_terms]).to(real).to(thickness.device)
        return rows[:, index].permute(1, 0, 2)

    return per_block(bessel), per_block(2 * math.pi * half_width * derivative)


@dataclass(frozen=True)
class _Recurrence:
    """V_(k+1) = D2 V_k + A2 (U V_k) + V_(k-1) with D2 = 2i (D - c) / rho, A2 = 2i a / rho."""

    coupling: torch.Tensor
    shifted_diagonal: torch.Tensor
    scaled_flux: torch.Tensor

    @classmethod
    def of(cls, matrices: ScatteringMatrices, bounds: SpectralBounds) -> _Recurrence:
        dtype = matrices.coupling.dtype
        factor = 2j / bounds.half_width
        on = matrices.flux != 0
        shifted = torch.where(on, matrices.diagonal - bounds.centre, 0)
        return cls(
            matrices.coupling, (factor * shifted).to(dtype), (factor * matrices.flux).to(dtype)
        )


def chebyshev_vectors(
    matrices: ScatteringMatrices, bounds: SpectralBounds, n_terms: int
) -> torch.Tensor:
    """The vectors V_k, shape (K, B, N, n)."""
    step = _Recurrence.of(matrices, bounds)
    shape = matrices.flux.shape
    vectors = torch.empty(
        (n_terms, *shape), dtype=matrices.coupling.dtype, device=matrices.coupling.device
    )
    vectors[0] = 0
    vectors[0, :, 0] = 1
    product = torch.empty_like(vectors[0])
    for k in range(n_terms - 1):
        torch.bmm(step.coupling, vectors[k], out=product)
        following = vectors[k + 1]
        if k == 0:
            torch.mul(step.shifted_diagonal, vectors[0], out=following)
            following.addcmul_(step.scaled_flux, product).mul_(0.5)
        else:
            torch.addcmul(vectors[k - 1], step.shifted_diagonal, vectors[k], out=following)
            following.addcmul_(step.scaled_flux, product)
    return vectors


@dataclass(frozen=True)
class MatrixGradients:
    """Derivatives of a real loss; complex ones are dL/dRe + i dL/dIm. Shapes as the matrices."""

    coupling: torch.Tensor
    flux: torch.Tensor
    diagonal: torch.Tensor


def chebyshev_gradient(
    matrices: ScatteringMatrices,
    bounds: SpectralBounds,
    vectors: torch.Tensor,
    vector_gradients: torch.Tensor,
) -> MatrixGradients:
    """Gradient of a loss from its gradient with respect to the first rows of the V_k.

    Args:
        matrices, bounds, vectors: those of the forward pass.
        vector_gradients: shape (K, B, 1 + R, n), dL/dV_k of beams 0 to R; the loss does not
            depend on the others.
    """
    step = _Recurrence.of(matrices, bounds)
    coupling_h = step.coupling.mH.contiguous()
    diagonal_h, flux_h = step.shifted_diagonal.conj_physical(), step.scaled_flux.conj_physical()
    n_terms, n_blocks, n_beams, n_tilts = vectors.shape
    n_rows = vector_gradients.shape[2]
    coupling = torch.zeros_like(step.coupling)
    diagonal = torch.zeros_like(vectors[0])
    flux = torch.zeros_like(vectors[0])
    chunk = min(_ADJOINT_CHUNK, n_terms)
    # adjoints of V_k, V_(k+1), V_(k+2); V_0 is constant and needs none
    adjoints = torch.zeros(
        (chunk + 2, n_blocks, n_beams, n_tilts), dtype=vectors.dtype, device=vectors.device
    )
    weighted = torch.empty_like(adjoints[0])
    for stop in range(n_terms, 1, -chunk):
        start = max(1, stop - chunk)
        size = stop - start
        adjoints[size : size + 2] = adjoints[:2].clone()
        for k in range(stop - 1, start - 1, -1):
            current, after = adjoints[k - start], adjoints[k - start + 1]
            # (2iH)^+ applied to the adjoint of V_(k+1): U^+ (A2^* lambda) + D2^* lambda
            torch.mul(flux_h, after, out=weighted)
            torch.addcmul(adjoints[k - start + 2], diagonal_h, after, out=current)
            current.baddbmm_(coupling_h, weighted)
            current[:, :n_rows] += vector_gradients[k]
        lam = adjoints[:size].clone()
        if start == 1:
            lam[0] *= 0.5  # V_1 = iH V_0, without the factor 2
        before = vectors[start - 1 : stop - 1]
        diagonal += (before.conj() * lam).sum(0)
        applied = vectors[start:stop] - (vectors[start - 2 : stop - 2] if start > 1 else 0)
        if start == 1:
            applied[0] *= 2
            applied[1:] -= vectors[0 : stop - 2]
        flux += (applied.conj() * lam).sum(0)
        left = (lam * flux_h).permute(1, 2, 0, 3).reshape(n_blocks, n_beams, size * n_tilts)
        right = before.permute(1, 2, 0, 3).reshape(n_blocks, n_beams, size * n_tilts)
        coupling.baddbmm_(left, right.mH)
    # flux now holds sum conj(D2 V + A2 U V) lambda; take off the part of D2, divide by a
    on = matrices.flux != 0
    flux -= diagonal_h * diagonal
    safe_flux = torch.where(on, matrices.flux, 1)
    return MatrixGradients(
        coupling=coupling,
        flux=torch.where(on, flux.real / safe_flux, 0),
        diagonal=torch.where(on, diagonal * (-2j / bounds.half_width), 0),
    )
