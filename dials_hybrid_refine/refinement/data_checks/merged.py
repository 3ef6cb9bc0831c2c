"""Whether equivalents were merged, so that each reflection is there once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from cctbx import sgtbx

from dials_hybrid_refine.diffraction.beams import nominal_excitation_errors
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, Finding

#: reflections that are looked at, evenly spread
_SAMPLE = 300
#: share of the passages that unmerged data hold at least: synthetic data of CsPbBr3 hold 0.45
_RECORDED = 0.1
#: degrees between the angles at which the side of the Ewald sphere is looked up
_STEP = 0.5
#: degrees at both ends of the scan in which a passage may be cut off
_MARGIN = 2.0


def merged_equivalents(
    observations: Observations, scans: Sequence[ScanGeometry], group: sgtbx.space_group
) -> Finding | None:
    """Whether measurements of equivalents are missing that the scan must have recorded.

    Unmerged data hold most passages of equivalents. If only a tenth of them was recorded, m further
    passages would leave k of them in the data with binomial probability; the check speaks where k is
    below what that makes likely.
    """
    unique, first = np.unique(observations.unique_index, return_index=True)
    chosen = np.unique(np.linspace(0, len(unique) - 1, min(_SAMPLE, len(unique))).astype(int))
    hkl = observations.hkl[first[chosen]]
    passed = np.sum([_passages(scan, hkl, group) for scan in scans], axis=0)
    kept = np.isin(observations.unique_index, unique[chosen[passed > 0]])
    expected = int((passed[passed > 0] - 1).sum())
    found = int(kept.sum() - (passed > 0).sum())
    if expected == 0 or binom.cdf(found, expected, _RECORDED) > CHANCE:
        return None
    return Finding(
        "merged_equivalents",
        "warning",
        f"equivalent reflections seem to be merged: {(passed > 0).sum()} unique reflections pass the Ewald "
        f"sphere {expected} times more than once in this scan, and {found} such measurements are there: "
        "give the unmerged data, because equivalents differ in dynamical diffraction",
        {"n_expected": expected, "n": found},
    )


def _passages(
    scan: ScanGeometry, hkl: NDArray[np.int64], group: sgtbx.space_group
) -> NDArray[np.int64]:
    """How often reflections (m, 3) and their equivalents pass the sphere within the scan; (m,)."""
    begin, end = scan.phi_range
    if end - begin < 2 * _MARGIN + _STEP:
        return np.zeros(len(hkl), dtype=np.int64)
    n = 1 + round((end - begin - 2 * _MARGIN) / _STEP)
    bases = scan.reciprocal_bases(np.linspace(begin + _MARGIN, end - _MARGIN, n))
    laue = group.build_derived_laue_group()
    rotations = np.array([op.r().as_double() for op in laue.all_ops()]).reshape(-1, 3, 3)
    mates = np.einsum("mi,oij->omj", hkl, rotations).round().astype(np.int64)
    total = np.zeros(len(hkl), dtype=np.int64)
    seen: list[NDArray[np.int64]] = []
    for mate in mates:
        # a reflection on a symmetry element is its own equivalent
        is_new = ~np.any([(mate == other).all(axis=1) for other in seen], axis=0)
        errors = nominal_excitation_errors(bases, mate, scan.beam_direction, 1 / scan.wavelength)
        total += np.where(is_new, (np.diff(np.sign(errors), axis=1) != 0).sum(axis=1), 0)
        seen.append(mate)
    return total
