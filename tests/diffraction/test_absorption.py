"""Absorption: closed forms, sign, and through the whole simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import (
    WAVELENGTH,
    Example,
    atoms_of,
    fixed_thickness,
    no_rotation,
    small_example,
    triclinic_structure,
)
from hand_made import absorbing_problem, all_waves, matrices_of, without_flux_factors

from dials_hybrid_refine.diffraction.potential import AtomicParameters, CrystalPotential
from dials_hybrid_refine.diffraction.simulator import PhysicalModels


@pytest.fixture(scope="module", params=["quartz", "triclinic", "centrosymmetric"])
def example(request: pytest.FixtureRequest) -> Example:
    structure = {
        "quartz": None,
        "triclinic": triclinic_structure(),
        "centrosymmetric": triclinic_structure("P -1"),
    }[request.param]
    return small_example(structure, dense=True)


def total_by_thickness(strength: float, thickness: torch.Tensor) -> torch.Tensor:
    """Intensity of all beams, 000 included, (m, n), of a crystal with U' = strength U."""
    return all_waves(matrices_of(absorbing_problem(strength, thickness)), thickness).abs().square().sum(1)  # fmt: skip


def test_absorption_takes_intensity_away_monotonically() -> None:
    """U' positive definite: d/dt of the total is -4 pi psi^+ W U' W psi < 0 at any depth."""
    thickness = torch.linspace(0.1, 1200, 200, dtype=torch.float64)
    total = total_by_thickness(0.1, thickness)
    assert (total.diff(dim=0) < 0).all()
    assert total[0] == pytest.approx(1, abs=1e-3)
    assert total[-1].max() < 0.5
    gain = total_by_thickness(-0.1, thickness)
    assert (gain.diff(dim=0) > 0).all()


def test_mean_absorption_alone_is_an_exponential() -> None:
    """U'_g = 0 but for U'_0, equal flux factors: exp(-2 pi U'_0 t / K_n) exactly."""
    thickness = torch.linspace(1, 1200, 13, dtype=torch.float64)
    mean = 1.5e-4  # U'_0 / (2 K_n)
    data = absorbing_problem(0.0, thickness)
    values = data.coupling.values.clone()
    values[0] = 1j * mean
    matrices = matrices_of(replace(data, coupling=replace(data.coupling, values=values)))
    total = all_waves(without_flux_factors(matrices), thickness).abs().square().sum(1)
    expected = torch.exp(-4 * torch.pi * mean * thickness)
    torch.testing.assert_close(total, expected[:, None].expand_as(total), rtol=1e-10, atol=0)


def test_mean_absorption_in_the_simulation(example: Example) -> None:
    """The same through the simulator: U'_g = 0.03 delta_(g,0) scales all curves.

    Each beam's own path is w_g^2 times longer, w_g^2 - 1 = g_n / K < 0.5 %: of an exponent of 0.95.
    """
    simulator, atoms = example.simulator(), atoms_of(example.structure)
    t, mean = 200.0, 0.03
    models = PhysicalModels(fixed_thickness(t), no_rotation)

    def only_mean(
        atoms: AtomicParameters, crystal: CrystalPotential, u: torch.Tensor, experiment: int
    ) -> torch.Tensor:
        return torch.where(torch.arange(len(u)) == 0, mean, torch.zeros_like(u))

    without = simulator.rocking_curves(atoms, models)
    absorbed = simulator.rocking_curves(atoms, replace(models, absorption=only_mean))
    k = np.sqrt(1 / WAVELENGTH**2 + float(simulator.potential(atoms)[0].real))
    factor = np.exp(-2 * np.pi * mean * t / k)
    assert factor == pytest.approx(0.388, abs=0.01)
    for one, other in zip(absorbed, without):
        torch.testing.assert_close(one, factor * other, rtol=0, atol=0.005 * float(other.max()))
