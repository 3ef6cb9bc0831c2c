"""Whether sigmas are right, from reflections for which the model plays no role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.finding import SIGMAS, Finding
from dials_hybrid_refine.refinement.data_checks.weak_intensities import (
    HALF_NORMAL_MEDIAN,
    MEDIAN_ERROR,
)

_Array = NDArray[np.float64]

#: sigmas that are wrong by a smaller factor are not worth a word
_NOTABLE = 1.5
#: fewest weak reflections that tell something
_LEAST = 30
#: degrees of freedom of the t distribution that keeps outliers from deciding
_T_FREEDOM = 4.0
#: the scale that its likelihood gives to a standard normal variable
_T_SCALE = 0.831
#: how much larger than assumed u must be to be named, and how much the likelihood must gain
_INSTABILITY_FACTOR = 3.0


@dataclass(frozen=True)
class ErrorModel:
    """Spread of residuals (k sigma)^2 + (u I_c)^2.

    ``log_likelihood_gain``: over the same with u as the weights assume.
    """

    k: float
    u: float
    log_likelihood_gain: float

    def values(self) -> Mapping[str, float]:
        """For a Finding."""
        return {"sigma_factor": self.k, "instability": self.u}


def fit_error_model(residual: _Array, sigma: _Array, calculated: _Array, u: float) -> ErrorModel:
    """The likeliest k and u for residuals I_o - I_c; arrays (n,).

    Args:
        u: as the weights assume it.
    """

    def loss(k: float, instability: float) -> float:
        variance = (k * sigma) ** 2 + (instability * calculated) ** 2
        tails = np.log1p(residual**2 / (_T_FREEDOM * variance))
        return float((0.5 * np.log(variance) + 0.5 * (_T_FREEDOM + 1) * tails).sum())

    both = minimize(lambda p: loss(*np.exp(p)), [0.0, np.log(0.05)], method="Nelder-Mead")
    one = minimize(lambda p: loss(np.exp(p[0]), _T_SCALE * u), [0.0], method="Nelder-Mead")
    k, instability = np.exp(both.x)
    return ErrorModel(float(k) / _T_SCALE, float(instability) / _T_SCALE, float(one.fun - both.fun))


def wrong_sigmas(
    observations: Observations,
    calculated: _Array,
    used: NDArray[np.bool_],
    instability: float,
) -> Finding | None:
    """How far weak reflections are from their calculated intensities, in units of sigma.

    Errors of a model are in proportion to intensities. Those of reflections calculated below one sigma are
    therefore noise, whose median size is 0.67 if sigma is right.

    Args:
        calculated: shape (n,), intensities of a model that fits.
        used: shape (n,), reflections in the loss.
        instability: u of the weights.
    """
    residual = (observations.intensity - calculated)[used]
    sigma, intensity = observations.sigma[used], np.clip(calculated[used], 0, None)
    weak = intensity < sigma
    if weak.sum() < _LEAST:
        return None
    factor = float(np.median(np.abs(residual[weak] / sigma[weak]))) / HALF_NORMAL_MEDIAN
    error = SIGMAS * MEDIAN_ERROR / float(np.sqrt(weak.sum()))
    if factor * (1 - error) > _NOTABLE:
        verdict, severity = f"too small, by a factor of {factor:.1f}", "warning"
    elif factor * (1 + error) < 1 / _NOTABLE:
        verdict, severity = f"too large, by a factor of {1 / max(factor, 1e-9):.1f}", "note"
    else:
        return None
    model = fit_error_model(residual, sigma, intensity, instability)
    return Finding(
        "wrong_sigmas",
        "warning" if severity == "warning" else "note",
        f"the sigmas of weak reflections are {verdict}, by the residuals of {weak.sum()} reflections that "
        f"are calculated below one sigma; those of all follow ({model.k:.2f} sigma)^2 + ({model.u:.3f} I)^2: "
        "the refinement allows for the common factor, but I > 3 sigma and R_obs rest on sigma; integrate "
        f"again, or correct the gain of the detector; weighting.instability is {instability:g}",
        {"weak_factor": factor, "n_weak": int(weak.sum()), **model.values()},
    )


def large_instability(
    observations: Observations,
    calculated: _Array,
    used: NDArray[np.bool_],
    instability: float,
) -> Finding | None:
    """Whether strong reflections misfit by a larger share of themselves than the weights assume.

    By the likelihood ratio of u fitted and u assumed (chi^2 with one degree of freedom); arguments as above.
    """
    intensity = np.clip(calculated[used], 0, None)
    if used.sum() < _LEAST or instability <= 0:
        return None
    residual = (observations.intensity - calculated)[used]
    model = fit_error_model(residual, observations.sigma[used], intensity, instability)
    clear = model.log_likelihood_gain > 0.5 * SIGMAS**2
    if not clear or model.u < _INSTABILITY_FACTOR * instability:
        return None
    return Finding(
        "large_instability",
        "note",
        f"strong reflections misfit by {100 * model.u:.0f} % of their intensity, where the weights assume "
        f"{100 * instability:g} %: they decide more than they should; compare with a refinement that has "
        f"weighting.instability={model.u:.2f}",
        model.values(),
    )
