"""Restraint terms: their values against cctbx, their derivatives against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from cctbx import adp_restraints, adptbx, crystal, geometry_restraints, sgtbx, xray
from cctbx.array_family import flex

from benchmarks.validation.structures import nitrobenzene
from dials_hybrid_refine.models.restraints.build import StructureRestraints
from dials_hybrid_refine.models.restraints.request import AtomName, RestraintRequest
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel

INVERTED = "-x,-y,1-z"


def named(text: str) -> tuple[AtomName, ...]:
    """Atoms by label, those with a prime inverted."""
    return tuple(
        AtomName(word.rstrip("'"), INVERTED if word.endswith("'") else "x,y,z")
        for word in text.split()
    )


def request(kind: str, atoms: str, sigma: float, target: float | None = None, far: float | None = None, near: float | None = None):  # fmt: skip
    return RestraintRequest(kind, kind, named(atoms), sigma, target, far, near)


#: every kind, with images where they make sense
REQUESTS = {
    "distance": request("distance", "C1 C2 C1 C3'", 0.02, 1.5),
    "equal_distance": request("equal_distance", "C1 C2 C3 C4' C1 C5", 0.03),
    "angle": request("angle", "C1 C2 C3 C2' C1 C4", 2.0, 110.0),
    "plane": request("plane", "C1 C2 C3 C4 C5'", 0.1),
    "chiral_volume": request("chiral_volume", "C1 C2 C3 C4'", 0.2, 2.5),
    "similar_displacements": request("similar_displacements", "C1 C2 C6 C7", 0.04, None, 0.08, 50.0),
    "rigid_bond": request("rigid_bond", "C1 C2 C3", 0.01, None, 0.02),
    "enhanced_rigid_bond": request("enhanced_rigid_bond", "C1 C2 C3", 0.004, None, 0.008),
    "isotropic_displacements": request("isotropic_displacements", "C1 C2", 0.1, None, 0.2),
}  # fmt: skip


@pytest.fixture(scope="module")
def structure() -> xray.structure:
    """Atoms in general positions of P -1, C1-C2-C3 bonded; C6 and C7 are isotropic."""
    symmetry = crystal.symmetry((7.1, 8.2, 9.3, 85, 97, 101), "P -1")
    found = xray.structure(crystal.special_position_settings(symmetry))
    cell = symmetry.unit_cell()
    generator = np.random.default_rng(0)
    places = [(2, 2, 2), (3.3, 2.6, 2.3), (3.9, 4.0, 2.0), (1.2, 4.5, 4), (4.5, 1, 4.5), (2, 5, 1)]
    for i, place in enumerate([*places, (1.0, 1.5, 5.5)]):
        root = 0.1 * generator.normal(size=(3, 3))
        u = root @ root.T + 0.02 * np.eye(3)
        u_cart = (u[0, 0], u[1, 1], u[2, 2], u[0, 1], u[0, 2], u[1, 2])
        found.add_scatterer(
            xray.scatterer(
                f"C{i + 1}",
                cell.fractionalize(place),
                adptbx.u_cart_as_u_star(cell, u_cart) if i < 5 else 0.01 * (i - 3),
                scattering_type="C",
            )
        )
    return found


def restrained(structure: xray.structure, *requests: RestraintRequest):
    restraints = StructureRestraints(structure, requests)
    assert not restraints.warnings
    return restraints, StructureModel(structure, RefinedParameters())


@pytest.mark.parametrize("kind", REQUESTS)
def test_rows_agree_with_finite_differences(structure, kind: str) -> None:
    """Central differences of 1e-5 in parameters of which 1 is a large step leave 1e-8."""
    restraints, model = restrained(structure, REQUESTS[kind])
    found = model.derivatives(restraints.residuals)
    columns = []
    for i in range(model.n_parameters):
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                model.shifts[i] += step
                residuals = restraints.residuals(model())
                model.shifts[i] -= step
            sides.append(residuals)
        columns.append((sides[0] - sides[1]) / 2e-5)
    expected = torch.stack(columns, dim=1)
    if kind == "plane":  # the sign of the normal is a matter of chance
        expected = expected * torch.sign((expected * found).sum())
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", REQUESTS)
def test_gradient_is_that_of_the_rows(structure, kind: str) -> None:
    restraints, model = restrained(structure, REQUESTS[kind])
    residuals = restraints.residuals(model())
    (gradient,) = torch.autograd.grad(residuals.square().sum(), model.shifts)
    rows = model.derivatives(restraints.residuals)
    torch.testing.assert_close(gradient, 2 * rows.T @ residuals.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "wanted",
    [
        *(REQUESTS[kind] for kind in REQUESTS if kind not in ("plane", "similar_displacements")),
        request("similar_displacements", "C1 C2", 0.04, None, 0.08, 50.0),
        request("similar_displacements", "C1 C6", 0.04, None, 0.08, 50.0),
        request("similar_displacements", "C6 C7", 0.04, None, 0.08, 50.0),
    ],
    ids=lambda r: f"{r.kind}-{r.atoms[-1]}",
)
def test_number_of_equations_is_the_rank_of_the_rows(structure, wanted) -> None:
    """Of one restraint, that is, or a chain of them: identities are not counted.

    Those of planes hold where the atoms are in one (tested there).
    """
    restraints, model = restrained(structure, wanted)
    rows = model.derivatives(restraints.residuals)
    assert restraints.n_equations == torch.linalg.matrix_rank(rows, rtol=1e-6)


def loss(restraints: StructureRestraints, model: StructureModel) -> float:
    return float(restraints.residuals(model()).square().sum().detach())


def cctbx_residuals(structure: xray.structure, kind: str) -> list[float]:
    """w delta^2 of ``REQUESTS`` by the classes of cctbx."""
    cell, sites = structure.unit_cell(), structure.sites_cart()
    scatterers = structure.scatterers()
    parameters = adp_restraints.adp_restraint_params(
        sites_cart=sites,
        u_cart=scatterers.extract_u_cart(cell),
        u_iso=scatterers.extract_u_iso(),
        use_u_aniso=structure.use_u_aniso(),
    )
    one, image = sgtbx.rt_mx(), sgtbx.rt_mx(INVERTED)
    weight = REQUESTS[kind].sigma ** -2

    def geometric(name: str, **options: object) -> float:
        proxy = {"bond": "bond_simple"}.get(name, name)
        proxy = getattr(geometry_restraints, f"{proxy}_proxy")(**options)
        restraint = getattr(geometry_restraints, name)
        return float(restraint(unit_cell=cell, sites_cart=sites, proxy=proxy).residual())

    def displacement(name: str, i_seqs: tuple[int, ...], w: float = weight) -> float:
        proxy = getattr(adp_restraints, f"{name}_proxy")(i_seqs=i_seqs, weight=w)
        restraint = getattr(adp_restraints, name)(parameters, proxy=proxy)
        if name == "rigu":  # cctbx 2022.9 has no sum
            return float(restraint.residual13() + restraint.residual23() + restraint.residual33())
        return float(restraint.residual())

    if kind == "distance":
        bond = {"distance_ideal": 1.5, "weight": weight}
        return [
            geometric("bond", i_seqs=(0, 1), **bond),
            geometric("bond", i_seqs=(0, 2), rt_mx_ji=image, **bond),
        ]
    if kind == "equal_distance":  # cctbx gives the weighted mean
        proxy = geometry_restraints.bond_similarity_proxy(
            i_seqs=[(0, 1), (2, 3), (0, 4)], sym_ops=(one, image, one), weights=(weight,) * 3
        )
        restraint = geometry_restraints.bond_similarity(
            unit_cell=cell, sites_cart=sites, proxy=proxy
        )
        return [weight * d**2 for d in restraint.deltas()]
    if kind == "angle":
        angle = {"angle_ideal": 110.0, "weight": weight}
        return [
            geometric("angle", i_seqs=(0, 1, 2), sym_ops=(one,) * 3, **angle),
            geometric("angle", i_seqs=(1, 0, 3), sym_ops=(image, one, one), **angle),
        ]
    if kind == "plane":
        operations = [one] * 4 + [image]
        return [
            geometric("planarity", i_seqs=[0, 1, 2, 3, 4], sym_ops=operations, weights=[weight] * 5)
        ]
    if kind == "chiral_volume":
        chiral = {"volume_ideal": 2.5, "both_signs": False, "weight": weight}
        operations = (one, one, one, image)
        return [geometric("chirality", i_seqs=(0, 1, 2, 3), sym_ops=operations, **chiral)]
    far = REQUESTS[kind].sigma_far ** -2
    # C1 and C3 end the chain, C6 and C7 stand alone: terminal atoms all but C2
    if kind == "isotropic_displacements":
        return [displacement("isotropic_adp", (0,), far), displacement("isotropic_adp", (1,))]
    if kind == "similar_displacements":
        pairs = [(0, 1), (0, 5), (0, 6), (1, 5), (1, 6), (5, 6)]
        return [displacement("adp_similarity", pair, far) for pair in pairs]
    name = "rigu" if kind == "enhanced_rigid_bond" else "rigid_bond"
    return [
        displacement(name, (0, 1)),
        displacement(name, (1, 2)),
        displacement(name, (0, 2), far),
    ]


@pytest.mark.parametrize("kind", REQUESTS)
def test_values_are_those_of_cctbx(structure, kind: str) -> None:
    restraints, model = restrained(structure, REQUESTS[kind])
    expected = cctbx_residuals(structure, kind)
    assert min(expected) > 0
    assert loss(restraints, model) == pytest.approx(sum(expected), rel=1e-9)
    (restraint,) = restraints.restraints
    crystal_now = restraints.crystal(model())
    with torch.no_grad():
        measures = restraint.measures(crystal_now)
    squares = [(m.deviation / m.sigma) ** 2 for m in measures]
    if kind == "plane":
        squares = [sum(squares)]
    assert_allclose(squares, expected, rtol=1e-9)
    for m in measures:
        assert m.value - (m.target or 0.0) == pytest.approx(m.deviation, abs=1e-12)


def test_planes_of_regular_rings_have_finite_rows_that_leave_rigid_motions_free() -> None:
    """A regular hexagon: the two eigenvalues in the plane are equal to round-off."""
    structure = nitrobenzene()
    restraints, model = restrained(structure, request("plane", "C1 C2 C3 C4 C5 C6", 0.1))
    rows = model.derivatives(restraints.residuals).numpy()
    assert np.isfinite(rows).all()
    cell = structure.unit_cell()
    sites = structure.sites_cart().as_numpy_array()
    jacobian = model.jacobian()
    for turn in [*np.eye(3), None]:
        move = np.cross(turn, sites) if turn is not None else np.tile([0.3, -0.2, 0.5], (14, 1))
        fractional = np.array([cell.fractionalize(tuple(m)) for m in move])
        wanted = np.zeros(jacobian.shape[1])
        for i, places in enumerate(structure_map(model)):
            wanted[places : places + 3] = fractional[i]
        shifts, *_ = np.linalg.lstsq(jacobian.T, wanted, rcond=None)
        assert np.abs(rows @ shifts).max() < 1e-8 * np.abs(rows).max() * np.abs(shifts).max()
    assert restraints.n_equations == np.linalg.matrix_rank(rows, tol=1e-8 * np.abs(rows).max())
    assert restraints.n_equations == 3


def structure_map(model: StructureModel) -> list[int]:
    """Where the site of each atom begins among the crystallographic parameters."""
    return [indices.site for indices in model.current_structure().parameter_map()]


def test_angles_of_180_degrees_have_finite_derivatives() -> None:
    symmetry = crystal.symmetry((9, 9, 9, 90, 90, 90), "P 1")
    structure = xray.structure(crystal.special_position_settings(symmetry))
    for i in range(3):
        structure.add_scatterer(xray.scatterer(f"C{i}", (0.1 + 0.15 * i, 0.2, 0.3), 0.02))
    restraints, model = restrained(structure, request("angle", "C0 C1 C2", 1.0, 180.0))
    assert loss(restraints, model) == pytest.approx(0, abs=1e-20)
    assert torch.isfinite(model.derivatives(restraints.residuals)).all()


def test_symmetry_keeps_special_positions() -> None:
    """Si of quartz may move along its axis only: one column of the sites, whatever pulls it."""
    symmetry = crystal.symmetry((4.9137, 4.9137, 5.4047, 90, 90, 120), "P 32 2 1")
    structure = xray.structure(crystal.special_position_settings(symmetry))
    structure.add_scatterer(xray.scatterer("Si", (0.4697, 0.0, 2 / 3), 0.01))
    structure.add_scatterer(xray.scatterer("O", (0.4135, 0.2669, 0.7858), 0.01))
    neighbours = structure.pair_asu_table(distance_cutoff=1.7).extract_pair_sym_table()
    operations = neighbours[0][1]
    assert len(operations) == 2  # the other two are their images
    wanted = RestraintRequest(
        "distance",
        "Si-O",
        tuple(a for o in operations for a in (AtomName("Si"), AtomName("O", o.as_xyz()))),
        0.01,
        1.6,
    )
    restraints, model = restrained(structure, wanted)
    lengths = [m.value for m in restraints.restraints[0].measures(restraints.crystal(model()))]
    assert_allclose(lengths, [1.605, 1.614], atol=0.01)
    names = ["Si.x", "O.x", "O.y", "O.z"]
    sites = StructureModel(structure, RefinedParameters(displacements=False))
    assert sites.derivatives(restraints.residuals).shape == (2, len(names))


def test_chiral_centre_of_an_l_amino_acid_is_positive() -> None:
    """SHELXL's manual: C_alpha of an L amino acid has +2.5 Angstrom^3.

    Seen from its hydrogen, CO, R and N of an L amino acid stand clockwise.
    """
    symmetry = crystal.symmetry((10, 10, 10, 90, 90, 90), "P 1")
    structure = xray.structure(crystal.special_position_settings(symmetry))
    centre, cell = np.array([5.0, 5.0, 5.0]), symmetry.unit_cell()
    structure.add_scatterer(xray.scatterer("CA", cell.fractionalize(tuple(centre)), 0.02))
    sine = math.sqrt(8) / 3  # the hydrogen is above, the others a third below
    for label, angle, length in (("N", -150, 1.46), ("C", 90, 1.53), ("CB", -30, 1.53)):
        turn = math.radians(angle)
        direction = np.array([sine * math.cos(turn), sine * math.sin(turn), -1 / 3])
        place = cell.fractionalize(tuple(centre + length * direction))
        structure.add_scatterer(xray.scatterer(label, place, 0.02, scattering_type=label[0]))
    restraints, model = restrained(structure, request("chiral_centre", "CA", 0.1, 2.5))
    (measure,) = restraints.restraints[0].measures(restraints.crystal(model()))
    assert [str(i) for i in measure.images] == ["CA", "C", "CB", "N"]
    assert measure.value == pytest.approx(2.6, abs=0.1)


def test_rigid_bonds_do_not_reach_isotropic_atoms(structure) -> None:
    restraints = StructureRestraints(structure, [request("rigid_bond", "C6 C7", 0.01, None, 0.01)])
    assert restraints.warnings == ["rigid_bond: no atoms were found to restrain"]
    assert restraints.n_equations == 0
    model = StructureModel(structure, RefinedParameters())
    assert model.derivatives(restraints.residuals).shape == (0, model.n_parameters)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (request("distance", "C1 C99", 0.02, 1.5), "there is no atom C99"),
        (request("distance", "C1 C2", 0.0, 1.5), "standard deviation 0 is not above zero"),
        (request("distance", "C1 C2", math.nan, 1.5), "standard deviation nan is not above zero"),
        (request("rigid_bond", "C1 C2", 0.1, None, -1.0), "deviation of far atoms -1 is not"),
        (request("distance", "C1 C2", 0.02), "the target is missing"),
        (request("distance", "C1 C2", 0.02, -1.5), "the target -1.5 Angstrom is not possible"),
        (request("angle", "C1 C2 C3", 1, 190.0), "the target 190 degrees is not possible"),
        (request("distance", "C1 C2 C3", 0.02, 1.5), "3 atoms were given, not a multiple of 2"),
        (request("distance", "C1 C1", 0.02, 1.5), "C1 and C1 are the same place"),
        (request("equal_distance", "C1 C2", 0.02), "one distance has no other to be equal to"),
        (request("plane", "C1 C2 C3", 0.1), "3 atoms are always in a plane"),
        (request("chiral_centre", "C1", 0.1, 0.0), "C1 has 1 bonds to atoms other than hydrogen"),
        (request("rigid_bond", "C1 C2'", 0.1, None, 0.1), "C2 (-x,-y,-z+1) is not in the asym"),
        (
            RestraintRequest("distance", "d", (AtomName("C1"), AtomName("C2", "x,-y,z")), 1, 1),
            "the operation x,-y,z is not one of the space group P -1",
        ),
        (
            RestraintRequest("distance", "d", (AtomName("C1"), AtomName("C2", "nonsense")), 1, 1),
            "'nonsense' is not a symmetry operation",
        ),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_sentence(structure, wrong: RestraintRequest, message: str) -> None:
    with pytest.raises(ValueError) as error:
        StructureRestraints(structure, [wrong])
    assert str(error.value).startswith(f"{wrong.source}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_atoms_on_a_line_define_no_plane() -> None:
    symmetry = crystal.symmetry((9, 9, 9, 90, 90, 90), "P 1")
    sites = [(0.1 + 0.15 * i, 0.2, 0.3) for i in range(4)]
    structure = xray.structure(
        crystal_symmetry=symmetry,
        scatterers=flex.xray_scatterer([xray.scatterer(f"C{i}", s) for i, s in enumerate(sites)]),
    )
    with pytest.raises(ValueError, match="the atoms define no plane"):
        StructureRestraints(structure, [request("plane", "C0 C1 C2 C3", 0.1)])
