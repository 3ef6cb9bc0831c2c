"""The first coarse steps, from several thicknesses, and from low resolution where the atoms are far off."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.low_resolution import approach_structure, usable_ways
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.thickness_course import (
    StartingThickness,
    remembered_scan,
    set_thickness,
)
from dials_hybrid_refine.refinement.thickness_start import ThicknessScan

logger = logging.getLogger("dials.hybrid_refine.first_steps")

#: coarse steps after which the thickness is scanned again
STEPS_BEFORE_RESCAN = 4

#: mean and standard deviation in Angstrom of a crystal for electrons; it is tried where chi^2 of a scan
#: falls by less than this share. With the atoms of quartz moved by 0.06 and 0.12 Angstrom it fell by 0.28
#: and 0.12, with atoms that were about right by 0.5.
_USUAL_THICKNESS = (500.0, 175.0)
_CLEAR_CONTRAST = 0.4

#: R_obs after the first steps from which on low resolution is tried. From atoms within 0.1 Angstrom quartz and
#: CsPbBr3 come to 0.2 to 0.3, from atoms 0.3 Angstrom away they came to 0.65 to 0.75.
_POOR = 0.5


def coarse_start(
    refinement: Refinement,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    first: Sequence[ThicknessScan],
    is_turned: Callable[[Sequence[ThicknessScan]], bool],
) -> StartingThickness:
    """The first coarse steps and the second scans; returns what these found.

    A thickness that is wrong brings the atoms where they fit it, and the second scan is as wrong as
    they are. So several are tried where they are far from each other, each from the starting atoms, and
    the better goes on: one that is given, the best of the first scan, and, where the scan says little
    because the atoms are wrong, a usual one. Of several crystals all start anew, each from its own.

    Args:
        first: scan of each crystal.
        is_turned: turns the crystals where they fit clearly better, now that the atoms are about right, and
            says whether it has.
    """
    model, state, given = refinement.state.model, refinement.state, options.thickness_start
    best_of_each = [scan.best for scan in first]
    candidates = [] if given is None else [[(given, 0.25 * given)] * len(first)]
    candidates.append(best_of_each)
    usual = [_USUAL_THICKNESS if scan.contrast < _CLEAR_CONTRAST else scan.best for scan in first]
    candidates.append(usual)
    starts: list[StartingThickness] = []
    for candidate in map(StartingThickness.of, candidates):
        if all(candidate.is_elsewhere(start) for start in starts):
            starts.append(candidate)
    trials = _Trials(refinement, data, options, coarse)
    for start in starts:
        trials.go(start)
        if state.status == "interrupted":
            return start
    if trials.best is not None and trials.best.is_poor:
        ways = usable_ways(data, model.structure.n_parameters)
        if ways:
            logger.info("The atoms seem far from where they belong: trying low resolution first")
        for way, start in itertools.product(ways, starts):
            if trials.best.is_poor:
                trials.from_low_resolution(start, way)
            if state.status == "interrupted":
                return start
    if trials.best is None:
        state.breakdown = trials.failure
        return starts[-1]
    scans = trials.take_best()
    if is_turned(scans):
        scans = remembered_scan(refinement.journal, model, data, options, coarse)
        # those of a wrong orientation would let its prior hold the new one
        state.rejected = np.zeros_like(state.rejected)
        state.spread = float(np.sqrt(least_chi_square(scans) / (~data.held_out).sum()))
    found = StartingThickness.of([scan.best for scan in scans])
    set_thickness(model, data, options, found)
    return found


@dataclass(frozen=True)
class _Trial:
    """What the first coarse steps from one start have found."""

    scans: list[ThicknessScan]
    rejected: NDArray[np.bool_]
    spread: float
    parameters: Mapping[str, torch.Tensor]
    r_obs: float | None

    @property
    def is_poor(self) -> bool:
        return self.r_obs is not None and self.r_obs > _POOR


class _Trials:
    """The first coarse steps from several starts, each from the starting atoms.

    Attributes:
        best: that after which the thickness scan fits best; None if all break down.
        failure: how the last of these broke down.
    """

    def __init__(
        self,
        refinement: Refinement,
        data: Dataset,
        options: RefinementOptions,
        coarse: Callable[[float], BeamSelection],
    ) -> None:
        self._refinement, self._data, self._options = refinement, data, options
        self._coarse = coarse
        self._first_spread = refinement.state.spread
        self._unchanged = self._all_but_thickness()
        self.best: _Trial | None = None
        self.failure: str | None = None

    def _all_but_thickness(self) -> dict[str, torch.Tensor]:
        values = self._refinement.state.model.state_dict()
        return {n: v.clone() for n, v in values.items() if not n.startswith("thickness.")}

    def _scan(self) -> list[ThicknessScan]:
        refinement = self._refinement
        return remembered_scan(
            refinement.journal, refinement.state.model, self._data, self._options, self._coarse
        )

    def _begin(self) -> None:
        state = self._refinement.state
        state.model.load_state_dict(self._unchanged, strict=False)
        state.rejected, state.spread = np.zeros_like(state.rejected), self._first_spread

    def go(self, start: StartingThickness) -> None:
        """Try a thickness with the starting atoms."""
        self._begin()
        self._steps(start)

    def from_low_resolution(self, start: StartingThickness, way: Sequence[float]) -> None:
        """Try the atoms that the data of low resolution lead to with a thickness.

        Args:
            way: see ``approach_structure``.
        """
        self._begin()
        one = replace(self._options.thickness, model="constant", tilt_correction=False)
        model = self._refinement.state.model
        set_thickness(model, self._data, replace(self._options, thickness=one), start)
        approach_structure(self._refinement, self._data, self._coarse, way)
        if self._refinement.state.status == "interrupted":
            return
        scans = self._scan()
        # steps at full resolution do not help atoms that fit no better
        if self.best is None or least_chi_square(scans) < least_chi_square(self.best.scans):
            self._steps(StartingThickness.of([scan.best for scan in scans]))

    def _steps(self, start: StartingThickness) -> None:
        state = self._refinement.state
        set_thickness(state.model, self._data, self._options, start)
        self._refinement.stage(self._coarse(start.largest), STEPS_BEFORE_RESCAN, "start")
        if state.status == "interrupted":
            return
        if state.breakdown is not None:
            self.failure, state.breakdown = state.breakdown, None
            logger.warning("Starting from %s Angstrom fails: %s", start, self.failure)
            return
        scans = self._scan()
        if self.best is None or least_chi_square(scans) < least_chi_square(self.best.scans):
            r_obs = state.history[-1].r_obs if state.history else None
            parameters = self._all_but_thickness()
            self.best = _Trial(scans, state.rejected, state.spread, parameters, r_obs)

    def take_best(self) -> list[ThicknessScan]:
        """Put all but the thickness of the best in place; its scans."""
        assert self.best is not None
        state = self._refinement.state
        state.model.load_state_dict(self.best.parameters, strict=False)
        state.rejected, state.spread = self.best.rejected, self.best.spread
        return self.best.scans


def least_chi_square(scans: Sequence[ThicknessScan]) -> float:
    """chi^2 of all crystals together, each with its best thickness."""
    return float(sum(scan.chi_square.min() for scan in scans))
