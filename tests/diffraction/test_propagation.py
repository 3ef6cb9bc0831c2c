"""The Chebyshev propagation against closed forms and dense linear algebra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import (
    EXACT,
    WAVELENGTH,
    Example,
    atoms_of,
    dense_curves,
    dense_settings,
    fixed_thickness,
    no_rotation,
    reciprocal_basis,
    small_example,
    still_intensities,
    triclinic_structure,
)

from dials_hybrid_refine.diffraction.chebyshev import (
    ScatteringMatrices,
    chebyshev_coefficients,
    chebyshev_vectors,
    spectral_bounds,
)
from dials_hybrid_refine.diffraction.potential import CrystalPotential
from dials_hybrid_refine.diffraction.propagation import (
    BatchInput,
    PropagationSettings,
    propagate,
    propagate_nodes,
)
from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.models.structure import composition_of

SINGLE = PropagationSettings(dtype=torch.complex64)
THICKNESSES = torch.tensor([40.0, 260.0, 900.0], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


@pytest.fixture(scope="module", params=["quartz", "triclinic"])
def example(request: pytest.FixtureRequest) -> Example:
    return small_example(None if request.param == "quartz" else triclinic_structure(), dense=True)


@pytest.fixture(scope="module")
def sparse() -> Example:
    """With beams that are off at some tilts, and several batches."""
    return small_example()


def random_matrices(
    n_beams: int, n_tilts: int, seed: int, dtype: torch.dtype = torch.complex128
) -> ScatteringMatrices:
    """One block: a Hermitian coupling, flux factors of 1 +- 0.1 and an excited range of S.

    The sizes (1/Angstrom) are those of strong beams: |U|/2K about 2e-3, |S| up to 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    real = torch.float32 if dtype == torch.complex64 else torch.float64

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    coupling = 1e-3 * torch.complex(normal(n_beams, n_beams), normal(n_beams, n_beams))
    coupling = coupling + coupling.mH
    coupling.fill_diagonal_(0)
    flux = 1 + 0.1 * torch.tanh(normal(1, n_beams, n_tilts))
    flux[:, 0] = 1
    diagonal = 0.02 * torch.tanh(normal(1, n_beams, n_tilts)) * flux
    diagonal[:, 0] = 0
    return ScatteringMatrices(coupling[None].to(dtype), flux.to(real), diagonal.to(real))


def waves(matrices: ScatteringMatrices, thickness: torch.Tensor) -> torch.Tensor:
    """psi (m, N, n) of the first block: phi divided by w_g."""
    bounds = spectral_bounds(matrices)
    values, _ = chebyshev_coefficients(thickness[None], bounds.half_width, matrices.coupling.dtype)
    vectors = chebyshev_vectors(matrices, bounds, values.shape[1])
    phi = torch.einsum("km,knt->mnt", values[0].to(vectors.dtype), vectors[:, 0])
    return phi / torch.where(matrices.flux[0] > 0, matrices.flux[0], 1).sqrt()


def symmetric_matrix(matrices: ScatteringMatrices, tilt: int) -> torch.Tensor:
    """M = w U w + D of one tilt, Hermitian without absorption."""
    w = matrices.flux[0, :, tilt].sqrt()
    diagonal = matrices.diagonal[0, :, tilt].to(matrices.coupling.dtype)
    return w[:, None] * matrices.coupling[0] * w + torch.diag(diagonal)


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.complex128, 1e-12), (torch.complex64, 1e-5)], ids=str
)
def test_flux_is_conserved(dtype: torch.dtype, tolerance: float) -> None:
    """Round-off of a sum of about 300 terms; without the flux factors the sum is off by percents."""
    matrices = random_matrices(30, 7, seed=1, dtype=dtype)
    psi = waves(matrices, THICKNESSES)
    total = psi.abs().square().sum(1)
    assert (total - 1).abs().max() < tolerance
    phi = psi * matrices.flux[0].sqrt()
    assert (phi.abs().square().sum(1) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["matrix_exp", "eigh"])
