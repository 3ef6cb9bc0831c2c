"""Gradients with respect to every kind of parameter, in double precision.

Compared with autograd through dense matrix exponentials, which shares no code with the hand-written
adjoint, and with finite differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from examples import (
    EXACT,
    WAVELENGTH,
    Example,
    atoms_of,
    constant_rotation,
    crossing_reflections,
    dense_curves,
    dense_settings,
    fixed_thickness,
    plan,
    quartz_structure,
    small_example,
    triclinic_structure,
)
from hand_made import make_batch, normal, random_matrices, table_of

from dials_hybrid_refine.diffraction.batch_propagation import BatchInput, Coupling
from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.potential import AtomicParameters
from dials_hybrid_refine.diffraction.propagation import propagate
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.simulator import PhysicalModels

STRUCTURES = {
    "quartz": quartz_structure,
    "triclinic": triclinic_structure,
    "centrosymmetric": lambda: triclinic_structure("P -1"),
}
PARAMETERS = ("sites", "u_star", "occupancies", "thickness", "weight", "rotation", "absorption")


@dataclass(frozen=True)
class Problem:
    """A scalar made of all rocking curves, and where it is differentiated."""

    example: Example
    values: dict[str, torch.Tensor]

    def atoms(self, values: dict[str, torch.Tensor]) -> AtomicParameters:
        return AtomicParameters(values["sites"], values["u_star"], values["occupancies"])

    def models(self, values: dict[str, torch.Tensor]) -> PhysicalModels:
        return PhysicalModels(
            fixed_thickness(values["thickness"], values["weight"]),
            constant_rotation(values["rotation"]),
            lambda a, c, u, e: values["absorption"] * u,
        )

    def across_the_axis(self, rotation: torch.Tensor) -> torch.Tensor:
        """What turns the crystal: a turn about the rotation axis moves the windows instead."""
        axis = torch.from_numpy(self.example.scan.rotation_axis)
        return rotation - (rotation @ axis) * axis

    def loss(self, curves: list[torch.Tensor]) -> torch.Tensor:
        """A fixed random combination: no symmetry between beams or tilts hides a mistake."""
        generator = torch.Generator().manual_seed(7)
        return sum(
            (torch.randn(c.shape, generator=generator, dtype=torch.float64) * c).sum()
            for c in curves
        )

    def by_package(
        self, values: dict[str, torch.Tensor], settings: PropagationSettings = EXACT
    ) -> torch.Tensor:
        simulator = self.example.simulator(settings)
        return self.loss(simulator.rocking_curves(self.atoms(values), self.models(values)))

    def by_matrix_exp(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        simulator = self.example.simulator()
        potential = simulator.potential(self.atoms(values))
        curves = []
        for batch in simulator.batches:
            dense = dense_settings(
                batch,
                self.example.scan.beam_direction,
                WAVELENGTH,
                potential,
                values["absorption"] * potential,
                self.across_the_axis(values["rotation"]),
            )
            curves.append(dense_curves(batch, dense, values["thickness"], values["weight"]))
        return self.loss(curves)


def gradients(loss: torch.Tensor, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(zip(values, torch.autograd.grad(loss, list(values.values()))))


@pytest.fixture(scope="module", params=STRUCTURES)
def problem(request: pytest.FixtureRequest) -> Problem:
    example = small_example(STRUCTURES[request.param]())
    atoms = atoms_of(example.structure)
    values = {
        "sites": atoms.sites,
        "u_star": atoms.u_star,
        "occupancies": atoms.occupancies,
        "thickness": torch.tensor([120.0, 310.0, 470.0], dtype=torch.float64),
        "weight": torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
        "rotation": torch.tensor([1e-3, -7e-4, 5e-4], dtype=torch.float64),
        "absorption": torch.tensor(0.06, dtype=torch.float64),
    }
    return Problem(example, {k: v.detach().clone().requires_grad_() for k, v in values.items()})


@pytest.fixture(scope="module")
def analytical(problem: Problem) -> dict[str, torch.Tensor]:
    return gradients(problem.by_package(problem.values), problem.values)


@pytest.fixture(scope="module")
def dense(problem: Problem) -> dict[str, torch.Tensor]:
    return gradients(problem.by_matrix_exp(problem.values), problem.values)


@pytest.mark.parametrize("name", PARAMETERS)
def test_agrees_with_autograd_through_matrix_exp(
    name: str, analytical: dict[str, torch.Tensor], dense: dict[str, torch.Tensor]
) -> None:
    """1e-9 of the largest element: both are exact but for round-off, about 1e-13 per curve."""
    scale = float(dense[name].abs().max())
    assert scale > 1e-6
    torch.testing.assert_close(analytical[name], dense[name], rtol=0, atol=1e-9 * scale)


#: Steps of the finite differences: error (step / scale)^2 from the third derivative against
#: 1e-13 / step from round-off, each relative to the gradient.
STEPS = {
    "sites": 1e-5,
    "u_star": 1e-6,
    "occupancies": 1e-4,
    "thickness": 1e-2,
    "weight": 1e-3,
    "rotation": 1e-6,
    "absorption": 1e-4,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_agrees_with_finite_differences(
    name: str, problem: Problem, analytical: dict[str, torch.Tensor]
) -> None:
    """Along two random directions, by five-point differences (error of fourth order)."""
    generator = torch.Generator().manual_seed(11)
    value, step = problem.values[name].detach(), STEPS[name]
    for _ in range(2):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)

        def moved(n: int, direction: torch.Tensor = direction) -> float:
            with torch.no_grad():
                values = {**problem.values, name: value + n * step * direction}
                return float(problem.by_package(values))

        difference = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step)
        expected = float((analytical[name] * direction).sum())
        scale = float(analytical[name].norm() * direction.norm())
        assert difference == pytest.approx(expected, abs=1e-8 * scale)


def test_without_absorption_too(problem: Problem) -> None:
    """A centrosymmetric crystal has real matrices, then, and the others' are Hermitian."""
    values = {k: v for k, v in problem.values.items() if k != "absorption"}
    example = problem.example
    simulator, atoms = example.simulator(), problem.atoms(values)
    models = replace(problem.models(problem.values), absorption=None)
    loss = problem.loss(simulator.rocking_curves(atoms, models))
    found = gradients(loss, values)
    potential = simulator.potential(atoms)
    curves = [
        dense_curves(
            batch,
            dense_settings(
                batch,
                example.scan.beam_direction,
                WAVELENGTH,
                potential,
                rotation_vector=problem.across_the_axis(values["rotation"]),
            ),
            values["thickness"],
            values["weight"],
        )
        for batch in simulator.batches
    ]
    expected = gradients(problem.loss(curves), values)
    for name in values:
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-9 * scale)


