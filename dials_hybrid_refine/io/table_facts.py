"""What checks of the data ask of a table of reflections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dials.array_family import flex

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.io.reflections import OVERLOADED, REPEATED, Exclusion
from dials_hybrid_refine.refinement.data_checks.at_start import TableFacts


def table_facts(
    table: flex.reflection_table, observations: Observations, exclusion: Exclusion
) -> TableFacts:
    """The facts of a table that was read into observations."""
    counts = exclusion.counts
    return TableFacts(
        counts.get(REPEATED, 0), counts.get(OVERLOADED, 0), _observed_angles(table, observations)
    )


def _observed_angles(
    table: flex.reflection_table, observations: Observations
) -> NDArray[np.float64] | None:
    """Angles of the observed centroids in degrees, near the predicted ones; NaN where not observed.

    Without variances there are no measured centroids: other programs repeat the predicted ones.
    """
    if "xyzobs.mm.value" not in table or "xyzobs.mm.variance" not in table:
        return None
    rows = observations.row
    angle = np.degrees(table["xyzobs.mm.value"].parts()[2].as_numpy_array())[rows]
    variance = table["xyzobs.mm.variance"].parts()[2].as_numpy_array()[rows]
    turned = (angle - observations.phi + 180) % 360 - 180
    measured = np.isfinite(angle) & (variance > 0)
    return np.where(measured, observations.phi + turned, np.nan)
