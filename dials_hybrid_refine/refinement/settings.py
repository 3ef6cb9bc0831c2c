"""Defaults that are decided from the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection

#: beams reach beyond the data by this factor: raising g_max of the DIALS quartz data from 1.8,
#: where the data end, to 2.2 1/Angstrom lowered R_obs from 0.0725 to 0.0713
_G_MAX_FACTOR = 1.15

#: where the choice of s_max starts, 1/Angstrom
_S_MAX = 0.012


def coarse_selection(g_data: float) -> BeamSelection:
    """A calculation that is good enough to find the basin. g_data: largest |g|, 1/Angstrom."""
    return BeamSelection(g_max=g_data, s_max=_S_MAX, tilt_step=0.1)


def fine_selection(
    g_data: float,
    thickness: float,
    g_max: float | None,
    s_max: float | None,
    tilt_step: float | None,
) -> BeamSelection:
    """The full calculation, or where its choice starts; None for values that are not given.

    A rocking curve of a crystal of thickness t holds no Fourier components beyond t, so that
    tilts dS = 1/t apart integrate it exactly. dS of a step is at most |g| times the step, t that
    of the thick part of the crystal.

    Args:
        g_data: largest |g| of the observed reflections, 1/Angstrom.
        thickness: of the thick part (mean plus two standard deviations), Angstrom.
    """
    if tilt_step is None:
        tilt_step = float(np.clip(np.degrees(1 / (g_data * thickness)), 0.02, 0.1))
    return BeamSelection(
        g_max=g_max or _G_MAX_FACTOR * g_data,
        s_max=s_max or _S_MAX,
        tilt_step=tilt_step,
    )


#: thickest crystal looked for when the data are to tell, in Angstrom
LARGEST_SCANNED = 2000.0


def largest_node(mean: float, width: float) -> float:
    """Thickest node of a distribution with a mean and standard deviation, all in Angstrom.

    Four standard deviations, of a quarter of the mean at least, leave room for a distribution that
    moves while the rest is refined. The time of a calculation is proportional to it.
    """
    return max(600.0, mean + 4 * max(width, 0.25 * mean))


def thickness_nodes(largest: float, distance: float) -> NDArray[np.float64]:
    """Thicknesses from ``distance`` to ``largest`` in steps of ``distance``, Angstrom."""
    return np.asarray(distance * np.arange(1, max(3, round(largest / distance)) + 1))
