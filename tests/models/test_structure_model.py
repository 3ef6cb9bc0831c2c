"""The structure as a torch module: symmetry is obeyed, the Jacobian is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import atoms_of, make_structure, quartz_structure, triclinic_structure

from cctbx import adptbx, crystal, xray

from dials_hybrid_refine.models.structure import (
    RefinedParameters,
    StructureModel,
    adptbx_matrix,
    composition_of,
    unphysical_parameters,
)

EVERYTHING = RefinedParameters(sites=True, displacements=True, occupancies=True)


def perovskite() -> xray.structure:
    """Orthorhombic, atoms on a centre, on a mirror plane and in a general position; one is isotropic."""
    return make_structure(
        (5.38, 7.64, 5.44, 90, 90, 90),
        "P n m a",
        [
            ("Ca", (0.035, 0.25, -0.007), (0.008, 0.009, 0.007, 0, 0.001, 0), 0.9),
            ("Ti", (0, 0, 0.5), 0.006, 1.0),
            ("O", (0.483, 0.25, 0.073), (0.009, 0.007, 0.010, 0, 0.0005, 0), 1.0),
            ("O", (0.289, 0.037, -0.289), (0.008, 0.011, 0.009, 0.001, 0.002, -0.001), 1.0),
        ],
    )


STRUCTURES = {
    "quartz": quartz_structure,
    "triclinic": triclinic_structure,
    "perovskite": perovskite,
}
by_structure = pytest.mark.parametrize("name", STRUCTURES)


def moved(structure: xray.structure, seed: int, size: float = 1.0) -> StructureModel:
    """A model with all its parameters shifted at random."""
    model = StructureModel(structure, EVERYTHING)
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.randn(model.n_parameters, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model.shifts.copy_(size * shifts)
    return model


@pytest.mark.parametrize(
    "name, n_parameters",
    # quartz: Si x, 4 U, 1 occupancy; O 3 + 6 + 1. triclinic P1: 3 of 4 sites' origin float and
    # are not held: 12 + 6 + 1 + 6 + 1 + 4. perovskite: Ca 2 + 4 + 1, Ti 0 + 1 + 1, O 2 + 4 + 1, 10
    [("quartz", 16), ("triclinic", 30), ("perovskite", 26)],
)
def test_number_of_independent_parameters(name: str, n_parameters: int) -> None:
    assert StructureModel(STRUCTURES[name](), EVERYTHING).n_parameters == n_parameters


@by_structure
def test_without_shifts_the_structure_is_as_given(name: str) -> None:
    structure = STRUCTURES[name]()
    atoms, expected = StructureModel(structure, EVERYTHING)(), atoms_of(structure)
    torch.testing.assert_close(atoms.sites, expected.sites, rtol=0, atol=1e-15)
    torch.testing.assert_close(atoms.u_star, expected.u_star, rtol=0, atol=1e-16)
    torch.testing.assert_close(atoms.occupancies, expected.occupancies, rtol=0, atol=0)


@by_structure
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_special_positions_never_drift(name: str, seed: int) -> None:
    """Sites and U stay invariant under the operations of their site, to round-off, however far."""
    structure = STRUCTURES[name]()
    model = moved(structure, seed, size=2.0)
    for _ in range(50):  # a refinement's worth of steps
        with torch.no_grad():
            model.shifts.add_(0.05 * torch.randn(model.n_parameters, dtype=torch.float64))
        atoms = model()
    start = atoms_of(structure)
    n_special = 0
    for i, (site, u_star) in enumerate(zip(atoms.sites.tolist(), atoms.u_star.tolist())):
        symmetry = structure.site_symmetry(start.sites[i].tolist())
        n_special += symmetry.n_matrices() > 1
        np.testing.assert_allclose(symmetry.special_op() * site, site, rtol=0, atol=1e-14)
        np.testing.assert_allclose(symmetry.average_u_star(u_star), u_star, rtol=0, atol=1e-15)
    assert n_special == {"quartz": 1, "triclinic": 0, "perovskite": 3}[name]
    assert (atoms.sites - start.sites).abs().max() > 1e-3


def test_silicon_of_quartz_moves_along_its_axis_only() -> None:
    """3a in P 32 2 1: x, 0, 2/3."""
    for seed in range(5):
        site = moved(quartz_structure(), seed, size=3.0)().sites[0]
        assert site[1:].tolist() == pytest.approx([0, 2 / 3], abs=1e-15)
        assert abs(float(site[0]) - 0.4697) > 1e-3


@by_structure
def test_jacobian_agrees_with_finite_differences(name: str) -> None:
    """The dependence is linear for these constraints: differences are exact to round-off."""
    # small: isotropic U must stay above smtbx's floor, where they depend on nothing
    model = moved(STRUCTURES[name](), seed=4, size=0.2)
    shifts = model.shifts.detach().numpy().copy()
    jacobian = model.jacobian()
    assert jacobian.shape[0] == model.n_parameters
    for i in range(model.n_parameters):
        step = np.zeros(len(shifts))
        step[i] = 1e-3
        difference = (model.evaluate(shifts + step)[0] - model.evaluate(shifts - step)[0]) / 2e-3
        np.testing.assert_allclose(jacobian[i], difference, rtol=0, atol=1e-12)


@by_structure
def test_gradient_reaches_the_shifts(name: str) -> None:
    """Autograd through sites, U* (isotropic atoms included) and occupancies."""
    model = moved(STRUCTURES[name](), seed=5, size=0.3)
    generator = torch.Generator().manual_seed(6)
    n = len(atoms_of(STRUCTURES[name]()).occupancies)
    weights = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((n, 3), (n, 6), (n,))
    ]

    def value() -> torch.Tensor:
        atoms = model()
        parts = (atoms.sites, 100 * atoms.u_star, atoms.occupancies)
        return sum((w * torch.sin(3 * part)).sum() for w, part in zip(weights, parts))

    (gradient,) = torch.autograd.grad(value(), [model.shifts])
    for i in range(model.n_parameters):
        with torch.no_grad():
            values = []
            for sign in (1, -2):
                model.shifts[i] += sign * 1e-4
                values.append(float(value()))
            model.shifts[i] += 1e-4
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(float(gradient[i]), abs=1e-6)


def test_isotropic_atoms_stay_isotropic() -> None:
    structure = triclinic_structure()
    model = moved(structure, seed=7)
    u_star, cell = model().u_star, structure.unit_cell()
    for i in (1, 3):
        u_cart = adptbx.u_star_as_u_cart(cell, u_star[i].tolist())
        assert np.ptp(u_cart[:3]) < 1e-14
        assert np.abs(u_cart[3:]).max() < 1e-14
        assert u_cart[0] != pytest.approx(structure.scatterers()[i].u_iso, abs=1e-4)


def test_u_cart_of_u_star() -> None:
    structure = triclinic_structure()
    cell, u_star = structure.unit_cell(), structure.scatterers()[0].u_star
    expected = adptbx.u_star_as_u_cart(cell, u_star)
    np.testing.assert_allclose(adptbx_matrix(cell) @ u_star, expected, rtol=1e-12)


@by_structure
def test_units_move_atoms_by_a_tenth_of_an_angstrom(name: str) -> None:
    """One unit: at most 0.1 Angstrom (along any Cartesian axis), 0.01 Angstrom^2, 0.1 occupancy."""
    structure = STRUCTURES[name]()
    model = StructureModel(structure, EVERYTHING)
    cell, start = structure.unit_cell(), atoms_of(structure)
    to_cart = torch.tensor(cell.orthogonalization_matrix(), dtype=torch.float64).reshape(3, 3)
    u_to_cart = torch.from_numpy(adptbx_matrix(cell))
    for i in range(model.n_parameters):
        with torch.no_grad():
            model.shifts.zero_()
            model.shifts[i] = 1
            atoms = model()
        sizes = torch.stack(
            [
                ((atoms.sites - start.sites) @ to_cart.T).abs().max() / 0.1,
                ((atoms.u_star - start.u_star) @ u_to_cart.T).abs().max() / 0.01,
                (atoms.occupancies - start.occupancies).abs().max() / 0.1,
            ]
        )
        assert float(sizes.max()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    "refined, n_parameters",
    [
        (RefinedParameters(True, False, False), 4),
        (RefinedParameters(False, True, False), 10),
        (RefinedParameters(False, False, True), 2),
    ],
)
def test_only_what_is_asked_for_is_refined(refined: RefinedParameters, n_parameters: int) -> None:
    structure = quartz_structure()
    model, start = StructureModel(structure, refined), atoms_of(structure)
    assert model.n_parameters == n_parameters
    with torch.no_grad():
        model.shifts.fill_(0.5)
        atoms = model()
    assert bool((atoms.sites != start.sites).any()) == refined.sites
    assert bool((atoms.u_star != start.u_star).any()) == refined.displacements
    assert bool((atoms.occupancies != start.occupancies).any()) == refined.occupancies


def test_nothing_refined() -> None:
    model = StructureModel(quartz_structure(), RefinedParameters(False, False, False))
    assert model.n_parameters == 0
    torch.testing.assert_close(model().sites, atoms_of(quartz_structure()).sites)


def test_the_given_structure_is_left_alone() -> None:
    structure = quartz_structure()
    model = moved(structure, seed=8)
    current = model.current_structure()
    assert structure.scatterers()[1].site == quartz_structure().scatterers()[1].site
    torch.testing.assert_close(atoms_of(current).sites, model().sites.detach())
    current.shake_sites_in_place(rms_difference=0.1)
    torch.testing.assert_close(
        atoms_of(model.current_structure()).sites, model().sites.detach(), rtol=0, atol=1e-14
    )


def test_evaluation_depends_on_the_shifts_alone() -> None:
    """Not on the way there: smtbx accumulates, the model must not drift."""
    model = moved(quartz_structure(), seed=9)
    shifts = model.shifts.detach().numpy().copy()
    first = model.evaluate(shifts)[0]
    for seed in range(200):
        model.evaluate(np.random.default_rng(seed).normal(size=len(shifts)))
    np.testing.assert_allclose(model.evaluate(shifts)[0], first, rtol=0, atol=1e-13)


def test_elements_of_ions_and_unknown_types() -> None:
    structure = make_structure((5, 5, 5, 90, 90, 90), "P 1", [("O2-", (0, 0, 0), 0.01, 1.0)])
    assert composition_of(structure).atomic_numbers == (8,)
    strange = make_structure((5, 5, 5, 90, 90, 90), "P 1", [("Xx", (0, 0, 0), 0.01, 1.0)])
    with pytest.raises(ValueError, match="not an element"):
        composition_of(strange)


def test_multiplicities() -> None:
    fractions = composition_of(perovskite()).multiplicity_fractions
    assert fractions.tolist() == pytest.approx([4 / 8, 4 / 8, 4 / 8, 1])


@pytest.mark.parametrize("symbol, n_free", [("P 1", 3), ("P 21", 1), ("P 32 2 1", 0)])
def test_free_origin_is_held(symbol: str, n_free: int) -> None:
    """A common shift along polar directions costs (shift / 0.001 Angstrom)^2 for each."""
    cell = (5.0, 5.0, 7.0, 90, 90, 120) if "3" in symbol else (5.0, 6.0, 7.0, 90, 100, 90)
    cell = (5.0, 6.0, 7.0, 80, 100, 110) if symbol == "P 1" else cell
    structure = xray.structure(crystal_symmetry=crystal.symmetry(cell, symbol))
    for label, site in (("O1", (0.11, 0.22, 0.33)), ("C1", (0.41, 0.15, 0.07))):
        structure.add_scatterer(xray.scatterer(label, site=site, u=0.02))
    model = StructureModel(structure, RefinedParameters(displacements=False))
    residuals = model.origin_residuals()
    assert residuals.shape == (n_free,)
    shifts = torch.linspace(0.1, 0.3, model.n_parameters, dtype=torch.float64)
    expected = model.origin_jacobian() @ shifts
    with torch.no_grad():
        model.shifts += shifts
    assert torch.allclose(model.origin_residuals(), expected, rtol=1e-9)


def test_shifts_do_not_depend_on_the_path() -> None:
    """smtbx holds isotropic U above a floor: an overshooting trial step must leave no trace."""
    structure = xray.structure(crystal_symmetry=crystal.symmetry((5, 6, 7, 90, 90, 90), "P 1"))
    structure.add_scatterer(xray.scatterer("O1", site=(0.1, 0.2, 0.3), u=0.0125))
    model = StructureModel(structure, RefinedParameters())
    n = model.n_parameters
    model.evaluate(np.full(n, -4.0))
    values, _ = model.evaluate(np.zeros(n))
    assert values[-1] == pytest.approx(0.0125, abs=1e-12)


def test_parameters_fixed_by_a_shelx_file_stay_fixed() -> None:
    structure = xray.structure(crystal_symmetry=crystal.symmetry((5, 6, 7, 90, 90, 90), "P 1"))
    for label, x in (("O1", 0.1), ("O2", 0.6)):
        structure.add_scatterer(xray.scatterer(label, site=(x, 0.2, 0.3), u=0.0125))
    structure.scatterers()[0].flags.set_grad_site(True)
    model = StructureModel(structure, RefinedParameters())
    assert model.n_parameters == 3


def test_unphysical_parameters_are_named() -> None:
    structure = xray.structure(crystal_symmetry=crystal.symmetry((5, 6, 7, 90, 90, 90), "P 1"))
    structure.add_scatterer(xray.scatterer("O1", site=(0.1, 0.2, 0.3), u=-0.001))
    structure.add_scatterer(xray.scatterer("O2", site=(0.6, 0.2, 0.3), u=0.01, occupancy=1.2))
    structure.add_scatterer(xray.scatterer("O3", site=(0.6, 0.7, 0.3), u=0.01))
    first, second = unphysical_parameters(structure)
    assert "O1" in first and "O2" in second


def test_nothing_refined_leaves_nothing_to_hold() -> None:
    structure = xray.structure(crystal_symmetry=crystal.symmetry((5, 6, 7, 90, 90, 90), "P 1"))
    structure.add_scatterer(xray.scatterer("O1", site=(0.1, 0.2, 0.3), u=0.0125))
    for refined in (RefinedParameters(sites=False), RefinedParameters(False, False, False)):
        model = StructureModel(structure, refined)
        assert model.origin_residuals().shape == (0,)
        assert model.origin_jacobian().shape == (0, model.n_parameters)
