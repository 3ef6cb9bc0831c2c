"""A molecule whose data are poor, with and without restraints; what linear theory says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from examples import EXACT, crossing_reflections, make_scan, plan

from benchmarks.validation.structures import nitrobenzene
from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.restraints.build import StructureRestraints
from dials_hybrid_refine.models.restraints.request import AtomName, RestraintRequest
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.minimise import levenberg_marquardt_steps
from dials_hybrid_refine.refinement.objective import Evaluation, Objective
from dials_hybrid_refine.refinement.restraint_summary import summarise_restraints

RING = "C1 C2 C3 C4 C5 C6"


def request(kind: str, atoms: str, sigma: float, target: float | None = None) -> RestraintRequest:
    return RestraintRequest(kind, kind, tuple(map(AtomName, atoms.split())), sigma, target)


def make_model(requests: Sequence[RestraintRequest]) -> HybridModel:
    structure = nitrobenzene()
    for scatterer in structure.scatterers():  # hydrogen stays where it is
        scatterer.flags.set_grad_site(scatterer.element_symbol() != "H")
    orientation = SmoothOrientation([(-12.0, 12.0)], knot_distance=24.0)
    orientation.requires_grad_(False)
    return HybridModel(
        StructureModel(structure, RefinedParameters(displacements=False)),
        ConstantThickness(200.0),
        orientation,
        restraints=StructureRestraints(structure, requests),
    )


@dataclass(frozen=True)
class Fit:
    """A refined model with its normal equations."""

    model: HybridModel
    objective: Objective
    evaluation: Evaluation
    normal: GaussNewton

    def distance(self, atoms: str) -> tuple[float, float]:
        """A distance and its s.u. for unit weight, in Angstrom."""
        own = StructureRestraints(nitrobenzene(), [request("distance", atoms, 1.0, 1.0)])
        with torch.no_grad():
            value = float(own.residuals(self.model.atoms())) + 1.0
        (row,) = self.model.structure.derivatives(own.residuals)
        covariance = self.normal.covariance()[: len(row), : len(row)]
        return value, float(row @ covariance @ row) ** 0.5

    def sites(self) -> np.ndarray:
        """Cartesian coordinates in Angstrom."""
        return np.array(self.model.structure.current_structure().sites_cart())

    def off_plane(self) -> float:
        """Root mean square distance of the ring's atoms from their plane, in Angstrom."""
        sites = self.sites()[:6]
        return float(np.linalg.svd(sites - sites.mean(0), compute_uv=False)[2] / 6**0.5)


class Experiment:
    """Noisy intensities of the molecule's crystal: sigma is 1 % of the mean."""

    def __init__(self) -> None:
        truth = make_model([])
        structure = nitrobenzene()
        scan = make_scan(structure, -12.0, 12.0)
        observations = crossing_reflections(scan, 1.2, 0.004)
        selection = BeamSelection(g_max=1.2, s_max=0.006, tilt_step=0.25, block_width=3.0)
        self.simulator: Simulator = plan(structure, scan, observations, selection).simulator(EXACT)
        with torch.no_grad():
            parts = self.simulator(truth.atoms(), truth.physical_models())
        intensity = np.zeros(len(observations))
        np.add.at(intensity, parts.observation.numpy(), 1e6 * parts.value.numpy())
        self.sigma = 0.01 * intensity.mean()
        noise = np.random.default_rng(7).normal(size=len(intensity))
        self.observations = replace(observations, intensity=intensity + self.sigma * noise)

    def objective(self, requests: Sequence[RestraintRequest]) -> Objective:
        weights = torch.full((len(self.observations),), self.sigma**-2, dtype=torch.float64)
        return Objective(make_model(requests), self.simulator, self.observations, weights, 1e-3)

    def fit(self, *requests: RestraintRequest) -> Fit:
        """Levenberg-Marquardt from the true structure until nothing is gained."""
        objective = self.objective(requests)

        def function(vector: torch.Tensor) -> tuple[Evaluation, Callable[[], torch.Tensor]]:
            torch.nn.utils.vector_to_parameters(vector, objective.parameters())
            return objective.evaluate_for_gradient()

        start = torch.nn.utils.parameters_to_vector(objective.parameters()).detach()
        steps = levenberg_marquardt_steps(
            function, lambda: objective.gauss_newton_matrix().normal, start, damping=1e-3
        )
        vector = start
        for _, step in zip(range(12), steps):
            vector = step.parameters
            if step.decrease < 1e-4:
                break
        torch.nn.utils.vector_to_parameters(vector, objective.parameters())
        final = objective.evaluate()
        return Fit(objective.model, objective, final, objective.gauss_newton_matrix())


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment()


