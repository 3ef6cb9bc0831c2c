"""Whether intensities are raw, or corrected by the Lorentz factor already.

The intensity integrated over a passage of the Ewald sphere is the area under the rocking curve times the
time the passage takes, L. This holds in dynamical theory too, where rotation is but a way to vary
the excitation error. The slope of ln I on ln L is therefore 1 for raw intensities and 0 for corrected ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.equivalents import clear_equivalents
from dials_hybrid_refine.refinement.data_checks.finding import SIGMAS, Finding
from dials_hybrid_refine.refinement.data_checks.passages import Passages
from dials_hybrid_refine.refinement.data_checks.slopes import Slope, indicator, slope, stretches
from dials_hybrid_refine.refinement.weights import variances

_Array = NDArray[np.float64]

#: half way between raw and corrected intensities
_BORDER = 0.5


def lorentz_slope(observations: Observations, passing: Passages) -> Slope | None:
    """The slope of ln I on ln L among symmetry equivalents; None for too few of them."""
    data = clear_equivalents(observations)
    if len(data.chosen) == 0:
        return None
    log_lorentz = np.log(passing.lorentz[data.chosen])
    return slope(data.log_intensity, log_lorentz, [indicator(data.unique)], data.unique)


def lorentz_by_equivalents(observations: Observations, passing: Passages) -> Finding | None:
    """Whether equivalents that take long to pass are as strong as those that pass fast."""
    return _finding(lorentz_slope(observations, passing), 0.0, "symmetry equivalents")


def lorentz_by_residuals(
    observations: Observations,
    calculated: _Array,
    used: NDArray[np.bool_],
    passing: Passages,
    instability: float,
) -> Finding | None:
    """Whether what takes long to pass is weaker than calculated; for data without equivalents.

    Args:
        calculated: shape (n,), intensities on the scale of the observed ones.
        used: shape (n,), which reflections count.
        instability: of ``weights.Weighting``.
    """
    rows = np.flatnonzero(used & (calculated > 0))
    data, intensity = observations.select(rows), calculated[rows]
    if len(rows) == 0:
        return None
    weight = 1 / np.sqrt(variances(data.intensity, data.sigma, instability))
    size = weight * intensity
    scales = indicator(stretches(data.experiment, data.phi)).multiply(size[:, None])
    # the derivative of I L^p with respect to p
    found = slope(
        weight * (data.intensity - intensity),
        size * np.log(passing.lorentz[rows]),
        [scales.tocsr()],
        np.arange(len(rows)),
    )
    return _finding(found, 1.0, "observed and calculated intensities")


def _finding(found: Slope | None, offset: float, compared: str) -> Finding | None:
    if found is None or found.value + offset + SIGMAS * found.su > _BORDER:
        return None
    exponent = found.value + offset
    return Finding(
        "lorentz",
        "warning",
        f"the intensities seem to be corrected by the Lorentz factor L already: {compared} of "
        f"{found.n} reflections say I ~ L^{exponent:.2f} (s.u. {found.su:.2f}), and raw intensities are "
        "proportional to L: give the raw integrated intensities, which the simulation needs",
        {"exponent": exponent, "su": found.su, "n": found.n},
    )
