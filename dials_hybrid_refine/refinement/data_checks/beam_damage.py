"""Whether the crystal fades in the beam: intensities that fall with dose, more at high resolution.

The relative Wilson plot of the scan against itself: with t from 0 to 1 along the scan and s = sin(theta) /
lambda = 1 / 2d, damage multiplies intensities by exp(-2 dB t s^2) and a scale that each stretch of the
scan has anyway. Comparing equivalents, or observed with calculated intensities, frees the plot of the
structure, whose orientation alone makes it differ between images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.refinement.data_checks.equivalents import clear_equivalents
from dials_hybrid_refine.refinement.data_checks.finding import SIGMAS, Finding
from dials_hybrid_refine.refinement.data_checks.passages import Passages
from dials_hybrid_refine.refinement.data_checks.slopes import Slope, indicator, slope, stretches
from dials_hybrid_refine.refinement.weights import variances

_Array = NDArray[np.float64]

#: Angstrom^2: less is an eighth of what thermal vibration does at room temperature, and does no harm
_NOTABLE = 0.2


def progress(scans: Sequence[ScanGeometry], observations: Observations) -> _Array:
    """How much of its scan was over at each observation, from 0 to 1; shape (n,)."""
    first, last = np.array([scan.phi_range for scan in scans])[observations.experiment].T
    return np.asarray((observations.phi - first) / (last - first))


def rise_of_b(
    scans: Sequence[ScanGeometry], observations: Observations, passing: Passages
) -> Slope | None:
    """Rise of B over the scan in Angstrom^2, from symmetry equivalents; None for too few of them."""
    data = clear_equivalents(observations)
    if len(data.chosen) == 0:
        return None
    chosen = observations.select(data.chosen)
    freed = data.log_intensity - np.log(passing.lorentz[data.chosen])
    return slope(
        freed,
        -2 * _s_squared(passing)[data.chosen] * progress(scans, chosen),
        [indicator(data.unique), indicator(stretches(chosen.experiment, chosen.phi))],
        data.unique,
    )


def residual_rise_of_b(
    scans: Sequence[ScanGeometry],
    observations: Observations,
    calculated: _Array,
    used: NDArray[np.bool_],
    passing: Passages,
    instability: float,
) -> Slope | None:
    """The same from observed and calculated intensities (n,), whose model does not fade."""
    rows = np.flatnonzero(used & (calculated > 0))
    if len(rows) == 0:
        return None
    data, intensity = observations.select(rows), calculated[rows]
    weight = 1 / np.sqrt(variances(data.intensity, data.sigma, instability))
    size, s_squared = weight * intensity, _s_squared(passing)[rows]
    scales = indicator(stretches(data.experiment, data.phi)).multiply(size[:, None]).tocsr()
    of_b = indicator(data.experiment).multiply((size * s_squared)[:, None]).tocsr()
    return slope(
        weight * (data.intensity - intensity),
        -2 * size * s_squared * progress(scans, data),
        [scales, of_b],
        np.arange(len(rows)),
    )


def _s_squared(passing: Passages) -> _Array:
    return np.asarray(passing.inverse_d**2 / 4)


def beam_damage(found: Slope | None, compared: str) -> Finding | None:
    """Whether B rises along the scan.

    Args:
        compared: what was.
    """
    if found is None or found.value - SIGMAS * found.su < _NOTABLE:
        return None
    return Finding(
        "beam_damage",
        "warning",
        f"the crystal seems to suffer in the beam: B rises by {found.value:.2f} Angstrom^2 along the scan "
        f"(s.u. {found.su:.2f}), by the fall of high-resolution intensities of {compared}: use the first "
        "part of the scan (dials.slice_sequence), several crystals, or a lower dose",
        {"rise_of_b": found.value, "su": found.su, "n": found.n},
    )
