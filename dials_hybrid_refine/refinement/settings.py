"""Defaults that are decided from the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection

#: where the choice of s_max starts, 1/Angstrom
_S_MAX = 0.012

#: s_max of derivatives with respect to the structure. With 0.009 and 0.006 instead of 0.012 they took 0.7 and 0.5 of the time
#: (CsPbBr3), and s.u. of single parameters of refined quartz and CsPbBr3 changed by up to 4 and 6 % (0.5 % in the median).
_S_MAX_OF_DERIVATIVES = 0.008

#: degrees between tilts, however thin or thick the crystal
_SMALLEST_TILT_STEP, _LARGEST_TILT_STEP = 0.02, 0.1

#: tilts of the coarse calculation are this many times 1 / (|g| t) apart, where 1 would be exact
#: (``exact_tilt_step``). With 0.1 degrees for all crystals, scans of simulated quartz that was thicker than
#: 1000 Angstrom ended at 600 to 900.
_COARSE_TILTS = 1.5
#: the same for the mean plus two standard deviations, where the choice of the full calculation starts, and where it
#: does with a poor fit. With tilts 0.070 degrees apart, 1.4 times, which changed amplitudes by 0.2 % on average, the
#: thickness of simulated quartz (R_obs 0.016) came out 3.3 to 5 % wrong, with 0.049 degrees 0.7 %.
_FINE_TILTS, _FINE_TILTS_POOR = 1.0, 2.0


def exact_tilt_step(g_data: float, thickness: float) -> float:
    """Degrees between tilts that integrate all rocking curves exactly, or less.

    A rocking curve of a crystal of thickness t holds no Fourier components beyond t, so that
    tilts dS = 1/t apart integrate it exactly. dS of a step is at most |g| times the step.

    Args:
        g_data: largest |g| of the observed reflections, 1/Angstrom.
        thickness: of the thick part (mean plus two standard deviations), Angstrom.
    """
    return float(min(np.degrees(1 / (g_data * thickness)), _LARGEST_TILT_STEP))


def coarse_selection(g_data: float, thickness: float) -> BeamSelection:
    """A calculation that is good enough to find the basin.

    Args:
        g_data: largest |g| of the observed reflections, 1/Angstrom.
        thickness: mean, or the largest that is looked for, Angstrom.
    """
    tilt_step = np.clip(
        np.degrees(_COARSE_TILTS / (g_data * thickness)), _SMALLEST_TILT_STEP, _LARGEST_TILT_STEP
    )
    return BeamSelection(g_max=g_data, s_max=_S_MAX, tilt_step=float(tilt_step))


def derivative_selection(g_data: float, thickness: float) -> BeamSelection:
    """A calculation of derivatives with respect to the structure.

    There are many of these; sums over reflections of products of two need fewer tilts and beams than each
    intensity does.

    Args:
        g_data: largest |g| of the observed reflections, 1/Angstrom.
        thickness: mean, Angstrom.
    """
    return replace(coarse_selection(g_data, thickness), s_max=_S_MAX_OF_DERIVATIVES)


def fine_selection(
    g_data: float,
    thickness: float,
    g_max: float | None,
    s_max: float | None,
    tilt_step: float | None,
    is_poor: bool = False,
) -> BeamSelection:
    """The full calculation, or where its choice starts; None for values that are not given.

    Args:
        g_data: largest |g| of the observed reflections, 1/Angstrom.
        thickness: of the thick part (mean plus two standard deviations), Angstrom.
        is_poor: whether the fit is, so that it may be content with tilts twice as far apart as
            ``exact_tilt_step``.
    """
    if tilt_step is None:
        tilts = _FINE_TILTS_POOR if is_poor else _FINE_TILTS
        tilt_step = float(
            np.clip(
                np.degrees(tilts / (g_data * thickness)),
                _SMALLEST_TILT_STEP,
                _LARGEST_TILT_STEP,
            )
        )
    return BeamSelection(
        g_max=g_max or g_data,
        s_max=s_max or _S_MAX,
        tilt_step=tilt_step,
    )


#: thickest crystals looked for when the data are to tell, in Angstrom: the next where the best of a
#: scan lies in its last third. Distributions of 3000 Angstrom on average need room above.
LARGEST_SCANNED = (1500.0, 4000.0)

#: thinnest crystal looked for, in Angstrom
_SMALLEST_SCANNED = 20.0

#: most nodes of a thin crystal
_MOST_NODES = 100


def scan_nodes(largest: float, distance: float) -> NDArray[np.float64]:
    """Thicknesses for a scan from 20 Angstrom to about ``largest``, in Angstrom.

    An eighth of the thickness apart, ``distance`` at most and 5 Angstrom at least.
    """
    nodes = []
    node = _SMALLEST_SCANNED
    while node <= largest:
        nodes.append(node)
        node += min(distance, max(5.0, node / 8))
    return np.array(nodes)


def largest_node(mean: float, width: float) -> float:
    """Thickest node of a distribution with a mean and standard deviation, all in Angstrom.

    Four standard deviations, of a quarter of the mean at least, leave room for a distribution that
    moves while the rest is refined. The time of a calculation is proportional to it.
    """
    return max(min(600.0, 8 * mean), mean + 4 * max(width, 0.25 * mean))


def node_spacing(mean: float, largest: float, distance: float) -> float:
    """Distance of the nodes of a distribution, in Angstrom: ``distance``, or less for a thin crystal.

    A sixth of the mean lets a few nodes share a distribution whose width is a quarter of it.
    """
    return min(distance, max(mean / 6, largest / _MOST_NODES))


def thickness_nodes(largest: float, distance: float) -> NDArray[np.float64]:
    """Thicknesses from ``distance`` to ``largest`` in steps of ``distance``, Angstrom."""
    return np.asarray(distance * np.arange(1, max(3, round(largest / distance)) + 1))
