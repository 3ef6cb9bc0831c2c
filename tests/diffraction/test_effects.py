"""Where effects act in the simulation, and what they are told about the parts of intensities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import (
    atoms_of,
    crossing_reflections,
    fixed_thickness,
    make_scan,
    no_rotation,
    plan,
    quartz_structure,
)

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.parts import directional_derivative
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.simulator import PhysicalModels, Simulator

STRUCTURE = quartz_structure()
#: so narrow that some windows have tails, and blocks that share windows
SELECTION = BeamSelection(g_max=1.3, s_max=0.004, tilt_step=0.1, block_width=1.5)


@pytest.fixture(scope="module")
def experiment() -> tuple[ScanGeometry, Observations, Simulator]:
    scan = make_scan(STRUCTURE, -3.0, 3.0)
    observations = crossing_reflections(scan, 1.2, 0.006)
    settings = PropagationSettings(dtype=torch.complex128)
    return scan, observations, plan(STRUCTURE, scan, observations, SELECTION).simulator(settings)


def integrated(experiment, **effects) -> np.ndarray:
    _, observations, simulator = experiment
    models = PhysicalModels(fixed_thickness(300.0), no_rotation, **effects)
    with torch.no_grad():
        parts = simulator(atoms_of(STRUCTURE), models)
    total = np.zeros(len(observations))
    np.add.at(total, parts.observation.numpy(), parts.value.numpy())
    return total


def test_parts_are_described_as_the_observations_are(experiment) -> None:
    scan, observations, simulator = experiment
    parts = simulator.parts
    place = parts.observation.numpy()
    assert len(place) > len(observations)
    assert simulator._tail_weight.numel() > 0
    np.testing.assert_array_equal(parts.hkl, observations.hkl[place])
    phi = parts.phi.numpy()
    n_pairs = len(place) - simulator._tail_weight.numel()
    inside = slice(0, n_pairs)
    # a tilt stands for the cell around it, half of which may lie outside the window
    slack = SELECTION.tilt_step / 2 + 1e-9
    assert (phi > observations.phi_start[place] - slack)[inside].all()
    assert (phi < observations.phi_end[place] + slack)[inside].all()
    # g turns by |g| dphi between the angle and the nearest tilt
    expected = np.einsum("pij,pj->pi", scan.reciprocal_bases(phi), observations.hkl[place])
    deviation = np.linalg.norm(parts.reciprocal_vector.numpy() - expected, axis=1)
    assert (deviation < 1.2 * np.radians(SELECTION.tilt_step))[inside].all()
    shares = np.bincount(place, parts.share, len(observations))
    np.testing.assert_allclose(shares[np.unique(place)], 1)


def test_intensity_effects_see_all_of_an_intensity(experiment) -> None:
    """A factor and a sum, in the order given; the tails take part."""
    plain = integrated(experiment)
    changed = integrated(
        experiment,
        intensity_effects=[
            lambda values, parts: values * parts.hkl[:, 0],
            lambda values, parts: values + 0.01 * parts.share,
        ],
    )
    expected = plain * experiment[1].hkl[:, 0] + 0.01
    np.testing.assert_allclose(changed, expected, rtol=1e-9, atol=1e-15)


def test_curve_effects_act_before_integration_and_leave_tails_alone(experiment) -> None:
    plain = integrated(experiment)
    simulator = experiment[2]
    doubled = integrated(experiment, curve_effects=[lambda curves, batch: 2 * curves])
    n_pairs = len(simulator.parts.phi) - simulator._tail_weight.numel()
    with torch.no_grad():
        models = PhysicalModels(fixed_thickness(300.0), no_rotation)
        value = simulator(atoms_of(STRUCTURE), models).value[n_pairs:].numpy()
    tails = np.zeros(len(plain))
    np.add.at(tails, simulator.parts.observation[n_pairs:].numpy(), value)
    assert tails.max() > 1e-3 * plain.max()
    np.testing.assert_allclose(doubled, 2 * (plain - tails) + tails, rtol=1e-9, atol=1e-15)


def test_derivatives_by_thickness_pass_through_effects(experiment) -> None:
    """Against central differences of step 1e-4 of all blocks together, effects that are not linear.

    Third derivatives are of the order of 1 by weights of the order of 1, and of (2 pi s_max)^3 by
    thicknesses in Angstrom, so that 1e-7 is left.
    """
    simulator = experiment[2]
    effects = {
        "curve_effects": [
            lambda curves, batch: curves - 0.5 * curves**2,
            lambda curves, batch: curves * (1 + 0.1 * batch.phi[:, None]),
        ],
        "intensity_effects": [
            lambda values, parts: values / (1 + values),
            lambda values, parts: values * parts.phi + 0.01 * parts.share,
        ],
    }
    nodes, weights = torch.tensor([[200.0, 300.0, 400.0], [0.2, 0.5, 0.3]], dtype=torch.float64)

    def values(thickness: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        models = PhysicalModels(fixed_thickness(thickness, weight), no_rotation, **effects)
        with torch.no_grad():
            return simulator(atoms_of(STRUCTURE), models).value

    models = PhysicalModels(fixed_thickness(nodes, weights), no_rotation, **effects)
    found = simulator.thickness_derivatives(atoms_of(STRUCTURE), models)
    for m, step in enumerate(1e-4 * torch.eye(3, dtype=torch.float64)):
        by_weight = values(nodes, weights + step) - values(nodes, weights - step)
        by_thickness = values(nodes + step, weights) - values(nodes - step, weights)
        for part, difference in zip(found, (by_weight, by_thickness)):
            expected = difference / 2e-4
            scale = float(expected.abs().max())
            torch.testing.assert_close(part[:, m], expected, rtol=0, atol=1e-6 * scale)


def test_directional_derivative() -> None:
    """Of x^3 at 0.5 along 2: 2 * 3 x^2, with an error of about step^2 * 2^3."""
    point = torch.tensor([0.5], dtype=torch.float64)
    found = directional_derivative(lambda x: x**3, point, torch.full_like(point, 2.0))
    assert found.item() == pytest.approx(1.5, abs=1e-6)
