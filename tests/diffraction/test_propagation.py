"""The propagation through blocks of a scan against dense linear algebra, and single nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import (
    EXACT,
    WAVELENGTH,
    Example,
    atoms_of,
    dense_curves,
    dense_settings,
    fixed_thickness,
    no_rotation,
    reciprocal_basis,
    small_example,
    still_intensities,
    triclinic_structure,
)
from hand_made import absorbing_problem

from dials_hybrid_refine.diffraction.batch_propagation import NodeIntensities
from dials_hybrid_refine.diffraction.potential import CrystalPotential
from dials_hybrid_refine.diffraction.propagation import propagate, propagate_nodes
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.models.structure import composition_of

SINGLE = PropagationSettings(dtype=torch.complex64)
THICKNESSES = torch.tensor([40.0, 260.0, 900.0], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


@pytest.fixture(scope="module", params=["quartz", "triclinic", "centrosymmetric"])
def example(request: pytest.FixtureRequest) -> Example:
    structure = {
        "quartz": None,
        "triclinic": triclinic_structure(),
        "centrosymmetric": triclinic_structure("P -1"),
    }[request.param]
    return small_example(structure, dense=True)


@pytest.fixture(scope="module")
def sparse() -> Example:
    """With beams that are off at some tilts, and several batches."""
    return small_example()


def test_kinematical_limit_of_the_whole_simulation() -> None:
    """I_g -> (pi t |U_g| / K)^2 sinc^2(t S_g) for 4 Angstrom of a crystal.

    Corrections are of second order in the phase pi t U_0 / K = 0.04 and of first order in w_g^2 - 1
    = 0.01: a per cent of the strongest.
    """
    structure, t = triclinic_structure(), 4.0
    basis = reciprocal_basis(structure, [0.4, -0.7, 1.1])
    found = still_intensities(structure, basis, t)
    hkl = np.array(list(found))
    u = CrystalPotential(
        np.concatenate([np.zeros((1, 3), dtype=np.int64), hkl]),
        composition_of(structure),
        WAVELENGTH,
    )(atoms_of(structure)).numpy()
    k = np.sqrt(1 / WAVELENGTH**2 + u[0].real)
    g = hkl @ basis.T
    s = (k**2 - ((np.array([0, 0, -k]) + g) ** 2).sum(axis=1)) / (2 * k)
    expected = (np.pi * t * np.abs(u[1:]) / k) ** 2 * np.sinc(t * s) ** 2
    values = np.array(list(found.values()))
    np.testing.assert_allclose(values, expected, rtol=0, atol=0.015 * expected.max())
    assert np.abs(values - expected).max() > 1e-7 * expected.max()


def curves_and_reference(
    example: Example, settings: PropagationSettings, absorption: float | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rocking curves of every batch and those from dense matrix exponentials."""
    simulator, atoms = example.simulator(settings), atoms_of(example.structure)
    models = PhysicalModels(fixed_thickness(THICKNESSES, WEIGHTS), no_rotation)
    potential = simulator.potential(atoms)
    absorptive = None
    if absorption is not None:
        models = replace(models, absorption=lambda a, c, u, e: absorption * u)
        absorptive = absorption * potential
    curves = simulator.rocking_curves(atoms, models)
    pairs = []
    for batch, found in zip(simulator.batches, curves):
        dense = dense_settings(
            batch, example.scan.beam_direction, WAVELENGTH, potential, absorptive
        )
        pairs.append((found, dense_curves(batch, dense, THICKNESSES, WEIGHTS)))
    return pairs


@pytest.mark.parametrize("absorption", [None, 0.07])
@pytest.mark.parametrize(
    "settings, tolerance", [(EXACT, 1e-11), (SINGLE, 2e-6)], ids=["complex128", "complex64"]
)
def test_blocks_of_a_scan_agree_with_dense_exponentials(
    example: Example, settings: PropagationSettings, tolerance: float, absorption: float | None
) -> None:
    """Tolerances: of the incident beam; a dense complex128 exponential has about 1e-13."""
    strongest = 0.0
    for found, expected in curves_and_reference(example, settings, absorption):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        strongest = max(strongest, float(expected.max()))
    assert strongest > 0.02


def test_beams_that_are_off_stay_dark(sparse: Example) -> None:
    """An observed beam is zero at tilts where it is off; the others do not see it."""
    n_off = 0
    for found, expected in curves_and_reference(sparse, EXACT, None):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        n_off += int(((found == 0) & (expected == 0)).sum())
        assert ((found == 0) == (expected == 0)).all()
    assert n_off > 5


def test_nodes_add_up_to_the_distribution_and_slopes_are_derivatives() -> None:
    thickness = torch.tensor([150.0, 400.0], dtype=torch.float64)
    data = absorbing_problem(0.05, thickness)
    data = replace(data, weight=torch.tensor([[0.3, 0.7]], dtype=torch.float64))

    def nodes(t: torch.Tensor, slopes: bool = True) -> NodeIntensities:
        moved = replace(data, thickness=t[None])
        (found,) = propagate_nodes([moved], EXACT, lambda _, n: n, slopes=slopes)
        return found

    found = nodes(thickness)
    together, _ = propagate([data], EXACT)
    expected = torch.einsum("m,bmrn->brn", data.weight[0], found.intensity)
    assert together.max() > 0.01
    torch.testing.assert_close(together, expected, rtol=1e-13, atol=0)
    # error of the central difference: (2 pi rho h)^2 / 6 of the slope, and 1e-15 / h
    h = 1e-3
    difference = (nodes(thickness + h).intensity - nodes(thickness - h).intensity) / (2 * h)
    torch.testing.assert_close(found.slope, difference, rtol=1e-6, atol=1e-11)
    alone = nodes(thickness, slopes=False)
    assert alone.slope is None
    torch.testing.assert_close(alone.intensity, found.intensity, rtol=1e-13, atol=0)


def test_no_thickness_no_diffraction() -> None:
    data = absorbing_problem(0.05, torch.zeros(1, dtype=torch.float64))
    intensity, _ = propagate([data], EXACT)
    assert intensity.abs().max() < 1e-30
