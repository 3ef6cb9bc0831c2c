"""Atoms 0.35 Angstrom away, whose own neighbourhood at full resolution holds other minima."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from examples import crossing_reflections, make_scan, quartz_structure
from numpy.typing import NDArray
from simulated_data import displaced_quartz, with_noise

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.models.choose import ThicknessOptions
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.low_resolution import approach_structure, usable_ways
from dials_hybrid_refine.refinement.options import BeamOptions, RefinementOptions
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.schedule import Controls, Schedule
from dials_hybrid_refine.refinement.settings import coarse_selection
from dials_hybrid_refine.refinement.weights import Weighting

G_MAX = 1.7
ONE_THREAD = PropagationSettings(n_threads=1)


@lru_cache(maxsize=None)
def simulated() -> tuple[ScanGeometry, Observations]:
    """Quartz of 400 Angstrom, 20 degrees, noise of 3 % and 0.5 % of the mean."""
    scan = make_scan(quartz_structure(), -10, 10)
    observations = crossing_reflections(scan, G_MAX, 0.006)
    intensity = simulate_intensities(
        scan,
        observations,
        quartz_structure(),
        GivenThickness([400.0], 40.0, scan.phi_range),
        None,
        BeamSelection(G_MAX, 0.012, 0.07),
        ONE_THREAD,
    )
    return scan, with_noise(observations, intensity, 0.03, 0.005)


def distances(found: xray.structure) -> NDArray[np.float64]:
    """From the true sites, in Angstrom."""
    cell = found.unit_cell()
    pairs = zip(found.scatterers(), quartz_structure().scatterers())
    return np.array([cell.distance(one.site, true.site) for one, true in pairs])


def refinement_of(data: Dataset) -> Refinement:
    """From displaced atoms, with one thickness."""
    model = HybridModel(
        StructureModel(displaced_quartz(0.35), RefinedParameters()),
        ConstantThickness(400.0),
        SmoothOrientation([scan.phi_range for scan in data.scans]),
    )
    return Refinement(
        data,
        model,
        ONE_THREAD,
        Weighting(),
        0.05,
        Schedule(),
        Controls(),
        10.0,
        lambda thickness: coarse_selection(G_MAX, thickness),
    )


def test_atoms_come_home() -> None:
    """At full resolution alone they stay where they are (0.116 and 0.318 Angstrom away, R_obs 0.57)."""
    scan, observations = simulated()
    start = displaced_quartz(0.35)
    assert distances(start) == pytest.approx([0.127, 0.35], abs=0.001)
    stages: list[str] = []
    options = RefinementOptions(
        thickness=ThicknessOptions(model="constant"),
        beams=BeamOptions(g_max=G_MAX, s_max=0.012, tilt_step=0.08),
        schedule=Schedule(cycles=1, steps_per_cycle=5),
        propagation=ONE_THREAD,
    )
    controls = Controls(lambda step: stages.append(step.stage))
    result = run_refinement([scan], observations, start, options, controls)
    assert "d > 0.8" in stages
    assert distances(result.structure).max() < 0.01
    assert result.statistics.used.r_obs == pytest.approx(0.018, abs=0.005)


def test_only_structure_and_thickness_move() -> None:
    scan, observations = simulated()
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    refinement = refinement_of(data)
    model = refinement.state.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    approach_structure(refinement, data, lambda t: coarse_selection(G_MAX, t), (0.8,))
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {"structure.shifts", "thickness.log_thickness"}
    assert all(parameter.requires_grad for parameter in model.orientation.parameters())
    assert {step.stage for step in refinement.state.history} == {"d > 0.8"}


@pytest.mark.parametrize(
    ("n_parameters", "ways"),
    [(5, [(1.0, 0.8), (0.8,)]), (14, [(0.8,)]), (60, [])],
    ids=["enough", "few", "too few"],
)
def test_ways_for_which_there_are_reflections(
    n_parameters: int, ways: list[tuple[float, ...]]
) -> None:
    """Five for each parameter; a way that is left of another is taken once."""
    scan, observations = simulated()
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    spacings = 1 / data.inverse_spacings()
    assert (spacings >= 1.0).sum() in range(5 * 5, 5 * 14)
    assert (spacings >= 0.8).sum() in range(5 * 14, 5 * 60)
    assert usable_ways(data, n_parameters) == ways


def test_spacings_are_those_of_the_cell() -> None:
    scan, observations = simulated()
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    cell = quartz_structure().unit_cell()
    expected = [cell.d(tuple(map(int, h))) for h in observations.hkl]
    np.testing.assert_allclose(1 / data.inverse_spacings(), expected, rtol=1e-6)
