"""Bounds of the spectrum: they hold, or what follows from bounds that do not is repaired."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from examples import (
    EXACT,
    Example,
    atoms_of,
    crossing_reflections,
    fixed_thickness,
    make_scan,
    no_rotation,
    off_centre,
    perovskite_structure,
    plan,
    quartz_structure,
    triclinic_structure,
)
from hand_made import absorbing_problem, matrices_of, random_matrices, symmetric_matrix, two_beams

from dials_hybrid_refine.diffraction import batch_propagation
from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.chebyshev import chebyshev_coefficients, chebyshev_waves
from dials_hybrid_refine.diffraction.potential import AtomicParameters
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.diffraction.spectrum import (
    ScatteringMatrices,
    SpectralBounds,
    absorption_norm,
    complex_gradient,
    estimated_bounds,
    real_form,
    rigorous_bounds,
)

STRUCTURES = {
    "quartz": quartz_structure(),
    "triclinic": triclinic_structure(),
    "perovskite": perovskite_structure(),
    "perovskite, centre elsewhere": off_centre(perovskite_structure()),
}
#: g_max, s_max in 1/Angstrom, tilt step in degrees: from a dozen to 250 beams a block
SELECTIONS = [(0.8, 0.006, 0.0625), (1.0, 0.01, 0.25), (1.3, 0.01, 0.0625)]


@lru_cache(maxsize=None)
def example_of(name: str, selection: tuple[float, float, float]) -> Example:
    structure = STRUCTURES[name]
    scan = make_scan(structure)
    observations = crossing_reflections(scan, 0.8, 0.004)
    return plan(structure, scan, observations, BeamSelection(*selection))


def matrices_of_example(
    example: Example, settings: PropagationSettings, absorption: float | None = None
) -> list[ScatteringMatrices]:
    """Those of all batches."""
    simulator = example.simulator(settings)
    models = PhysicalModels(
        fixed_thickness(300.0),
        no_rotation,
        None if absorption is None else lambda a, c, u, e: absorption * u,
    )
    atoms = atoms_of(example.structure)
    inputs = simulator._inputs(atoms, [simulator.potential(atoms)], models)
    return [batch_propagation._Problem(data.coupling, settings).matrices(data) for data in inputs]


def true_ends(matrices: ScatteringMatrices) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest and highest eigenvalue at each tilt of each block, (B, n)."""
    n_blocks, _, n_tilts = matrices.flux.shape
    values = torch.stack(
        [
            torch.stack(
                [torch.linalg.eigvalsh(symmetric_matrix(matrices, t, b))[[0, -1]]
                 for t in range(n_tilts)]
            )
            for b in range(n_blocks)
        ]
    )  # fmt: skip
    return values[..., 0], values[..., 1]


def covered(matrices: ScatteringMatrices, bounds: SpectralBounds) -> float:
    """The largest distance of an eigenvalue from the centre, over the half width."""
    low, high = true_ends(matrices)
    centre = bounds.centre[:, 0]
    return float(torch.maximum(high - centre, centre - low).max()) / bounds.half_width


@pytest.mark.parametrize("n_beams, n_tilts, seed", [(2, 1, 5), (40, 3, 6), (120, 2, 7)])
def test_rigorous_bounds_hold(n_beams: int, n_tilts: int, seed: int) -> None:
    """No eigenvalue outside (else the recurrence diverges), nor a bound more than 2.5 times wide."""
    matrices = random_matrices(n_beams, n_tilts, seed)
    assert 1 / 2.5 < covered(matrices, rigorous_bounds(matrices)) <= 1


@pytest.mark.parametrize("is_real", [True, False], ids=["real", "complex"])
@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_several_blocks_hold_for_each(seed: int, is_real: bool) -> None:
    matrices = random_matrices(20, 4, seed, is_real=is_real, n_blocks=3)
    assert covered(matrices, rigorous_bounds(matrices)) <= 1
    assert 0.8 < covered(matrices, estimated_bounds(matrices)) < 1.02


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("name", STRUCTURES)
def test_estimated_bounds_of_crystals_are_tight(
    name: str, selection: tuple[float, float, float]
) -> None:
    """They are as wide as the widest spectrum, to a per cent, or up to 10 % wider, and cover all but a little."""
    for matrices in matrices_of_example(example_of(name, selection), EXACT):
        bounds = estimated_bounds(matrices)
        low, high = true_ends(matrices)
        widest = float((high.amax(1) - low.amin(1)).max()) / 2
        assert 0.99 <= bounds.half_width / widest < 1.1
        assert covered(matrices, bounds) < 1.02
        assert covered(matrices, rigorous_bounds(matrices)) <= 1


