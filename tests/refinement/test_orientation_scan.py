"""An orientation that is wrong by more than a rocking curve: found by a search along the scan."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from examples import crossing_reflections, make_scan, perovskite_structure
from scipy.spatial.transform import Rotation
from simulated_data import with_noise

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.journal import Journal
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.orientation_course import start_orientation
from dials_hybrid_refine.refinement.orientation_scan import OrientationPath, scan_orientation
from dials_hybrid_refine.refinement.settings import coarse_selection, scan_nodes
from dials_hybrid_refine.refinement.weights import Weighting, loss_weights

G_MAX = 1.2
THICKNESS = 1500.0  # rocking curves of about 1 / (|g| t) = 0.03 degrees and more
ONE_THREAD = PropagationSettings(n_threads=1)


@lru_cache(maxsize=None)
def simulated(frame_width: float | None = None) -> tuple[ScanGeometry, Observations]:
    """Heavy atoms, 40 degrees, noise of 2 % and 0.3 % of the mean.

    Args:
        frame_width: degrees of the frames that passages are cut into; None: whole passages.
    """
    scan = make_scan(perovskite_structure(), -20, 20)
    observations = crossing_reflections(scan, G_MAX, 0.006)
    if frame_width is not None:
        start = -20 + frame_width * np.floor((observations.phi + 20) / frame_width)
        observations = replace(observations, phi_start=start, phi_end=start + frame_width)
    intensity = simulate_intensities(
        scan,
        observations,
        perovskite_structure(),
        GivenThickness([THICKNESS], 0.1 * THICKNESS, scan.phi_range),
        None,
        BeamSelection(G_MAX, 0.012, 0.03),
        ONE_THREAD,
    )
    return scan, with_noise(observations, intensity, 0.02, 0.003)


def normal_of(scan: ScanGeometry) -> np.ndarray:
    """That of rotation axis and beam."""
    normal = np.cross(scan.rotation_axis, scan.beam_direction)
    return normal / np.linalg.norm(normal)


def turned(scan: ScanGeometry, degrees: np.ndarray, axis: np.ndarray) -> ScanGeometry:
    """The crystal turned about an axis in the laboratory, by an angle at each scan point."""
    turns = Rotation.from_rotvec(np.radians(degrees)[:, None] * axis).as_matrix()
    goniometer = Rotation.from_rotvec(
        np.radians(scan.phi_points)[:, None] * scan.rotation_axis
    ).as_matrix()
    inner = np.swapaxes(goniometer, 1, 2) @ turns @ goniometer
    return replace(scan, crystal_settings=inner @ scan.crystal_settings)


def search(
    degrees: np.ndarray, frame_width: float | None = None, about_axis: bool = False
) -> tuple[OrientationPath, HybridModel, ScanGeometry]:
    """From atoms that vibrate too much."""
    wrong = perovskite_structure()
    for scatterer in wrong.scatterers():
        scatterer.u_iso *= 1.5
    scan, observations = simulated(frame_width)
    scan = turned(scan, degrees, scan.rotation_axis if about_axis else normal_of(scan))
    model = HybridModel(
        StructureModel(wrong, RefinedParameters()),
        ConstantThickness(500.0),
        SmoothOrientation([scan.phi_range]),
    )
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    nodes = scan_nodes(2000.0, 100.0)
    limits = coarse_selection(G_MAX, nodes[-1])

    def simulator_of(model: HybridModel) -> Simulator:
        return build_simulator(data, model, limits, ONE_THREAD)

    weights = loss_weights(observations, ~data.held_out, Weighting(), 1.0)
    return scan_orientation(simulator_of, model, data, weights, nodes), model, scan


def test_a_turned_crystal_is_turned_back() -> None:
    """By 0.2 degrees at one end and 0.1 at the other, about the normal; the refinement does the rest."""
    scan, _ = simulated()
    given = np.interp(scan.phi_points, scan.phi_range, [0.2, 0.1])
    path, model, scan = search(given)
    assert path.is_clear
    expected = -np.interp(path.phi, scan.phi_points, given)
    # less than half a step of the search
    assert path.angles[:, 1] == pytest.approx(expected, abs=0.04)
    path.apply(model, [scan])
    phi = torch.from_numpy(path.phi)[None]
    with torch.no_grad():
        vectors = torch.rad2deg(model.orientation(torch.zeros(1, dtype=torch.int64), phi))[0]
    # knots do not lie at the middles of the stretches
    assert vectors.norm(dim=1).numpy() == pytest.approx(np.abs(path.angles[:, 1]), abs=0.01)
    assert (vectors.numpy() @ scan.beam_direction) == pytest.approx(0, abs=1e-9)


def test_a_crystal_that_is_right_is_left_alone() -> None:
    scan, _ = simulated()
    path, *_ = search(np.zeros(len(scan.phi_points)))
    assert not path.is_clear
    assert path.largest == 0


def test_a_turn_about_the_axis_is_found_where_windows_cut() -> None:
    """Frames of a degree: a turn by 0.15 takes a share of the passages from one to the next."""
    scan, _ = simulated(1.0)
    given = np.full(len(scan.phi_points), 0.15)
    path, *_ = search(given, frame_width=1.0, about_axis=True)
    assert path.is_clear
    assert path.angles[:, 0] == pytest.approx(-0.15, abs=0.04)
    assert path.angles[:, 1] == pytest.approx(0, abs=0.04)


def test_a_turn_about_the_axis_is_not_looked_for_in_whole_passages() -> None:
    """They would not show it."""
    scan, _ = simulated()
    path, *_ = search(np.full(len(scan.phi_points), 0.15), about_axis=True)
    assert not path.is_clear
    assert (path.angles == 0).all()


def test_a_search_that_cannot_be_made_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Of an absurd structure: a warning, and no turn."""
    scan, observations = simulated()
    absurd = perovskite_structure()
    for scatterer in absurd.scatterers():
        scatterer.occupancy = 1e30
    model = HybridModel(
        StructureModel(absurd, RefinedParameters()),
        ConstantThickness(500.0),
        SmoothOrientation([scan.phi_range]),
    )
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    options = RefinementOptions(propagation=ONE_THREAD)
    turned = start_orientation(
        Journal(), model, data, options, lambda t: coarse_selection(G_MAX, t), 100.0
    )
    assert not turned
    assert "search of the orientation could not be computed" in caplog.text
