"""Intensities of the diffracted beams behind a crystal with a distribution of thickness.

    I_g = sum_m p_m |psi_g(t_m)|^2 = sum_m p_m |phi_g(t_m)|^2 / w_g^2

for every block of rotation, tilt and observed beam, with exact gradients from a hand-written
adjoint. The blocks' batches are shared out to threads with one torch thread each, which keeps
all cores busy whatever library was imported first and leaves the result independent of their
number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from dials_hybrid_refine.diffraction.chebyshev import (
    ScatteringMatrices,
    SpectralBounds,
    chebyshev_coefficients,
    chebyshev_gradient,
    chebyshev_vectors,
    spectral_bounds,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class PropagationSettings:
    """How the propagation is computed.

    Attributes:
        dtype: torch.complex64 (error about 1e-6 of the incident beam) or torch.complex128.
        n_threads: batches computed at the same time.
        device: where to compute; the tensors that come in and go out are on the CPU.
        keep_bytes: Chebyshev vectors of batches are kept for the gradient up to this many
            bytes in all; those of the other batches are computed again.
    """

    dtype: torch.dtype = torch.complex64
    n_threads: int = 1
    device: str = "cpu"
    keep_bytes: int = 1_000_000_000


@dataclass(frozen=True)
class BatchInput:
    """One batch of B blocks with at most N beams, n tilts, R observed beams, m thicknesses.

    Attributes:
        coupling_index: shape (B, N, N), where U_(g-h) stands in the table of coefficients; the
            table's last entry is zero and stands for the diagonal and for padding.
        n_rows: R; beams 1 to R are the observed ones, beam 0 is the incident beam.
        flux: shape (B, N, n), w_g^2, 0 where a beam is off.
        diagonal: shape (B, N, n), w_g^2 K S_g / K_n (+ absorption), in 1/Angstrom, 0 where off.
        thickness: shape (B, m), in Angstrom.
        weight: shape (B, m), the distribution on these thicknesses.
    """

    coupling_index: torch.Tensor
    n_rows: int
    flux: torch.Tensor
    diagonal: torch.Tensor
    thickness: torch.Tensor
    weight: torch.Tensor


@dataclass
class _ForwardState:
    bounds: SpectralBounds
    values: torch.Tensor
    slopes: torch.Tensor
    vectors: torch.Tensor | None


def _matrices(
    batch: BatchInput, table: torch.Tensor, settings: PropagationSettings
) -> ScatteringMatrices:
    dtype, device = settings.dtype, settings.device
    real = torch.float32 if dtype == torch.complex64 else torch.float64
    diagonal = batch.diagonal.detach()
    return ScatteringMatrices(
        coupling=table.detach().to(device, dtype)[batch.coupling_index.to(device)],
        flux=batch.flux.detach().to(device, real),
        diagonal=diagonal.to(device, dtype if diagonal.is_complex() else real),
    )


def _coefficients(
    batch: BatchInput, bounds: SpectralBounds, settings: PropagationSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    values, slopes = chebyshev_coefficients(batch.thickness, bounds.half_width, settings.dtype)
    return values.to(settings.device), slopes.to(settings.device)


def _as_real_rows(vectors: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Rows of beams 1 to R of V (K, B, N, n) as a real matrix (B, K, R n 2)."""
    rows = torch.view_as_real(vectors[:, :, 1 : 1 + n_rows])
    n_terms, n_blocks = rows.shape[:2]
    return rows.permute(1, 0, 2, 3, 4).reshape(n_blocks, n_terms, -1)


def _waves(vectors: torch.Tensor, coefficients: torch.Tensor, n_rows: int) -> torch.Tensor:
    """phi (B, m, R, n) from V (K, B, N, n) and coefficients (B, K, m)."""
    n_blocks, _, n_thickness = coefficients.shape
    waves = torch.bmm(coefficients.mT, _as_real_rows(vectors, n_rows))
    waves = waves.reshape(n_blocks, n_thickness, n_rows, vectors.shape[-1], 2)
    return torch.view_as_complex(waves)


