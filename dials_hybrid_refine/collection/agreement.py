"""Which crystals agree worse with the model than others of their kind, and what the hands say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_hybrid_refine.collection.run import Hand

#: modified z-score from which a value is an outlier, and fewest values to judge by: Iglewicz & Hoaglin
#: (1993), How to Detect and Handle Outliers
_OUTLIER, _FEWEST = 3.5, 4
#: smallest spread of R factors as a share of their median: less is chance in small batches
_SMALLEST_SPREAD = 0.05
#: |z| of all together from which they determine the hand, as for one crystal
_CLEAR = 3.0


def high_outliers(values: Sequence[float | None]) -> list[int]:
    """Indices of values that are far above the others; None is no value.

    By the modified z-score 0.6745 (x - median) / MAD.
    """
    known = np.array([value for value in values if value is not None])
    if len(known) < _FEWEST:
        return []
    median = float(np.median(known))
    spread = max(1.4826 * float(np.median(np.abs(known - median))), _SMALLEST_SPREAD * median)
    return [i for i, v in enumerate(values) if v is not None and v - median > _OUTLIER * spread]


@dataclass(frozen=True)
class JointHand:
    """The tests of the hand of crystals refined from one structure.

    Attributes:
        model: of the structure. n_tested: crystals.
        n_as_given, n_inverted: crystals that clearly favour one; the others do not tell.
        z_score: sum z / sqrt(n) (Stouffer), which takes the crystals to be of one hand.
    """

    model: str
    n_tested: int
    n_as_given: int
    n_inverted: int
    z_score: float

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.n_as_given and self.n_inverted:
            return (
                f"{self.n_as_given} crystals clearly favour the structure as given and "
                f"{self.n_inverted} its inverse: crystals of both hands, or a test that fails"
            )
        if abs(self.z_score) < _CLEAR:
            return "together they do not determine the hand"
        favoured = "the structure as given" if self.z_score > 0 else "the inverse"
        n = max(self.n_as_given, self.n_inverted)
        return f"together they favour {favoured} ({n} of {self.n_tested} clearly)"


def joint_hands(hands: Sequence[tuple[str, Hand | None]]) -> list[JointHand]:
    """The hands (model, test) of crystals, for each model together; untested ones are left out."""
    tests: dict[str, list[Hand]] = defaultdict(list)
    for model, hand in hands:
        if hand is not None:
            tests[model].append(hand)
    return [
        JointHand(
            model,
            len(found),
            sum(1 for hand in found if hand.clear and hand.z_score > 0),
            sum(1 for hand in found if hand.clear and hand.z_score < 0),
            float(sum(hand.z_score for hand in found) / np.sqrt(len(found))),
        )
        for model, found in sorted(tests.items(), key=lambda item: -len(item[1]))
    ]
