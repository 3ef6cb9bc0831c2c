"""Results in which something ran away are named, others are not."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from examples import EXACT, make_structure, plan, quartz_structure
from small_refinement import data

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.result import Profiles
from dials_hybrid_refine.refinement.runaways import (
    runaway_atoms,
    runaway_profiles,
    undetermined_parameters,
)


def model_of(structure, refined: RefinedParameters) -> HybridModel:
    model = HybridModel(
        StructureModel(structure, refined), ConstantThickness(250.0), SmoothOrientation([(-3, 3)])
    )
    model.orientation.requires_grad_(False)
    return model


@pytest.fixture
def model() -> HybridModel:
    return model_of(quartz_structure(), RefinedParameters())


def profiles(n: int = 8) -> Profiles:
    """Of an ordinary experiment."""
    nodes = np.tile(np.arange(50.0, 401.0, 50.0), (n, 1))
    ones = np.ones(n)
    return Profiles(
        experiment=np.zeros(n, dtype=np.int64), phi=np.arange(n) + 0.5,
        thickness_mean=250 * ones, thickness_std=50 * ones,
        thickness_mean_su=ones, thickness_std_su=ones,
        orientation=np.full((n, 3), 0.05), orientation_su=np.zeros((n, 3)), scale=3e4 * (1 + 0.3 * np.sin(np.arange(n))),
        thickness_nodes=nodes, thickness_weight=np.full_like(nodes, 1 / 8),
    )  # fmt: skip


def test_atoms() -> None:
    start, refined = quartz_structure(), quartz_structure()
    oxygen = refined.scatterers()[1]
    oxygen.site = (0.4135, 0.2669, 0.7858 + 0.9 / 5.4047)
    assert runaway_atoms(start, refined) == []
    oxygen.site = (0.4135, 0.2669, 0.7858 + 1.2 / 5.4047)
    (sentence,) = runaway_atoms(start, refined)
    assert sentence.startswith("O1 moved 1.2 Angstrom away")
    refined = quartz_structure()
    silicon = refined.scatterers()[0]
    silicon.convert_to_isotropic(refined.unit_cell())
    silicon.u_iso = 0.45
    (sentence,) = runaway_atoms(start, refined)
    assert sentence.startswith("U of Si0 grew to 0.45 Angstrom^2")


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("thickness_mean", 2.0, "the thickness ran away, to 2 Angstrom at 3.5 degrees"),
        ("thickness_mean", 1e5, "the thickness ran away, to 1e\\+05 Angstrom at 3.5 degrees"),
        ("thickness_mean", np.nan, "the thickness ran away, to nan"),
        ("orientation", 0.9, "reaches 1.6 degrees at 3.5 degrees"),
        ("scale", -3e4, "the scale at 3.5 degrees is -1 times the median"),
        ("scale", 3e6, "the scale at 3.5 degrees is [\\d.e+]+ times the median"),
    ],
)
def test_profiles(model: HybridModel, name: str, value: float, sentence: str) -> None:
    ordinary = profiles()
    assert runaway_profiles(model, ordinary) == []
    values = getattr(ordinary, name).copy()
    values[3] = value
    (found,) = runaway_profiles(model, replace(ordinary, **{name: values}))
    assert re.search(sentence, found), found


def equations_of(structure, refined: RefinedParameters):
    """A model and its normal equations, against its own intensities."""
    scan, observations = data()
    selection = BeamSelection(0.8, 0.006, 0.4, 2.0)
    simulator = plan(structure, scan, observations, selection).simulator(EXACT)
    model = model_of(structure, refined)
    intensity = np.zeros(len(observations))
    with torch.no_grad():
        parts = simulator(model.atoms(), model.physical_models())
    np.add.at(intensity, parts.observation.numpy(), 1e6 * parts.value.numpy())
    weights = torch.full((len(intensity),), float(intensity.mean() ** -2), dtype=torch.float64)
    measured = replace(observations, intensity=intensity)
    objective = Objective(model, simulator, measured, weights, 0.1)
    objective.evaluate()
    return model, objective.gauss_newton_matrix()


def test_profiles_of_several_crystals(model: HybridModel) -> None:
    """The second diffracts a hundred times more, which is no fault; then one of its images does."""
    one, n = profiles(), 8
    both = replace(
        one, **{f.name: np.concatenate([getattr(one, f.name)] * 2) for f in fields(Profiles)}
    )
    both = replace(both, experiment=np.repeat([0, 1], n), scale=both.scale * np.repeat([1, 100], n))
    assert runaway_profiles(model, both) == []
    scale = both.scale.copy()
    scale[-1] *= 100
    (found,) = runaway_profiles(model, replace(both, scale=scale))
    assert found.startswith("experiment 1: the scale at 7.5 degrees")


def test_what_nothing_determines_is_named() -> None:
    """Two halves of an oxygen atom on one place, each with an occupancy of its own: only the sum
    matters, and the normal matrix is singular. Their s.u. would come out finite, and small."""
    atoms = [
        ("Si", (0.4697, 0.0, 2 / 3), 0.006, 1.0),
        ("O", (0.4135, 0.2669, 0.7858), 0.012, 0.5),
        ("O", (0.4135, 0.2669, 0.7858), 0.012, 0.5),
    ]
    cell = (4.9137, 4.9137, 5.4047, 90, 90, 120)
    refined = RefinedParameters(sites=False, displacements=False, occupancies=True)
    model, equations = equations_of(make_structure(cell, "P 32 2 1", atoms), refined)
    (sentence,) = undetermined_parameters(model, equations)
    assert "do not determine all parameters of O1, O2," in sentence
    assert np.isfinite(equations.covariance().numpy()).all()
    model, equations = equations_of(make_structure(cell, "P 32 2 1", atoms[:2]), refined)
    assert undetermined_parameters(model, equations) == []