def _forward(
    batch: BatchInput, table: torch.Tensor, settings: PropagationSettings, keep: bool
) -> tuple[torch.Tensor, _ForwardState]:
    matrices = _matrices(batch, table, settings)
    bounds = spectral_bounds(matrices)
    values, slopes = _coefficients(batch, bounds, settings)
    vectors = chebyshev_vectors(matrices, bounds, values.shape[1])
    waves = _waves(vectors, values, batch.n_rows)
    power = torch.view_as_real(waves).square().sum(-1)
    weight = batch.weight.detach().to(power)
    intensity = torch.einsum("bm,bmrn->brn", weight, power)
    return intensity.cpu(), _ForwardState(bounds, values, slopes, vectors if keep else None)


@dataclass(frozen=True)
class _BatchGradients:
    table: torch.Tensor
    flux: torch.Tensor
    diagonal: torch.Tensor
    thickness: torch.Tensor
    weight: torch.Tensor


def _backward(
    batch: BatchInput,
    table: torch.Tensor,
    settings: PropagationSettings,
    state: _ForwardState,
    gradient: torch.Tensor,
) -> _BatchGradients:
    matrices = _matrices(batch, table, settings)
    vectors = state.vectors
    if vectors is None:
        vectors = chebyshev_vectors(matrices, state.bounds, state.values.shape[1])
    gradient = gradient.to(state.values)[:, None]
    weight = batch.weight.detach().to(state.values)[:, :, None, None]
    waves = _waves(vectors, state.values, batch.n_rows)
    power = torch.view_as_real(waves).square().sum(-1)
    weight_gradient = (gradient * power).sum((2, 3))
    wave_gradients = 2 * weight * gradient * waves  # (B, m, R, n)
    if batch.thickness.requires_grad:
        slopes = torch.view_as_real(_waves(vectors, state.slopes, batch.n_rows))
        thickness_gradient = (torch.view_as_real(wave_gradients) * slopes).sum((2, 3, 4))
    else:
        thickness_gradient = torch.zeros_like(weight_gradient)
    n_blocks, n_terms = state.values.shape[:2]
    flat = torch.view_as_real(wave_gradients).reshape(n_blocks, state.values.shape[2], -1)
    rows = torch.bmm(state.values, flat)
    rows = rows.reshape(n_blocks, n_terms, batch.n_rows, -1, 2).permute(1, 0, 2, 3, 4)
    vector_gradients = vectors.new_zeros((n_terms, n_blocks, 1 + batch.n_rows, vectors.shape[-1]))
    torch.view_as_real(vector_gradients)[:, :, 1:] = rows
    matrix_gradients = chebyshev_gradient(matrices, state.bounds, vectors, vector_gradients)
    coupling = matrix_gradients.coupling.reshape(-1).cpu().to(torch.complex128)
    table_gradient = torch.zeros(len(table), dtype=torch.complex128)
    table_gradient.index_add_(0, batch.coupling_index.reshape(-1), coupling)
    return _BatchGradients(
        table_gradient,
        matrix_gradients.flux.cpu(),
        matrix_gradients.diagonal.cpu(),
        thickness_gradient.cpu(),
        weight_gradient.cpu(),
    )


