"""Weights of reflections and rejection of outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations

#: reflections whose residual is within this share of the limit keep the side that they were on. With one sharp
#: limit those beside it changed sides, and with them the best structure, in each of the 5 to 8 cycles of measured CsPbBr3.
PLAY = 0.1


@dataclass(frozen=True)
class Weighting:
    """Variance of an intensity in the loss, and what counts as an outlier.

    Attributes:
        instability: u in sigma^2 = E^2 (sigma_I^2 + (u I)^2), I the larger of observed and
            zero. E, the spread of the residuals, is estimated as the refinement goes on, so
            that priors weigh as much as they should against the data.
        outlier_threshold: a reflection is rejected where its residual exceeds this many robust
            standard deviations (1.4826 times the median size) of all residuals.
        max_rejected: largest share of reflections that may be rejected, the worst first.
    """

    instability: float = 0.03
    outlier_threshold: float = 4.0
    max_rejected: float = 0.05


def variances(
    intensity: NDArray[np.float64], sigma: NDArray[np.float64], instability: float
) -> NDArray[np.float64]:
    """sigma_I^2 + (u max(I, 0))^2, shape (n,), in squared counts: variances without E^2."""
    return np.asarray(sigma**2 + (instability * np.clip(intensity, 0, None)) ** 2)


def residuals(
    intensity: NDArray[np.float64],
    sigma: NDArray[np.float64],
    calculated: NDArray[np.float64],
    instability: float,
) -> NDArray[np.float64]:
    """(I_o - I_c) / sqrt(sigma_I^2 + (u max(I_o, 0))^2), shape (n,): not divided by E."""
    return np.asarray((intensity - calculated) / np.sqrt(variances(intensity, sigma, instability)))


def loss_weights(
    observations: Observations, used: NDArray[np.bool_], weighting: Weighting, spread: float
) -> torch.Tensor:
    """1 / (E^2 (sigma_I^2 + (u I)^2)) of used reflections, 0 for the others; shape (n,)."""
    variance = variances(observations.intensity, observations.sigma, weighting.instability)
    return torch.from_numpy(used / variance / spread**2)


def residual_spread(
    residual: NDArray[np.float64], used: NDArray[np.bool_], n_parameters: float = 0.0
) -> float:
    """E: robust standard deviation of the residuals (n,) of N used reflections.

    1.4826 times their median size, times sqrt(N / (N - P)): parameters take up residuals, and
    without that factor E and the priors' weight would shrink each other. 1 where nothing is left.
    """
    n_used = int(used.sum())
    spread = 1.4826 * float(np.median(np.abs(residual[used]))) if n_used else 0.0
    freedom = max(n_used - n_parameters, 0.25 * n_used)
    return spread * float(np.sqrt(n_used / freedom)) if spread > 0 else 1.0


def find_outliers(
    residual: NDArray[np.float64],
    candidates: NDArray[np.bool_],
    weighting: Weighting,
    before: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Mask (n,) of outliers among the candidates.

    Args:
        residual: shape (n,), (I_o - I_c) / sqrt(sigma_I^2 + (u I)^2).
        candidates: shape (n,), reflections that take part in the refinement or would.
        before: shape (n,), those that are rejected now and stay so within ``PLAY`` of the limit, as the
            others stay; None: the limit is sharp.
    """
    outliers = np.zeros(len(residual), dtype=bool)
    size = np.abs(residual)
    limits = np.full(len(size), weighting.outlier_threshold * residual_spread(residual, candidates))
    if before is not None:
        limits *= np.where(before, 1 - PLAY, 1 + PLAY)
    most = int(weighting.max_rejected * candidates.sum())
    worst = np.argsort(np.where(candidates, -size, 0), kind="stable")[:most]
    outliers[worst] = (size > limits)[worst]
    return outliers
