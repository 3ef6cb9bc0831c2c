"""The matrices of a batch of blocks, and bounds of their spectra.

The number of terms of the Chebyshev expansion is proportional to the bound of the half width, so
that a tight one pays; one that is too small would let the expansion grow without limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

_LANCZOS_STEPS = 10
#: share of the half width that is added to what Lanczos iterations find
_MARGIN = 0.01


@dataclass(frozen=True)
class ScatteringMatrices:
    """M' = D + diag(a) U of a batch of B blocks, in 1/Angstrom, as real arrays.

    Attributes:
        coupling: shape (B, c N, c N). c = 1: U_(g-h) / (2 K_n), real; c = 2: the real matrix
            [[Re U, -Im U], [Im U, Re U]]. Diagonal: i U'_0 / (2 K_n) with absorption, else zero.
        flux: shape (B, N, n), w_g^2 where the beam is on, else 0.
        diagonal: shape (B, N, n), w_g^2 K S_g / K_n where the beam is on, else 0.
        absorbs: whether the potential has an imaginary part; if not, U is Hermitian.
    """

    coupling: torch.Tensor
    flux: torch.Tensor
    diagonal: torch.Tensor
    absorbs: bool = False

    @property
    def n_parts(self) -> int:
        """c: 1 for a real potential, 2 for real and imaginary parts."""
        return self.coupling.shape[1] // self.flux.shape[1]

    def transposed(self) -> ScatteringMatrices:
        """The same with the transposed coupling."""
        return replace(self, coupling=self.coupling.mT.contiguous())


def real_form(coupling: torch.Tensor, is_real: bool) -> torch.Tensor:
    """(B, c N, c N), see ``ScatteringMatrices``, of a complex coupling (B, N, N)."""
    if is_real:
        return coupling.real.contiguous()
    real, imaginary = coupling.real, coupling.imag
    upper = torch.cat([real, -imaginary], dim=2)
    return torch.cat([upper, torch.cat([imaginary, real], dim=2)], dim=1)


def complex_gradient(gradient: torch.Tensor) -> torch.Tensor:
    """dL/dRe + i dL/dIm of the complex coupling (B, N, N) from that of its real form of two parts."""
    n = gradient.shape[1] // 2
    real = gradient[:, :n, :n] + gradient[:, n:, n:]
    return torch.complex(real, gradient[:, n:, :n] - gradient[:, :n, n:])


@dataclass(frozen=True)
class SpectralBounds:
    """Centre (B, 1, 1 or n) and half width rho, in 1/Angstrom, of the spectrum of M'."""

    centre: torch.Tensor
    half_width: float


def estimated_bounds(matrices: ScatteringMatrices) -> SpectralBounds:
    """Nearly tight bounds from Lanczos iterations at all tilts (Hermitian part of U).

    Extreme Ritz values (Golub & Van Loan (2013), Matrix Computations, 10.1) approach the ends of
    the spectrum from inside; their residual and a margin are added. They may still be too small:
    ``ChebyshevVectors.growth`` tells, and ``rigorous_bounds`` always hold.
    """
    low, high = _extreme_eigenvalues(matrices)
    # one interval for all tilts of a block, which holds all diagonal elements too
    low = torch.minimum(low.amin(1), matrices.diagonal.amin((1, 2)))
    high = torch.maximum(high.amax(1), matrices.diagonal.amax((1, 2)))
    half_width = float((high - low).amax()) / 2 + 2 * absorption_norm(matrices)
    return SpectralBounds(((low + high) / 2)[:, None, None], (1 + _MARGIN) * max(half_width, 1e-9))


def absorption_norm(matrices: ScatteringMatrices) -> float:
    """Estimate of the norm of U' (the anti-Hermitian part of the coupling), in 1/Angstrom."""
    if not matrices.absorbs:
        return 0.0
    part = (matrices.coupling - matrices.coupling.mT) / 2
    vector = part.new_ones((len(part), part.shape[1], 1))
    for _ in range(_LANCZOS_STEPS):
        vector = part @ vector
        norm = vector.norm(dim=1, keepdim=True)
        vector = vector / norm.clamp_min(1e-30)
    return 1.1 * float(norm.amax())


def _extreme_eigenvalues(matrices: ScatteringMatrices) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimates (B, n) of the lowest and highest eigenvalue at each tilt."""
    n_blocks, n_beams, n_tilts = matrices.flux.shape
    shape = (n_blocks, matrices.n_parts, n_beams, n_tilts)
    coupling = matrices.coupling
    if matrices.absorbs:
        coupling = (coupling + coupling.mT) / 2
    root = matrices.flux.sqrt()[:, None]
    diagonal = matrices.diagonal[:, None]
    on = (matrices.flux != 0)[:, None]
    # a fixed start that no symmetry of the crystal shares
    phases = torch.arange(n_beams * matrices.n_parts, dtype=torch.float64) * 2.399963
    start = (1.5 + torch.cos(phases)).to(root).view(1, matrices.n_parts, n_beams, 1)
    vector = torch.where(on, start, 0)
    vector = vector / vector.square().sum((1, 2), keepdim=True).sqrt()
    previous = torch.zeros_like(vector)
    beta = torch.zeros_like(vector[:, :1, :1])
    alphas, betas = [], []
    for _ in range(_LANCZOS_STEPS):
        product = torch.bmm(coupling, (root * vector).flatten(1, 2)).view(shape)
        rest = diagonal * vector + root * product - beta * previous
        alpha = (rest * vector).sum((1, 2), keepdim=True)
        rest = rest - alpha * vector
        beta = rest.square().sum((1, 2), keepdim=True).sqrt()
        alphas.append(alpha)
        betas.append(beta)
        # a residual of round-off size means that the space is exhausted
        inverse = torch.where(beta > 1e-7, 1 / beta.clamp_min(1e-30), 0)
        beta = torch.where(beta > 1e-7, beta, 0)
        previous, vector = vector, rest * inverse
    diagonals = torch.stack(alphas, -1)[:, 0, 0].double()
    off = torch.stack(betas, -1)[:, 0, 0].double()
    tridiagonal = torch.diag_embed(diagonals)
    tridiagonal += torch.diag_embed(off[..., :-1], 1) + torch.diag_embed(off[..., :-1], -1)
    if not tridiagonal.isfinite().all():
        unknown = torch.full_like(matrices.flux[:, 0], torch.nan)
        return unknown, unknown
    values, vectors = torch.linalg.eigh(tridiagonal)
    residual = off[..., -1:] * vectors[..., -1, :].abs()
    low, high = values[..., 0] - residual[..., 0], values[..., -1] + residual[..., -1]
    return low.to(matrices.flux), high.to(matrices.flux)


def rigorous_bounds(matrices: ScatteringMatrices) -> SpectralBounds:
    """Bounds that hold whatever the potential.

    The 2-norm of the coupling is bounded by ||(U^+ U)^2||_F^(1/4), which exceeds it by the
    eighth root of the number of strong singular values at the most.
    """
    diagonal = matrices.diagonal
    low, high = diagonal.amin(1, keepdim=True), diagonal.amax(1, keepdim=True)
    gram = matrices.coupling.mT @ matrices.coupling
    scale = gram.abs().amax().clamp_min(1e-30)
    gram = gram / scale
    norms = torch.linalg.matrix_norm(gram @ gram) ** 0.25 * scale**0.5
    half_width = float(((high - low) / 2).amax()) + float(norms.amax() * matrices.flux.amax())
    return SpectralBounds(centre=(low + high) / 2, half_width=1.001 * half_width)
