"""The checks that need the data alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cctbx import crystal

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.refinement.data_checks.beam_damage import beam_damage, rise_of_b
from dials_hybrid_refine.refinement.data_checks.centring import forbidden_by_centring
from dials_hybrid_refine.refinement.data_checks.coverage import (
    low_completeness,
    overloaded_reflections,
)
from dials_hybrid_refine.refinement.data_checks.duplicates import (
    equal_intensities,
    repeated_passages,
    repeated_rows,
)
from dials_hybrid_refine.refinement.data_checks.finding import Finding
from dials_hybrid_refine.refinement.data_checks.lorentz import lorentz_by_equivalents
from dials_hybrid_refine.refinement.data_checks.measured_angles import drifting_orientation
from dials_hybrid_refine.refinement.data_checks.merged import merged_equivalents
from dials_hybrid_refine.refinement.data_checks.passages import passages
from dials_hybrid_refine.refinement.data_checks.resolution import beyond_beams, empty_shells
from dials_hybrid_refine.refinement.data_checks.weak_intensities import negative_intensities


@dataclass(frozen=True)
class TableFacts:
    """What the file of reflections says beyond its observations.

    Attributes:
        n_repeated: rows left out as repetitions of others.
        n_overloaded: rows left out as overloaded.
        observed_phi: shape (n,), angles of the observed centroids in degrees, NaN where there are
            none; None for a file without.
    """

    n_repeated: int = 0
    n_overloaded: int = 0
    observed_phi: NDArray[np.float64] | None = None


def findings_at_start(
    scans: Sequence[ScanGeometry],
    observations: Observations,
    symmetry: crystal.symmetry,
    facts: TableFacts,
    g_max: float | None,
    expected_size: float,
) -> tuple[Finding, ...]:
    """What is wrong with data before anything is calculated.

    Args:
        symmetry: cell and space group of the structure.
        g_max: limit of the beams that was given, 1/Angstrom.
        expected_size: of the orientation's correction, degrees.
    """
    passing, group = passages(scans, observations), symmetry.space_group()
    found = (
        repeated_rows(facts.n_repeated),
        repeated_passages(observations, passing),
        equal_intensities(observations),
        merged_equivalents(observations, scans, group),
        lorentz_by_equivalents(observations, passing),
        negative_intensities(observations),
        forbidden_by_centring(observations, group),
        beyond_beams(observations, passing, g_max),
        empty_shells(observations, passing),
        overloaded_reflections(facts.n_overloaded, len(observations)),
        low_completeness(observations, passing, symmetry),
        drifting_orientation(observations, passing, facts.observed_phi, expected_size),
        beam_damage(rise_of_b(scans, observations, passing), "symmetry equivalents"),
    )
    return tuple(finding for finding in found if finding is not None)
