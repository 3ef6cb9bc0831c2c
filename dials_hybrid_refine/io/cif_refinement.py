"""The refinement in a CIF: statistics and their definitions, weights, theory, thickness, mosaicity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dials_hybrid_refine.io.cif_atoms import hydrogen_treatment
from dials_hybrid_refine.io.cif_text import fold, measured, number
from dials_hybrid_refine.refinement.difference_map import DifferenceMap
from dials_hybrid_refine.refinement.result import Profiles, Result
from dials_hybrid_refine.refinement.statistics import DEFINITIONS
from dials_hybrid_refine.refinement.weights import Weighting

#: F(tau), the share of the crystal thinner than tau times the largest thickness; \t is tau in a CIF
_ONE_THICKNESS = "F(\\t) = 0 for \\t < 1, F(1) = 1"
_SHAPE_EXPRESSIONS = {
    "constant": _ONE_THICKNESS,
    "per_image": _ONE_THICKNESS,
    "neural_mean": _ONE_THICKNESS,
    "wedge": "F(\\t) = \\t",
    "cylinder": "F(\\t) = 1 - (1 - \\t^2^)^1/2^",
    "lens": "F(\\t) = \\t^2^",
}
_THICKNESS_MODELS = {
    "neural": "distribution on thickness nodes given by a neural network of the rotation angle: "
    "its mean, its width and its shape near a normal distribution, refined with the structure",
    "neural_mean": "one thickness at each rotation angle, given by a neural network of that angle "
    "that is refined with the structure",
    "constant": "one thickness, the same at all rotation angles",
    "per_image": "one free thickness for each image, with a weak prior on changes",
    "wedge": "wedge, refined largest thickness",
    "cylinder": "cylinder, refined largest thickness",
    "lens": "ellipsoid, refined largest thickness",
}


@dataclass(frozen=True)
class RefinementModel:
    """What was refined and how, beyond the result.

    Attributes:
        weighting: of the loss.
        thickness_model: name of ``thickness.model``. tilt_correction: of a plate.
        constraints: of ``smtbx.refinement.constraints``.
    """

    weighting: Weighting
    thickness_model: str
    tilt_correction: bool = False
    constraints: Sequence[Any] = ()


def refinement_items(result: Result, model: RefinementModel) -> dict[str, str]:
    """Figures of merit (definitions in _refine_special_details) and what describes the refinement."""
    statistics, used = result.statistics, result.statistics.used
    weighting, shifts = model.weighting, statistics.shifts
    return {
        "_refine.diffraction_theory": "dynamical",
        "_refine.diffraction_theory_details": fold(_theory(result)),
        **_thickness_items(result.profiles, model),
        **_mosaicity_items(result),
        "_refine_ls_structure_factor_coef": "Inet",
        "_refine_ls_matrix_type": "full",
        "_refine_ls_weighting_scheme": "calc",
        "_refine_ls_weighting_details": fold(
            f"w = 1/[E^2^(\\s^2^(I)+({weighting.instability:g}I)^2^)] on I, E the robust spread of the "
            "residuals; wR and the goodness of fit have weights of their own on F, given in "
            "_refine_special_details"
        ),
        "_refine_ls_hydrogen_treatment": hydrogen_treatment(result.structure, model.constraints),
        "_refine_ls_number_reflns": str(used.n_reflections),
        "_refine_ls_number_reflns_gt": str(used.n_observed),
        "_refine_ls_number_parameters": str(statistics.n_parameters),
        "_refine_ls_number_restraints": "0",
        "_refine_ls_R_factor_gt": number(used.r_obs),
        "_refine_ls_R_factor_all": number(used.r_all),
        "_refine_ls_wR_factor_ref": number(used.wr_all),
        "_refine_ls_goodness_of_fit_ref": number(used.gof, 2),
        "_refine_ls_shift/su_max": number(None if shifts is None else shifts.largest, 3),
        "_refine_ls_shift/su_mean": number(None if shifts is None else shifts.mean, 3),
        "_refine_special_details": fold(_details(result, weighting)),
        **_difference_items(result.difference_map),
    }


def _difference_items(difference: DifferenceMap | None) -> dict[str, str]:
    if difference is None:
        return {}
    return difference_potential_items(difference.minimum, difference.maximum, difference.rms)


def _theory(result: Result) -> str:
    lines = [
        "Many-beam (Bloch wave) calculation by Chebyshev expansion of the scattering matrix, integrated "
        "over the rotation of each reflection; structure, thickness, orientation and scales refined "
        f"together; {result.timing.n_beams_mean:.0f} beams on average, at most "
        f"{result.timing.n_beams_max}."
    ]
    fits = result.crystals
    absorption = result.absorption or (fits[0].absorption if fits else None)
    if absorption is None:
        lines.append("No absorption.")
    elif len(fits) > 1:
        lines.append(
            f"Absorption: the {absorption.model} model with a strength for each crystal "
            "(_refine_special_details)."
        )
    else:
        kind = {
            "proportional": "proportional to the potential, ratio U'/U",
            "tabulated": "thermal diffuse scattering (Thomas, Cleverley & Beanland 2024), times a factor of",
        }[absorption.model]
        state = "refined" if absorption.su is not None else "fixed"
        lines.append(f"Absorption {kind} {measured(absorption.value, absorption.su, 4)}, {state}.")
    for effect in result.effects:
        values = ", ".join(
            f"{name} {' '.join(map(measured, value.ravel(), effect.su[name].ravel()))}"
            for name, value in effect.values.items()
        )
        lines.append(f"Effect {effect.name} of {effect.package} {effect.version}: {values}.")
    return "\n".join(lines)


def _thickness_items(profiles: Profiles, model: RefinementModel) -> dict[str, str]:
    """Mean over the scan in nm, with s.u. where one number describes all of it, and the shape."""
    mean, su = profiles.thickness_mean / 10, profiles.thickness_mean_su / 10
    is_one_number = len(set(mean.round(9))) == 1 and len(set(su.round(9))) == 1
    several = len(set(profiles.experiment)) > 1
    whole = "crystals and their scans" if several else "crystal and over the scan"
    details = (
        f"{_THICKNESS_MODELS[model.thickness_model]}"
        f"{', that of a tilted plate' if model.tilt_correction else ''}. "
        f"_refine_ls.sample_thickness is the mean over the {whole}. "
        f"Mean at one angle: {mean.min():.2f} to {mean.max():.2f} nm, its s.u. {su.min():.2f} to "
        f"{su.max():.2f} nm; standard deviation within the crystal: "
        f"{profiles.thickness_std.min() / 10:.2f} to {profiles.thickness_std.max() / 10:.2f} nm."
    )
    items = {
        "_refine_ls.sample_thickness": measured(
            float(mean.mean()), float(su[0]) if is_one_number else None, 2
        ),
        "_refine_ls.sample_shape_details": fold(details[0].upper() + details[1:]),
    }
    if model.thickness_model in _SHAPE_EXPRESSIONS:
        items["_refine_ls.sample_shape_expression"] = _SHAPE_EXPRESSIONS[model.thickness_model]
    return items


def _mosaicity_items(result: Result) -> dict[str, str]:
    if result.mosaicity is None:
        return {}
    return {
        "_exptl_crystal.mosaicity": measured(*result.mosaicity, 4),
        "_exptl_crystal.mosaic_method": fold(
            "Standard deviation of an isotropic normal distribution of orientations, refined with "
            "the structure against dynamical intensities."
        ),
    }


def _details(result: Result, weighting: Weighting) -> str:
    statistics, frames = result.statistics, result.statistics.frames
    lines = [
        f"Refined against unmerged integrated intensities; status {result.status}.",
        f"{statistics.n_rejected} reflections rejected as outliers (residual above "
        f"{weighting.outlier_threshold:g} robust standard deviations).",
        f"Of the {statistics.n_parameters} parameters {statistics.n_parameters_structure} describe the "
        "structure, the others thickness, orientation, scales and effects. Effective number of parameters "
        f"under the priors: {statistics.n_parameters_effective:.1f}.",
        f"Held out: {statistics.held_out.n_reflections} reflections, by {statistics.held_out_by}, "
        f"R_obs {number(statistics.held_out.r_obs)}.",
        f"Merged: MR_obs {number(statistics.merged.mr_obs)}, MR_all {number(statistics.merged.mr_all)}, "
        f"MwR_all {number(statistics.merged.mwr_all)}.",
        f"Means of {frames.all.n_frames} virtual frames: R_obs {number(frames.all.r_obs_mean)}, "
        f"wR2 {number(frames.all.wr2_mean)} ({frames.all.n_observed} observed of "
        f"{frames.all.n_reflections}; semi-angle {frames.frames.typical_semi_angle:g} degrees, "
        f"rsg {frames.limits.rsg:g}, dsg {frames.limits.dsg:g} 1/Angstrom).",
        *_crystal_lines(result),
        "s.u.: chi^2/(N - P) times the inverse normal matrix of all refined numbers; those of "
        "thickness, orientation and scales are marginalised.",
    ]
    lines += [f"Warning: {warning}." for warning in result.warnings]
    lines += [f"Data: {finding.sentence}." for finding in result.data_checks]
    return "\n".join([*lines, "Definitions:", *(f"{text}." for text in DEFINITIONS.values())])


def _crystal_lines(result: Result) -> list[str]:
    """A line for each of several crystals."""
    if len(result.crystals) < 2:
        return []
    lines = []
    for i, fit in enumerate(result.crystals, start=1):
        line = (
            f"Crystal {i}: {fit.used.n_reflections} reflections ({fit.used.n_observed} observed), "
            f"R_obs {number(fit.used.r_obs)}, R_all {number(fit.used.r_all)}, wR_all "
            f"{number(fit.used.wr_all)}, {fit.n_rejected} rejected, held out R_obs "
            f"{number(fit.held_out.r_obs)}, mean thickness {fit.thickness / 10:.2f} nm"
        )
        if fit.absorption is not None:
            line += f", absorption {measured(fit.absorption.value, fit.absorption.su, 4)}"
        if fit.mosaicity is not None:
            line += f", mosaicity {measured(*fit.mosaicity, 4)} degrees"
        lines.append(f"{line}.")
    return lines


def difference_potential_items(smallest: float, largest: float, rms: float) -> dict[str, str]:
    """Extremes of the difference Fourier map of the potential, in e/Angstrom."""
    values = {"min": smallest, "max": largest, "RMS": rms}
    return {f"_refine_diff.potential_{k}": number(value, 5) for k, value in values.items()}
