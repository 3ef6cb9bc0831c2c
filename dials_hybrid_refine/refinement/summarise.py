"""From a finished refinement's state to its Result."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.propagation import PropagationSettings
from dials_hybrid_refine.models.effects import ProportionalAbsorption
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import unphysical_parameters
from dials_hybrid_refine.refinement.convergence import ConvergenceRow
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.objective import GaussNewton, Objective
from dials_hybrid_refine.refinement.profile_uncertainty import (
    profile_uncertainty,
    thickness_covariance,
)
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.result import Profiles, Result, Statistics, Timing
from dials_hybrid_refine.refinement.statistics import agreement, merged_agreement
from dials_hybrid_refine.refinement.weights import Weighting, residual_spread, variances

_Array = NDArray[np.float64]

logger = logging.getLogger("dials.hybrid_refine.summarise")


def _profiles(
    objective: Objective, model: HybridModel, scales: torch.Tensor, covariance: torch.Tensor
) -> Profiles:
    """covariance: shape (q, q), of the thickness model's parameters."""
    experiment, phi = objective.simulator.segment_positions()
    with torch.no_grad():
        distribution = model.thickness(experiment, phi)
        vectors = model.orientation(experiment, phi[:, None])[:, 0]
    mean_su, std_su = profile_uncertainty(model.thickness, covariance, experiment, phi)
    return Profiles(
        experiment=experiment.numpy(),
        phi=phi.numpy(),
        thickness_mean=distribution.mean().numpy(),
        thickness_std=distribution.standard_deviation().numpy(),
        thickness_mean_su=mean_su.numpy(),
        thickness_std_su=std_su.numpy(),
        orientation=np.degrees(vectors.numpy()),
        scale=scales.numpy(),
    )


def _structure_covariance(
    model: HybridModel, normal: GaussNewton, reduced_chi_square: float
) -> NDArray[np.float64]:
    """Covariance of the crystallographic parameters, all others marginalised.

    chi^2 / (N - P) times the structural block of the inverse normal matrix, carried over to the
    crystallographic parameters by smtbx's Jacobian.
    """
    n = model.structure.n_parameters
    independent = normal.covariance()[:n, :n].numpy() * reduced_chi_square
    jacobian = model.structure.jacobian()
    return np.asarray(jacobian.T @ independent @ jacobian)


def summarise(
    refinement: Refinement,
    data: Dataset,
    weighting: Weighting,
    settings: PropagationSettings,
    setup_seconds: float,
    coarse: BeamSelection,
    convergence: Sequence[ConvergenceRow] = (),
) -> Result:
    """The Result of a refinement that has run.

    Standard uncertainties come from chi^2 / (N - P) times the inverse of the Gauss-Newton matrix at the
    final parameters, in the ``coarse`` calculation.
    """
    state, observations = refinement.state, data.observations
    model, objective = state.model, state.objective
    assert objective is not None
    refine_seconds = state.history[-1].seconds if state.history else 0.0
    final = objective.evaluate()
    used = ~data.held_out & ~state.rejected
    logger.info("Computing standard uncertainties")
    normal = refinement.gauss_newton(coarse)
    n_effective = normal.effective_parameters()
    freedom = max(1.0, float(used.sum()) - n_effective)
    reduced_chi_square = final.chi_square / freedom
    of_thickness = thickness_covariance(model, normal) * reduced_chi_square
    calculated = final.calculated.numpy()
    variance = variances(observations.intensity, observations.sigma, weighting.instability)
    residual = (observations.intensity - calculated) / np.sqrt(variance)
    integrated = final.design.sum(1).numpy()
    scale = np.where(integrated > 0, calculated / np.where(integrated > 0, integrated, 1), 0)

    def subset(mask: NDArray[np.bool_]) -> tuple[_Array, _Array, _Array]:
        return observations.intensity[mask], observations.sigma[mask], calculated[mask]

    statistics = Statistics(
        used=agreement(*subset(used), n_effective),
        merged=merged_agreement(*subset(used), scale[used], observations.unique_index[used]),
        held_out=agreement(*subset(data.held_out)),
        n_rejected=int(state.rejected.sum()),
        n_parameters=sum(p.numel() for p in objective.parameters()) + len(final.scales),
        n_parameters_effective=n_effective,
        loss_start=state.loss_start,
        loss_final=float((residual[used] ** 2).sum()),
        n_iterations=len(state.history),
    )
    absorption = model.absorption
    beams = objective.simulator.n_beams
    structure = model.structure.current_structure()
    return Result(
        status=state.status,
        structure=structure,
        warnings=tuple(unphysical_parameters(structure)),
        covariance=_structure_covariance(model, normal, reduced_chi_square),
        observations=observations,
        held_out=data.held_out,
        rejected=state.rejected,
        calculated=calculated,
        scale=scale,
        weight=1 / (variance * state.spread**2),
        residual=residual / residual_spread(residual, used),
        statistics=statistics,
        convergence=tuple(convergence),
        profiles=_profiles(objective, model, final.scales, of_thickness),
        history=tuple(state.history),
        timing=Timing(
            setup_s=setup_seconds,
            refine_s=refine_seconds,
            per_iteration_s=refine_seconds / max(1, len(state.history)),
            device=settings.device,
            dtype=str(settings.dtype).removeprefix("torch."),
            n_beams_mean=float(np.mean(beams)),
            n_beams_max=max(beams),
        ),
        absorption_ratio=float(absorption.ratio)
        if isinstance(absorption, ProportionalAbsorption)
        else None,
    )