def test_estimated_bounds_of_crystals_seldom_need_a_repair() -> None:
    """The vectors of 1000 Angstrom stay below 2 in nine batches out of ten."""
    growth = []
    for name in STRUCTURES:
        for selection in SELECTIONS:
            for matrices in matrices_of_example(example_of(name, selection), EXACT):
                bounds = estimated_bounds(matrices)
                thickness = torch.full((len(matrices.flux), 1), 1000.0)
                coefficients, _ = chebyshev_coefficients(
                    thickness, bounds.half_width, torch.float64
                )
                _, vectors = chebyshev_waves(matrices, bounds, coefficients, 1, keep=False)
                growth.append(vectors.growth)
    assert len(growth) > 25
    assert sum(g > 2 for g in growth) < 0.1 * len(growth), growth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_estimated_bounds_where_few_steps_exhaust_the_space(dtype: torch.dtype) -> None:
    """Two beams, and equal beams with two different eigenvalues: exact but for the margin."""
    s = torch.tensor([-0.01, 0.0, 0.02], dtype=torch.float64)
    n = 12
    equal = torch.full((1, n, n), 2e-3, dtype=torch.float64)
    equal[0].fill_diagonal_(0)
    ones = torch.ones(1, n, 2, dtype=torch.float64)
    for matrices in (
        two_beams(s, 0.05 + 0.07j, 39.88),
        ScatteringMatrices(equal, ones, torch.zeros_like(ones)),
    ):
        low, high = true_ends(matrices)
        single = ScatteringMatrices(
            *(x.to(dtype) for x in (matrices.coupling, matrices.flux, matrices.diagonal))
        )
        bounds = estimated_bounds(single)
        widest = float(high.max() - low.min()) / 2
        assert bounds.half_width == pytest.approx(1.01 * widest, rel=1e-3)
        assert covered(matrices, bounds) < 1


def test_norm_of_the_absorption() -> None:
    """Of the anti-Hermitian part, 10 % added; zero where there is none."""
    data = absorbing_problem(0.07, torch.tensor([100.0]))
    matrices = matrices_of(data)
    values = data.coupling.values[data.batch.coupling_index()][0]
    norm = torch.linalg.matrix_norm((values - values.mH) / 2, 2)
    assert absorption_norm(matrices) == pytest.approx(1.1 * float(norm), rel=0.02)
    assert absorption_norm(replace(matrices, absorbs=False)) == 0


def test_bounds_with_absorption_are_those_of_the_hermitian_part_and_more() -> None:
    """The absorbing crystal's interval holds that of the same crystal without absorption."""
    for name in ("quartz", "perovskite"):
        example = example_of(name, SELECTIONS[1])
        for absorbing, without in zip(
            matrices_of_example(example, EXACT, 0.06), matrices_of_example(example, EXACT)
        ):
            assert absorbing.absorbs and absorbing.n_parts == 2
            bounds, expected = estimated_bounds(absorbing), estimated_bounds(without)
            added = bounds.half_width - expected.half_width
            assert added == pytest.approx(2.02 * absorption_norm(absorbing), rel=0.1)


def test_real_form_acts_like_the_complex_matrix() -> None:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.complex(*torch.randn((2, *shape), generator=generator, dtype=torch.float64))

    coupling, vector = normal(3, 5, 5), normal(3, 5, 2)
    product = real_form(coupling, is_real=False) @ torch.cat([vector.real, vector.imag], dim=1)
    torch.testing.assert_close(torch.complex(product[:, :5], product[:, 5:]), coupling @ vector)
    assert torch.equal(real_form(coupling, is_real=True), coupling.real)


