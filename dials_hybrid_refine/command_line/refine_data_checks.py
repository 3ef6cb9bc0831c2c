"""What dials.hybrid_refine says of the data it is given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from dials_hybrid_refine.command_line.refine_input import InputData
from dials_hybrid_refine.io.table_facts import table_facts
from dials_hybrid_refine.refinement.data_checks.at_end import findings_at_end
from dials_hybrid_refine.refinement.data_checks.at_start import findings_at_start
from dials_hybrid_refine.refinement.data_checks.finding import Finding
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.result import Result

logger = logging.getLogger("dials.hybrid_refine")


def check_data(data: InputData, options: RefinementOptions) -> tuple[Finding, ...]:
    """Look at the data before anything is calculated, and say in the log what was found."""
    found = findings_at_start(
        [data.scan],
        data.observations,
        data.model.structure.crystal_symmetry(),
        table_facts(data.table, data.observations, data.exclusion),
        options.beams.g_max,
        options.orientation.expected_size,
    )
    _say(found)
    return found


def with_data_checks(
    result: Result, start: Sequence[Finding], data: InputData, options: RefinementOptions
) -> Result:
    """The result with the findings of the start, and those of its residuals, which go to the log."""
    result = replace(result, data_checks=tuple(start))
    orientation = options.orientation
    expected_size = orientation.expected_size if orientation.model == "smooth" else None
    found = findings_at_end(result, [data.scan], options.weighting.instability, expected_size)
    _say(found)
    return replace(result, data_checks=(*start, *found))


def _say(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.severity == "warning":
            logger.warning("Warning: the data: %s", finding.sentence)
        else:
            logger.info("Note on the data: %s", finding.sentence)
