"""Causes of bad fits, each simulated, are named; a good fit is not questioned."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from examples import crossing_reflections, make_scan, quartz_structure

from cctbx import sgtbx, xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.models.effects import ProportionalAbsorption
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.diagnosis import Diagnosis, is_poor
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.settings import coarse_selection

G_MAX = 1.2
THICKNESS = 500.0
ONE_THREAD = PropagationSettings(n_threads=1)


@lru_cache(maxsize=None)
def simulated(
    absorption: float | None = None, thickness: float = THICKNESS
) -> tuple[ScanGeometry, Observations]:
    """Quartz, 30 degrees, with noise of 2 % and 0.3 % of the mean."""
    scan = make_scan(quartz_structure(), -15, 15)
    observations = crossing_reflections(scan, G_MAX, 0.006)
    intensity = simulate_intensities(
        scan,
        observations,
        quartz_structure(),
        GivenThickness([thickness], 0.1 * thickness, scan.phi_range),
        None if absorption is None else ProportionalAbsorption(absorption),
        BeamSelection(G_MAX, 0.012, 0.05),
        ONE_THREAD,
    )
    random = np.random.default_rng(0)
    intensity = 1e4 * intensity / intensity.mean()
    sigma = np.hypot(0.02 * intensity, 30.0)
    noisy = intensity + sigma * random.normal(size=len(sigma))
    return scan, replace(observations, intensity=noisy, sigma=sigma)


def sentences(
    scan: ScanGeometry,
    observations: Observations,
    structure: xray.structure | None = None,
    thickness: float = THICKNESS,
) -> list[str]:
    """What is said of a structure (default: the true one) at a thickness."""
    structure = structure or quartz_structure()
    model = HybridModel(
        StructureModel(structure, RefinedParameters(False, False, False)),
        GivenThickness([thickness], 0.1 * thickness, scan.phi_range),
        SmoothOrientation([scan.phi_range]),
    )
    none = np.zeros(len(observations), dtype=bool)
    diagnosis = Diagnosis(
        Dataset([scan], observations, none),
        model,
        structure,
        RefinementOptions(propagation=ONE_THREAD),
        lambda t: coarse_selection(G_MAX, t),
        thickness,
        none,
    )
    return diagnosis.sentences()


def test_a_good_model_is_not_questioned():
    assert sentences(*simulated()) == []


def test_wrong_hand():
    first = sentences(*simulated(), quartz_structure().change_hand())[0]
    assert "wrong hand" in first and "the other hand fits better" in first


def test_wrong_setting():
    """Turned by 180 degrees about c, which maps the lattice but not the structure onto itself."""
    turned = quartz_structure().change_basis(sgtbx.change_of_basis_op("-x,-y,z"))
    first = sentences(*simulated(), turned)[0]
    assert "the setting -h,-k,l fits better" in first


def test_wrong_thickness():
    scan, observations = simulated(thickness=900.0)
    first = sentences(scan, observations, thickness=350.0)[0]
    assert "wrong basin" in first
    found = float(first.split("thickness.start=")[1].split()[0])
    assert found == pytest.approx(900, rel=0.15)


@pytest.mark.parametrize("strain", [-0.02, 0.02])
def test_wrong_cell(strain):
    """Data of a crystal whose cell is larger than that of the experiment."""
    scan, observations = simulated()
    wrong = replace(scan, crystal_settings=scan.crystal_settings * (1 + strain))
    (first, *_) = sentences(wrong, observations)
    word = "larger" if strain > 0 else "smaller"
    assert f"one that is {100 * abs(strain):g} % {word} fits better" in first


def test_missing_absorption():
    first = sentences(*simulated(absorption=0.2))[0]
    assert "absorption may be missing" in first


def test_overlapping_crystal():
    """A fifth of the reflections holds intensity of another crystal."""
    scan, observations = simulated()
    random = np.random.default_rng(1)
    extra = (500 + random.exponential(2e3, len(observations))) * (
        random.random(len(observations)) < 0.2
    )
    found = sentences(scan, replace(observations, intensity=observations.intensity + extra))
    assert len(found) == 1 and "too strong" in found[0]


def test_no_relation():
    scan, observations = simulated()
    order = np.random.default_rng(2).permutation(len(observations))
    mixed = replace(
        observations, intensity=observations.intensity[order], sigma=observations.sigma[order]
    )
    assert "little in common" in sentences(scan, mixed)[-1]


def test_what_counts_as_poor():
    """R_obs that the counting statistics explain is not poor: 1.6 sigma_F / F, sigma_F / F = 0.1."""
    intensity = np.full(100, 100.0)
    assert is_poor(0.16, intensity, np.full(100, 5.0))
    assert not is_poor(0.14, intensity, np.full(100, 5.0))
    assert not is_poor(0.155, intensity, np.full(100, 20.0))
    assert is_poor(0.165, intensity, np.full(100, 20.0))
