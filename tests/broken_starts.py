"""Refinement of models from broken starts against intensities of a true structure, with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from examples import EXACT, crossing_reflections, make_scan, plan

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.prepare import Model
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.minimise import levenberg_marquardt_steps
from dials_hybrid_refine.refinement.objective import Evaluation, Objective

#: relative noise of the intensities, and that of the strongest as a floor
NOISE, FLOOR = 0.01, 1e-4


@dataclass(frozen=True)
class Outcome:
    """A refined structure, the model, covariance (p, p) of its shifts, and R on intensities."""

    structure: xray.structure
    model: StructureModel
    covariance: np.ndarray
    r: float


def refine(
    truth: xray.structure, start: Model, refined: RefinedParameters, half_scan: float = 12.0
) -> Outcome:
    """Refine a model against intensities of a true structure, 300 Angstrom thick, with 1 % noise."""
    scan = make_scan(truth, -half_scan, half_scan)
    observations = crossing_reflections(scan, 0.9, 0.003)
    simulator = plan(truth, scan, observations, BeamSelection(0.9, 0.006, 0.4, 2.0)).simulator(
        EXACT
    )
    models = [
        HybridModel(
            StructureModel(*arguments),
            ConstantThickness(300.0),
            SmoothOrientation([scan.phi_range]),
        )
        for arguments in (
            (truth, RefinedParameters(False, False, False)),
            (start.structure, refined, start.constraints, start.disorder),
        )
    ]
    intensity = np.zeros(len(observations))
    with torch.no_grad():
        parts = simulator(models[0].atoms(), models[0].physical_models())
    np.add.at(intensity, parts.observation.numpy(), 1e6 * parts.value.numpy())
    sigma = NOISE * intensity + FLOOR * intensity.max()
    noise = sigma * np.random.default_rng(3).normal(size=len(sigma))
    measured = replace(observations, intensity=intensity + noise, sigma=sigma)
    model = models[1]
    for other in (model.thickness, model.orientation):
        other.requires_grad_(False)
    objective = Objective(model, simulator, measured, torch.from_numpy(sigma**-2), 1e-3)

    def function(vector: torch.Tensor) -> tuple[Evaluation, Callable[[], torch.Tensor]]:
        with torch.no_grad():
            model.structure.shifts.copy_(vector)
        return objective.evaluate_for_gradient()

    last = torch.zeros(model.structure.n_parameters, dtype=torch.float64)
    steps = levenberg_marquardt_steps(
        function, lambda: objective.gauss_newton_matrix().normal, last, 0.01
    )
    for number, step in enumerate(steps):
        last = step.parameters
        if number == 15 or step.decrease < 1e-3 * step.evaluation.loss:
            break
    function(last)
    evaluation = objective.evaluate()
    return Outcome(
        model.structure.current_structure(),
        model.structure,
        objective.gauss_newton_matrix().covariance().numpy(),
        float(np.abs(evaluation.calculated.numpy() - intensity).sum() / intensity.sum()),
    )


def displaced(structure: xray.structure, size: float, chosen: list[int]) -> xray.structure:
    """Atoms moved by so many Angstrom in random directions, hydrogen atoms with their parents."""
    result, rng = structure.deep_copy_scatterers(), np.random.default_rng(7)
    for i in chosen:
        step = rng.normal(size=3)
        step *= size / np.linalg.norm(step)
        scatterer = result.scatterers()[i]
        shift = structure.unit_cell().fractionalize(tuple(step))
        scatterer.site = tuple(np.array(scatterer.site) + shift)
    return result


def distance_from(truth: xray.structure, found: xray.structure) -> np.ndarray:
    """Distance (n,) in Angstrom of each atom from its true site."""
    cell = truth.unit_cell()
    return np.array(
        [cell.distance(a.site, b.site) for a, b in zip(truth.scatterers(), found.scatterers())]
    )


def uncertainties(outcome: Outcome, columns: np.ndarray) -> np.ndarray:
    """s.u. of crystallographic parameters, by their places in the parameter map."""
    jacobian = outcome.model.jacobian()[:, columns]
    covariance = jacobian.T @ outcome.model.with_fixed_origin(outcome.covariance) @ jacobian
    return np.sqrt(np.clip(np.diag(covariance), 0, None))


def site_uncertainties(outcome: Outcome) -> np.ndarray:
    """s.u. (3 n,) of the coordinates, each times the length of its axis, in Angstrom."""
    su = uncertainties(outcome, outcome.model._layout.site_columns)
    return su * np.tile(outcome.structure.unit_cell().parameters()[:3], len(su) // 3)
