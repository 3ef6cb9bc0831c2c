"""Reflections that are missing: too strong for the detector, or never passed."""

from __future__ import annotations

import numpy as np

from cctbx import crystal, miller
from cctbx.array_family import flex

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.finding import Finding
from dials_hybrid_refine.refinement.data_checks.passages import Passages

#: share of reflections with overloaded pixels from which the strongest ones are missed
_OVERLOADED = 0.01
#: name of the check
LOW_COMPLETENESS = "low_completeness"
#: completeness below which a referee will ask; scans of one crystal of low symmetry reach 0.6 to 0.9
_INCOMPLETE = 0.5


def overloaded_reflections(n_overloaded: int, n_used: int) -> Finding | None:
    """Reflections that DIALS flags as overloaded; they were left out."""
    if n_overloaded == 0:
        return None
    share = n_overloaded / (n_overloaded + n_used)
    return Finding(
        "overloaded",
        "warning" if share > _OVERLOADED else "note",
        f"{n_overloaded} reflections ({100 * share:.1f} %) have overloaded pixels and were left out: the "
        "strongest ones are missing; record them with less dose, and check the trusted range of the detector",
        {"n": n_overloaded, "share": share},
    )


def low_completeness(
    observations: Observations, passing: Passages, symmetry: crystal.symmetry
) -> Finding | None:
    """How many of the unique reflections to the resolution of the data were measured.

    To the resolution that 95 % of the measurements do not exceed, so that single ones do not decide.
    """
    d_min = 1 / float(np.quantile(passing.inverse_d, 0.95))
    indices = flex.miller_index([tuple(int(i) for i in h) for h in observations.hkl])
    measured = miller.set(symmetry, indices, anomalous_flag=False).resolution_filter(d_min=d_min)
    unique = measured.unique_under_symmetry().remove_systematic_absences()
    possible = miller.build_set(symmetry, anomalous_flag=False, d_min=d_min)
    completeness = unique.size() / max(1, possible.size())
    if completeness >= _INCOMPLETE:
        return None
    return Finding(
        LOW_COMPLETENESS,
        "note",
        f"{100 * completeness:.0f} % of the unique reflections to {d_min:.2f} Angstrom were measured: state "
        "it, and add data of other crystals or a wider scan where parameters are poorly determined",
        {"completeness": completeness, "d_min": d_min},
    )
