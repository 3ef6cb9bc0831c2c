"""Derivatives of the intensities by the structure, which several normal matrices share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dials_hybrid_refine.refinement.journal import Entry
from dials_hybrid_refine.refinement.refinement_state import RefinementState
from dials_hybrid_refine.refinement.stage_record import fit_of, set_fit


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
        self._age = 0

    def get(self, state: RefinementState, most: int) -> torch.Tensor:
        """Columns that have served at most so many times."""
        if self._fit is None or self._age >= most:
            self.forget()
            self._fit = fit_of(state)
        if self._columns is None:
            now = fit_of(state)
            set_fit(state, Entry("columns", self._fit))
            self._columns = self._calculate()
            set_fit(state, Entry("columns", now))
        self._age += 1
        return self._columns

    def content(self) -> dict[str, Any]:
        """For the journal."""
        return {"fit": self._fit, "age": self._age}

    def take(self, entry: Entry) -> None:
        """Be as when ``content`` gave this entry.

        Raises:
            ValueError: if the entry has no such content.
        """
        self.forget()
        if entry.content.get("fit") is not None:
            self._fit, self._age = entry.part("fit").content, int(entry.number("age"))
