"""Failed runs by their reasons."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dials_hybrid_refine.collection.run import Run

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?![\w])", re.IGNORECASE)
#: folders before the name of a file, which differ between the data sets of a batch
_FOLDERS = re.compile(r"(?:[^\s/,():]*/)+(?=[^\s/,():]+\.\w+)")


@dataclass(frozen=True)
class FailureGroup:
    """Runs that failed for one reason; ``reason`` is that of the first."""

    reason: str
    runs: tuple[str, ...]


def failure_groups(failed: Sequence[Run]) -> list[FailureGroup]:
    """The most frequent reason first. Reasons that differ by numbers or folders only are one."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in failed:
        groups[_NUMBER.sub("#", _FOLDERS.sub("", run.reason))].append(run)
    found = [
        FailureGroup(runs[0].reason, tuple(run.name for run in runs)) for runs in groups.values()
    ]
    return sorted(found, key=lambda group: (-len(group.runs), group.reason))