def test_single_precision_gradient(problem: Problem, analytical: dict[str, torch.Tensor]) -> None:
    """complex64: about 1e-6 of the largest element, round-off of some hundred terms."""
    loss = problem.by_package(problem.values, PropagationSettings(dtype=torch.complex64))
    for name, found in gradients(loss, problem.values).items():
        scale = float(analytical[name].abs().max())
        torch.testing.assert_close(found, analytical[name], rtol=0, atol=1e-5 * scale)


def test_tails_and_integrals_have_the_gradient_of_their_value(problem: Problem) -> None:
    """The whole simulator, tails included, along one direction of the structure."""
    example = problem.example
    observations = crossing_reflections(example.scan, 0.8, 0.009)
    selection = BeamSelection(g_max=0.8, s_max=0.006, tilt_step=0.25, block_width=1.0)
    example = plan(example.structure, example.scan, observations, selection)
    assert sum(len(b.tail_observation) for b in example.plan.blocks) > 5
    simulator, models = example.simulator(), problem.models(problem.values)
    weights = torch.linspace(-1, 2, len(simulator(problem.atoms(problem.values), models).value))
    direction = torch.tensor([[0.3, -0.5, 0.2]], dtype=torch.float64)

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return (weights * simulator(problem.atoms(values), models).value).sum()

    (gradient,) = torch.autograd.grad(loss(problem.values), [problem.values["sites"]])
    step = 1e-5
    with torch.no_grad():
        sites = problem.values["sites"]
        one, other = (
            float(loss({**problem.values, "sites": sites + s * step * direction})) for s in (1, -1)
        )
    expected = float((gradient * direction).sum())
    assert (one - other) / (2 * step) == pytest.approx(expected, rel=1e-6)


class Again(torch.autograd.Function):
    """A function that is evaluated anew for every backward pass.

    ``propagate`` gives its memory back in the first one; gradcheck makes many.
    """

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., torch.Tensor], *inputs: torch.Tensor
    ) -> torch.Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            result = ctx.function(*inputs)
        return None, *torch.autograd.grad(result, inputs, gradient)


@pytest.mark.parametrize("kind", ["real", "complex", "absorbing"])
@pytest.mark.parametrize("keep_bytes", [10**9, 0], ids=["kept", "made again"])
def test_gradcheck_of_one_small_batch(kind: str, keep_bytes: int) -> None:
    """Two blocks of four beams and three tilts, one beam off at one tilt, no symmetry anywhere."""
    batch, bases, wave_number = make_batch(n_blocks=2, n_beams=4, n_tilts=3, seed=5)
    batch.geometry.active[1, 2, 0] = False
    batch = replace(batch, n_rows=2)
    matrices = random_matrices(4, 3, seed=6, n_blocks=2)
    upper, lower = matrices.coupling[:, :4, :4], matrices.coupling[:, 4:, :4]
    table = table_of(torch.complex(upper, lower))
    if kind == "absorbing":
        generator = torch.Generator().manual_seed(7)
        table = table + 1e-4 * torch.complex(*normal(generator, 2, len(table)))
        table[0] = 1.3e-4j
    settings = PropagationSettings(torch.complex128, keep_bytes=keep_bytes)
    thickness = torch.tensor([[80.0, 150.0], [60.0, 210.0]], dtype=torch.float64)
    weight = torch.tensor([[0.4, 0.6], [0.9, 0.1]], dtype=torch.float64)

    def intensities(table, bases, wave_number, thickness, weight):  # type: ignore[no-untyped-def]
        """Inputs in units in which one step suits all."""
        if kind == "real":
            table = torch.complex(table.real, torch.zeros_like(table.real))
        is_real, absorbs = kind == "real", kind == "absorbing"
        coupling = Coupling(1e-2 * table, wave_number, is_real, absorbs)
        data = BatchInput(batch, 1e-2 * bases, 100 * thickness, weight, coupling)
        return propagate([data], settings)[0]

    inputs = (1e2 * table, 1e2 * bases, wave_number, thickness / 100, weight)
    assert torch.autograd.gradcheck(
        lambda *values: Again.apply(intensities, *values),
        tuple(x.detach().requires_grad_() for x in inputs),
        eps=1e-5,
        atol=1e-7,
        rtol=1e-6,
    )
