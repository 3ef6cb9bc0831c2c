"""Intensities of the diffracted beams of one batch of blocks, and the exact gradient.

    I_g = sum_m p_m |psi_g(t_m)|^2 = sum_m p_m |phi_g(t_m)|^2 / w_g^2

for every block of rotation, tilt and observed beam; the gradient is a hand-written adjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.chebyshev import (
    ChebyshevVectors,
    chebyshev_coefficients,
    chebyshev_gradient,
    chebyshev_vectors,
    chebyshev_waves,
)
from dials_hybrid_refine.diffraction.geometry import diagonal_and_flux
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.spectrum import (
    ScatteringMatrices,
    SpectralBounds,
    complex_gradient,
    estimated_bounds,
    real_form,
    rigorous_bounds,
)

#: norm of the Chebyshev vectors above which the spectral bounds were too small; without
#: absorption it is the largest w_g, which differs from 1 by a per cent
_LARGEST_GROWTH = 2.0
#: with absorption they grow by themselves, and round-off with them: the waves lose that factor
_LARGEST_ABSORBED_GROWTH = {torch.complex64: 10.0, torch.complex128: 1e9}
#: half width of the spectrum times thickness beyond which a crystal is absurd: 3000 terms
_LARGEST_PHASE = 500.0
#: half width in 1/Angstrom that no crystal has: those of heavy atoms have 0.1 at the most; a trial
#: structure of negative U can have anything
_WIDEST_SPECTRUM = 0.2
#: how often bounds are widened before the calculation is given up
_MOST_REPAIRS = 8


@dataclass(frozen=True)
class Coupling:
    """U_h / (2 K_n) of all differences between beams, in 1/Angstrom.

    Attributes:
        values: complex128, shape (n_h,), in the order of ``DifferenceTable.hkl``; the first is that
            of the diagonal: i U'_0 / (2 K_n) with absorption, else zero.
        wave_number: scalar, K in the crystal, 1/Angstrom.
        is_real: whether all are real (to be used only where the symmetry says so).
        absorbs: whether U' is not zero.
    """

    values: torch.Tensor
    wave_number: torch.Tensor
    is_real: bool
    absorbs: bool


@dataclass(frozen=True)
class BatchInput:
    """What changes about a batch of B blocks with n tilts, of m thicknesses each.

    Attributes:
        bases: shape (B, n, 3, 3), reciprocal bases at the tilts, orientation corrected.
        thickness: shape (B, m), in Angstrom.
        weight: shape (B, m), the distribution on these thicknesses.
        coupling: the potential of its crystal.
    """

    batch: BlockBatch
    bases: torch.Tensor
    thickness: torch.Tensor
    weight: torch.Tensor
    coupling: Coupling


@dataclass
class ForwardState:
    """What the gradient of a batch needs."""

    problem: _Problem
    matrices: ScatteringMatrices | None
    bounds: SpectralBounds
    vectors: ChebyshevVectors
    waves: torch.Tensor
    slope_waves: torch.Tensor | None


@dataclass(frozen=True)
class _Problem:
    """The crystal and the arithmetic of a batch."""

    coupling: Coupling
    settings: PropagationSettings

    @property
    def is_double(self) -> bool:
        """Whether the arithmetic is in double precision."""
        return self.settings.dtype == torch.complex128

    @property
    def largest_growth(self) -> float:
        """Norm of the Chebyshev vectors up to which the result can be trusted."""
        if not self.coupling.absorbs:
            return _LARGEST_GROWTH
        return _LARGEST_ABSORBED_GROWTH[self.settings.dtype]

    def in_double(self) -> _Problem:
        """The same in double precision."""
        return replace(self, settings=replace(self.settings, dtype=torch.complex128))

    def matrices(self, batch: BatchInput) -> ScatteringMatrices:
        dtype, device = self.settings.real_dtype, self.settings.device
        diagonal, flux = diagonal_and_flux(
            batch.batch.geometry, batch.bases.detach(), self.coupling.wave_number.detach()
        )
        values = self.coupling.values.detach().to(device, self.settings.dtype)
        return ScatteringMatrices(
            real_form(values[batch.batch.coupling_index().to(device)], self.coupling.is_real),
            flux.to(device, dtype),
            diagonal.to(device, dtype),
            self.coupling.absorbs,
        )

    def coefficients(
        self, batch: BatchInput, bounds: SpectralBounds
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values, slopes = chebyshev_coefficients(
            batch.thickness, bounds.half_width, self.settings.real_dtype
        )
        return values.to(self.settings.device), slopes.to(self.settings.device)


def _waves(
    problem: _Problem,
    batch: BatchInput,
    keep: Callable[[int], bool] | None,
    slopes: bool,
) -> ForwardState:
    """Waves, with bounds that are checked, and widened where they are too small.

    Where absorption costs too many digits of single precision, double precision is used.

    Args:
        keep: whether so many bytes of Chebyshev vectors are to be kept; None: no.
        slopes: whether d waves / d thickness are wanted.

    Raises:
        ArithmeticError: if no bounds help: something in the matrices is not finite, or too large.
    """
    if not batch.thickness.isfinite().all():
        raise ArithmeticError("the thickness is not finite")
    matrices = problem.matrices(batch)
    bounds = estimated_bounds(matrices)
    kept: bool | None = None
    largest = float(batch.thickness.max())
    for attempt in range(_MOST_REPAIRS):
        # not finite fails too
        if not bounds.half_width * largest < _LARGEST_PHASE:
            break
        coefficients, derivative = problem.coefficients(batch, bounds)
        if slopes:
            coefficients = torch.cat([coefficients, derivative], dim=2)
        if kept is None:
            n_bytes = coefficients.shape[1] * matrices.n_parts * matrices.flux.nbytes
            kept = keep is not None and keep(n_bytes)
        waves, vectors = chebyshev_waves(matrices, bounds, coefficients, batch.batch.n_rows, kept)
        growth = vectors.growth
        if growth <= problem.largest_growth:
            m = batch.thickness.shape[1]
            slope_waves = waves[:, :, m:] if slopes else None
            return ForwardState(problem, matrices, bounds, vectors, waves[:, :, :m], slope_waves)
        if matrices.absorbs and growth < float("inf") and not problem.is_double:
            return _waves(problem.in_double(), batch, lambda _: bool(kept), slopes)
        wider = rigorous_bounds(matrices) if attempt == 0 else bounds
        factor = 1.0 if attempt == 0 else 1.25
        bounds = SpectralBounds(wider.centre, factor * wider.half_width)
    if float(matrices.diagonal.abs().max()) > _WIDEST_SPECTRUM:
        raise ArithmeticError(
            "beams are too far from the Ewald sphere for the many-beam calculation: lower beams.s_max, "
            "and check the orientation"
        )
    if bounds.half_width < _WIDEST_SPECTRUM and bounds.half_width * largest >= _LARGEST_PHASE:
        raise ArithmeticError(
            f"a crystal {largest:.0f} Angstrom thick is too thick for the many-beam calculation: lower "
            "thickness.max or thickness.start"
        )
    raise ArithmeticError(
        "the many-beam calculation does not converge: the structure or orientation is absurd or not "
        "finite, or absorbs everything"
    )


def _row_flux(matrices: ScatteringMatrices, batch: BatchInput) -> torch.Tensor:
    """w_g^2 of the observed beams, (B, R, n), 1 where they are off."""
    rows = matrices.flux[:, 1 : 1 + batch.batch.n_rows]
    return torch.where(rows > 0, rows, 1)


def forward_batch(
    batch: BatchInput, settings: PropagationSettings, keep: Callable[[int], bool] | None
) -> tuple[torch.Tensor, ForwardState]:
    """Intensities (B, R, n) of the observed beams, on the CPU, and what their gradient needs.

    keep: whether so many bytes of Chebyshev vectors are to be kept for it; None: no.

    Raises:
        ArithmeticError: where something is not finite.
    """
    problem = _Problem(batch.coupling, settings)
    state = _waves(problem, batch, keep, batch.thickness.requires_grad)
    assert state.matrices is not None
    weight = batch.weight.detach().to(state.waves)
    power = torch.einsum("bm,cbmrn->brn", weight, state.waves.square())
    intensity = power / _row_flux(state.matrices, batch)
    # made again for the gradient: for many beams they are larger than all else
    state.matrices = None
    return intensity.cpu(), state


@dataclass(frozen=True)
class NodeIntensities:
    """Intensities at single thicknesses, not weighted; each of shape (B, m, R, n).

    Attributes:
        intensity: |psi_g(t_m)|^2.
        slope: its derivative with respect to t_m, 1/Angstrom; None if it was not asked for.
    """

    intensity: torch.Tensor
    slope: torch.Tensor | None


def node_intensities(
    batch: BatchInput, settings: PropagationSettings, slopes: bool
) -> NodeIntensities:
    """Intensities at each thickness, without gradient; ``slopes``: whether their slopes are wanted."""
    state = _waves(_Problem(batch.coupling, settings), batch, None, slopes)
    assert state.matrices is not None
    flux = _row_flux(state.matrices, batch)[:, None]
    intensity = (state.waves.square().sum(0) / flux).cpu()
    if state.slope_waves is None:
        return NodeIntensities(intensity, None)
    slope = 2 * (state.waves * state.slope_waves).sum(0) / flux
    return NodeIntensities(intensity, slope.cpu())


@dataclass(frozen=True)
class BatchGradients:
    """Derivatives of a real loss by what a ``BatchInput`` has."""

    coupling: torch.Tensor
    wave_number: torch.Tensor
    bases: torch.Tensor
    thickness: torch.Tensor
    weight: torch.Tensor


def backward_batch(
    batch: BatchInput, state: ForwardState, gradient: torch.Tensor
) -> BatchGradients:
    """From the gradient (B, R, n) with respect to the intensities."""
    problem = state.problem
    matrices = problem.matrices(batch)
    coefficients, _ = problem.coefficients(batch, state.bounds)
    vectors = state.vectors
    if not vectors.is_complete:
        vectors = chebyshev_vectors(matrices, state.bounds, vectors.n_terms)
    row_flux = _row_flux(matrices, batch)
    gradient = gradient.to(coefficients) / row_flux  # with respect to |phi|^2
    weight = batch.weight.detach().to(coefficients)
    power = state.waves.square().sum(0)  # (B, m, R, n)
    wave_gradient = 2 * weight[:, :, None, None] * gradient[:, None] * state.waves
    by_node = torch.einsum("brn,bmrn->bm", gradient, power)
    by_thickness = torch.zeros_like(by_node)
    if state.slope_waves is not None:
        by_thickness = (wave_gradient * state.slope_waves).sum((0, 3, 4))
    by_matrix = chebyshev_gradient(matrices, state.bounds, vectors, coefficients, wave_gradient)
    by_flux = by_matrix.flux
    intensity = torch.einsum("bm,bmrn->brn", weight, power)
    by_flux[:, 1 : 1 + batch.batch.n_rows] -= gradient * intensity / row_flux
    by_bases, by_wave_number = _geometry_gradient(
        batch, by_matrix.diagonal.cpu().double(), by_flux.cpu().double()
    )
    total = _sum_of_differences(problem, batch, by_matrix.coupling.cpu(), matrices.n_parts)
    return BatchGradients(total, by_wave_number, by_bases, by_thickness.cpu(), by_node.cpu())


def _sum_of_differences(
    problem: _Problem, batch: BatchInput, gradient: torch.Tensor, n_parts: int
) -> torch.Tensor:
    """Gradient of the table of U, complex128 (n_h,), from that of the real form of the coupling."""
    index = batch.batch.coupling_index().reshape(-1)
    zeros = torch.zeros(len(problem.coupling.values), dtype=torch.float64)
    if n_parts == 1:
        return torch.complex(zeros.index_add(0, index, gradient.reshape(-1).double()), zeros)
    by_coupling = complex_gradient(gradient).reshape(-1)
    real, imaginary = (
        zeros.index_add(0, index, part.double()) for part in (by_coupling.real, by_coupling.imag)
    )
    return torch.complex(real, imaginary)


def _geometry_gradient(
    batch: BatchInput, by_diagonal: torch.Tensor, by_flux: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients with respect to the bases (B, n, 3, 3) and K from those of diagonal and flux."""
    wave_number = batch.coupling.wave_number
    if not (batch.bases.requires_grad or wave_number.requires_grad):
        return torch.zeros_like(batch.bases), torch.zeros_like(wave_number)
    with torch.enable_grad():
        bases = batch.bases.detach().requires_grad_()
        k = wave_number.detach().requires_grad_()
        outputs = diagonal_and_flux(batch.batch.geometry, bases, k)
        by_bases, by_k = torch.autograd.grad(outputs, [bases, k], [by_diagonal, by_flux])
        return by_bases, by_k
