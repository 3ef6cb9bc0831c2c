"""Atoms on one site, and how displacement parameters are described and kept physical."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import make_structure, quartz_structure, triclinic_structure
from molecules import alanine

from cctbx import adptbx, xray
from smtbx.refinement.constraints.adp import shared_u
from smtbx.refinement.constraints.site import shared_site

from dials_hybrid_refine.models.prepare import Model, ModelChoices, prepare
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.models.structure import StructureModel, unphysical_parameters

Atoms = list[tuple[str, tuple[float, ...], float | tuple[float, ...], float]]


def spinel_like(*second: object) -> xray.structure:
    """Mg at a general position of P 21 and another atom as given."""
    atoms: Atoms = [("Mg", (0.1, 0.2, 0.3), 0.010, 0.6), ("O", (0.5, 0.4, 0.2), 0.02, 1.0), second]  # type: ignore[list-item]
    return make_structure((5.0, 6.0, 7.0, 90, 95, 90), "P 1 21 1", atoms)


def test_three_atoms_share_a_site() -> None:
    structure = spinel_like("Fe", (0.1, 0.2, 0.3), 0.010, 0.3)
    structure.add_scatterer(
        xray.scatterer("Mn3", (0.1, 0.2, 0.3), 0.010, 0.1, scattering_type="Mn")
    )
    model, notes = prepare(Model(structure), ModelChoices())
    assert notes == ["atoms on common sites share coordinates and U: Mg0/Fe2/Mn3"]
    fixed = StructureModel(model.structure, RefinedParameters(), model.constraints)
    assert fixed.n_parameters == 2 * 3 + 2
    free = StructureModel(
        model.structure, RefinedParameters(occupancies_of=("Fe2",)), model.constraints
    )
    assert free.n_parameters == 2 * 3 + 2 + 2
    with torch.no_grad():
        free.shifts.copy_(0.05 * torch.arange(10) - 0.1)
    first, oxygen, second, third = free.current_structure().scatterers()
    assert first.site == second.site == third.site != (0.1, 0.2, 0.3)
    assert first.u_iso == second.u_iso == third.u_iso
    assert first.occupancy + second.occupancy + third.occupancy == pytest.approx(1, abs=1e-12)
    assert abs(third.occupancy - 0.1) > 1e-3 and oxygen.occupancy == 1


def test_an_atom_given_at_an_image_of_the_site_comes_to_it() -> None:
    """-x, y + 1/2, -z; U is averaged by occupancy and atomic number, isotropic becomes anisotropic."""
    u = (0.02, 0.01, 0.03, 0.0, 0.001, 0.0)
    model, notes = prepare(Model(spinel_like("Fe", (-0.1, 0.7, -0.3), 0.010, 0.4)), ModelChoices())
    assert len(notes) == 1
    assert model.structure.scatterers()[2].site == (0.1, 0.2, 0.3)
    model, notes = prepare(Model(spinel_like("Fe", (0.1, 0.2, 0.3), u, 0.4)), ModelChoices())
    assert notes[1] == "Mg0, Fe2 share a site: their displacement parameters were averaged"
    cell = model.structure.unit_cell()
    magnesium, _, iron = model.structure.scatterers()
    weight = 0.4 * 26 / (0.4 * 26 + 0.6 * 12)
    expected = weight * np.array(adptbx.u_cif_as_u_star(cell, u)) + (1 - weight) * np.array(
        adptbx.u_iso_as_u_star(cell, 0.010)
    )
    np.testing.assert_allclose(iron.u_star, expected, rtol=1e-9)
    assert magnesium.u_star == iron.u_star


def test_atoms_that_are_apart_share_nothing() -> None:
    model, notes = prepare(Model(spinel_like("Fe", (0.11, 0.2, 0.3), 0.01, 0.4)), ModelChoices())
    assert (model.constraints, notes) == ([], [])


def test_constraints_that_contradict_each_other() -> None:
    """smtbx leaves the second out with a Python warning only."""
    given = [shared_u([0, 2]), shared_u([1, 2]), shared_site([0, 2])]
    structure = spinel_like("Fe", (0.6, 0.2, 0.3), 0.010, 0.4)
    model, notes = prepare(Model(structure, given), ModelChoices())
    assert model.constraints == [given[0], given[2]]
    assert notes == ["a constraint on Fe2 contradicts another one and is left out"]


@pytest.mark.parametrize(
    "adp, n", [("auto", 4 + 10), ("isotropic", 4 + 2), ("anisotropic", 4 + 10)]
)
def test_adp_of_quartz(adp: str, n: int) -> None:
    model, _ = prepare(Model(quartz_structure()), ModelChoices(adp=adp))
    assert StructureModel(model.structure, RefinedParameters()).n_parameters == n


def test_hydrogen_stays_isotropic() -> None:
    model, _ = prepare(Model(alanine()), ModelChoices(adp="anisotropic"))
    anisotropic = [s.label for s in model.structure.scatterers() if s.flags.use_u_aniso()]
    assert anisotropic == ["O1", "O2", "N1", "C1", "C2", "C3"]


def test_atom_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no atom Xe1 in the structure: correct structure.occup"):
        StructureModel(quartz_structure(), RefinedParameters(occupancies_of=("Xe1",)))


def test_displacements_below_the_floor_cost() -> None:
    """Principal U of -0.001 is 0.0015 below the floor of 0.0005, in units of 0.0002; the Jacobian agrees
    with differences; nothing where all are above."""
    structure = triclinic_structure()
    model = StructureModel(structure, RefinedParameters(sites=False))
    assert not model.displacement_residuals().any()
    assert model.prior_jacobian().shape == (0, model.n_parameters)
    cell = structure.unit_cell()
    structure.scatterers()[0].u_star = adptbx.u_cart_as_u_star(cell, (0.02, 0.01, -0.001, 0, 0, 0))
    model = StructureModel(structure, RefinedParameters(sites=False))
    residuals = model.displacement_residuals()
    assert residuals.max().item() == pytest.approx(7.5)
    assert (residuals > 0).sum() == 1
    (row,) = model.prior_jacobian()
    for i in range(model.n_parameters):
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                model.shifts[i] += sign * 1e-4
            values.append(model.displacement_residuals().max().item())
        with torch.no_grad():
            model.shifts[i] += 1e-4
        assert row[i].item() == pytest.approx((values[0] - values[1]) / 2e-4, abs=1e-4)
    assert "not positive definite" in unphysical_parameters(structure)[0]
