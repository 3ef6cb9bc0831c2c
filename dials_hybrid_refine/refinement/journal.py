"""What a refinement has done, so that another run can go on from there.

The course of a refinement is procedural: which stage comes next depends on what the last one found. So
a run that goes on takes the same course once more, and each part of it that costs time (a scan, a
stage, a cycle) asks the journal first whether it is done: then what it changed is put in place instead.
The part that was under way goes on from its last step in the journal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("dials.hybrid_refine.journal")


@dataclass(frozen=True)
class Entry:
    """A part of the course, by name, and what it found or changed.

    ``content`` holds arrays, numbers, texts, None, and lists and dictionaries of these. It may come
    from a file: the methods check what they hand out.
    """

    name: str
    content: Mapping[str, Any]

    def array(self, key: str, shape: Sequence[int | None], kind: str = "f") -> NDArray[Any]:
        """A copy of a finite array of a shape, None standing for any length.

        Args:
            kind: of its type, as NumPy's ``dtype.kind``.

        Raises:
            ValueError: if there is none.
        """
        found = self.content.get(key)
        if (
            not isinstance(found, np.ndarray)
            or found.dtype.kind != kind
            or found.ndim != len(shape)
            or any(n not in (None, m) for n, m in zip(shape, found.shape))
            or not np.isfinite(found).all()
        ):
            raise ValueError(self._unsuitable(key))
        return found.copy()

    def number(self, key: str) -> float:
        """A finite number.

        Raises:
            ValueError: if there is none.
        """
        found = self.content.get(key)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not np.isfinite(found):
            raise ValueError(self._unsuitable(key))
        return float(found)

    def part(self, key: str) -> Entry:
        """A dictionary in the content.

        Raises:
            ValueError: if there is none.
        """
        found = self.content.get(key)
        if not isinstance(found, Mapping):
            raise ValueError(self._unsuitable(key))
        return Entry(self.name, found)

    def parts(self, key: str) -> list[Entry]:
        """A list of dictionaries in the content.

        Raises:
            ValueError: if there is none.
        """
        found = self.content.get(key)
        if not isinstance(found, list) or not all(isinstance(part, Mapping) for part in found):
            raise ValueError(self._unsuitable(key))
        return [Entry(self.name, part) for part in found]

    def without(self, keys: Collection[str]) -> Entry:
        """The same without some of its content."""
        return Entry(self.name, {k: v for k, v in self.content.items() if k not in keys})

    def _unsuitable(self, key: str) -> str:
        return (
            f"the checkpoint does not suit this refinement ({key} of {self.name}): "
            "start without checkpoint.resume"
        )


@dataclass
class Journal:
    """The parts of a course that are done, and the one under way.

    Attributes:
        entries: parts that are done, in their order. Those of an earlier run come first.
        running: the part under way, None at its beginning.
        save: called when there is something new to keep.
        every: steps of a stage after which it is.
    """

    entries: list[Entry] = field(default_factory=list)
    running: Entry | None = None
    save: Callable[[Journal], None] = lambda journal: None
    every: int = 1
    _n_passed: int = 0

    def passed(self, name: str) -> Entry | None:
        """What the next part of the course found or changed, if an earlier run has finished it."""
        if self._n_passed == len(self.entries):
            return None
        entry = self.entries[self._n_passed]
        if entry.name != name:
            logger.info("The refinement takes another course from here than in the checkpoint")
            del self.entries[self._n_passed :]
            self.running = None
            return None
        self._n_passed += 1
        return entry

    def under_way(self, name: str) -> Entry | None:
        """How far an earlier run has come in the next part of the course, if it has begun it."""
        running, self.running = self.running, None
        return running if running is not None and running.name == name else None

    def step(self, entry: Callable[[], Entry], number: int, is_last: bool) -> None:
        """Note how far the part under way has come.

        Args:
            entry: makes the note, if it is time for one.
            number: of the step, from 1.
            is_last: whether the run is about to stop.
        """
        if is_last or number % self.every == 0:
            self.running = entry()
            self.save(self)

    def finish(self, entry: Entry, replaced: Collection[str] = ()) -> None:
        """Note that a part is done.

        Args:
            replaced: keys of content, large maybe, that only the last part with it is asked for.
        """
        if replaced:
            self.entries = [earlier.without(replaced) for earlier in self.entries]
        self.entries.append(entry)
        self.running = None
        self._n_passed += 1
        self.save(self)

    def remembered(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> Entry:
        """What a part found, computed if no earlier run has."""
        found = self.passed(name)
        if found is None:
            found = Entry(name, compute())
            self.finish(found)
        return found
