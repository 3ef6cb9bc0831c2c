"""Occupancies that depend on each other as free variables of SHELX (FVAR, SUMP).

The site occupation factor (occupancy times multiplicity over that of a general position) is written
10 m + p for p fv(m) and -10 m - p for p (1 - fv(m)), p > 0 (SHELX-97 manual, chapter 2). What two atoms cannot
say this way is a sum of free variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cctbx import xray
from smtbx.refinement.constraints.occupancy import (
    occupancy_affine_constraint,
    occupancy_pair_affine_constraint,
)

#: standard deviation in SUMP: a restraint in SHELXL, exact here
_SIGMA_SUMP = 0.0001
_ROUNDING = 1e-6


@dataclass(frozen=True)
class FreeVariables:
    """What becomes of occupancies.

    Attributes:
        values: of the free variables from number 2 on.
        codes: site occupation factors as written, of atoms (indices) that depend on one.
        sums: instructions SUMP.
    """

    values: tuple[float, ...]
    codes: dict[int, float]
    sums: tuple[str, ...]


@dataclass(frozen=True)
class _Form:
    """sum_k coefficients[k] occupancy(atoms[k]) = constant."""

    atoms: tuple[int, ...]
    coefficients: tuple[float, ...]
    constant: float


@dataclass(frozen=True)
class _Term:
    """occupancy = slope (v - offset) of variable ``number``; the offset is 0 or 1."""

    number: int
    slope: float
    offset: float

    def value(self, occupancy: float) -> float:
        """That of the variable."""
        return occupancy / self.slope + self.offset

    @property
    def is_writable(self) -> bool:
        """Whether SHELX has a code for it."""
        at_zero = abs(self.offset) < _ROUNDING and self.slope > 0
        at_one = abs(self.offset - 1) < _ROUNDING and self.slope < 0
        return at_zero or at_one


def free_variables(structure: xray.structure, constraints: Sequence[Any]) -> FreeVariables:
    """Constraints of smtbx on occupancies (all of them refined) as free variables."""
    scatterers = structure.scatterers()
    forms = [form for form in map(_form, constraints) if form is not None]
    terms: dict[int, _Term] = {}
    values: list[float] = []

    def new(atom: int, slope: float = 1.0) -> _Term:
        values.append(scatterers[atom].occupancy / slope)
        return _Term(len(values) + 1, slope, 0.0)

    sums = []
    for form in forms:
        if len(form.atoms) != 2 or all(atom in terms for atom in form.atoms):
            sums.append(form)
            continue
        known, other = 0, 1
        if form.atoms[1] in terms:
            known, other = 1, 0
        anchor = form.atoms[known]
        term = terms.get(anchor) or _Term(len(values) + 2, _slope(forms, anchor), 0.0)
        second = _other(form, known, other, term)
        if not (term.is_writable and second.is_writable):
            sums.append(form)
            continue
        if anchor not in terms:
            terms[anchor] = new(anchor, term.slope)
        terms[form.atoms[other]] = second
    for form in sums:
        for atom in form.atoms:
            if atom not in terms:
                terms[atom] = new(atom)
    codes = {
        i: (1 if term.slope > 0 else -1)
        * (10 * term.number + abs(term.slope) * scatterers[i].weight_without_occupancy())
        for i, term in terms.items()
    }
    return FreeVariables(tuple(values), codes, tuple(_sump(form, terms) for form in sums))


def _form(constraint: Any) -> _Form | None:
    if isinstance(constraint, occupancy_pair_affine_constraint):
        coefficients, constant = constraint.linear_form
        return _Form(tuple(constraint.scatterer_indices), tuple(coefficients), float(constant))
    if isinstance(constraint, occupancy_affine_constraint):
        return _Form(tuple(constraint.scatterer_indices), tuple(constraint.a), float(constraint.b))
    return None


def _slope(forms: Sequence[_Form], atom: int) -> float:
    """That of the first atom on a variable: where another atom has the rest of a sum, the sum."""
    for form in forms:
        if len(form.atoms) == 2 and atom in form.atoms and abs(form.constant) > _ROUNDING:
            return form.constant / form.coefficients[form.atoms.index(atom)]
    return 1.0


def _other(form: _Form, known: int, other: int, term: _Term) -> _Term:
    """What a form of two atoms makes of the second where the first is slope (v - offset)."""
    p, q = form.coefficients[known], form.coefficients[other]
    return _Term(
        term.number,
        -p * term.slope / q,
        form.constant / (p * term.slope) + term.offset,
    )


def _sump(form: _Form, terms: dict[int, _Term]) -> str:
    """A form in the variables v of its atoms, occupancy = slope (v - offset)."""
    total = form.constant
    by_variable: dict[int, float] = {}
    for atom, coefficient in zip(form.atoms, form.coefficients):
        term = terms[atom]
        total += coefficient * term.slope * term.offset
        by_variable[term.number] = by_variable.get(term.number, 0.0) + coefficient * term.slope
    parts = " ".join(f"{value:.6g} {number}" for number, value in by_variable.items())
    return f"SUMP {total:.6g} {_SIGMA_SUMP:g} {parts}"
