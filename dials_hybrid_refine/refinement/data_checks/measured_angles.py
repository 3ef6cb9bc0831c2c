"""Whether the orientation drifts, from the angles at which reflections were seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, Finding
from dials_hybrid_refine.refinement.data_checks.passages import Passages
from dials_hybrid_refine.refinement.data_checks.slopes import STRETCH, stretches

_Array = NDArray[np.float64]

#: I / sigma(I) of reflections whose angle is well measured
_STRONG = 10.0
#: fewest of them in a stretch of the scan
_LEAST = 10
#: fewest stretches
_LEAST_STRETCHES = 4
#: drifts are named that exceed so many times what the correction of the orientation expects
_BEYOND = 2.0


def drifting_orientation(
    observations: Observations,
    passing: Passages,
    observed_phi: _Array | None,
    expected_size: float,
) -> Finding | None:
    """Whether reflections of a part of the scan pass earlier or later than their orientation says.

    Every few degrees two angles are fitted to the differences of observed and predicted angles: a turn
    about the axis, and one about the direction normal to axis and beam. The third, about the
    beam, moves no reflection through the sphere. Where the orientation is right, sum c^T C^-1 c over the stretches is
    chi^2 with two degrees of freedom each.

    Args:
        observed_phi: shape (n,), angles of the observed centroids in degrees, NaN where there are
            none; None for data without.
        expected_size: of the orientation's correction in degrees, as its prior has it.
    """
    if observed_phi is None:
        return None
    shift = observed_phi - observations.phi
    strong = np.isfinite(shift) & (observations.intensity > _STRONG * observations.sigma)
    if not strong.any() or not np.abs(shift[strong]).max() > 0:
        return None
    labels = stretches(observations.experiment, observations.phi)
    fits = [
        (rows, *_fit(shift[rows], passing.lever[rows]))
        for label in np.unique(labels[strong])
        if len(rows := np.flatnonzero(strong & (labels == label))) >= _LEAST
    ]
    if len(fits) < _LEAST_STRETCHES:
        return None
    # one spread for all: the typical one, which a stretch with two crystals does not decide
    spread = float(np.median([np.sqrt(square) for _, _, _, square in fits]))
    turns = np.array([turn for _, turn, _, _ in fits])
    evidence = np.array([turn @ normal @ turn for _, turn, normal, _ in fits]) / spread**2
    worst = int(np.argmax(evidence))
    size = float(np.linalg.norm(turns[worst]))
    su = float(np.sqrt(np.trace(np.linalg.inv(fits[worst][2])))) * spread
    limit = _BEYOND * expected_size
    chance = chi2.sf(evidence[worst], 2) * len(fits)
    if chance > CHANCE or size - 2 * su < limit:
        return None
    middle = float(np.median(observations.phi[fits[worst][0]]))
    return Finding(
        "drifting_orientation",
        "warning",
        f"the orientation drifts or jumps: around {middle:.0f} degrees the crystal is turned by {size:.2f} "
        f"degrees (s.u. {su:.2f}) from where the experiments say, by the observed angles of "
        f"{len(fits[worst][0])} reflections within {STRETCH:g} degrees: refine the orientation of each image "
        "(dials.refine scan_varying=True) and integrate again, or cut the scan there (dials.slice_sequence)",
        {"phi": middle, "turn": size, "su": su},
    )


def _fit(shift: _Array, lever: _Array) -> tuple[_Array, _Array, float]:
    """Two angles in degrees, their normal matrix, and the mean square of the residuals."""
    design = np.stack([-np.ones(len(shift)), lever], axis=1)
    normal = design.T @ design
    turn = np.linalg.lstsq(design, shift, rcond=None)[0]
    residual = shift - design @ turn
    return turn, normal, float(residual @ residual) / (len(shift) - 2)
