"""Tables for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cctbx import adptbx
from dials.util import tabulate

from dials_hybrid_refine.diffraction.electron import VOLT_PER_CHARGE
from dials_hybrid_refine.refinement.difference_map import DifferenceMap
from dials_hybrid_refine.refinement.geometry import Geometry
from dials_hybrid_refine.refinement.result import (
    AbsorptionStrength,
    CrystalRecord,
    Iteration,
    Result,
)
from dials_hybrid_refine.refinement.shifts import Shifts
from dials_hybrid_refine.refinement.statistics import DEFINITIONS

#: the first line of the iterations, aligned with ``iteration_line``
ITERATION_HEADER = f"{'stage':>9} {'step':>4} {'loss':>12} {'R_obs':>7} {'held out':>8} {'thickness':>9} {'time':>7}"


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def iteration_line(iteration: Iteration) -> str:
    """One line of the convergence history: mean thickness in Angstrom, time in seconds."""
    return (
        f"{iteration.stage:>9} {iteration.number:>4} {iteration.loss:>12.2f} "
        f"{_factor(iteration.r_obs):>7} {_factor(iteration.r_obs_held_out):>8} "
        f"{iteration.mean_thickness:>9.0f} {iteration.seconds:>6.1f}s"
    )


def exclusion_table(n_total: int, counts: Mapping[str, int], n_left: int) -> str:
    """How many reflections were read, excluded for each reason, and are left."""
    rows = [["read", n_total], *([reason, -n] for reason, n in counts.items()), ["left", n_left]]
    return tabulate(rows, ["reflections", "number"])


def convergence_table(result: Result) -> str:
    """What raising the limits of the calculation does."""
    rows = [
        [
            r.setting,
            f"{r.value:.4g}",
            f"{r.raised:.4g}",
            f"{100 * r.change:.3f}",
            f"{r.largest:.4f}",
        ]
        for r in result.convergence
    ]
    header = ["setting", "value", "raised to", "change of F (%)", "largest change of I / mean I"]
    return tabulate(rows, header)


def effects_table(result: Result) -> str:
    """What the effects of other packages report, a row for each number."""
    rows = []
    for effect in result.effects:
        for name, values in effect.values.items():
            for index in np.ndindex(values.shape):
                place = f"[{','.join(map(str, index))}]" if index else ""
                su = effect.su[name][index]
                shown = f"{su:.2g}" if np.isfinite(su) else "-"
                rows.append([effect.name, name + place, f"{values[index]:.6g}", shown])
    return tabulate(rows, ["effect", "quantity", "value", "s.u."], disable_numparse=True)


def _shifts(shifts: Shifts | None) -> list[str]:
    return ["-" if shifts is None else f"{shifts.largest:.2f}, {shifts.mean:.2f}", ""]


def statistics_table(result: Result) -> str:
    """The figures of merit."""
    statistics = result.statistics
    used, held = statistics.used, statistics.held_out
    by_frame = statistics.frames
    rows = [
        ["reflections", used.n_reflections, held.n_reflections],
        ["observed, I > 3 sigma", used.n_observed, held.n_observed],
        ["R_obs", _factor(used.r_obs), _factor(held.r_obs)],
        ["R_all", _factor(used.r_all), _factor(held.r_all)],
        ["wR_all", _factor(used.wr_all), _factor(held.wr_all)],
        ["GooF", "-" if used.gof is None else f"{used.gof:.2f}", ""],
        ["MR_obs", _factor(statistics.merged.mr_obs), ""],
        ["MR_all", _factor(statistics.merged.mr_all), ""],
        ["MwR_all", _factor(statistics.merged.mwr_all), ""],
        ["mean R_obs of frames", _factor(by_frame.all.r_obs_mean), _factor(by_frame.held_out.r_obs_mean)],
        ["mean wR2 of frames", _factor(by_frame.all.wr2_mean), _factor(by_frame.held_out.wr2_mean)],
        ["the same without rejected", f"{_factor(by_frame.used.r_obs_mean)}, {_factor(by_frame.used.wr2_mean)}", ""],
        ["frames: number", by_frame.all.n_frames, by_frame.held_out.n_frames],
        ["frames: reflections (observed)", *(f"{m.n_reflections} ({m.n_observed})" for m in (by_frame.all, by_frame.held_out))],
        ["held out by", "", statistics.held_out_by],
        ["rejected as outliers", statistics.n_rejected, ""],
        ["shift/s.u.: largest, mean", *_shifts(statistics.shifts)],
        ["parameters (effective)", f"{statistics.n_parameters} ({statistics.n_parameters_effective:.0f})", ""],
    ]  # fmt: skip
    limits = by_frame.limits
    if statistics.slices is not None:
        of_slices = statistics.slices
        rows += [
            ["slices", of_slices.used.n_reflections, of_slices.held_out.n_reflections],
            ["R_obs of slices", _factor(of_slices.used.r_obs), _factor(of_slices.held_out.r_obs)],
            ["slices rejected as outliers", of_slices.n_rejected, ""],
        ]
    return "\n".join(
        [
            tabulate(rows, ["", "used", "held out"]),
            f"Virtual frames: semi-angle {by_frame.frames.typical_semi_angle:g} degrees, rsg {limits.rsg:g}, "
            f"dsg {limits.dsg:g} 1/Angstrom",
        ]
    )


def crystal_table(result: Result, crystals: Sequence[CrystalRecord]) -> str:
    """The fit of each crystal: a row for each."""
    rows = []
    for i, (record, fit) in enumerate(zip(crystals, result.crystals)):
        row = [
            i,
            record.name,
            f"{record.phi_range[0]:g} to {record.phi_range[1]:g}",
            f"{fit.used.n_reflections} ({fit.used.n_observed})",
            _factor(fit.used.r_obs),
            _factor(fit.held_out.r_obs),
            fit.n_rejected,
            f"{fit.thickness:.0f}",
            f"{fit.orientation:.3f}",
            f"{fit.scale:.4g}",
        ]
        if fit.absorption is not None:
            row.append(_with_uncertainty(fit.absorption.value, fit.absorption.su or 0.0))
        if fit.mosaicity is not None:
            row.append(_with_uncertainty(fit.mosaicity[0], fit.mosaicity[1] or 0.0))
        rows.append([*row, record.reindexed or ""])
    header = [
        "", "experiment", "phi", "refl. (obs.)", "R_obs", "held out", "rejected", "thickness (A)",
        "turned (deg)", "scale",
    ]  # fmt: skip
    fits = result.crystals
    header += ["absorption"] * (fits[0].absorption is not None)
    header += ["mosaicity (deg)"] * (fits[0].mosaicity is not None)
    return tabulate(rows, [*header, "reindexed"], disable_numparse=True)


def definitions() -> str:
    """The definitions of the figures of merit."""
    return "\n".join(f"  {text}" for text in DEFINITIONS.values())


def structure_table(result: Result) -> str:
    """Coordinates and equivalent isotropic U with standard uncertainties in brackets."""
    structure = result.structure
    cell = structure.unit_cell()
    sigma = None
    if result.covariance is not None:
        sigma = np.sqrt(np.clip(np.diag(result.covariance), 0, None))
    rows = []
    for scatterer, indices in zip(structure.scatterers(), structure.parameter_map()):
        site = [
            _with_uncertainty(
                x, sigma[indices.site + k] if sigma is not None and indices.site >= 0 else 0.0
            )
            for k, x in enumerate(scatterer.site)
        ]
        u = scatterer.u_iso
        if scatterer.flags.use_u_aniso():
            u = adptbx.u_star_as_u_iso(cell, scatterer.u_star)
        rows.append([scatterer.label, *site, f"{u:.4f}", f"{scatterer.occupancy:.3f}"])
    return tabulate(rows, ["atom", "x", "y", "z", "U_eq", "occ."], disable_numparse=True)


def bond_table(geometry: Geometry, most: int = 60) -> str:
    """Bond lengths in Angstrom with their s.u., at most so many; the CIF has all."""
    rows = [
        [
            "-".join(bond.labels),
            _with_uncertainty(bond.value, bond.su or 0.0),
            bond.symmetry[1] if bond.symmetry[1] != "." else "",
        ]
        for bond in geometry.bonds[:most]
    ]
    table = tabulate(rows, ["bond", "length (A)", "symmetry of 2nd"], disable_numparse=True)
    left = len(geometry.bonds) - len(rows)
    return table if not left else f"{table}\n... and {left} more, all in the CIF and the JSON"


def difference_map_table(difference: DifferenceMap) -> str:
    """The peaks of the difference map and its extremes."""
    rows = [
        [
            " ".join(f"{x:.4f}" for x in peak.site),
            f"{peak.height:.3f}",
            f"{peak.height / difference.rms:.1f}" if difference.rms > 0 else "-",
            f"{peak.distance:.2f} A from {peak.nearest}",
        ]
        for peak in difference.peaks
    ]
    table = tabulate(
        rows, ["x y z", "height (e/A)", "/ r.m.s.", "nearest atom"], disable_numparse=True
    )
    return (
        f"{table}\nHighest {difference.maximum:.3f}, lowest {difference.minimum:.3f}, r.m.s. "
        f"{difference.rms:.3f} e/Angstrom (1 e/Angstrom = {VOLT_PER_CHARGE:.2f} V)"
    )


def _with_uncertainty(value: float, su: float) -> str:
    """A number with its s.u. in units of the last digit, as in 0.4697(2)."""
    if not su > 0:
        return f"{value:.5f}"
    digits = min(6, max(0, int(np.ceil(-np.log10(su / 1.95)))))
    return f"{value:.{digits}f}({round(su * 10**digits)})"


def absorption_line(absorption: AbsorptionStrength) -> str:
    """The strength of the absorption."""
    what = "U'/U" if absorption.model == "proportional" else "factor on the tabulated U'"
    if absorption.su is None:
        return f"Absorption: {what} = {absorption.value:.4f} (fixed)"
    return f"Absorption: {what} = {absorption.value:.4f}, s.u. {absorption.su:.4f}"


def outlier_table(result: Result) -> str:
    """The rejected reflections, worst first; all differ too much from the calculated intensity."""
    observations = result.observations
    rejected = np.flatnonzero(result.rejected)
    worst = rejected[np.argsort(-np.abs(result.residual[rejected]), kind="stable")]
    rows = [
        [
            " ".join(str(i) for i in observations.hkl[i]),
            f"{observations.phi[i]:.2f}",
            f"{observations.intensity[i]:.1f}",
            f"{observations.sigma[i]:.1f}",
            f"{result.calculated[i]:.1f}",
            f"{result.residual[i]:+.1f}",
        ]
        for i in worst
    ]
    return tabulate(
        rows, ["h k l", "phi", "I observed", "sigma", "I calculated", "residual / E"], disable_numparse=True
    )  # fmt: skip


def profile_table(result: Result, every: float = 10.0) -> str:
    """Thickness, orientation and scale along the scan, about every so many degrees.

    Standard uncertainties of the thickness include the priors.
    """
    profiles = result.profiles
    spacing = float(np.median(np.diff(profiles.phi))) if len(profiles.phi) > 1 else every
    step = max(1, round(every / max(1e-6, spacing)))
    own_mean = {
        i: profiles.scale[profiles.experiment == i].mean() for i in set(profiles.experiment)
    }
    relative = profiles.scale / np.array([own_mean[i] for i in profiles.experiment])
    rows = [
        [
            profiles.experiment[i],
            f"{profiles.phi[i]:.1f}",
            _thickness(profiles.thickness_mean[i], profiles.thickness_mean_su[i]),
            _thickness(profiles.thickness_std[i], profiles.thickness_std_su[i]),
            " ".join(f"{c:+.3f}" for c in profiles.orientation[i]),
            f"{relative[i]:.2f}",
        ]
        for i in range(0, len(profiles.phi), step)
    ]
    header = ["experiment", "phi", "thickness (A)", "std (A)", "orientation (deg)", "rel. scale"]
    note = "s.u. of the thickness include its priors, whose they are where the data say little."
    return f"{tabulate(rows, header, disable_numparse=True)}\n{note}"


def _thickness(value: float, su: float) -> str:
    """A thickness with its s.u. in brackets if it has one."""
    return _with_uncertainty(value, su) if su > 0 else f"{value:.0f}"
