"""From a finished refinement's state to its Result."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.models.effects import NamedEffect, ScaledAbsorption
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import unphysical_parameters
from dials_hybrid_refine.refinement.binned_agreement import binned_agreement
from dials_hybrid_refine.refinement.breakdown import unless_broken
from dials_hybrid_refine.refinement.convergence import ConvergenceRow
from dials_hybrid_refine.refinement.crystal_fit import crystal_fits
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.difference_map import difference_map
from dials_hybrid_refine.refinement.effect_values import effect_values
from dials_hybrid_refine.refinement.frame_statistics import FrameStatistics, frame_statistics
from dials_hybrid_refine.refinement.frames import FrameFilter, Frames, frame_members
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.jacobian import places_of
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.profile_uncertainty import (
    covariance_of,
    orientation_uncertainty,
    profile_uncertainty,
)
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.restraint_summary import summarise_restraints
from dials_hybrid_refine.refinement.result import (
    AbsorptionStrength,
    Profiles,
    Result,
    Statistics,
    Timing,
)
from dials_hybrid_refine.refinement.rocking_curves import rocking_curves, strongest_and_worst
from dials_hybrid_refine.refinement.runaways import (
    runaway_atoms,
    runaway_profiles,
    undetermined_parameters,
)
from dials_hybrid_refine.refinement.statistics import Agreement, agreement, merged_agreement
from dials_hybrid_refine.refinement.weights import Weighting, residual_spread, residuals, variances
from dials_hybrid_refine.refinement.whole_reflections import (
    Judged,
    SliceAgreement,
    reflection_numbers,
    whole_reflections,
)

_Array = NDArray[np.float64]

#: rocking curves shown of the strongest reflections and of the worst ones
_CURVES = 6

logger = logging.getLogger("dials.hybrid_refine.summarise")


def _profiles(
    objective: Objective,
    model: HybridModel,
    scales: torch.Tensor,
    normal: GaussNewton,
    factor: float,
) -> Profiles:
    """factor: by which covariances for unit weight are multiplied."""
    of_thickness, of_orientation = (
        factor * covariance_of(part, model, normal) for part in (model.thickness, model.orientation)
    )
    experiment, phi = objective.simulator.segment_positions()
    with torch.no_grad():
        distribution = model.thickness(experiment, phi)
        vectors = model.orientation(experiment, phi[:, None])[:, 0]
    mean_su, std_su = profile_uncertainty(model.thickness, of_thickness, experiment, phi)
    turn_su = orientation_uncertainty(model.orientation, of_orientation, experiment, phi)
    return Profiles(
        experiment=experiment.numpy(),
        phi=phi.numpy(),
        thickness_mean=distribution.mean().numpy(),
        thickness_std=distribution.standard_deviation().numpy(),
        thickness_mean_su=mean_su.numpy(),
        thickness_std_su=std_su.numpy(),
        orientation=np.degrees(vectors.numpy()),
        orientation_su=turn_su.numpy(),
        scale=scales.numpy(),
        thickness_nodes=distribution.thickness.numpy(),
        thickness_weight=distribution.weight.numpy(),
    )


def _structure_covariance(model: HybridModel, covariance: _Array) -> _Array:
    """Covariance of the crystallographic parameters, all others marginalised.

    The structural block of that of all refined numbers, carried over to the crystallographic
    parameters by smtbx's Jacobian.
    """
    n = model.structure.n_parameters
    independent = model.structure.with_fixed_origin(covariance[:n, :n])
    jacobian = model.structure.jacobian()
    return np.asarray(jacobian.T @ independent @ jacobian)


def absorption_strengths(model: HybridModel, covariance: _Array) -> list[AbsorptionStrength]:
    """The strength of each crystal's absorption, empty without.

    Args:
        covariance: shape (p, p), of all refined numbers.
    """
    absorption = model.absorption
    if not isinstance(absorption, ScaledAbsorption):
        return []
    found = _exponentials(model, absorption.log_strength, covariance)
    return [AbsorptionStrength(absorption.name, value, su) for value, su in found]


def _exponentials(
    model: HybridModel, logarithms: torch.nn.Parameter, covariance: _Array
) -> list[tuple[float, float | None]]:
    """Quantities and their s.u. (None if they were not refined) from their logarithms, one of the
    model's parameters: the value times the s.u. of the logarithm."""
    values = logarithms.detach().exp().tolist()
    if not logarithms.requires_grad:
        return [(value, None) for value in values]
    refined = [p for p in model.parameters() if p.requires_grad]
    columns = places_of([logarithms], refined)
    variances_of_logarithms = [float(covariance[column, column]) for column in columns]
    return [
        (value, value * max(0.0, variance) ** 0.5 if math.isfinite(variance) else None)
        for value, variance in zip(values, variances_of_logarithms)
    ]


