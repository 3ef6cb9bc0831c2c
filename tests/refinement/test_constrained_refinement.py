"""Refinement from a broken start: constraints hold, and what they leave free is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from broken_starts import (
    NOISE,
    Outcome,
    displaced,
    distance_from,
    refine,
    site_uncertainties,
    uncertainties,
)
from examples import make_structure, triclinic_structure
from molecules import alanine, separation

from cctbx import adptbx, xray
from smtbx.refinement.constraints.rigid import rigid_rotatable_expandable_group

from dials_hybrid_refine.models.prepare import Model, ModelChoices, prepare
from dials_hybrid_refine.models.refined_flags import RefinedParameters


@pytest.fixture(scope="module")
def riding() -> tuple[Outcome, xray.structure]:
    """L-alanine from non-hydrogen atoms 0.08 Angstrom off, hydrogen atoms riding."""
    truth, _ = prepare(Model(alanine()), ModelChoices(hydrogens="riding"))
    start = displaced(truth.structure, 0.08, list(range(6)))
    model, _ = prepare(Model(start), ModelChoices(hydrogens="riding"))
    return refine(truth.structure, model, RefinedParameters()), truth.structure


def test_structure_with_riding_hydrogens_comes_back(
    riding: tuple[Outcome, xray.structure],
) -> None:
    outcome, truth = riding
    # 3 coordinates and U of six atoms, 2 torsions
    assert outcome.model.n_parameters == 6 * 4 + 2
    assert outcome.r < NOISE
    su = site_uncertainties(outcome).reshape(-1, 3)[:6]
    assert su.max() < 0.01
    assert (distance_from(truth, outcome.structure)[:6] < 4 * np.linalg.norm(su, axis=1)).all()
    assert distance_from(truth, outcome.structure).max() < 0.03


def test_riding_hydrogens_keep_their_geometry(riding: tuple[Outcome, xray.structure]) -> None:
    structure = riding[0].structure
    for parent, hydrogens, length in (
        ("C2", ["H2"], 1.099),
        ("C3", ["H3A", "H3B", "H3C"], 1.077),
        ("N1", ["H1A", "H1B", "H1C"], 1.032),
    ):
        for k, hydrogen in enumerate(hydrogens):
            assert separation(structure, parent, hydrogen) == pytest.approx(length, abs=1e-6)
            across = separation(structure, hydrogen, hydrogens[k - 1])
            # tetrahedral: H-H is sqrt(8/3) of X-H
            assert across == pytest.approx(
                length * (8 / 3) ** 0.5 if len(hydrogens) > 1 else 0, abs=1e-6
            )
    atoms = {s.label: s for s in structure.scatterers()}
    assert atoms["H2"].u_iso == pytest.approx(1.2 * atoms["C2"].u_iso)
    assert atoms["H3B"].u_iso == pytest.approx(1.5 * atoms["C3"].u_iso)


def test_rigid_group_keeps_its_shape_and_finds_its_place() -> None:
    """The carboxylate group of alanine, turned by 5 degrees and moved by 0.08 Angstrom."""
    truth = alanine(hydrogens=False)
    start = truth.deep_copy_scatterers()
    cell, members = truth.unit_cell(), [3, 0, 1]
    sites = np.array([cell.orthogonalize(truth.scatterers()[i].site) for i in members])
    angle = np.radians(5.0)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    for i, site in zip(members, (sites - sites[0]) @ turn.T + sites[0] + [0.05, -0.04, 0.05]):
        start.scatterers()[i].site = cell.fractionalize(tuple(site))
    group = rigid_rotatable_expandable_group(3, (0, 1), False, True)
    outcome = refine(
        truth, Model(start, [group]), RefinedParameters(displacements=False), half_scan=8.0
    )
    assert outcome.model.n_parameters == 3 * 3 + 6
    for pair in (("C1", "O1"), ("C1", "O2"), ("O1", "O2")):
        assert separation(outcome.structure, *pair) == pytest.approx(
            separation(truth, *pair), abs=1e-6
        )
    assert distance_from(truth, start)[members].max() > 0.1
    assert distance_from(truth, outcome.structure).max() < 0.01


def mixed_wurtzite(share: float, z: float, u: float) -> xray.structure:
    """Zn(S,Se), polar, S and Se on one site: cell and z about those of ZnS, P 63 m c."""
    return make_structure(
        (3.90, 3.90, 6.38, 90, 90, 120),
        "P 63 m c",
        [
            ("Zn", (1 / 3, 2 / 3, 0.0), u, 1.0),
            ("S", (1 / 3, 2 / 3, z), u, share),
            ("Se", (1 / 3, 2 / 3, z), u, 1 - share),
        ],
    )


@pytest.fixture(scope="module")
def mixed() -> tuple[Outcome, xray.structure]:
    """Refined with anisotropic U from equal shares and a shifted site."""
    truth = mixed_wurtzite(0.7, 0.374, 0.010)
    start, notes = prepare(
        Model(mixed_wurtzite(0.5, 0.385, 0.014)), ModelChoices(adp="anisotropic")
    )
    assert notes == ["atoms on common sites share coordinates and U: S1/Se2"]
    refined = RefinedParameters(occupancies_of=("S1",))
    return refine(truth, start, refined), truth


def test_occupancies_of_a_mixed_site_come_back(mixed: tuple[Outcome, xray.structure]) -> None:
    outcome, _ = mixed
    zinc, sulphur, selenium = outcome.structure.scatterers()
    # z of two sites, U11 = 2 U12 and U33 of two, one share
    assert outcome.model.n_parameters == 2 + 4 + 1
    assert sulphur.occupancy + selenium.occupancy == pytest.approx(1, abs=1e-12)
    (su,) = uncertainties(outcome, outcome.model._layout.occupancy_columns[:1])
    assert su < 0.03
    assert sulphur.occupancy == pytest.approx(0.7, abs=3 * su)
    assert zinc.occupancy == 1
    assert outcome.r < NOISE


def test_atoms_of_a_mixed_site_stay_together(mixed: tuple[Outcome, xray.structure]) -> None:
    outcome, truth = mixed
    zinc, sulphur, selenium = outcome.structure.scatterers()
    assert sulphur.site == selenium.site
    assert sulphur.u_star == selenium.u_star
    expected = truth.scatterers()[1].site[2] - truth.scatterers()[0].site[2]
    assert sulphur.site[2] - zinc.site[2] == pytest.approx(expected, abs=1e-3)
    assert adptbx.u_star_as_u_iso(truth.unit_cell(), zinc.u_star) == pytest.approx(0.010, abs=1e-3)


def test_floating_origin_of_a_polar_group(mixed: tuple[Outcome, xray.structure]) -> None:
    """The centre of the atoms does not move, and z has uncertainties that only the data make."""
    outcome, _ = mixed
    start = mixed_wurtzite(0.5, 0.385, 0.014)
    moved = [
        a.site[2] - b.site[2] for a, b in zip(outcome.structure.scatterers(), start.scatterers())
    ]
    assert abs(np.mean(moved)) * 6.38 < 1e-3
    su = site_uncertainties(outcome).reshape(-1, 3)
    assert np.isfinite(su).all()
    assert (su[:, :2] < 1e-9).all()  # x and y are special
    assert (su[:, 2] > 1e-5).all() and (su[:, 2] < 0.01).all()


def test_floating_origin_in_p1() -> None:
    """With all three directions free all atoms have finite s.u., the same whatever the hold of the origin."""
    truth = triclinic_structure()
    start = displaced(truth, 0.03, [1])
    outcome = refine(truth, Model(start), RefinedParameters(displacements=False), half_scan=25.0)
    assert outcome.model.n_parameters == 12
    su = site_uncertainties(outcome)
    assert (su > 1e-5).all() and (su < 0.05).all()
    shift = np.mean(
        [
            np.subtract(a.site, b.site)
            for a, b in zip(outcome.structure.scatterers(), start.scatterers())
        ],
        0,
    )
    assert np.abs(shift).max() < 1e-3
    # a thousand times looser: the covariance grows, what is stated of the atoms does not
    hold = outcome.model.origin_jacobian().numpy()
    normal = np.linalg.inv(outcome.covariance)
    loose = replace(outcome, covariance=np.linalg.inv(normal - (1 - 1e-6) * hold.T @ hold))
    assert loose.covariance.max() > 100 * outcome.covariance.max()
    np.testing.assert_allclose(site_uncertainties(loose), su, rtol=1e-3)
