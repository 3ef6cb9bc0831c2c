"""What happens where the numbers of a refinement break down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger("dials.hybrid_refine.breakdown")

_T = TypeVar("_T")

#: what is raised where something is not finite, does not converge, cannot be inverted, or does not fit
#: into the memory
BREAKDOWNS = (ArithmeticError, torch.linalg.LinAlgError, MemoryError)


def sentence_of(where: str, error: Exception) -> str:
    """What to tell the user of a refinement that stops.

    Args:
        where: the stage, as in "cycle 2".
    """
    return (
        f"the refinement broke down in {where} ({error}) and stopped with the best result so far: "
        "refine fewer parameters first, start from a better model, or use precision=double"
    )


def unless_broken(what: str, compute: Callable[[], _T]) -> tuple[_T | None, tuple[str, ...]]:
    """Something that the result can do without: it, or None and a sentence where numbers break down.

    Args:
        what: begins the sentence, as in "the difference map".
    """
    try:
        return compute(), ()
    except BREAKDOWNS as error:
        sentence = f"{what} could not be computed ({error})"
        logger.warning("Warning: %s", sentence)
        return None, (sentence,)