def _inverse_spacing(structure: xray.structure, hkl: NDArray[np.int64]) -> _Array:
    """1/d in 1/Angstrom of reflections (n, 3)."""
    fraction = np.array(structure.unit_cell().fractionalization_matrix()).reshape(3, 3)
    return np.asarray(np.linalg.norm(hkl @ fraction, axis=1))


def _frame_statistics(
    scans: Sequence[ScanGeometry], frames: Frames, limits: FrameFilter, whole: Judged
) -> FrameStatistics:
    members = frame_members(frames, scans, whole.observations, limits)
    return frame_statistics(
        frames,
        limits,
        members,
        whole.observations,
        whole.calculated,
        whole.held_out,
        whole.rejected,
    )


def _agreement(judged: Judged, mask: NDArray[np.bool_], n_parameters: float = 0) -> Agreement:
    data = judged.observations
    return agreement(data.intensity[mask], data.sigma[mask], judged.calculated[mask], n_parameters)


def _residual(judged: Judged, weighting: Weighting) -> _Array:
    """(I_o - I_c) over the square root of their variances without E^2, shape (n,)."""
    data = judged.observations
    return residuals(data.intensity, data.sigma, judged.calculated, weighting.instability)


def summarise(
    refinement: Refinement,
    data: Dataset,
    weighting: Weighting,
    settings: PropagationSettings,
    setup_seconds: float,
    coarse: BeamSelection,
    frames: Frames,
    frame_filter: FrameFilter,
    convergence: Sequence[ConvergenceRow] = (),
    effects: Sequence[NamedEffect] = (),
    with_difference_map: bool = True,
) -> Result:
    """The Result of a refinement that has run.

    Standard uncertainties come from chi^2 / (N - P) times the inverse of the Gauss-Newton matrix at the
    final parameters, in the ``coarse`` calculation.
    """
    state = refinement.state
    model, objective = state.model, state.objective
    assert objective is not None
    refine_seconds = state.history[-1].seconds if state.history else 0.0
    final = objective.evaluate()
    used = ~data.held_out & ~state.rejected
    logger.info("Computing standard uncertainties")
    equations, unknown = unless_broken(
        "standard uncertainties", lambda: refinement.gauss_newton(coarse)
    )
    n_refined = sum(p.numel() for p in objective.parameters())
    normal = equations or GaussNewton.unknown(n_refined, state.n_effective)
    n_effective = normal.effective_parameters()
    freedom = max(1.0, float(used.sum()) - n_effective)
    reduced_chi_square = final.chi_square / freedom
    single = Judged(
        data.observations,
        data.comparable(final.calculated.numpy(), weighting.instability),
        final.design.sum(1).numpy(),
        data.held_out,
        state.rejected,
    )
    loss = float((_residual(single, weighting)[used] ** 2).sum())
    of_used = _agreement(single, used, n_effective)
    whole, slices = whole_reflections(single), None
    if whole is not single:
        aside = _agreement(single, data.held_out)
        slices = SliceAgreement(of_used, aside, int(state.rejected.sum()))
        # the slices are what the parameters were fitted to
        of_used = replace(_agreement(whole, whole.used), gof=of_used.gof)
    observations, calculated, used = whole.observations, whole.calculated, whole.used
    residual = _residual(whole, weighting)
    variance = variances(observations.intensity, observations.sigma, weighting.instability)
    integrated = whole.integrated
    scale = np.where(integrated > 0, calculated / np.where(integrated > 0, integrated, 1), 0)
    statistics = Statistics(
        used=of_used,
        merged=merged_agreement(
            observations.intensity[used],
            observations.sigma[used],
            calculated[used],
            scale[used],
            observations.unique_index[used],
        ),
        held_out=_agreement(whole, whole.held_out),
        held_out_by="reflections" if data.held_out_stretch is None else "frames",
        frames=_frame_statistics(data.scans, frames, frame_filter, whole),
        n_rejected=int(whole.rejected.sum()),
        n_parameters=n_refined + len(final.scales),
        n_parameters_structure=model.structure.n_parameters,
        n_parameters_effective=n_effective,
        loss_start=state.loss_start,
        loss_final=loss,
        n_iterations=len(state.history),
        shifts=state.shifts,
        slices=slices,
    )
    # of all refined numbers, for unit weight of chi^2 / (N - P)
    covariance = normal.covariance().numpy() * reduced_chi_square
    beams = objective.simulator.n_beams
    structure = model.structure.current_structure()
    warnings = [state.breakdown] if state.breakdown is not None else []
    warnings += unknown
    warnings += undetermined_parameters(model, normal)
    warnings += runaway_atoms(model.structure.starting_structure(), structure)
    profiles = _profiles(objective, model, final.scales, normal, reduced_chi_square)
    warnings += runaway_profiles(model, profiles)
    warnings += unphysical_parameters(structure)
    if model.absorption is not None:
        warnings += model.absorption.warnings(structure)
    lacking = None
    r_all = statistics.used.r_all
    if with_difference_map and r_all is not None and not state.is_over and equations is not None:
        logger.info("Computing the difference map")
        n = model.structure.n_parameters
        hkl, wavelength = observations.hkl[used], data.scans[0].wavelength
        lacking, said = unless_broken(
            "the difference map",
            lambda: difference_map(
                objective, structure, wavelength, hkl, r_all, covariance[:n, :n]
            ),
        )
        warnings += said
    spread = residual_spread(residual, used)
    reflection_of = reflection_numbers(data.observations)
    shown = strongest_and_worst(
        observations.intensity, residual, (integrated > 0) & ~whole.held_out, _CURVES
    )
    mosaicities = (
        _exponentials(model, model.mosaicity.log_width, covariance) if model.mosaicity else []
    )
    crystals = crystal_fits(
        observations,
        calculated,
        whole.held_out,
        whole.rejected,
        profiles,
        absorption_strengths(model, covariance),
        mosaicities,
    )
    return Result(
        status=state.status,
        structure=structure,
        warnings=tuple(warnings),
        covariance=None if equations is None else _structure_covariance(model, covariance),
        observations=observations,
        held_out=whole.held_out,
        rejected=whole.rejected,
        calculated=calculated,
        scale=scale,
        weight=1 / (variance * state.spread**2),
        residual=residual / spread,
        statistics=statistics,
        convergence=tuple(convergence),
        profiles=profiles,
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
        breakdown=state.breakdown,
        absorption=crystals[0].absorption if len(crystals) == 1 else None,
        mosaicity=crystals[0].mosaicity if len(crystals) == 1 else None,
        crystals=crystals,
        effects=effect_values(effects, objective.parameters(), normal, reduced_chi_square),
        restraints=summarise_restraints(model, normal, final.chi_square, int(single.used.sum())),
        difference_map=lacking,
        binned=binned_agreement(
            observations,
            calculated,
            used,
            whole.held_out,
            _inverse_spacing(structure, observations.hkl),
            min(scan.image_width for scan in data.scans),
        ),
        rocking_curves=rocking_curves(
            objective.simulator, model, data.observations, reflection_of, scale, shown
        ),
    )
