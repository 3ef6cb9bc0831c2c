"""Reflections that were recorded in slices, put together again.

A refinement against slices is judged by whole reflections, as any other is: slices of the flanks are weak,
and their R factors say as much of counting statistics as of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.statistics import Agreement

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SliceAgreement:
    """R factors of the slices themselves: of those refined against, and of those held out."""

    used: Agreement
    held_out: Agreement
    n_rejected: int


@dataclass(frozen=True)
class Judged:
    """n observations and what a refinement makes of them.

    Attributes:
        calculated: shape (n,), on the scale of the observed intensities.
        integrated: shape (n,), in fractions of the incident beam times degrees.
        held_out, rejected: masks (n,).
    """

    observations: Observations
    calculated: _Array
    integrated: _Array
    held_out: _Mask
    rejected: _Mask

    @property
    def used(self) -> _Mask:
        """Mask (n,) of those refined against."""
        return ~self.held_out & ~self.rejected


def reflection_numbers(observations: Observations) -> NDArray[np.int64]:
    """A number (n,) for the reflection of each observation, in the order in which they first come."""
    key = np.stack([observations.experiment, observations.row], axis=1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return np.asarray(place[inverse.reshape(-1)])


def are_slices(observations: Observations) -> bool:
    """Whether there are reflections in several slices."""
    return len(observations) > 0 and reflection_numbers(observations).max() + 1 < len(observations)


def whole_windows(observations: Observations) -> tuple[_Array, _Array]:
    """First and last angle (n,) of the reflection of each observation in degrees."""
    number = reflection_numbers(observations)
    start = np.full(number.max(initial=-1) + 1, np.inf)
    end = -start
    np.minimum.at(start, number, observations.phi_start)
    np.maximum.at(end, number, observations.phi_end)
    return start[number], end[number]


def whole_reflections(judged: Judged) -> Judged:
    """The same of whole reflections: sums over the slices that are not rejected.

    A reflection all of whose slices are rejected is, and is the sum of all. Without slices nothing
    changes.
    """
    data = judged.observations
    if not are_slices(data):
        return judged
    number = reflection_numbers(data)
    n = int(number.max()) + 1
    all_rejected = np.bincount(number, weights=~judged.rejected, minlength=n) == 0
    counts = ~judged.rejected | all_rejected[number]

    def total(values: _Array) -> _Array:
        return np.bincount(number, weights=values * counts, minlength=n).astype(float)

    first = np.unique(number, return_index=True)[1]
    start, end = whole_windows(data)
    observations = replace(
        data.select(first),
        phi_start=start[first],
        phi_end=end[first],
        intensity=total(data.intensity),
        sigma=np.sqrt(total(data.sigma**2)),
    )
    return Judged(
        observations,
        total(judged.calculated),
        total(judged.integrated),
        judged.held_out[first],
        all_rejected,
    )
