"""Numbers and text in the form that CIF asks for."""

from __future__ import annotations

import math
import textwrap

from libtbx.utils import format_float_with_standard_uncertainty

#: smaller uncertainties are rounding errors of quantities that symmetry fixes
_NO_UNCERTAINTY = 1e-8


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many decimals; "?" for what is unknown or not finite."""
    return "?" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def measured(value: float, su: float | None, digits: int = 6) -> str:
    """value(su), the s.u. as one digit or two (2 to 19); without s.u. with so many decimals.

    Quantities that were not refined, or that symmetry fixes (s.u. of zero), have no s.u.
    """
    if su is None or not math.isfinite(su) or su < _NO_UNCERTAINTY:
        return number(value, digits)
    return str(format_float_with_standard_uncertainty(value, su))


def fold(text: str) -> str:
    """Lines of at most 78 characters, as a CIF text field."""
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, 78)]
    return "\n" + "\n".join(lines) + "\n"
