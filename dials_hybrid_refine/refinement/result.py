"""What a refinement hands on to reports and files."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from cctbx import xray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.absolute_structure import AbsoluteStructure
from dials_hybrid_refine.refinement.binned_agreement import BinnedAgreement
from dials_hybrid_refine.refinement.convergence import ConvergenceRow
from dials_hybrid_refine.refinement.data_checks.finding import Finding
from dials_hybrid_refine.refinement.difference_map import DifferenceMap
from dials_hybrid_refine.refinement.effect_values import EffectValues
from dials_hybrid_refine.refinement.frame_statistics import FrameStatistics
from dials_hybrid_refine.refinement.restraint_summary import RestraintSummary
from dials_hybrid_refine.refinement.rocking_curves import RockingCurve
from dials_hybrid_refine.refinement.shifts import Shifts
from dials_hybrid_refine.refinement.statistics import Agreement, MergedAgreement
from dials_hybrid_refine.refinement.whole_reflections import SliceAgreement


@dataclass(frozen=True)
class Iteration:
    """One accepted step of the refinement, for the log and the convergence history."""

    stage: str
    number: int
    loss: float
    chi_square: float
    r_obs: float | None
    r_obs_held_out: float | None
    mean_thickness: float
    seconds: float


@dataclass(frozen=True)
class Statistics:
    """Figures of merit of a finished refinement; definitions in ``statistics.DEFINITIONS``.

    ``n_parameters`` counts refined numbers (structure, thickness, orientation, scales, ...),
    ``n_parameters_structure`` those of the structure;
    ``n_parameters_effective`` what remains of them under the priors. ``loss_start`` and
    ``loss_final`` are weighted sums of squares with E = 1 (``weights.Weighting``), which is
    estimated anew on the way. The first is of the coarse calculation before outliers are rejected.
    ``held_out_by``: "reflections" or "frames". ``shifts``: of the last cycle, None if there was none.
    ``slices``: of data in slices, of which all others are sums; ``used.gof`` is that of the slices then.
    """

    used: Agreement
    merged: MergedAgreement
    held_out: Agreement
    held_out_by: str
    frames: FrameStatistics
    n_rejected: int
    n_parameters: int
    n_parameters_structure: int
    n_parameters_effective: float
    loss_start: float
    loss_final: float
    n_iterations: int
    shifts: Shifts | None
    slices: SliceAgreement | None = None


@dataclass(frozen=True)
class Profiles:
    """How the experiment's unknowns vary along the scans; one entry per block of rotation.

    Attributes:
        experiment: shape (b,). phi: shape (b,), degrees.
        thickness_mean, thickness_std: shape (b,), Angstrom.
        thickness_mean_su, thickness_std_su: shape (b,), their standard uncertainties, Angstrom. They
            include the priors, whose they are where the data say little; 0 where nothing is free.
        orientation: shape (b, 3), rotation vector in degrees, laboratory frame: g' = R g.
        orientation_su: shape (b, 3), standard uncertainties of its components in degrees, as those of
            the thickness. About the beam, and mostly about the rotation axis, they are those of the prior.
        scale: shape (b,), counts per incident electron and degree.
        thickness_nodes, thickness_weight: shape (b, m), the distribution of thickness: nodes in
            Angstrom and weights that sum to 1.
    """

    experiment: NDArray[np.int64]
    phi: NDArray[np.float64]
    thickness_mean: NDArray[np.float64]
    thickness_std: NDArray[np.float64]
    thickness_mean_su: NDArray[np.float64]
    thickness_std_su: NDArray[np.float64]
    orientation: NDArray[np.float64]
    orientation_su: NDArray[np.float64]
    scale: NDArray[np.float64]
    thickness_nodes: NDArray[np.float64]
    thickness_weight: NDArray[np.float64]

    def of_crystal(self, number: int) -> Profiles:
        """Those of one crystal."""
        mine = self.experiment == number
        return Profiles(**{f.name: getattr(self, f.name)[mine] for f in fields(self)})


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds and what was computed with."""

    setup_s: float
    refine_s: float
    per_iteration_s: float
    device: str
    dtype: str
    n_beams_mean: float
    n_beams_max: int


@dataclass(frozen=True)
class AbsorptionStrength:
    """The strength of the absorption: U'/U (proportional) or a factor on U' (tabulated).

    ``su`` is its standard uncertainty, None where it was fixed.
    """

    model: str
    value: float
    su: float | None


