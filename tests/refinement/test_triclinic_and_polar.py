"""Crystals without axes, and polar ones, come back from broken starts."""

from __future__ import annotations

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
from molecules import alanine_in_p1, oxamide

from cctbx import xray

from benchmarks.left_out import lead_titanate
from dials_hybrid_refine.models.prepare import Model, ModelChoices, prepare
from dials_hybrid_refine.models.refined_flags import RefinedParameters

RIDING = ModelChoices(hydrogens="riding")
#: atoms that are displaced by 0.08 Angstrom; number of parameters
MOLECULES = {
    # 3 coordinates and U of C, O, N: the planar NH2 has no torsion
    "P-1": (oxamide, 3, 3 * 4, 12.0),
    # of six atoms, and the torsions of CH3 and NH3
    "P1": (alanine_in_p1, 6, 6 * 4 + 2, 15.0),
}


@pytest.fixture(scope="module", params=MOLECULES)
def molecule(request: pytest.FixtureRequest) -> tuple[Outcome, xray.structure, int, int]:
    """What was found, the truth, the numbers of displaced atoms and of parameters."""
    make, n_displaced, n_parameters, half_scan = MOLECULES[request.param]
    truth, _ = prepare(Model(make()), RIDING)
    start = displaced(truth.structure, 0.08, list(range(n_displaced)))
    model, _ = prepare(Model(start), RIDING)
    outcome = refine(truth.structure, model, RefinedParameters(), half_scan)
    return outcome, truth.structure, n_displaced, n_parameters


def test_triclinic_molecules_come_back(
    molecule: tuple[Outcome, xray.structure, int, int],
) -> None:
    outcome, truth, n, n_parameters = molecule
    assert outcome.model.n_parameters == n_parameters
    assert outcome.r < NOISE
    # in P1 the origin is free: positions are compared by their differences
    scatterers = zip(truth.scatterers(), outcome.structure.scatterers())
    offset = np.array([np.subtract(b.site, a.site) for a, b in scatterers])
    if str(truth.space_group_info()) == "P 1":
        offset -= offset[:n].mean(0)
    matrix = np.array(truth.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    distance = np.linalg.norm(offset @ matrix.T, axis=1)
    su = np.linalg.norm(site_uncertainties(outcome).reshape(-1, 3), axis=1)
    assert su[:n].max() < 0.02
    assert (distance[:n] < 4 * su[:n]).all()
    assert distance.max() < 0.05
    u_su = uncertainties(outcome, outcome.model._layout.u_iso_columns)
    for k, a, b in zip(range(n), truth.scatterers(), outcome.structure.scatterers()):
        assert b.u_iso == pytest.approx(a.u_iso, abs=4 * u_su[k])


def test_lead_titanate_comes_back() -> None:
    """P 4 m m, polar: the coordinates along c are found relative to each other."""
    truth = lead_titanate()
    start = truth.deep_copy_scatterers()
    for scatterer, shift in zip(start.scatterers(), (0.0, -0.02, 0.02, -0.015)):
        x, y, z = scatterer.site
        scatterer.site = (x, y, z + shift)
        scatterer.u_iso = 0.012
    outcome = refine(truth, Model(start), RefinedParameters(), half_scan=15.0)
    # z and U of four atoms
    assert outcome.model.n_parameters == 2 * 4
    assert outcome.r < NOISE
    found, true = (
        np.array([s.site[2] for s in structure.scatterers()])
        for structure in (outcome.structure, truth)
    )
    su = site_uncertainties(outcome).reshape(-1, 3)
    assert su[:, :2].max() < 1e-9 < 1e-5 < su[:, 2].min() and su[:, 2].max() < 0.01
    deviation = ((found - found.mean()) - (true - true.mean())) * truth.unit_cell().parameters()[2]
    assert (np.abs(deviation) < 4 * su[:, 2]).all()
    assert distance_from(truth, start).max() > 0.08
