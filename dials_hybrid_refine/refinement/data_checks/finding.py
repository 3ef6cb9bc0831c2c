"""What a check of the data found, and how sure it must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scipy.stats import norm

#: a check speaks about sound data with this probability at most. False alarms are worse than misses:
#: with some fifteen checks, one data set in 60 000 gets one
CHANCE = 1e-6

#: the same as a number of standard deviations of a normal distribution, on one side: 4.75
SIGMAS = float(norm.isf(CHANCE))


@dataclass(frozen=True)
class Finding:
    """One fault of the data.

    Attributes:
        name: of the check, the same in all runs.
        severity: "warning": the result may be wrong. "note": worth knowing.
        sentence: what was found, with numbers and the remedy; no full stop.
        values: the numbers by name.
    """

    name: str
    severity: Literal["warning", "note"]
    sentence: str
    values: Mapping[str, float] = field(default_factory=dict)
