"""Agreement factors of a dynamical refinement, as electron crystallographers define them.

The definitions are those of Jana2020 (Petricek et al. (2023), Z. Kristallogr. 238, 271) on
F = sqrt(I): weights w = 1 / (sigma_F^2 + (0.01 F_o)^2), observed means I > 3 sigma(I).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: instability factor of the weights of R factors
INSTABILITY = 0.01
#: a reflection is observed if I exceeds this many sigma
OBSERVED_LIMIT = 3.0

DEFINITIONS = {
    "r_obs": "R_obs = sum |F_o - F_c| / sum F_o over used reflections with I > 3 sigma(I), "
    "F = sqrt(I), each measurement on its own, all together",
    "r_all": "R_all = the same over all used reflections",
    "wr_all": "wR_all = sqrt(sum w (F_o - F_c)^2 / sum w F_o^2) over all used reflections, "
    "w = 1 / (sigma_F^2 + (0.01 F_o)^2)",
    "gof": "GooF = sqrt(sum w (F_o - F_c)^2 / (N - P)), P the effective number of parameters",
    "shift_over_su": "shift/s.u. of the structure's parameters: their change over the last cycle, which takes "
    "several steps, over their standard uncertainties",
    "mr_obs": "MR_obs = R_obs of intensities put on a common scale and averaged over symmetry "
    "equivalents (calculated ones likewise), observed means <I> > 3 sigma(<I>)",
    "mr_all": "MR_all = the same over all averaged reflections",
    "mwr_all": "MwR_all = wR_all of all averaged reflections, sigma(<I>) = sqrt(sum sigma^2) / n",
    "restrained_s": "S' = sqrt([sum w (I_o - I_c)^2 + sum (deviation / sigma)^2 of restraints] / "
    "(N + N_restraints - P)) with the weights of the loss, P parameters that data or restraints determine",
    "r_obs_held_out": "R_obs over reflections that were never used in the refinement (all "
    "symmetry mates together, or all of a stretch of the scan, which then gets one scale of its "
    "own fitted to it with the weights of the loss) and never tested as outliers",
    "slices": "of data in slices all R factors are those of whole reflections, sums over the slices "
    "that are not rejected, and GooF that of the slices; R factors of the slices themselves are "
    "stated beside them",
    "r_obs_mean": "mean R_obs of frames = unweighted mean, over virtual frames with observed "
    "reflections, of sum |F_o - sqrt(s) F_c| / sum F_o over the frame's reflections with "
    "I > 3 sigma(I), rejected ones included and held-out ones not; each frame has one scale "
    "s = sum w^2 I_o I_c / sum w^2 I_c^2 over its reflections with I_o > 0, "
    "w = 1 / sqrt(sigma_F^2 + (0.01 F_o)^2). A reflection counts in each frame in the middle of "
    "which |S| / dS < rsg and dS - |S| > dsg, S its excitation error, dS its distance from the "
    "rotation axis times the semi-angle",
    "wr2_mean": "mean wR2 of frames = the same of "
    "sqrt(sum w^2 (s I_c - I_o)^2 / sum w^2 I_o^2) over the frame's reflections with I_o > 0",
    "r_obs_mean_used": "means of frames without rejected reflections, and those of held-out "
    "reflections: the same over these; held-out ones with the scale that the other "
    "reflections of their frame give it, where there are any",
}


@dataclass(frozen=True)
class Agreement:
    """R factors of a set of reflections; None where it is empty or all F_o are zero."""

    n_reflections: int
    n_observed: int
    r_obs: float | None
    r_all: float | None
    wr_all: float | None
    gof: float | None


@dataclass(frozen=True)
class MergedAgreement:
    """R factors of averaged reflections."""

    mr_obs: float | None
    mr_all: float | None
    mwr_all: float | None


def amplitudes(
    intensity: NDArray[np.float64], sigma: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F and sigma(F) of intensities, both (n,).

    sigma_F = sigma_I / (2 F), for weak reflections (I < 0.01 sigma) 5 sqrt(sigma_I); F = 0 for
    negative intensities.
    """
    f = np.sqrt(np.clip(intensity, 0, None))
    weak = intensity < 0.01 * sigma
    return f, np.where(weak, 5 * np.sqrt(sigma), sigma / (2 * np.where(weak, 1, f)))


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator > 0 else None


def agreement(
    observed: NDArray[np.float64],
    sigma: NDArray[np.float64],
    calculated: NDArray[np.float64],
    n_parameters: float = 0,
) -> Agreement:
    """R factors of n measurements; all arrays of shape (n,) and on one scale."""
    f_o, sigma_f = amplitudes(observed, sigma)
    f_c = np.sqrt(np.clip(calculated, 0, None))
    strong = observed > OBSERVED_LIMIT * sigma
    difference = np.abs(f_o - f_c)
    weight = 1 / (sigma_f**2 + (INSTABILITY * f_o) ** 2)
    weighted = float((weight * difference**2).sum())
    freedom = len(observed) - n_parameters
    wr_sq = _ratio(weighted, float((weight * f_o**2).sum()))
    return Agreement(
        n_reflections=len(observed),
        n_observed=int(strong.sum()),
        r_obs=_ratio(difference[strong].sum(), f_o[strong].sum()),
        r_all=_ratio(difference.sum(), f_o.sum()),
        wr_all=None if wr_sq is None else wr_sq**0.5,
        gof=(weighted / freedom) ** 0.5 if freedom > 0 else None,
    )


def amplitude_change(intensity: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """sum |F' - F| / sum F' of two sets of calculated intensities (n,); 0 where all vanish."""
    f, f_other = np.sqrt(np.clip(intensity, 0, None)), np.sqrt(np.clip(other, 0, None))
    return _ratio(float(np.abs(f_other - f).sum()), float(f_other.sum())) or 0.0


def merged_agreement(
    observed: NDArray[np.float64],
    sigma: NDArray[np.float64],
    calculated: NDArray[np.float64],
    scale: NDArray[np.float64],
    unique_index: NDArray[np.int64],
) -> MergedAgreement:
    """R factors of intensities averaged over equivalents after division by their scale.

    All arrays of shape (n,); sigma of an average of m is sqrt(sum sigma^2) / m.
    """
    usable = scale > 0
    groups, index = np.unique(unique_index[usable], return_inverse=True)
    counts = np.bincount(index, minlength=len(groups)).astype(float)
    k: NDArray[np.float64] = scale[usable]

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(index, weights=values, minlength=len(groups)).astype(float)

    merged = agreement(
        total(observed[usable] / k) / counts,
        np.sqrt(total((sigma[usable] / k) ** 2)) / counts,
        total(calculated[usable] / k) / counts,
    )
    return MergedAgreement(merged.r_obs, merged.r_all, merged.wr_all)
