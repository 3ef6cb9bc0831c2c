"""The basin of the thickness: found by a scan, from anywhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from examples import crossing_reflections, make_scan, quartz_structure
from simulated_data import displaced_quartz, with_noise

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.models.choose import OrientationOptions, ThicknessOptions
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.options import BeamOptions, RefinementOptions
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.schedule import Controls, Schedule
from dials_hybrid_refine.refinement.settings import (
    coarse_selection,
    largest_node,
    node_spacing,
    scan_nodes,
    thickness_nodes,
)
from dials_hybrid_refine.refinement.thickness_course import (
    StartingThickness,
    coarse_end,
    scan_basin,
    set_thickness,
)
from dials_hybrid_refine.refinement.thickness_start import normal_distribution

G_MAX = 1.2
ONE_THREAD = PropagationSettings(n_threads=1)


@lru_cache(maxsize=None)
def simulated(thickness: float) -> tuple[ScanGeometry, Observations]:
    """Quartz, 20 degrees; normally distributed by a tenth; noise of 2 % and 0.3 % of the mean."""
    scan = make_scan(quartz_structure(), -10, 10)
    observations = crossing_reflections(scan, G_MAX, 0.006)
    tilt_step = float(np.clip(np.degrees(1 / (G_MAX * 1.2 * thickness)), 0.02, 0.1))
    intensity = simulate_intensities(
        scan,
        observations,
        quartz_structure(),
        GivenThickness([thickness], 0.1 * thickness, scan.phi_range),
        None,
        BeamSelection(1.3 * G_MAX, 0.02, tilt_step),
        ONE_THREAD,
    )
    return scan, with_noise(observations, intensity, 0.02, 0.003)


@pytest.mark.parametrize("thickness", [50.0, 80.0, 500.0, 1500.0, 2800.0, 3000.0])
@pytest.mark.parametrize("distance", [0.0, 0.1])
def test_scan_finds_the_basin(thickness: float, distance: float) -> None:
    """To an eighth, the distance of thin nodes, with true atoms; to a quarter with displaced ones."""
    scan, observations = simulated(thickness)
    model = HybridModel(
        StructureModel(displaced_quartz(distance), RefinedParameters()),
        ConstantThickness(500.0),
        SmoothOrientation([scan.phi_range]),
    )
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    options = RefinementOptions(propagation=ONE_THREAD)
    found = scan_basin(model, data, options, lambda t: coarse_selection(G_MAX, t))
    assert found.best[0] == pytest.approx(thickness, rel=0.125 if distance == 0 else 0.25)


@pytest.mark.parametrize("thickness, start", [(80.0, 2000.0), (500.0, 3000.0), (1500.0, 50.0)])
def test_a_start_far_off_does_no_harm(thickness: float, start: float) -> None:
    """The refined thickness, from displaced atoms, after a single full step."""
    scan, observations = simulated(thickness)
    options = RefinementOptions(
        thickness=ThicknessOptions(model="constant"),
        thickness_start=start,
        beams=BeamOptions(g_max=1.3, s_max=0.012),
        schedule=Schedule(coarse_steps=2, cycles=1, steps_per_cycle=1),
        orientation=OrientationOptions(scan=False),
        propagation=ONE_THREAD,
    )
    result = run_refinement([scan], observations, displaced_quartz(0.1), options)
    assert result.profiles.thickness_mean == pytest.approx(thickness, rel=0.15)


def test_thin_crystals_get_close_nodes() -> None:
    """A distribution of 80 +- 12 Angstrom keeps its moments on the nodes of the network."""
    mean, width = 80.0, 12.0
    largest = largest_node(mean, width)
    nodes = thickness_nodes(largest, node_spacing(mean, largest, 50.0))
    assert len(nodes) <= 100
    model = NeuralThickness(nodes, normal_distribution(nodes, mean, width) + 1e-30, [(0.0, 30.0)])
    distribution = model(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64))
    assert distribution.mean().item() == pytest.approx(mean, rel=0.01)
    assert distribution.standard_deviation().item() == pytest.approx(width, rel=0.1)
    # thick ones keep the distance they are given, and room for their tail
    assert node_spacing(500.0, largest_node(500.0, 75.0), 50.0) == 50
    assert largest_node(2800.0, 420.0) > 5000


def test_nodes_of_a_scan() -> None:
    nodes = scan_nodes(4000.0, 50.0)
    steps = np.diff(nodes)
    assert nodes[0] == 20 and 3900 < nodes[-1] <= 4000
    assert steps.min() == 5 and steps.max() == 50
    assert (steps <= np.maximum(5, nodes[:-1] / 8) + 1e-9).all()


def test_weights_stand_for_their_share_of_the_axis() -> None:
    """On uneven nodes a normal distribution keeps its mean and width."""
    nodes = scan_nodes(1500.0, 50.0)
    for mean in (60.0, 300.0, 700.0):
        weights = normal_distribution(nodes, mean, 0.2 * mean)
        assert weights.sum() == pytest.approx(1)
        assert weights @ nodes == pytest.approx(mean, rel=0.01)
        assert np.sqrt(weights @ (nodes - mean) ** 2) == pytest.approx(0.2 * mean, rel=0.03)


def coarse_refinement(true: float, mean: float, width: float) -> tuple[HybridModel, float]:
    """A neural model after the coarse steps, from a thickness (mean +- width) and true atoms, and the
    thickness it started from in the end; all in Angstrom."""
    scan, observations = simulated(true)
    options = RefinementOptions(propagation=ONE_THREAD, schedule=Schedule(coarse_tolerance=1e-3))
    model = HybridModel(
        StructureModel(quartz_structure(), RefinedParameters()),
        ConstantThickness(500.0),
        SmoothOrientation([scan.phi_range]),
    )
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    refinement = Refinement(
        data,
        model,
        ONE_THREAD,
        options.weighting,
        options.scale_variation,
        options.schedule,
        Controls(),
        1.0,
        lambda thickness: coarse_selection(G_MAX, thickness),
    )
    start = StartingThickness.of([(mean, width)])
    set_thickness(model, data, options, start)
    end = coarse_end(refinement, data, options, lambda t: coarse_selection(G_MAX, t), start)
    return model, end.largest


def test_thickness_beyond_the_nodes_is_reached() -> None:
    """With nodes up to 800 Angstrom the distribution of a thicker crystal runs into the last ones."""
    model, start = coarse_refinement(1500.0, 400.0, 100.0)
    assert start >= 600
    assert isinstance(model.thickness, NeuralThickness)
    assert model.thickness.nodes[-1] >= 1200


def test_enough_nodes_are_kept() -> None:
    model, start = coarse_refinement(500.0, 450.0, 100.0)
    assert start == 450
    assert isinstance(model.thickness, NeuralThickness)
    assert model.thickness.nodes[-1] == 900