@dataclass(frozen=True)
class CrystalRecord:
    """What the files say of one crystal.

    Attributes:
        name: its experiments file, with the number of the experiment where that holds several.
        identifier: DIALS' experiment identifier, or empty.
        wavelength: in Angstrom. phi_range: in degrees.
        reindexed: the change of basis that was applied to its data, or None.
    """

    name: str
    identifier: str
    wavelength: float
    phi_range: tuple[float, float]
    reindexed: str | None = None


@dataclass(frozen=True)
class ExcludedCrystal:
    """An experiment that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class CrystalFit:
    """The part of a result that is about one crystal.

    Attributes:
        used, held_out: R factors of its reflections.
        n_rejected: outliers among them.
        thickness, thickness_std: means along its scan in Angstrom; scale: that of its scale, counts per
            incident electron and degree; orientation: root mean square size of the correction in degrees.
        absorption: its strength, or None without. mosaicity: standard deviation of the orientations in
            degrees and its s.u., or None without.
    """

    used: Agreement
    held_out: Agreement
    n_rejected: int
    thickness: float
    thickness_std: float
    scale: float
    orientation: float
    absorption: AbsorptionStrength | None = None
    mosaicity: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class Result:
    """A finished (or interrupted) refinement.

    Attributes:
        status: "converged", "max_iterations" (it ended without) or "interrupted".
        structure: the refined structure, gradient flags set on refined parameters.
        covariance: shape (q, q), of the crystallographic parameters in the order of
            ``structure.parameter_map()`` (ADPs as U*), or None if it could not be had.
        observations: all that passed the filter, whole reflections; held_out, rejected: masks (n,).
        calculated: shape (n,), on the scale of the observed intensities; stretches of the scan
            that are held out each have a scale of their own.
        scale: shape (n,), effective scale of each reflection (calculated intensity over
            integrated fraction of the incident beam); 0 where nothing is calculated.
        weight: shape (n,), 1 / variance in the loss (also of reflections not used).
        residual: shape (n,), (I_o - I_c) sqrt(weight) over their robust spread.
        absorption: its strength, or None without absorption, and for several crystals.
        mosaicity: standard deviation of orientations in degrees and its s.u., or None without, and for
            several crystals.
        crystals: the fit of each crystal.
        convergence: what raising the limits of the calculation does; empty if not asked for.
        effects: what the effects of other packages report.
        restraints: of the structure, None without.
        difference_map: what the potential has and the model lacks; None if not asked for.
        warnings: sentences about parameters that came out unphysical, about the hand, and why a fit
            may be bad.
        absolute_structure: the comparison with the inverse, or None where there was none.
        breakdown: where numbers broke down, so that the refinement ended there; it is the first of the
            warnings too.
        start: the starting structure.
        binned: agreement against angle, resolution and intensity.
        rocking_curves: of the strongest and of the worst reflections.
        data_checks: what is wrong with the data.
    """

    status: str
    structure: xray.structure
    covariance: NDArray[np.float64] | None
    observations: Observations
    held_out: NDArray[np.bool_]
    rejected: NDArray[np.bool_]
    calculated: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    residual: NDArray[np.float64]
    statistics: Statistics
    profiles: Profiles
    history: tuple[Iteration, ...]
    timing: Timing
    absorption: AbsorptionStrength | None = None
    mosaicity: tuple[float, float | None] | None = None
    crystals: tuple[CrystalFit, ...] = ()
    convergence: tuple[ConvergenceRow, ...] = ()
    warnings: tuple[str, ...] = ()
    effects: tuple[EffectValues, ...] = ()
    restraints: RestraintSummary | None = None
    absolute_structure: AbsoluteStructure | None = None
    difference_map: DifferenceMap | None = None
    breakdown: str | None = None
    start: xray.structure | None = None
    binned: BinnedAgreement | None = None
    rocking_curves: tuple[RockingCurve, ...] = ()
    data_checks: tuple[Finding, ...] = ()

    def of_crystal(self, number: int) -> Result:
        """Reflections, profiles and R factors of one crystal as if it were the only one."""
        if len(self.crystals) < 2:
            return self
        mine = self.observations.experiment == number
        own = self.observations.select(mine)
        profiles = self.profiles.of_crystal(number)
        return replace(
            self,
            observations=replace(own, experiment=np.zeros_like(own.experiment)),
            held_out=self.held_out[mine],
            rejected=self.rejected[mine],
            calculated=self.calculated[mine],
            scale=self.scale[mine],
            weight=self.weight[mine],
            residual=self.residual[mine],
            statistics=replace(
                self.statistics,
                used=self.crystals[number].used,
                held_out=self.crystals[number].held_out,
                n_rejected=self.crystals[number].n_rejected,
            ),
            profiles=replace(profiles, experiment=np.zeros_like(profiles.experiment)),
            crystals=(self.crystals[number],),
        )