def test_agrees_with_dense_linear_algebra(method: str) -> None:
    """Intensities and, up to the phase common to all beams, amplitudes.

    Bessel coefficients below 1e-15 are left out, and round-off grows with the number of terms.
    """
    matrices = random_matrices(25, 5, seed=2)
    psi = waves(matrices, THICKNESSES)
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
    coupling = torch.full((1, n, n), 2e-3, dtype=torch.complex128)
    coupling[0].fill_diagonal_(0)
    matrices = ScatteringMatrices(
        coupling, torch.ones(1, n, 1, dtype=torch.float64), torch.zeros(1, n, 1, dtype=torch.float64)
    )  # fmt: skip
    intensity = waves(matrices, THICKNESSES)[:, 1:, 0].abs().square()
    # eigenvalues (n-1) u and -u: psi = (exp(2 pi i t n u) - 1) / n up to a phase
    expected = (2 - 2 * torch.cos(2 * torch.pi * THICKNESSES * n * 2e-3)) / n**2
    torch.testing.assert_close(intensity, expected[:, None].expand(-1, n - 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_beams, n_tilts, seed", [(2, 1, 5), (40, 3, 6), (120, 2, 7)])
def test_spectral_bounds_hold(n_beams: int, n_tilts: int, seed: int) -> None:
    """No eigenvalue outside (else the recurrence diverges), nor a bound more than 2.5 times wide."""
    matrices = random_matrices(n_beams, n_tilts, seed)
    bounds = spectral_bounds(matrices)
    widest = 0.0
    for tilt in range(n_tilts):
        values = torch.linalg.eigvalsh(symmetric_matrix(matrices, tilt))
        distance = (values - bounds.centre[0, 0, tilt]).abs().max()
        assert distance <= bounds.half_width
        widest = max(widest, float(distance))
    assert bounds.half_width < 2.5 * widest


def two_beams(s: torch.Tensor, u: complex, k: float) -> ScatteringMatrices:
    """Beams 0 and g with S_g = s at len(s) tilts, U_g = u (1/Angstrom^2), no flux factor."""
    coupling = torch.tensor([[0, u.conjugate()], [u, 0]], dtype=torch.complex128) / (2 * k)
    diagonal = torch.stack([torch.zeros_like(s), s])
    return ScatteringMatrices(coupling[None], torch.ones(1, 2, len(s), dtype=torch.float64), diagonal[None])  # fmt: skip


def test_two_beam_closed_form() -> None:
    """I_g = sin^2(pi t sqrt(S^2 + 1/xi^2)) / (1 + (S xi)^2), 1/xi = |U_g| / K."""
    s = torch.linspace(-0.02, 0.02, 41, dtype=torch.float64)
    t = torch.linspace(1, 1500, 40, dtype=torch.float64)
    u, k = 0.05 + 0.07j, 39.88
    inverse_xi = abs(u) / k
    effective = torch.sqrt(s**2 + inverse_xi**2)
    expected = (inverse_xi / effective * torch.sin(torch.pi * t[:, None] * effective)) ** 2
    psi = waves(two_beams(s, u, k), t)
    torch.testing.assert_close(psi[:, 1].abs().square(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(psi[:, 0].abs().square(), 1 - expected, rtol=0, atol=1e-12)


def test_the_phase_of_a_diffracted_beam() -> None:
    """Thin crystal: psi_g / psi_0 -> i pi t U_g / K, positive U is attraction and delays."""
    u, k, t = 0.05 + 0.07j, 39.88, 0.5
    psi = waves(two_beams(torch.zeros(1, dtype=torch.float64), u, k), torch.tensor([t]).double())
    ratio = complex(psi[0, 1, 0] / psi[0, 0, 0])
    # next term: (pi t |U| / K)^3 / 3 = 1.3e-8
    assert ratio == pytest.approx(1j * np.pi * t * u / k, abs=2e-8)


def test_kinematical_limit_of_the_whole_simulation() -> None:
    """I_g -> (pi t |U_g| / K)^2 sinc^2(t S_g) for 4 Angstrom of a crystal.

    Corrections are of second order in the phase pi t U_0 / K = 0.04 and of first order in w_g^2 - 1
    = 0.01: a per cent of the strongest.
    """
    structure, t = triclinic_structure(), 4.0
    basis = reciprocal_basis(structure, [0.4, -0.7, 1.1])
    found = still_intensities(structure, basis, t)
    hkl = np.array(list(found))
    u = CrystalPotential(
        np.concatenate([np.zeros((1, 3), dtype=np.int64), hkl]),
        composition_of(structure),
        WAVELENGTH,
    )(atoms_of(structure)).numpy()
    k = np.sqrt(1 / WAVELENGTH**2 + u[0].real)
    g = hkl @ basis.T
    s = (k**2 - ((np.array([0, 0, -k]) + g) ** 2).sum(axis=1)) / (2 * k)
    expected = (np.pi * t * np.abs(u[1:]) / k) ** 2 * np.sinc(t * s) ** 2
    values = np.array(list(found.values()))
    np.testing.assert_allclose(values, expected, rtol=0, atol=0.015 * expected.max())
    assert np.abs(values - expected).max() > 1e-7 * expected.max()


def curves_and_reference(
    example: Example, settings: PropagationSettings, absorption: float | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rocking curves of every batch and those from dense matrix exponentials."""
    simulator, atoms = example.simulator(settings), atoms_of(example.structure)
    models = PhysicalModels(fixed_thickness(THICKNESSES, WEIGHTS), no_rotation)
    potential = simulator.potential(atoms)
    absorptive = None
    if absorption is not None:
        models = replace(models, absorption=lambda u: absorption * u)
        absorptive = absorption * potential
    curves = simulator.rocking_curves(atoms, models)
    pairs = []
    for batch, found in zip(simulator.batches, curves):
        dense = dense_settings(
            batch, example.scan.beam_direction, WAVELENGTH, potential, absorptive
        )
        pairs.append((found, dense_curves(batch, dense, THICKNESSES, WEIGHTS)))
    return pairs


@pytest.mark.parametrize("absorption", [None, 0.07])
@pytest.mark.parametrize(
    "settings, tolerance", [(EXACT, 1e-11), (SINGLE, 2e-6)], ids=["complex128", "complex64"]
)
def test_blocks_of_a_scan_agree_with_dense_exponentials(
    example: Example, settings: PropagationSettings, tolerance: float, absorption: float | None
) -> None:
    """Tolerances: of the incident beam; a dense complex128 exponential has about 1e-13."""
    for found, expected in curves_and_reference(example, settings, absorption):
        assert expected.max() > 0.02
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_beams_that_are_off_stay_dark(sparse: Example) -> None:
    """An observed beam is zero at tilts where it is off; the others do not see it."""
    n_off = 0
    for found, expected in curves_and_reference(sparse, EXACT, None):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        n_off += int(((found == 0) & (expected == 0)).sum())
        assert ((found == 0) == (expected == 0)).all()
    assert n_off > 5


def hand_made_batch(
    absorption: Callable[[torch.Tensor], torch.Tensor], thickness: torch.Tensor, n: int = 8
) -> tuple[BatchInput, torch.Tensor]:
    """A batch whose coupling is U + i U', with U' Hermitian and positive definite.

    U = u u^+ and U' = absorption(U) for a random u; the diagonal of U' stands in ``diagonal``.
    """
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(n, 3, generator=generator, dtype=torch.complex128)
    u = u / u.abs().square().sum(1, keepdim=True).sqrt()
    potential = 2e-3 * u @ u.mH
    absorptive = absorption(potential)
    flux = 1 + 0.05 * torch.rand(1, n, 4, generator=generator, dtype=torch.float64)
    flux[:, 0] = 1
    s = 0.01 * torch.randn(1, n, 4, generator=generator, dtype=torch.float64)
    s[:, 0] = 0
    diagonal = flux * (s + 1j * absorptive.diagonal().real[None, :, None])
    full = potential + 1j * absorptive
    full.fill_diagonal_(0)
    table = torch.cat([full.reshape(-1), full.new_zeros(1)])
    index = torch.arange(n * n, dtype=torch.int32).reshape(1, n, n)
    weight = torch.ones_like(thickness)
    return BatchInput(index, n - 1, flux, diagonal, thickness[None], weight[None]), table


def total_by_thickness(batch: BatchInput, table: torch.Tensor) -> torch.Tensor:
    """Intensity of all beams, 000 included, (m, n), from the propagation's matrices."""
    matrices = ScatteringMatrices(table[batch.coupling_index.long()], batch.flux, batch.diagonal)
    return waves(matrices, batch.thickness[0]).abs().square().sum(1)


def test_absorption_takes_intensity_away_monotonically() -> None:
    """U' positive definite: d/dt of the total is -4 pi psi^+ W U' W psi < 0 at any depth."""
    thickness = torch.linspace(0.1, 1200, 200, dtype=torch.float64)
    total = total_by_thickness(*hand_made_batch(lambda u: 0.1 * u, thickness))
    assert (total.diff(dim=0) < 0).all()
    assert total[0] == pytest.approx(1, abs=1e-3)
    assert total[-1].max() < 0.5
    gain = total_by_thickness(*hand_made_batch(lambda u: -0.1 * u, thickness))
    assert (gain.diff(dim=0) > 0).all()


def test_mean_absorption_alone_is_an_exponential() -> None:
    """U'_g = 0 but for U'_0, equal flux factors: exp(-2 pi U'_0 t / K_n) exactly."""
    thickness = torch.linspace(1, 1200, 13, dtype=torch.float64)
    mean = 1.5e-4  # U'_0 / (2 K_n)
    batch, table = hand_made_batch(lambda u: mean * torch.eye(len(u), dtype=u.dtype), thickness)
    batch = replace(
        batch,
        flux=torch.ones_like(batch.flux),
        diagonal=batch.diagonal.real + 1j * mean,
    )
    total = total_by_thickness(batch, table)
    expected = torch.exp(-4 * torch.pi * mean * thickness)
    torch.testing.assert_close(total, expected[:, None].expand_as(total), rtol=1e-10, atol=0)


def test_mean_absorption_in_the_simulation(example: Example) -> None:
    """The same through the simulator: U'_g = 0.03 delta_(g,0) scales all curves.

    Each beam's own path is w_g^2 times longer, w_g^2 - 1 = g_n / K < 0.5 %: of an exponent of 0.95.
    """
    simulator, atoms = example.simulator(), atoms_of(example.structure)
    t, mean = 200.0, 0.03
    models = PhysicalModels(fixed_thickness(t), no_rotation)

    def only_mean(u: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(u)) == 0, mean, torch.zeros_like(u))

    without = simulator.rocking_curves(atoms, models)
    absorbed = simulator.rocking_curves(atoms, replace(models, absorption=only_mean))
    k = np.sqrt(1 / WAVELENGTH**2 + float(simulator.potential(atoms)[0].real))
    factor = np.exp(-2 * np.pi * mean * t / k)
    assert factor == pytest.approx(0.388, abs=0.01)
    for one, other in zip(absorbed, without):
        torch.testing.assert_close(one, factor * other, rtol=0, atol=0.005 * float(other.max()))


def loss_and_gradients(example: Example, settings: PropagationSettings) -> list[torch.Tensor]:
    simulator, atoms = example.simulator(settings), atoms_of(example.structure)
    atoms.sites.requires_grad_()
    weight = WEIGHTS.clone().requires_grad_()
    models = PhysicalModels(fixed_thickness(THICKNESSES, weight), no_rotation)
    value = simulator(atoms, models).value
    return [value.detach(), *torch.autograd.grad(value.square().sum(), [atoms.sites, weight])]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_threads_and_memory_do_not_change_a_bit(sparse: Example, dtype: torch.dtype) -> None:
    """Neither the number of threads nor whether vectors are kept or computed again."""
    assert len(sparse.simulator().batches) > 2
    first = loss_and_gradients(sparse, PropagationSettings(dtype, keep_bytes=10**9))
    for n_threads, keep_bytes in [(2, 10**9), (3, 0), (1, 0), (1, 2_000_000)]:
        other = loss_and_gradients(
            sparse, PropagationSettings(dtype, n_threads=n_threads, keep_bytes=keep_bytes)
        )
        for one, two in zip(first, other):
            assert torch.equal(one, two)


def test_the_number_of_torch_threads_is_left_as_it_was(sparse: Example) -> None:
    before = torch.get_num_threads()
    loss_and_gradients(sparse, PropagationSettings(torch.complex64, n_threads=2))
    assert torch.get_num_threads() == before


def test_nodes_add_up_to_the_distribution_and_slopes_are_derivatives() -> None:
    thickness = torch.tensor([150.0, 400.0], dtype=torch.float64)
    batch, table = hand_made_batch(lambda u: 0.05 * u, thickness)
    batch = replace(batch, weight=torch.tensor([[0.3, 0.7]], dtype=torch.float64))

    def nodes(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved = replace(batch, thickness=t[None])
        return propagate_nodes([moved], table, EXACT, lambda _, n: (n.intensity, n.slope))[0]

    intensity, slope = nodes(thickness)
    (together,) = propagate([batch], table, EXACT)
    expected = torch.einsum("m,bmrn->brn", batch.weight[0], intensity)
    torch.testing.assert_close(together, expected, rtol=1e-13, atol=0)
    # error of the central difference: (2 pi rho h)^2 / 6 of the slope, and 1e-15 / h
    h = 1e-3
    difference = (nodes(thickness + h)[0] - nodes(thickness - h)[0]) / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-11)


def test_no_thickness_no_diffraction() -> None:
    batch, table = hand_made_batch(lambda u: 0.05 * u, torch.zeros(1, dtype=torch.float64))
    (intensity,) = propagate([batch], table, EXACT)
    assert intensity.abs().max() < 1e-30
