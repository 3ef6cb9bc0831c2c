"""What dials.hybrid_refine says of the data it is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dials_hybrid_refine.command_line.refine_input import Crystal, InputData
from dials_hybrid_refine.io.table_facts import table_facts
from dials_hybrid_refine.refinement.data_checks.at_end import findings_at_end
from dials_hybrid_refine.refinement.data_checks.at_start import findings_at_start
from dials_hybrid_refine.refinement.data_checks.coverage import LOW_COMPLETENESS, low_completeness
from dials_hybrid_refine.refinement.data_checks.finding import Finding
from dials_hybrid_refine.refinement.data_checks.passages import passages
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.result import Result

logger = logging.getLogger("dials.hybrid_refine")


def check_data(data: InputData, options: RefinementOptions) -> dict[str, tuple[Finding, ...]]:
    """Look at each crystal's data before anything is calculated, and say in the log what was found.

    Returns what was found, by the names of the crystals. Reflections that one crystal lacks others may have:
    completeness is that of all.
    """
    found = {}
    for crystal in data.crystals:
        of_crystal = findings_at_start(
            [crystal.scan],
            crystal.observations,
            data.model.structure.crystal_symmetry(),
            table_facts(crystal.table, crystal.observations, crystal.exclusion),
            options.beams.g_max,
            options.orientation.expected_size,
        )
        if len(data.crystals) > 1:
            of_crystal = tuple(one for one in of_crystal if one.name != LOW_COMPLETENESS)
        found[crystal.name] = of_crystal
        _say(_named(of_crystal, crystal, data))
    _say(_of_all(data))
    return found


def with_data_checks(
    result: Result,
    start: Mapping[str, Sequence[Finding]],
    data: InputData,
    options: RefinementOptions,
) -> Result:
    """The result with the findings of the start, and those of its residuals, which go to the log."""
    orientation = options.orientation
    expected_size = orientation.expected_size if orientation.model == "smooth" else None
    earlier: list[Finding] = []
    new: list[Finding] = []
    for i, crystal in enumerate(data.crystals):
        at_start = tuple(start[crystal.name])
        part = replace(result.of_crystal(i), data_checks=at_start)
        found = findings_at_end(part, [crystal.scan], options.weighting.instability, expected_size)
        earlier += _named(at_start, crystal, data)
        new += _named(found, crystal, data)
    _say(new)
    return replace(result, data_checks=(*earlier, *_of_all(data), *new))


def _of_all(data: InputData) -> list[Finding]:
    """What is found in the data of several crystals taken together."""
    if len(data.crystals) == 1:
        return []
    observations = data.observations
    symmetry = data.model.structure.crystal_symmetry()
    found = low_completeness(observations, passages(data.scans, observations), symmetry)
    return [] if found is None else [found]


def _named(findings: Sequence[Finding], crystal: Crystal, data: InputData) -> list[Finding]:
    """The findings, which name their crystal where it is one of several."""
    if len(data.crystals) == 1:
        return list(findings)
    return [replace(one, sentence=f"{crystal.name}: {one.sentence}") for one in findings]


def _say(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.severity == "warning":
            logger.warning("Warning: the data: %s", finding.sentence)
        else:
            logger.info("Note on the data: %s", finding.sentence)
