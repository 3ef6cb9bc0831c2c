"""Chebyshev expansion of exp(2 pi i t M) applied to the incident beam, with its adjoint.

For the tilts of a block of rotation M' = D + diag(a) U, where only the diagonal D and the flux
factors a differ between tilts, the wave at depth t is (up to a phase common to all beams)

    phi(t) = sum_k i^k c_k(t) T_k(H) e_0,    c_k(t) = (2 - delta_k0) J_k(2 pi rho t)

with H = (M' - c) / rho, c the centre of the spectrum at each tilt and rho a bound of its half width
(Tal-Ezer & Kosloff (1984), J. Chem. Phys. 81, 3967). With V_k = T_k(H) e_0 times the signs + + - -
(repeated), which leave i^k V_k = V_k for even and i V_k for odd k,

    V_1 = H V_0,    V_(k+1) = V_(k-1) + 2 H V_k (even k)  or  V_(k-1) - 2 H V_k (odd k).

The V_k do not depend on t. All arithmetic is real: a real potential (centre of symmetry at the
origin, no absorption) has real V_k, and a complex one acts as the real matrix
[[Re U, -Im U], [Im U, Re U]] on real and imaginary parts, at the rate of real matrix products. One
term costs one matrix product for n tilts. The gradient runs the transposed recurrence backwards
(``chebyshev_gradient``): no eigenvector is formed or differentiated, so degenerate eigenvalues and
absorption do no harm.

Shapes: B blocks, c parts (1 real, 2 real and imaginary), N beams, n tilts, K terms. Beam 0 is the
incident beam. Beams that are switched off at a tilt have zero rows in D and a there, and stay zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import fft, next_fast_len
from scipy.special import jv

from dials_hybrid_refine.diffraction.spectrum import ScatteringMatrices, SpectralBounds

#: terms whose Bessel coefficient stays below this are left out
_COEFFICIENT_TOLERANCE = {torch.float32: 1e-8, torch.float64: 1e-15}

#: terms that are contracted in one matrix product
_CHUNK = 16


def chebyshev_coefficients(
    thickness: torch.Tensor, half_width: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients c_k(t) and dc_k/dt, each of shape (B, K, m), for thicknesses (B, m).

    ``dtype`` is that of the arithmetic (float32 or float64); it decides how many terms are kept.
    """
    # blocks often share their nodes of thickness: evaluate each only once
    unique, inverse = np.unique(thickness.detach().double().cpu().numpy(), return_inverse=True)
    argument = 2 * math.pi * half_width * unique
    largest = float(argument.max())
    # J_k(x) falls off faster than exponentially beyond k = x, over a width of x^(1/3)
    orders = np.arange(int(largest + 10 * largest ** (1 / 3) + 31))
    bessel = _bessel_functions(len(orders), argument)
    derivative = np.zeros_like(bessel)
    derivative[0] = -bessel[1]
    derivative[1:-1] = (bessel[:-2] - bessel[2:]) / 2
    # beyond k = x they grow with x; round-off of the Fourier transform does not fall off
    significant = np.abs(jv(orders, largest)) > _COEFFICIENT_TOLERANCE[dtype]
    n_terms = max(2, 1 + int(np.flatnonzero(significant).max()))
    factor = np.where(orders[:n_terms] == 0, 1.0, 2.0)[:, None]
    index = torch.from_numpy(inverse.reshape(thickness.shape)).to(thickness.device)

    def per_block(table: NDArray[np.float64]) -> torch.Tensor:
        rows = torch.from_numpy(factor * table[:n_terms]).to(dtype).to(thickness.device)
        return rows[:, index].permute(1, 0, 2)

    return per_block(bessel), per_block(2 * math.pi * half_width * derivative)


def _bessel_functions(n_orders: int, argument: NDArray[np.float64]) -> NDArray[np.float64]:
    """J_k(x) for k = 0 to n_orders - 1, shape (n_orders, m), to about (1 + x / 10) 1e-16.

    They are the Fourier coefficients of exp(i x sin(theta)) (Abramowitz & Stegun 9.1.41); an error
    of aliasing would be J_k beyond the last order, which is negligible.
    """
    n_points = next_fast_len(2 * n_orders)
    theta = 2 * np.pi * np.arange(n_points) / n_points
    values = np.exp(1j * np.sin(theta)[:, None] * argument)
    return np.asarray(fft(values, axis=0)[:n_orders].real / n_points)


