"""Which beams take part in the diffraction at an orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BeamSelection:
    """Limits of the many-beam calculation.

    Attributes:
        g_max: beams up to this |g| in 1/Angstrom.
        s_max: a beam is on at tilts where |S_g| is at most this, in 1/Angstrom.
        tilt_step: largest rotation between the tilts that sample a rocking curve, in degrees.
        block_width: rotation over which one list of beams is used, in degrees; None: what is
            fastest (``block_size``). The intensities do not depend on it.
        segment_width: rotation over which one scale is used, in degrees.
        tilts_per_window: for data recorded in steps: how many tilts, evenly spaced from the first
            to the last angle of its window, an intensity is the sum of; ``tilt_step`` and
            ``block_width`` are not used then. None: continuous rotation.
    """

    g_max: float
    s_max: float
    tilt_step: float
    block_width: float | None = None
    segment_width: float = 1.0
    tilts_per_window: int | None = None


def reflections_in_sphere(basis: NDArray[np.float64], g_max: float) -> NDArray[np.int64]:
    """All hkl (n, 3), 000 excluded, with |G h| <= g_max for a reciprocal basis G (3, 3)."""
    # |h_i| <= |a_i| |g|, with the direct basis vectors a_i in the rows of G^-1
    limits = np.floor(np.linalg.norm(np.linalg.inv(basis), axis=1) * g_max + 1e-9).astype(int)
    grids = np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij")
    hkl = np.stack([grid.ravel() for grid in grids], axis=-1)
    lengths = np.linalg.norm(hkl @ basis.T, axis=1)
    return hkl[(lengths <= g_max) & (lengths > 0)]


def nominal_excitation_errors(
    bases: NDArray[np.float64],
    hkl: NDArray[np.int64],
    beam_direction: NDArray[np.float64],
    wave_number: float,
) -> NDArray[np.float64]:
    """S_g in 1/Angstrom, shape (n_hkl, n_tilts), for reciprocal bases (n_tilts, 3, 3)."""
    along_beam = np.einsum("i,tij->tj", beam_direction, bases)
    metrics = np.einsum("tij,tik->tjk", bases, bases)
    h = hkl.astype(float)
    lengths_sq = np.einsum("ni,tij,nj->nt", h, metrics, h, optimize=True)
    return -(h @ along_beam.T + lengths_sq / (2 * wave_number))
