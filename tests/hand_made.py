"""Scattering matrices and batches written down by hand, without crystal or scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from dials_hybrid_refine.diffraction.batch_propagation import BatchInput, Coupling
from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.chebyshev import chebyshev_coefficients, chebyshev_waves
from dials_hybrid_refine.diffraction.geometry import (
    BeamGeometry,
    diagonal_and_flux,
    rotation_matrices,
)
from dials_hybrid_refine.diffraction.spectrum import (
    ScatteringMatrices,
    SpectralBounds,
    real_form,
    rigorous_bounds,
)


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Normally distributed numbers."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_matrices(
    n_beams: int,
    n_tilts: int,
    seed: int,
    dtype: torch.dtype = torch.float64,
    is_real: bool = False,
    n_blocks: int = 1,
) -> ScatteringMatrices:
    """A Hermitian coupling, flux factors of 1 +- 0.1 and an excited range of S.

    The sizes (1/Angstrom) are those of strong beams: |U|/2K about 2e-3, |S| up to 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    square = (n_blocks, n_beams, n_beams)
    coupling = 1e-3 * torch.complex(normal(generator, *square), normal(generator, *square))
    coupling = coupling + coupling.mH
    coupling.diagonal(dim1=1, dim2=2).zero_()
    flux = 1 + 0.1 * torch.tanh(normal(generator, n_blocks, n_beams, n_tilts))
    flux[:, 0] = 1
    diagonal = 0.02 * torch.tanh(normal(generator, n_blocks, n_beams, n_tilts)) * flux
    diagonal[:, 0] = 0
    return ScatteringMatrices(
        real_form(coupling, is_real).to(dtype), flux.to(dtype), diagonal.to(dtype)
    )


def two_beams(s: torch.Tensor, u: complex, k: float) -> ScatteringMatrices:
    """Beams 0 and g with S_g = s at len(s) tilts, U_g = u (1/Angstrom^2), no flux factor."""
    coupling = torch.tensor([[[0, u.conjugate()], [u, 0]]], dtype=torch.complex128) / (2 * k)
    flux = torch.ones(1, 2, len(s), dtype=torch.float64)
    diagonal = torch.stack([torch.zeros_like(s), s])[None]
    return ScatteringMatrices(real_form(coupling, is_real=False), flux, diagonal)


def symmetric_matrix(matrices: ScatteringMatrices, tilt: int, block: int = 0) -> torch.Tensor:
    """M = w U w + D of one tilt, complex (N, N), Hermitian without absorption."""
    w = matrices.flux[block, :, tilt].sqrt()
    n = len(w)
    coupling = matrices.coupling[block].to(torch.complex128)
    if matrices.n_parts == 2:
        coupling = coupling[:n, :n] + 1j * coupling[n:, :n]
    diagonal = matrices.diagonal[block, :, tilt].to(torch.complex128)
    return w[:, None] * coupling * w + torch.diag(diagonal)


def all_waves(
    matrices: ScatteringMatrices, thickness: torch.Tensor, bounds: SpectralBounds | None = None
) -> torch.Tensor:
    """psi (m, N, n) of the first block, all beams: phi divided by w_g.

    Those of the diffracted beams are what ``chebyshev_waves`` returns; it leaves out beam 0, which
    is summed here from its vectors.
    """
    bounds = bounds or rigorous_bounds(matrices)
    n_blocks, n_beams, _ = matrices.flux.shape
    values, _ = chebyshev_coefficients(
        thickness.expand(n_blocks, -1), bounds.half_width, matrices.flux.dtype
    )
    waves, vectors = chebyshev_waves(matrices, bounds, values, n_beams - 1, keep=True)
    incident = vectors.stored[:, 0, :, 0].to(torch.complex128)  # (K, c, n)
    incident = incident[:, 0] + (1j * incident[:, 1] if matrices.n_parts == 2 else 0)
    # V_k stands for i^k T_k of signs + + - -
    incident[1::2] *= 1j
    first = torch.einsum("km,kn->mn", values[0].to(incident), incident)
    phi = torch.cat([first[:, None], torch.complex(*waves.double())[0]], dim=1)
    return phi / torch.where(matrices.flux[0] > 0, matrices.flux[0], 1).sqrt()


