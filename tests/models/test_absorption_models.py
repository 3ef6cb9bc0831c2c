"""Absorption models: strengths, choice, and what they warn of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import WAVELENGTH, atoms_of, make_structure, quartz_structure

from dials_hybrid_refine.diffraction.potential import CrystalPotential
from dials_hybrid_refine.models.choose import AbsorptionOptions, absorption_model
from dials_hybrid_refine.models.effects import ProportionalAbsorption, ScaledAbsorption
from dials_hybrid_refine.models.structure import composition_of
from dials_hybrid_refine.models.tabulated_absorption import TabulatedAbsorption
from dials_hybrid_refine.refinement.summarise import absorption_strengths


@pytest.mark.parametrize("refine", [True, False])
def test_models_are_chosen_by_name(refine: bool) -> None:
    assert absorption_model(AbsorptionOptions()) is None
    values = {"proportional": (ProportionalAbsorption, 0.07), "tabulated": (TabulatedAbsorption, 3)}
    for name, (kind, strength) in values.items():
        model = absorption_model(AbsorptionOptions(name, ratio=0.07, factor=3, refine=refine))
        assert type(model) is kind and model.name == name
        assert model.strength.item() == pytest.approx(strength)
        assert [p.requires_grad for p in model.parameters()] == [refine]
    with pytest.raises(ValueError, match="no absorption model 'plasmons'"):
        absorption_model(AbsorptionOptions("plasmons"))


def test_strength_multiplies() -> None:
    structure = quartz_structure()
    hkl = np.array([(0, 0, 0), (1, 0, 0), (2, -1, 3)])
    crystal = CrystalPotential(hkl, composition_of(structure), WAVELENGTH)
    atoms = atoms_of(structure)
    u = crystal(atoms)
    torch.testing.assert_close(ProportionalAbsorption(0.3)(atoms, crystal, u), 0.3 * u)
    expected = 1.7 * crystal.thermal_diffuse(atoms)
    torch.testing.assert_close(TabulatedAbsorption(1.7)(atoms, crystal, u), expected)


def test_atoms_beyond_the_table_are_named() -> None:
    """B = 8 pi^2 U = 79 U: the table ends at U = 0.00127 and 0.0507; U_eq where anisotropic,
    which for F is within the table if the axes are taken as orthogonal."""
    structure = make_structure(
        (5.1, 6.2, 7.3, 80, 95, 100),
        "P 1",
        [
            ("C", (0.1, 0.1, 0.1), 0.001, 1.0),
            ("N", (0.3, 0.3, 0.3), 0.0013, 1.0),
            ("O", (0.5, 0.5, 0.5), (0.13, 0.004, 0.004, 0.0, 0.0, 0.0), 1.0),
            ("F", (0.7, 0.7, 0.7), (0.14, 0.004, 0.004, 0.0, 0.0, 0.0), 1.0),
            ("S", (0.9, 0.9, 0.9), 0.2, 1.0),
        ],
    )
    (warning,) = TabulatedAbsorption().warnings(structure)
    assert warning.endswith("for C0, F3, S4")
    assert TabulatedAbsorption().warnings(quartz_structure()) == []
    assert ProportionalAbsorption().warnings(structure) == []


class Hybrid(torch.nn.Module):
    """A stand-in with refined numbers before and after those of the absorption."""

    def __init__(self, absorption: ScaledAbsorption) -> None:
        super().__init__()
        self.before = torch.nn.Linear(2, 2)
        self.fixed = torch.nn.Linear(2, 2).requires_grad_(False)
        self.absorption = absorption
        self.after = torch.nn.Linear(4, 1)


def test_uncertainty_of_the_strength() -> None:
    """That of the logarithm, the seventh refined number here, times the value."""
    covariance = np.diag(np.arange(1.0, 13.0) ** 2)
    (found,) = absorption_strengths(Hybrid(TabulatedAbsorption(2.0)), covariance)
    assert (found.model, found.value, found.su) == ("tabulated", 2.0, pytest.approx(14))
    (fixed,) = absorption_strengths(Hybrid(ProportionalAbsorption(0.1, refine=False)), covariance)
    assert (fixed.model, fixed.value, fixed.su) == ("proportional", pytest.approx(0.1), None)
