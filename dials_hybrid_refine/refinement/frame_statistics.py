"""Agreement factors of virtual frames and their means, as frame-wise programs give them.

The definitions are those of diffBloch 0.2 (Colmey et al. (2026), arXiv 2602.08935) and of Klar et
al. (2023), Nat. Chem. 15, 848-855: each frame has a scale of its own, R_obs is on F, wR2 on I with
weights of F, and frames count alike in the means. The scale is the one that minimises wR2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.frames import FrameFilter, Frames
from dials_hybrid_refine.refinement.statistics import INSTABILITY, agreement, amplitudes

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class FrameAgreement:
    """Figures of one frame; r_obs is None without observed reflections, wr2 without positive
    intensities, scale (of the calculated intensities) where it is undetermined."""

    n_reflections: int
    n_observed: int
    r_obs: float | None
    wr2: float | None
    scale: float | None


@dataclass(frozen=True)
class FrameMeans:
    """Unweighted means over the frames that hold an observed reflection, None without any.

    ``n_frames`` counts those frames; ``n_reflections`` and ``n_observed`` count the rows of all
    frames, a reflection once in each frame it belongs to.
    """

    n_frames: int
    n_reflections: int
    n_observed: int
    r_obs_mean: float | None
    wr2_mean: float | None


@dataclass(frozen=True)
class FrameStatistics:
    """Statistics over virtual frames.

    Attributes:
        frames: m frames.
        limits: what belongs to a frame.
        rows: m figures, of reflections that are not held out, rejected ones included.
        all: means over these.
        used: means over reflections that are neither held out nor rejected.
        held_out: means over held-out ones.
    """

    frames: Frames
    limits: FrameFilter
    rows: tuple[FrameAgreement, ...]
    all: FrameMeans
    used: FrameMeans
    held_out: FrameMeans


def frame_scale(observed: _Array, sigma: _Array, calculated: _Array) -> float | None:
    """The factor s = sum w^2 I_o I_c / sum w^2 I_c^2 over I_o > 0, which minimises wR2.

    w = 1 / sqrt(sigma_F^2 + (0.01 F_o)^2). None where nothing is calculated.

    Args:
        observed, sigma, calculated: shape (n,), intensities.
    """
    weight_sq, intensity = _squared_weights(observed, sigma), np.clip(calculated, 0, None)
    normal = float((weight_sq * intensity**2).sum())
    return float((weight_sq * observed * intensity).sum()) / normal if normal > 0 else None


def _squared_weights(observed: _Array, sigma: _Array) -> _Array:
    """w^2, shape (n,); 0 where the intensity is not positive."""
    f_o, sigma_f = amplitudes(observed, sigma)
    return np.where(observed > 0, 1 / (sigma_f**2 + (INSTABILITY * f_o) ** 2), 0.0)


def frame_agreement(
    observed: _Array, sigma: _Array, calculated: _Array, scale: float | None
) -> FrameAgreement:
    """Figures of one frame with a given scale; arrays of shape (n,), intensities.

    Where the scale is None nothing is calculated and any scale would do.
    """
    scaled = (1.0 if scale is None else scale) * np.clip(calculated, 0, None)
    weight_sq = _squared_weights(observed, sigma)
    size = float((weight_sq * observed**2).sum())
    misfit = float((weight_sq * (scaled - observed) ** 2).sum())
    on_f = agreement(observed, sigma, scaled)
    return FrameAgreement(
        n_reflections=on_f.n_reflections,
        n_observed=on_f.n_observed,
        r_obs=on_f.r_obs,
        wr2=(misfit / size) ** 0.5 if size > 0 else None,
        scale=scale,
    )


def frame_means(rows: Sequence[FrameAgreement]) -> FrameMeans:
    """Means over frames, see there."""
    counting = [row for row in rows if row.n_observed]
    return FrameMeans(
        n_frames=len(counting),
        n_reflections=sum(row.n_reflections for row in rows),
        n_observed=sum(row.n_observed for row in rows),
        r_obs_mean=_mean([row.r_obs for row in counting]),
        wr2_mean=_mean([row.wr2 for row in counting]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def frame_statistics(
    frames: Frames,
    limits: FrameFilter,
    members: Sequence[NDArray[np.int64]],
    observations: Observations,
    calculated: _Array,
    held_out: NDArray[np.bool_],
    rejected: NDArray[np.bool_],
) -> FrameStatistics:
    """Figures of all frames.

    Held-out reflections get the scale that the others of their frame give it, or where these
    are none that of their own.

    Args:
        members: the observations of each frame (``frames.frame_members``).
        calculated: shape (n,), intensities on any scale that is the same within a frame.
        held_out, rejected: shape (n,).
    """

    def data(rows: NDArray[np.int64]) -> tuple[_Array, _Array, _Array]:
        return observations.intensity[rows], observations.sigma[rows], calculated[rows]

    def own_scale(rows: NDArray[np.int64]) -> FrameAgreement:
        return frame_agreement(*data(rows), frame_scale(*data(rows)))

    everything, used, held = [], [], []
    for rows in members:
        fitted, aside = rows[~held_out[rows]], rows[held_out[rows]]
        everything.append(own_scale(fitted))
        used.append(own_scale(fitted[~rejected[fitted]]))
        scale = frame_scale(*data(fitted if len(fitted) else aside))
        held.append(frame_agreement(*data(aside), scale))
    return FrameStatistics(
        frames=frames,
        limits=limits,
        rows=tuple(everything),
        all=frame_means(everything),
        used=frame_means(used),
        held_out=frame_means(held),
    )