class _Recurrence:
    """V_(k+1) = V_(k-1) +- (D2 V_k + A2 (U V_k)) with D2 = 2 (D - c) / rho, A2 = 2 a / rho."""

    def __init__(self, matrices: ScatteringMatrices, bounds: SpectralBounds) -> None:
        factor = 2 / bounds.half_width
        shifted = torch.where(matrices.flux != 0, matrices.diagonal - bounds.centre, 0)
        self.coupling = matrices.coupling
        self.diagonal = (factor * shifted)[:, None]
        self.flux = (factor * matrices.flux)[:, None]
        n_blocks, n_beams, n_tilts = matrices.flux.shape
        self.shape = (n_blocks, matrices.n_parts, n_beams, n_tilts)
        self._product = matrices.flux.new_empty((n_blocks, matrices.n_parts * n_beams, n_tilts))

    def step(self, k: int, vector: torch.Tensor, before: torch.Tensor, out: torch.Tensor) -> None:
        """out = before +- 2 H V_k: V_(k+1) from V_(k-1)."""
        sign = 1 if k % 2 == 0 else -1
        torch.bmm(self.coupling, vector.flatten(1, 2), out=self._product)
        torch.addcmul(before, self.diagonal, vector, value=sign, out=out)
        out.addcmul_(self.flux, self._product.view(self.shape), value=sign)

    def first(self, out: torch.Tensor) -> None:
        """V_0 and V_1 into out[0] and out[1]."""
        out[0] = 0
        out[0, :, 0, 0] = 1
        self.step(0, out[0], torch.zeros_like(out[0]), out[1])
        out[1] *= 0.5


@dataclass(frozen=True)
class ChebyshevVectors:
    """The V_k of a batch: all of them, (K, B, c, N, n), or only the last two, (2, B, c, N, n)."""

    stored: torch.Tensor
    n_terms: int

    @property
    def is_complete(self) -> bool:
        """Whether all are stored."""
        return len(self.stored) == self.n_terms

    @property
    def growth(self) -> float:
        """Largest norm of the last two V_k at any tilt; not finite where they overflowed.

        Without absorption it stays below the largest w_g unless the bounds are too small.
        """
        return float(self.stored[-2:].square().sum((2, 3)).amax().sqrt())


def chebyshev_vectors(
    matrices: ScatteringMatrices, bounds: SpectralBounds, n_terms: int
) -> ChebyshevVectors:
    """All V_k, the same bits whenever they are made."""
    step = _Recurrence(matrices, bounds)
    vectors = matrices.flux.new_empty((n_terms, *step.shape))
    step.first(vectors)
    for k in range(2, n_terms):
        step.step(k - 1, vectors[k - 1], vectors[k - 2], vectors[k])
    return ChebyshevVectors(vectors, n_terms)


def chebyshev_waves(
    matrices: ScatteringMatrices,
    bounds: SpectralBounds,
    coefficients: torch.Tensor,
    n_rows: int,
    keep: bool,
) -> tuple[torch.Tensor, ChebyshevVectors]:
    """phi of beams 1 to R for coefficients (B, K, m): real and imaginary part, (2, B, m, R, n).

    keep: whether all V_k are returned, or the last two. The waves are the same bits.
    """
    n_terms = coefficients.shape[1]
    if keep:
        vectors = chebyshev_vectors(matrices, bounds, n_terms)
        rows = vectors.stored[:, :, :, 1 : 1 + n_rows].transpose(0, 1)
        return _contract(rows, coefficients), vectors
    step = _Recurrence(matrices, bounds)
    n_blocks, n_parts, _, n_tilts = step.shape
    recent = matrices.flux.new_empty((3, *step.shape))
    rows = recent.new_empty((n_blocks, n_terms, n_parts, n_rows, n_tilts))
    step.first(recent)
    for k in range(n_terms):
        current = recent[k % 3]
        if k > 1:
            step.step(k - 1, recent[(k - 1) % 3], recent[(k - 2) % 3], current)
        rows[:, k] = current[:, :, 1 : 1 + n_rows]
    last = torch.stack([recent[(n_terms - 2) % 3], recent[(n_terms - 1) % 3]])
    return _contract(rows, coefficients), ChebyshevVectors(last, n_terms)