def test_gradient_of_the_real_form() -> None:
    """``complex_gradient`` is what autograd finds through ``real_form``."""
    generator = torch.Generator().manual_seed(2)
    parts = torch.randn((2, 3, 5, 5), generator=generator, dtype=torch.float64)
    coupling = torch.complex(*parts).requires_grad_()
    form = real_form(coupling, is_real=False)
    gradient = torch.randn(form.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(form, coupling, gradient)
    torch.testing.assert_close(complex_gradient(gradient), expected)


@pytest.mark.parametrize("factor", [0.5, 0.7, 0.9, 0.97])
@pytest.mark.parametrize("name", ["quartz", "perovskite"])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.complex128, 1e-11), (torch.complex64, 2e-6)], ids=str
)
def test_bounds_that_are_too_small_are_found_and_repaired(
    name: str, factor: float, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the estimate, the intensities and their gradient are right."""
    example = example_of(name, SELECTIONS[1])
    atoms = atoms_of(example.structure)
    atoms.sites.requires_grad_()
    models = PhysicalModels(fixed_thickness([300.0, 1000.0]), no_rotation)

    def calculate(settings: PropagationSettings) -> tuple[torch.Tensor, torch.Tensor]:
        value = example.simulator(settings)(atoms, models).value
        return value.detach(), torch.autograd.grad(value.sum(), atoms.sites)[0]

    expected, gradient = calculate(EXACT)
    n_repairs = 0

    def too_small(matrices: ScatteringMatrices) -> SpectralBounds:
        bounds = estimated_bounds(matrices)
        return replace(bounds, half_width=factor * bounds.half_width)

    def counted(matrices: ScatteringMatrices) -> SpectralBounds:
        nonlocal n_repairs
        n_repairs += 1
        return rigorous_bounds(matrices)

    monkeypatch.setattr(batch_propagation, "estimated_bounds", too_small)
    monkeypatch.setattr(batch_propagation, "rigorous_bounds", counted)
    for keep_bytes in (10**9, 0):
        found, by_sites = calculate(PropagationSettings(dtype, keep_bytes=keep_bytes))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        scale = float(gradient.abs().max())
        torch.testing.assert_close(by_sites, gradient, rtol=0, atol=10 * tolerance * scale)
    n_batches = len(example.simulator().batches)
    assert n_repairs == 2 * n_batches if factor < 0.8 else n_repairs > 0


def test_bounds_that_are_not_finite_are_repaired_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rigorous bounds that are too small are widened; after some attempts it is an error."""
    example = example_of("quartz", SELECTIONS[1])
    expected = example.integrate(500.0)

    def scaled(factor: float) -> None:
        def bounds(matrices: ScatteringMatrices) -> SpectralBounds:
            found = rigorous_bounds(matrices)
            return replace(found, half_width=factor * found.half_width)

        monkeypatch.setattr(batch_propagation, "estimated_bounds", bounds)
        monkeypatch.setattr(batch_propagation, "rigorous_bounds", bounds)

    scaled(0.5)
    torch.testing.assert_close(
        torch.from_numpy(example.integrate(500.0)), torch.from_numpy(expected), rtol=0, atol=1e-11
    )
    scaled(0.01)
    with pytest.raises(ArithmeticError, match="not converge"):
        example.integrate(500.0)


@pytest.mark.parametrize("name", ["quartz", "perovskite"])
@pytest.mark.parametrize("parameter", ["sites", "u_star", "occupancies"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [EXACT, PropagationSettings(n_threads=2)], ids=["1", "2"])
def test_a_structure_that_is_not_finite_is_an_error(
    name: str, parameter: str, value: float, settings: PropagationSettings
) -> None:
    example = example_of(name, SELECTIONS[0])
    atoms = atoms_of(example.structure)
    broken = {k: getattr(atoms, k) for k in ("sites", "u_star", "occupancies")}
    broken[parameter] = torch.full_like(broken[parameter], value)
    if parameter == "u_star":
        broken[parameter] = -broken[parameter]  # a large one leaves no potential, but is no error
    models = PhysicalModels(fixed_thickness(300.0), no_rotation)
    with pytest.raises(ArithmeticError, match="not finite"):
        example.simulator(settings)(AtomicParameters(**broken), models)


def test_an_absurd_structure_is_an_error() -> None:
    """U of -0.6 Angstrom^2 makes potentials of any size; the series would fill the memory."""
    example = example_of("quartz", SELECTIONS[0])
    atoms = atoms_of(example.structure)
    absurd = replace(atoms, u_star=-30 * atoms.u_star)
    models = PhysicalModels(fixed_thickness(300.0), no_rotation)
    with pytest.raises(ArithmeticError, match="absurd"):
        example.simulator()(absurd, models)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_spectrum_that_the_estimate_does_not_see(is_kept: bool) -> None:
    """Two beams whose strong eigenvector is normal to where the Lanczos iterations begin.

    The estimate is half as wide as the spectrum, 0 to 0.1/Angstrom, and the vectors of the expansion grow
    exponentially, which is noticed; with rigorous bounds the wave is that of the closed form.
    """
    start = 1.5 + torch.cos(torch.arange(2, dtype=torch.float64) * 2.399963)
    unseen = torch.stack([start[1], -start[0]]) / start.norm()
    coupling = 0.1 * torch.outer(unseen, unseen)[None]
    ones = torch.ones(1, 2, 1, dtype=torch.float64)
    matrices = ScatteringMatrices(coupling, ones, torch.zeros_like(ones))
    thickness = torch.tensor([[300.0]], dtype=torch.float64)

    def expand(bounds: SpectralBounds) -> tuple[torch.Tensor, float]:
        coefficients, _ = chebyshev_coefficients(thickness, bounds.half_width, torch.float64)
        waves, vectors = chebyshev_waves(matrices, bounds, coefficients, 1, is_kept)
        return waves[:, 0, 0, 0, 0], vectors.growth

    estimate = estimated_bounds(matrices)
    assert estimate.half_width < 0.03
    assert not expand(estimate)[1] < 1e6
    waves, growth = expand(rigorous_bounds(matrices))
    assert growth < 1.0001
    # |<1| exp(2 pi i t M) |0>|^2 = 4 u_0^2 u_1^2 sin^2(pi t lambda)
    expected = 4 * float((unseen[0] * unseen[1]) ** 2) * np.sin(np.pi * 300 * 0.1) ** 2
    assert float(waves.square().sum()) == pytest.approx(expected, abs=1e-12)
