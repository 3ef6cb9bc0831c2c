"""How many tilts a block of rotation should have: the fastest of a few.

A term of the expansion costs a product of an N x N by an N x n matrix. Wide blocks carry beams that
are on at a few of their tilts only (N grows with n), narrow ones waste the product.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection, nominal_excitation_errors
from dials_hybrid_refine.diffraction.scan import ScanGeometry

#: a processor's vector registers hold 16 numbers of single precision; other widths leave lanes empty
_WIDTHS = (16, 32, 48, 64, 96, 128)

#: a product of n columns takes as long as n + 7 at the full rate; measured with
#: ``benchmarks/propagation.py``: 16 columns reach 70 %, 48 nearly 100 % of the rate of large products
PRODUCT_OVERHEAD = 7

#: places along the scan where beams are counted
_SAMPLES = 5


def tilts_per_block(
    scan: ScanGeometry, candidates: NDArray[np.int64], selection: BeamSelection, wave_number: float
) -> int:
    """The number of tilts n that makes the calculation fastest.

    Args:
        candidates: shape (m, 3), all reflections up to g_max.
        wave_number: K in the crystal, 1/Angstrom.
    """
    first, last = scan.phi_range
    widest = max(_WIDTHS[0], int(np.ceil((last - first) / selection.tilt_step)))
    widths = [n for n in _WIDTHS if n <= widest] or [_WIDTHS[0]]
    costs = np.zeros(len(widths))
    for centre in first + (np.arange(_SAMPLES) + 0.5) / _SAMPLES * (last - first):
        for i, n in enumerate(widths):
            half = min(n * selection.tilt_step, last - first) / 2
            phi = np.clip(np.linspace(centre - half, centre + half, 9), first, last)
            errors = nominal_excitation_errors(
                scan.reciprocal_bases(phi), candidates, scan.beam_direction, wave_number
            )
            n_beams = np.count_nonzero((np.abs(errors) <= selection.s_max).any(axis=1))
            costs[i] += n_beams**2 * (n + PRODUCT_OVERHEAD) / n
    return widths[int(costs.argmin())]
