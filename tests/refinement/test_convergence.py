"""The choice of the calculation's limits, and the table of what raising them does."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import EXACT, crossing_reflections, make_scan, quartz_structure

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.convergence import (
    RAISED,
    converged_selection,
    convergence_rows,
    integrated_intensities,
)
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.statistics import amplitude_change

SINGLE = PropagationSettings(torch.complex64)
POOR = BeamSelection(g_max=1.0, s_max=0.003, tilt_step=0.4)


@pytest.fixture(scope="module")
def model() -> HybridModel:
    return HybridModel(
        StructureModel(quartz_structure(), RefinedParameters()),
        ConstantThickness(400.0),
        SmoothOrientation([(-3.0, 3.0)]),
    )


@pytest.fixture(scope="module")
def data() -> Dataset:
    scan = make_scan(quartz_structure(), -3.0, 3.0)
    observations = crossing_reflections(scan, 1.0, 0.004)
    assert len(observations) > 20
    return Dataset([scan], observations, np.zeros(len(observations), dtype=bool))


def change_of(data: Dataset, model: HybridModel, one: BeamSelection, other: BeamSelection) -> float:
    return amplitude_change(
        integrated_intensities(data, model, one, EXACT),
        integrated_intensities(data, model, other, EXACT),
    )


@pytest.mark.parametrize("setting", RAISED)
@pytest.mark.parametrize("accuracy", [0.03, 0.01])
def test_a_limit_is_raised_until_it_does_not_matter(
    data: Dataset, model: HybridModel, setting: str, accuracy: float
) -> None:
    """The data are one stretch of the scan, so that what is judged is what is checked. The tilts may
    use up a quarter of the accuracy."""
    found = converged_selection(data, model, POOR, [setting], accuracy, EXACT)
    others = {name for name in RAISED if name != setting}
    assert all(getattr(found, name) == getattr(POOR, name) for name in others)
    factor = RAISED[setting]
    beyond = replace(found, **{setting: getattr(found, setting) * factor})
    limit = accuracy / 4 if setting == "tilt_step" else accuracy
    assert change_of(data, model, found, beyond) < 1.3 * limit
    if found != POOR:
        before = replace(found, **{setting: getattr(found, setting) / factor})
        assert change_of(data, model, before, found) > 0.7 * limit


def test_a_poor_start_is_noticed(data: Dataset, model: HybridModel) -> None:
    found = converged_selection(data, model, POOR, list(RAISED), 0.01, EXACT)
    assert found.s_max > POOR.s_max and found.tilt_step < POOR.tilt_step


def test_what_is_given_stays(data: Dataset, model: HybridModel) -> None:
    assert converged_selection(data, model, POOR, [], 1e-9, EXACT) == POOR


def test_a_limit_that_does_not_converge_is_named(
    data: Dataset, model: HybridModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="dials.hybrid_refine"):
        converged_selection(data, model, POOR, ["s_max"], 1e-12, EXACT)
    assert "beams.s_max does not converge to beams.accuracy=1e-12" in caplog.text


def test_the_table(data: Dataset, model: HybridModel) -> None:
    """Good limits move little, poor ones much; single precision is good to 1e-5 of the amplitudes."""
    good = BeamSelection(g_max=1.6, s_max=0.02, tilt_step=0.05)
    poor = {row.setting: row for row in convergence_rows(data, model, POOR, SINGLE)}
    fine = {row.setting: row for row in convergence_rows(data, model, good, SINGLE)}
    assert list(fine) == [*RAISED, "precision"]
    for setting in ("s_max", "tilt_step"):
        assert fine[setting].change < 0.5 * poor[setting].change
    assert 0 < fine["precision"].change < 1e-5
    for setting, factor in RAISED.items():
        row = fine[setting]
        assert row.value == getattr(good, setting)
        assert row.raised == pytest.approx(factor * row.value)
        raised = replace(good, **{setting: row.raised})
        assert row.change == pytest.approx(change_of(data, model, good, raised), rel=0.01)
    assert "precision" not in {r.setting for r in convergence_rows(data, model, good, EXACT)}
