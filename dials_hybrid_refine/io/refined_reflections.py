"""The result of a refinement as columns of the reflection table it started from."""

from __future__ import annotations

import copy

import numpy as np

from dials.array_family import flex

from dials_hybrid_refine.io.reflections import Exclusion
from dials_hybrid_refine.refinement.result import Result

#: values of the column hybrid_refine.status
STATUS = {"used": 0, "held out": 1, "rejected as outlier": 2, "excluded before refinement": 3}


def with_calculated(
    table: flex.reflection_table, result: Result, exclusion: Exclusion, experiment: int = 0
) -> flex.reflection_table:
    """A copy of the table of an experiment, all rows kept, with these columns added:

    ``hybrid_refine.intensity.calc`` on the scale of the raw intensity, ``hybrid_refine.scale``
    (calculated intensity over integrated fraction of the incident beam, counts/degree),
    ``hybrid_refine.weight`` (1/variance in the loss) and ``hybrid_refine.status`` (see STATUS).
    Values are 0 in rows excluded before the refinement.
    """
    written = copy.deepcopy(table)
    mine = result.observations.experiment == experiment
    rows = result.observations.row[mine]
    columns = {
        "hybrid_refine.intensity.calc": result.calculated,
        "hybrid_refine.scale": result.scale,
        "hybrid_refine.weight": result.weight,
    }
    for name, values in columns.items():
        column = np.zeros(len(table))
        column[rows] = values[mine]
        written[name] = flex.double(column)
    status = np.full(len(table), STATUS["excluded before refinement"])
    status[rows] = STATUS["used"]
    status[rows[result.held_out[mine]]] = STATUS["held out"]
    status[rows[result.rejected[mine]]] = STATUS["rejected as outlier"]
    written["hybrid_refine.status"] = flex.int(status.tolist())
    return written