def _in_threads(tasks: Sequence[Callable[[], _T]], n_threads: int) -> list[_T]:
    """Results of the tasks in their order, one torch thread each."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            n_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return [future.result() for future in [pool.submit(task) for task in tasks]]
    finally:
        torch.set_num_threads(before)


class _Propagation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        settings: PropagationSettings,
        batches: Sequence[BatchInput],
        table: torch.Tensor,
        *_: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        kept = 0
        itemsize = torch.empty(0, dtype=settings.dtype).element_size()
        keep: list[bool] = []
        for batch in batches:
            # generous guess: about 300 terms
            kept += 300 * batch.flux.numel() * itemsize
            keep.append(any(ctx.needs_input_grad) and kept <= settings.keep_bytes)

        def task(
            batch: BatchInput, keep_it: bool
        ) -> Callable[[], tuple[torch.Tensor, _ForwardState]]:
            return lambda: _forward(batch, table, settings, keep_it)

        results = _in_threads([task(b, k) for b, k in zip(batches, keep)], settings.n_threads)
        ctx.settings, ctx.batches, ctx.table = settings, batches, table
        ctx.states = [state for _, state in results]
        return tuple(intensity.double() for intensity, _ in results)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        def task(
            batch: BatchInput, state: _ForwardState, gradient: torch.Tensor
        ) -> Callable[[], _BatchGradients]:
            return lambda: _backward(batch, ctx.table, ctx.settings, state, gradient)

        results = _in_threads(
            [task(*arguments) for arguments in zip(ctx.batches, ctx.states, gradients)],
            ctx.settings.n_threads,
        )
        table = torch.zeros_like(ctx.table)
        flat: list[torch.Tensor] = []
        for batch, result in zip(ctx.batches, results):
            table += result.table
            diagonal = result.diagonal if batch.diagonal.is_complex() else result.diagonal.real
            flat += [
                result.flux.to(batch.flux.dtype),
                diagonal.to(batch.diagonal.dtype),
                result.thickness.to(batch.thickness.dtype),
                result.weight.to(batch.weight.dtype),
            ]
        return None, None, table, *flat


@dataclass(frozen=True)
class NodeIntensities:
    """Intensities at single thicknesses, not weighted; each of shape (B, m, R, n).

    Attributes:
        intensity: |psi_g(t_m)|^2.
        slope: its derivative with respect to t_m, 1/Angstrom.
    """

    intensity: torch.Tensor
    slope: torch.Tensor


def propagate_nodes(
    batches: Sequence[BatchInput],
    table: torch.Tensor,
    settings: PropagationSettings,
    reduce: Callable[[int, NodeIntensities], _T],
) -> list[_T]:
    """For each batch ``reduce(position, intensities)`` of its intensities, without gradient.

    The full arrays are large; only what ``reduce`` makes of them is kept.
    """

    def task(position: int, batch: BatchInput) -> Callable[[], _T]:
        def run() -> _T:
            matrices = _matrices(batch, table, settings)
            bounds = spectral_bounds(matrices)
            values, slopes = _coefficients(batch, bounds, settings)
            vectors = chebyshev_vectors(matrices, bounds, values.shape[1])
            waves = torch.view_as_real(_waves(vectors, values, batch.n_rows))
            slope_waves = torch.view_as_real(_waves(vectors, slopes, batch.n_rows))
            flux = batch.flux[:, None, 1 : 1 + batch.n_rows].detach().to(waves)
            flux = torch.where(flux > 0, flux, 1)
            return reduce(
                position,
                NodeIntensities(
                    (waves.square().sum(-1) / flux).cpu(),
                    (2 * (waves * slope_waves).sum(-1) / flux).cpu(),
                ),
            )

        return torch.no_grad()(run)

    return _in_threads([task(i, b) for i, b in enumerate(batches)], settings.n_threads)


def propagate(
    batches: Sequence[BatchInput], table: torch.Tensor, settings: PropagationSettings
) -> list[torch.Tensor]:
    """Intensities (fractions of the incident beam) of the observed beams.

    Args:
        batches: see ``BatchInput``.
        table: complex128, shape (n_h + 1,), U_h / (2 K_n) in 1/Angstrom and a final zero.
        settings: precision and threads.

    Returns:
        For each batch a float64 tensor of shape (B, R, n), differentiable with respect to the
        table and to the flux, diagonal, thickness and weight of the batches.
    """
    flat = [tensor for b in batches for tensor in (b.flux, b.diagonal, b.thickness, b.weight)]
    inner = _Propagation.apply(settings, batches, table, *flat)
    outputs = []
    for batch, intensity in zip(batches, inner):
        flux = batch.flux[:, 1 : 1 + batch.n_rows]
        outputs.append(intensity / torch.where(flux > 0, flux, 1))
    return outputs