@dataclass(frozen=True)
class PlainTable:
    """A stand-in for ``DifferenceTable``: each pair of beams of each block has its own entry.

    The matrices need not be those of a crystal, then. Entry 0 is that of all diagonals.
    """

    n_beams: int

    def index_of_differences(self, keys: torch.Tensor) -> torch.Tensor:
        """Positions (B, N, N) in the table of ``table_of``."""
        n_blocks = len(keys)
        index = 1 + torch.arange(n_blocks * self.n_beams**2)
        index = index.reshape(n_blocks, self.n_beams, self.n_beams)
        index.diagonal(dim1=1, dim2=2).zero_()
        return index


def table_of(coupling: torch.Tensor) -> torch.Tensor:
    """Table of complex couplings (B, N, N) whose diagonals are all the same."""
    return torch.cat([coupling[:1, 0, 0], coupling.reshape(-1)])


def make_batch(
    n_blocks: int, n_beams: int, n_tilts: int, seed: int
) -> tuple[BlockBatch, torch.Tensor, torch.Tensor]:
    """A batch, its bases (B, n, 3, 3), and K. All diffracted beams are observed.

    Beams near an Ewald sphere that is small, so that w_g^2 - 1 is up to some 10 %; tilts of 10
    mrad.
    """
    generator = torch.Generator().manual_seed(seed)
    wave_number = torch.tensor(5.0, dtype=torch.float64)
    direction = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).expand(n_blocks, 3)
    surface = torch.tensor([0.2, 0.1, -1.0], dtype=torch.float64)
    g = normal(generator, n_blocks, n_beams, 3)
    g[..., 2] = g[..., :2].square().sum(-1) / 10 + 0.005 * g[..., 2]
    g[:, 0] = 0
    bases = rotation_matrices(0.01 * normal(generator, n_blocks, n_tilts, 3))
    empty = torch.zeros(0, dtype=torch.int64)
    batch = BlockBatch(
        block=torch.arange(n_blocks),
        experiment=torch.zeros(n_blocks, dtype=torch.int64),
        phi_centre=torch.zeros(n_blocks, dtype=torch.float64),
        phi=torch.zeros(n_blocks, n_tilts, dtype=torch.float64),
        bases=bases,
        axes=torch.zeros(n_blocks, n_tilts, 3, dtype=torch.float64),
        geometry=BeamGeometry(
            hkl=g,
            active=torch.ones(n_blocks, n_beams, n_tilts, dtype=torch.bool),
            direction=direction,
            normal=(surface / surface.norm()).expand(n_blocks, 3),
        ),
        differences=PlainTable(n_beams),  # type: ignore[arg-type]
        beam_keys=torch.zeros(n_blocks, n_beams, dtype=torch.int64),
        n_rows=n_beams - 1,
        pair_block=empty,
        pair_row=empty,
        pair_observation=empty,
        pair_segment=empty,
        pair_weight=torch.zeros(0, n_tilts, dtype=torch.float64),
        pair_window=torch.zeros(0, 2, dtype=torch.float64),
        edges=None,
    )
    return batch, bases, wave_number


def absorbing_problem(strength: float, thickness: torch.Tensor, n_beams: int = 8) -> BatchInput:
    """A batch whose coupling is U + i U', with U' = strength U.

    U = u u^+ for a random u is positive definite.
    """
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(n_beams, 3, generator=generator, dtype=torch.complex128)
    u = u / u.abs().square().sum(1, keepdim=True).sqrt()
    potential = 2e-3 * u @ u.mH
    full = (1 + 1j * strength) * potential
    full.diagonal().sub_(potential.diagonal())
    batch, bases, wave_number = make_batch(1, n_beams, 4, seed=4)
    coupling = Coupling(table_of(full[None]), wave_number, is_real=False, absorbs=True)
    weight = torch.ones_like(thickness)[None]
    return BatchInput(batch, bases, thickness[None], weight, coupling)


def matrices_of(data: BatchInput) -> ScatteringMatrices:
    """The matrices of a batch, put together here."""
    coupling = data.coupling
    diagonal, flux = diagonal_and_flux(data.batch.geometry, data.bases, coupling.wave_number)
    values = coupling.values[data.batch.coupling_index()]
    return ScatteringMatrices(real_form(values, coupling.is_real), flux, diagonal, coupling.absorbs)


def without_flux_factors(matrices: ScatteringMatrices) -> ScatteringMatrices:
    """The same with w_g = 1."""
    return replace(
        matrices,
        flux=torch.ones_like(matrices.flux),
        diagonal=matrices.diagonal / matrices.flux,
    )
