"""The refinement of the inverse of a structure, and the comparison with the structure as given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.refinement.absolute_structure import (
    AbsoluteStructure,
    AbsoluteStructureOptions,
    Votes,
    votes,
)
from dials_hybrid_refine.refinement.breakdown import unless_broken
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.statistics import (
    OBSERVED_LIMIT,
    Agreement,
    agreement,
    amplitude_change,
)
from dials_hybrid_refine.refinement.whole_reflections import Judged, whole_reflections

_Array = NDArray[np.float64]

logger = logging.getLogger("dials.hybrid_refine.other_hand")

#: where inverting the structure changes calculated amplitudes by less (sum |F' - F| / sum F'), it has in
#: effect a centre of symmetry; in single precision amplitudes are good to about 1e-5
_NO_DIFFERENCE = 1e-3


def has_hand(structure: xray.structure) -> bool:
    """Whether a structure and its inverse can be told apart: its space group has no centre."""
    return not structure.space_group().is_centric()


def check_test(structure: xray.structure, options: AbsoluteStructureOptions) -> None:
    """Refuse a test that is asked for and cannot be.

    Raises:
        ValueError: if the space group has a centre of symmetry.
    """
    if options.test and not has_hand(structure):
        raise ValueError(
            f"absolute_structure.test=True: {structure.space_group_info()} has a centre of symmetry, "
            "so that the structure is its own inverse: use absolute_structure.test=Auto"
        )


@dataclass(frozen=True)
class _Fit:
    """A refined hand."""

    refinement: Refinement
    calculated: _Array
    loss: float

    @property
    def structure(self) -> xray.structure:
        return self.refinement.state.model.structure.current_structure()


class HandTest:
    """The test of the hand, after the refinement of the structure as given.

    Both hands go on from there until the same criterion, on the same function: outliers and weights stay
    those of the structure as given. If the inverse alone went on, it would have the advantage of steps
    that lower the loss of either hand, and a sign test sees such small gains.
    """

    def __init__(
        self,
        refinement: Refinement,
        data: Dataset,
        selection: BeamSelection,
        instability: float,
    ) -> None:
        """
        Args:
            refinement: of the structure as given, over. The parts of its model beside the
                structure are refined on: its Result must have been made.
            selection: of the full calculation.
            instability: of ``weights.Weighting``.
        """
        self._given = refinement
        self._data = data
        self._selection = selection
        self._instability = instability
        self.inverted: Refinement | None = None
        self.is_interrupted = False
        self.breakdown: str | None = None

    def run(self) -> AbsoluteStructure | None:
        """Refine and compare; None if the hands are alike, or after an interruption or breakdown.

        Then ``is_interrupted`` or ``breakdown`` is set; otherwise ``inverted`` is the refinement of the inverse.
        """
        started = time.monotonic()
        model = self._given.state.model
        others = {
            k: v.clone() for k, v in model.state_dict().items() if not k.startswith("structure.")
        }
        inverse = model.inverted()
        group = inverse.structure.current_structure().space_group_info()
        logger.info("\nThe test of the hand: the inverse, in %s, is refined too", group)
        as_given = self._given.evaluate(self._selection).calculated.numpy()
        at_first = self._given.with_model(inverse).evaluate(self._selection).calculated.numpy()
        if amplitude_change(at_first, as_given) < _NO_DIFFERENCE:
            logger.info("Inverting the structure does not change its intensities: it has no hand")
            return None
        inverted = self._refine(self._given.with_model(inverse), "inverse")
        if inverted is None:
            return None
        kept = {k: v.clone() for k, v in inverse.state_dict().items()}
        model.load_state_dict(others, strict=False)
        given = self._refine(self._given.with_model(model), "given")
        inverse.load_state_dict(kept)
        if given is None:
            return None
        self.inverted = inverted.refinement
        return self._compare(given, inverted, time.monotonic() - started)

    def _refine(self, refinement: Refinement, name: str) -> _Fit | None:
        refinement.fine_cycles(self._selection, name, judge_outliers=False)
        state = refinement.state
        self.is_interrupted = state.status == "interrupted"
        self.breakdown = state.breakdown
        if state.is_over or state.objective is None:
            return None
        final = state.objective.evaluate()
        calculated = self._data.comparable(final.calculated.numpy(), self._instability)
        return _Fit(refinement, calculated, final.loss)

    def _compare(self, given: _Fit, inverted: _Fit, seconds: float) -> AbsoluteStructure:
        # slices of one reflection have no votes of their own: what the model lacks is in all of them
        whole, other = (
            whole_reflections(
                Judged(
                    self._data.observations,
                    fit.calculated,
                    fit.calculated,
                    self._data.held_out,
                    self._given.state.rejected,
                )
            )
            for fit in (given, inverted)
        )
        data, held_out = whole.observations, whole.held_out

        def agreement_of(fit: Judged, mask: NDArray[np.bool_]) -> Agreement:
            return agreement(data.intensity[mask], data.sigma[mask], fit.calculated[mask])

        def compared(mask: NDArray[np.bool_]) -> Votes:
            return votes(data.intensity[mask], whole.calculated[mask], other.calculated[mask])

        first, second = (agreement_of(fit, whole.used) for fit in (whole, other))
        aside, aside_inverted = (agreement_of(fit, held_out) for fit in (whole, other))
        found = compared(~held_out & (data.intensity > OBSERVED_LIMIT * data.sigma))
        return AbsoluteStructure(
            z_score=found.z_score,
            probability=found.probability,
            n_compared=found.n_compared,
            n_closer=found.n_closer,
            z_score_all=compared(~held_out).z_score,
            r_obs=first.r_obs,
            r_obs_inverted=second.r_obs,
            r_all=first.r_all,
            r_all_inverted=second.r_all,
            r_obs_held_out=aside.r_obs,
            r_obs_held_out_inverted=aside_inverted.r_obs,
            loss=given.loss,
            loss_inverted=inverted.loss,
            space_group=str(given.structure.space_group_info()),
            space_group_inverted=str(inverted.structure.space_group_info()),
            is_chiral=given.structure.space_group().is_chiral(),
            status_inverted=inverted.refinement.state.status,
            seconds=seconds,
        )


def with_hand(
    result: Result,
    options: AbsoluteStructureOptions,
    test: HandTest,
    summary_of: Callable[[Refinement], Result],
) -> Result:
    """A result with what the test says of its hand, or that of the inverse where it is wanted.

    Args:
        result: of the structure as given.
        summary_of: makes the Result of a refinement.
    """
    if options.test is False or not has_hand(result.structure) or result.status == "interrupted":
        return result
    if options.test is None and result.status != "converged":
        logger.info(
            "The hand is not tested, as the refinement has not converged: raise "
            "refinement.max_cycles, or give absolute_structure.test=True"
        )
        return result
    found, said = unless_broken("the test of the hand", test.run)
    if test.is_interrupted:
        unfinished = f"the test of the hand was not finished; the refinement before it ended: {result.status}"
        return replace(result, status="interrupted", warnings=(*result.warnings, unfinished))
    if found is None:
        more = said if test.breakdown is None else (f"the test of the hand: {test.breakdown}",)
        return replace(result, warnings=(*result.warnings, *more))
    if found.preferred == "as given" or not found.is_clear:
        return replace(result, absolute_structure=found)
    if not options.apply or test.inverted is None:
        return replace(
            result,
            absolute_structure=found,
            warnings=(*result.warnings, _advice(found)),
        )
    logger.info("The inverse is taken as the result (absolute_structure.apply=True)")
    return replace(summary_of(test.inverted), absolute_structure=replace(found, applied=True))


def _advice(found: AbsoluteStructure) -> str:
    return (
        f"the inverse of the structure, in {found.space_group_inverted}, fits better (z = {found.z_score:.1f}, "
        f"R_obs {found.r_obs_inverted:.4f} instead of {found.r_obs:.4f}): the structure was kept as given; "
        "absolute_structure.apply=True takes the inverse"
    )
