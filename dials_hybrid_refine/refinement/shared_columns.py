"""Derivatives of the intensities by the structure, which several normal matrices share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from dials_hybrid_refine.refinement.journal import Entry
from dials_hybrid_refine.refinement.refinement_state import RefinementState
from dials_hybrid_refine.refinement.stage_record import fit_of, set_fit

#: the structure's parameters in the model
_SHIFTS = "structure.shifts"

#: relative change of the mean thickness up to which columns serve on
_HARDLY_THICKER = 0.02
#: change of a structural parameter (``StructureModel``: 1 moves an atom by about 0.1 Angstrom) up to which columns serve on:
#: 0.015 Angstrom turn the phases of reflections at 2 1/Angstrom by 11 degrees
_HARDLY_MOVED = 0.15


class SharedColumns:
    """Columns (n, p_s) that are calculated at one fit and serve at those that follow.

    A journal keeps the fit, not the columns, which are large: they are calculated again there.
    """

    def __init__(self, calculate: Callable[[], torch.Tensor]) -> None:
        """calculate: columns at the state's present fit."""
        self._calculate = calculate
        self.forget()

    def forget(self) -> None:
        """Let the next ones be new."""
        self._columns: torch.Tensor | None = None
        self._fit: Mapping[str, Any] | None = None
        self._thickness = 0.0
        self._age = 0

    def get(self, state: RefinementState, thickness: float, most: int) -> torch.Tensor:
        """Columns that have served at most so many times, or more often where atoms and thickness are nearly the same.

        Args:
            thickness: that of the crystal, mean, in Angstrom.
        """
        now = fit_of(state)
        if self._age >= most and self._has_changed(now, thickness):
            self.forget()
        if self._fit is None:
            self._fit, self._thickness = now, thickness
        self._age += 1
        return self._present(state, self._fit, now)

    def still_good(self, state: RefinementState, thickness: float) -> torch.Tensor | None:
        """Columns for s.u. at the present fit: None unless atoms and thickness are nearly the same."""
        now = fit_of(state)
        if self._fit is None or self._has_changed(now, thickness):
            return None
        return self._present(state, self._fit, now)

    def _present(
        self, state: RefinementState, fit: Mapping[str, Any], now: Mapping[str, Any]
    ) -> torch.Tensor:
        if self._columns is None:
            set_fit(state, Entry("columns", fit))
            self._columns = self._calculate()
            set_fit(state, Entry("columns", now))
        return self._columns

    def content(self) -> dict[str, Any]:
        """For the journal."""
        return {"fit": self._fit, "thickness": self._thickness, "age": self._age}

    def take(self, entry: Entry) -> None:
        """Be as when ``content`` gave this entry.

        Raises:
            ValueError: if the entry has no such content.
        """
        self.forget()
        if entry.content.get("fit") is not None:
            self._fit, self._age = entry.part("fit").content, int(entry.number("age"))
            self._thickness = entry.number("thickness")

    def _has_changed(self, now: Mapping[str, Any], thickness: float) -> bool:
        """Whether the fit is another by so much that derivatives are."""
        if self._fit is None or abs(thickness - self._thickness) > _HARDLY_THICKER * thickness:
            return True
        before, after = (fit["parameters"].get(_SHIFTS) for fit in (self._fit, now))
        return before is not None and bool((np.abs(after - before) > _HARDLY_MOVED).any())
