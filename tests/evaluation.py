"""A simulation with all its gradients, and how to compare two of them."""

from __future__ import annotations

import torch
from examples import atoms_of, constant_rotation, fixed_thickness

from cctbx import xray

from dials_hybrid_refine.diffraction.potential import AtomicParameters
from dials_hybrid_refine.diffraction.simulator import PhysicalModels, Simulator

Evaluation = dict[str, torch.Tensor]


def evaluate(
    simulator: Simulator, structure: xray.structure, absorption: float | None = None
) -> Evaluation:
    """Values of all contributions, and the gradients of a fixed combination of them."""
    atoms = atoms_of(structure)
    inputs = {
        "sites": atoms.sites,
        "u_star": atoms.u_star,
        "occupancies": atoms.occupancies,
        "thickness": torch.tensor([120.0, 310.0, 470.0], dtype=torch.float64),
        "weight": torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
        "rotation": torch.tensor([1e-3, -7e-4, 5e-4], dtype=torch.float64),
    }
    if absorption is not None:
        inputs["absorption"] = torch.tensor(absorption, dtype=torch.float64)
    for tensor in inputs.values():
        tensor.requires_grad_()
    models = PhysicalModels(
        fixed_thickness(inputs["thickness"], inputs["weight"]),
        constant_rotation(inputs["rotation"]),
        None if absorption is None else lambda a, c, u, e: inputs["absorption"] * u,
    )
    atoms = AtomicParameters(inputs["sites"], inputs["u_star"], inputs["occupancies"])
    parts = simulator(atoms, models)
    # by observation, so that it does not matter how the contributions are divided
    generator = torch.Generator().manual_seed(3)
    n = int(parts.observation.max()) + 1
    weights = torch.randn(n, generator=generator, dtype=torch.float64)
    loss = (weights[parts.observation] * parts.value).sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return {"value": parts.value.detach(), **dict(zip(inputs, gradients))}


def assert_same(found: Evaluation, expected: Evaluation, tolerance: float) -> None:
    """Equal to ``tolerance`` of the largest element of each; none is trivially zero."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.abs().max())
        assert scale > 1e-7, name
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=tolerance * scale, msg=lambda m: f"{name}: {m}"
        )


def assert_identical(found: Evaluation, expected: Evaluation) -> None:
    """Equal to the last bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