@pytest.fixture(scope="module")
def free(experiment: Experiment) -> Fit:
    """Without restraints."""
    return experiment.fit()


def test_data_leave_the_distance_weakly_determined(free: Fit) -> None:
    value, su = free.distance("C1 N12")
    assert 0.02 < su < 0.06
    assert abs(value - 1.47) < 3 * su


@pytest.fixture(scope="module")
def pulled(experiment: Experiment, free: Fit) -> Fit:
    """C1-N12 restrained to two s.u. above what the data say, as strongly as they say it."""
    value, su = free.distance("C1 N12")
    return experiment.fit(request("distance", "C1 N12", su, value + 2 * su))


def test_distance_is_pulled_to_its_target_and_better_known(free: Fit, pulled: Fit) -> None:
    """Two measurements of equal weight: the mean of both, and s.u. / sqrt(2).

    The linear theory holds to a few per cent of two s.u. here.
    """
    value, su = free.distance("C1 N12")
    found, found_su = pulled.distance("C1 N12")
    assert found - value == pytest.approx(su, rel=0.1)
    assert found_su == pytest.approx(su / 2**0.5, rel=0.05)


def test_effective_number_of_parameters_is_shared(free: Fit, pulled: Fit) -> None:
    """Data and restraint determine half of the distance each."""
    lost = free.normal.effective_parameters() - pulled.normal.effective_parameters()
    assert lost == pytest.approx(0.5, abs=0.05)
    assert pulled.normal.restrained_parameters() == pytest.approx(0.5, abs=0.05)
    assert free.normal.restrained_parameters() == 0


def test_restraints_are_part_of_loss_and_normal_matrix(pulled: Fit) -> None:
    """In units of the loss: (deviation / sigma)^2, and rows^T rows."""
    residual = pulled.model.restraint_residuals().detach()
    assert residual.shape == (1,)
    rows = pulled.model.restraint_jacobian()
    restraints, pulled.model.restraints = pulled.model.restraints, None
    without = pulled.objective.evaluate().loss
    pulled.model.restraints = restraints
    assert pulled.evaluation.loss - without == pytest.approx(float(residual**2), rel=1e-6)
    n = rows.shape[1]
    assert pulled.normal.restraints is not None
    torch.testing.assert_close(pulled.normal.restraints[:n, :n], rows.T @ rows)
    assert not pulled.normal.restraints[n:].any()


def test_what_the_data_say_already_only_lowers_the_uncertainties(
    experiment: Experiment, free: Fit
) -> None:
    value, su = free.distance("C1 N12")
    fit = experiment.fit(request("distance", "C1 N12", 0.5 * su, value))
    before, after = (f.normal.covariance().diagonal().sqrt() for f in (free, fit))
    moved = fit.model.structure.shifts - free.model.structure.shifts
    n = len(moved)
    assert (moved.abs() < 0.05 * before[:n]).all()
    assert (after < before * (1 + 1e-6)).all()
    assert fit.distance("C1 N12")[1] == pytest.approx(su / 5**0.5, rel=0.05)


def test_planarity_is_kept(experiment: Experiment, free: Fit) -> None:
    """The noise bends the ring; a restraint to a tenth of that does not let it."""
    bend = free.off_plane()
    fit = experiment.fit(request("plane", RING, 0.1 * bend))
    assert bend > 1e-3
    assert fit.off_plane() < 0.2 * bend
    summary = summarise_restraints(
        fit.model, fit.normal, fit.evaluation.chi_square, len(experiment.observations)
    )
    assert summary is not None
    assert summary.n_equations == 3
    deviations = [row.deviation for row in summary.rows]
    assert np.sqrt(np.mean(np.square(deviations))) == pytest.approx(fit.off_plane(), rel=1e-6)
    assert summary.chi_square == pytest.approx(sum(row.ratio**2 for row in summary.rows))
    # sigma of the data is true: S is 1 within sqrt(1 / 2N)
    assert summary.restrained_s == pytest.approx(
        1, abs=4 / (2 * len(experiment.observations)) ** 0.5
    )
    # what the restraints determine and what the data do add up to all that is refined, but for the
    # little that the priors of orientation and scales say
    total = fit.normal.effective_parameters() + fit.normal.restrained_parameters()
    all_free = free.normal.effective_parameters() + free.normal.restrained_parameters()
    assert total == pytest.approx(all_free, abs=0.3)