def _contract(rows: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """sum_k i^k c_k T_k, real and imaginary part (2, B, m, R, n), for rows (B, K, c, R, n)."""
    n_blocks, _, n_parts, n_rows, n_tilts = rows.shape
    shape = (n_blocks, coefficients.shape[2], n_parts, n_rows, n_tilts)
    flat = rows.flatten(2)
    even, odd = (
        torch.bmm(coefficients[:, parity::2].mT, flat[:, parity::2]).view(shape)
        for parity in (0, 1)
    )
    if n_parts == 1:
        return torch.stack([even[:, :, 0], odd[:, :, 0]])
    return torch.stack([even[:, :, 0] - odd[:, :, 1], even[:, :, 1] + odd[:, :, 0]])


@dataclass(frozen=True)
class MatrixGradients:
    """Derivatives of a real loss. Shapes as the matrices."""

    coupling: torch.Tensor
    flux: torch.Tensor
    diagonal: torch.Tensor


def chebyshev_gradient(
    matrices: ScatteringMatrices,
    bounds: SpectralBounds,
    vectors: ChebyshevVectors,
    coefficients: torch.Tensor,
    wave_gradient: torch.Tensor,
) -> MatrixGradients:
    """Gradient of a loss from its gradient with respect to the waves.

    Args:
        matrices, bounds, coefficients: those of the forward pass.
        vectors: all V_k.
        wave_gradient: shape (2, B, m, R, n), as returned by ``chebyshev_waves``.
    """
    step = _Recurrence(matrices, bounds)
    transposed = _Recurrence(matrices.transposed(), bounds)
    sources = _Sources(coefficients, wave_gradient, matrices.n_parts)
    n_rows = wave_gradient.shape[3]
    n_blocks, n_parts, n_beams, n_tilts = step.shape
    coupling = torch.zeros_like(matrices.coupling)
    diagonal = matrices.flux.new_zeros(step.shape)
    flux = matrices.flux.new_zeros(step.shape)
    # adjoints of V_k, V_(k+1), V_(k+2); V_0 is constant and needs none
    adjoints = matrices.flux.new_zeros((_CHUNK + 2, *step.shape))
    weighted = matrices.flux.new_zeros((_CHUNK + 1, *step.shape))
    fluxes = (step.flux, -step.flux)
    left, right = (
        matrices.flux.new_empty((n_blocks, n_parts, n_beams, _CHUNK, n_tilts)) for _ in range(2)
    )
    for start, stop, before in _backwards(vectors.stored):
        size = stop - start
        adjoints[size : size + 2] = adjoints[:2].clone()
        weighted[size] = weighted[0]
        gradients = sources.chunk(start, stop)
        for i in range(size - 1, -1, -1):
            # transpose of +- 2 H: U^T (A2 lambda) + D2 lambda
            sign = 1 - 2 * ((start + i) % 2)
            current, after = adjoints[i], adjoints[i + 1]
            torch.addcmul(adjoints[i + 2], step.diagonal, after, value=sign, out=current)
            current.flatten(1, 2).baddbmm_(transposed.coupling, weighted[i + 1].flatten(1, 2))
            current[:, :, 1 : 1 + n_rows] += gradients[i]
            # V_k = V_(k-2) -+ 2 H V_(k-1), without the factor 2 for k = 1
            own = current if start + i > 1 else 0.5 * current
            torch.mul(fluxes[(start + i - 1) % 2], own, out=weighted[i])
            diagonal.addcmul_(before[i + 1], own, value=-sign)
            # D2 V + A2 (U V) = -+ (V_k - V_(k-2)), with V_(-1) = 0
            flux.addcmul_(before[i + 2], current).addcmul_(before[i], current, value=-1)
        left[:, :, :, :size] = weighted[:size].permute(1, 2, 3, 0, 4)
        right[:, :, :, :size] = before[1 : size + 1].permute(1, 2, 3, 0, 4)
        columns = (n_blocks, n_parts * n_beams, _CHUNK * n_tilts)
        filled = size * n_tilts
        coupling.baddbmm_(left.view(columns)[..., :filled], right.view(columns)[..., :filled].mT)
    # flux now holds sum (D2 V + A2 U V) lambda; take off the part of D2, divide by a
    on = matrices.flux != 0
    by_diagonal = diagonal.sum(1)
    by_flux = flux.sum(1) - step.diagonal[:, 0] * by_diagonal
    return MatrixGradients(
        coupling=coupling,
        flux=torch.where(on, by_flux / torch.where(on, matrices.flux, 1), 0),
        diagonal=torch.where(on, by_diagonal * (2 / bounds.half_width), 0),
    )


class _Sources:
    """dL/dV_k of beams 1 to R, made for a few terms at a time."""

    def __init__(
        self, coefficients: torch.Tensor, wave_gradient: torch.Tensor, n_parts: int
    ) -> None:
        real, imaginary = wave_gradient
        if n_parts == 1:
            by_parity = [real[:, :, None], imaginary[:, :, None]]
        else:
            by_parity = [
                torch.stack([real, imaginary], dim=2), torch.stack([imaginary, -real], dim=2)
            ]  # fmt: skip
        self._shape = by_parity[0].shape[2:]
        self._by_parity = [g.flatten(2) for g in by_parity]
        self._coefficients = coefficients

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """Shape (stop - start, B, c, R, n)."""
        n_blocks = self._coefficients.shape[0]
        result = self._by_parity[0].new_empty((stop - start, n_blocks, *self._shape))
        for parity in (0, 1):
            first = (start + parity) % 2
            rows = self._coefficients[:, start + first : stop : 2]
            products = torch.bmm(rows, self._by_parity[(start + first) % 2])
            result[first::2] = products.transpose(0, 1).unflatten(2, self._shape)
        return result


def _backwards(vectors: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
    """From the last terms to the first: (start, stop, V_(start-2) to V_(stop-1)), with V_(-1) zero.

    vectors: all V_k, (K, B, c, N, n).
    """
    for stop in range(len(vectors), 1, -_CHUNK):
        start = max(1, stop - _CHUNK)
        if start > 1:
            yield start, stop, vectors[start - 2 : stop]
        else:
            yield start, stop, torch.cat([torch.zeros_like(vectors[:1]), vectors[:stop]])
