"""What several crystals need beyond one: a common setting, and an end to those that do not fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from dials_hybrid_refine.command_line.refine_input import InputData, reindexed, tell_excluded
from dials_hybrid_refine.io.command_input import CommandInput
from dials_hybrid_refine.refinement.crystal_fit import CrystalsDoNotFit, bad_crystals
from dials_hybrid_refine.refinement.crystal_settings import starting_fits
from dials_hybrid_refine.refinement.journal import Journal
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.result import Result

logger = logging.getLogger("dials.hybrid_refine")


def settled(
    command: CommandInput, data: InputData, options: RefinementOptions, journal: Journal
) -> InputData:
    """The crystals in the setting of the structure, without those that do not fit it if that is asked for.

    A single crystal is left as it is.
    """
    if len(data.crystals) == 1:
        return data
    structure = data.model.structure
    fits = starting_fits(data.scans, data.observations, structure, options, journal)
    operators = {i: fit.operator for i, fit in enumerate(fits) if fit.operator}
    data = reindexed(data, operators, data.files.structure, command.params)
    bad = bad_crystals([fit.misfit for fit in fits], are_refined=False)
    for i, reason in bad.items():
        logger.warning(
            "Warning: %s may not be of this structure: %s", data.crystals[i].name, reason
        )
    return _without(data, bad) if options.exclude_bad else data


def refined_crystals(
    data: InputData, refine: Callable[[InputData], Result]
) -> tuple[InputData, Result]:
    """The refinement of crystals, begun anew without those that turn out not to fit."""
    while True:
        try:
            result = refine(data)
        except CrystalsDoNotFit as found:
            data = _without(data, found.reasons)
            continue
        told = tuple(f"{one.name} was left out: {one.reason}" for one in data.excluded)
        return data, replace(result, warnings=(*told, *result.warnings))


def _without(data: InputData, reasons: Mapping[int, str]) -> InputData:
    kept = data.without(reasons)
    for left_out in kept.excluded[len(data.excluded) :]:
        tell_excluded(left_out)
    return kept
