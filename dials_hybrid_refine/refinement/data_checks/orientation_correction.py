"""Whether the refined correction of the orientation is larger than such corrections are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi

from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, Finding

_Array = NDArray[np.float64]


def large_correction(phi: _Array, correction: _Array, expected_size: float) -> Finding | None:
    """A correction beyond what its prior allows, which pulls it towards zero.

    The length of a vector of three normal variables follows a chi distribution with three degrees of
    freedom.

    Args:
        phi: shape (b,), angles in degrees.
        correction: shape (b, 3), rotation vectors in degrees.
        expected_size: the prior's standard deviation of each component, in degrees; at the ends of a scan
            it is half as much again, which is not looked at.
    """
    size = np.linalg.norm(correction, axis=1)
    if len(size) == 0 or size.max() <= expected_size * chi.isf(CHANCE, 3):
        return None
    worst = int(np.argmax(size))
    return Finding(
        "large_correction",
        "warning",
        f"the correction of the orientation reaches {size[worst]:.2f} degrees at {phi[worst]:.0f} degrees, "
        f"far beyond the {expected_size:g} that are expected: refine the orientation of each image "
        "(dials.refine scan_varying=True) and integrate again; if that is not possible, give "
        f"orientation.expected_size={size[worst] / 2:.2f}",
        {"phi": float(phi[worst]), "size": float(size[worst])},
    )
