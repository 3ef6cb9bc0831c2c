"""How far a stage of a refinement has come, and how it goes into a journal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from dials_hybrid_refine.refinement.journal import Entry


@dataclass(frozen=True)
class SharedHessian:
    """An approximate Hessian (p, p) that may serve further steps, None where a new one is due, and the
    number of steps that it has served for (``minimise.Step``)."""

    matrix: torch.Tensor | None = None
    age: int = 0

    #: keys of its content
    KEYS = ("hessian", "hessian_age")

    def content(self) -> dict[str, Any]:
        """For a journal."""
        matrix = None if self.matrix is None else self.matrix.numpy().copy()
        return dict(zip(self.KEYS, (matrix, self.age)))

    @classmethod
    def of(cls, entry: Entry, n_parameters: int) -> SharedHessian:
        """From a journal.

        Raises:
            ValueError: if the entry holds no such content.
        """
        matrix, age = cls.KEYS
        if entry.content.get(matrix) is None:
            return cls()
        found = torch.from_numpy(entry.array(matrix, (n_parameters, n_parameters)))
        return cls(found, int(entry.number(age)))


@dataclass(frozen=True)
class Way:
    """How far a stage has come: the last step's number, loss and damping, and whether it gained too
    little to go on."""

    number: int
    loss: float
    damping: float
    is_over: bool = False
    hessian: SharedHessian = SharedHessian()

    def content(self) -> dict[str, Any]:
        """For a journal."""
        return {
            "number": self.number,
            "loss": self.loss,
            "damping": self.damping,
            "is_over": int(self.is_over),
            **self.hessian.content(),
        }

    @classmethod
    def of(cls, entry: Entry, n_parameters: int) -> Way:
        """From a journal.

        Raises:
            ValueError: if the entry holds no such content.
        """
        return cls(
            int(entry.number("number")),
            entry.number("loss"),
            entry.number("damping"),
            bool(entry.number("is_over")),
            SharedHessian.of(entry, n_parameters),
        )


@dataclass(frozen=True)
class Descent:
    """The first loss of a stage, and how far it came."""

    first: float
    end: Way


@dataclass(frozen=True)
class CycleEnd:
    """What a cycle says: its first and last loss, how many reflections changed sides, and the largest
    and the mean shift of structural parameters over their s.u."""

    first: float
    last: float
    n_changed: int
    largest_shift: float
    mean_shift: float

    def content(self) -> dict[str, Any]:
        """For a journal."""
        return asdict(self)

    @classmethod
    def of(cls, entry: Entry) -> CycleEnd:
        """From a journal.

        Raises:
            ValueError: if the entry holds no such content.
        """
        return cls(
            entry.number("first"),
            entry.number("last"),
            int(entry.number("n_changed")),
            entry.number("largest_shift"),
            entry.number("mean_shift"),
        )
