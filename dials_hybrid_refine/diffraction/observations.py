"""What was measured, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Observations:
    """n integrated reflections, each a measurement over a window of rotation angle.

    Attributes:
        experiment: shape (n,), index of the experiment.
        hkl: shape (n, 3), Miller indices in the setting of the structure.
        phi_start, phi_end: shape (n,), the window of rotation angle in degrees.
        phi: shape (n,), the angle of the reflecting position in degrees, as predicted when the
            data were integrated.
        intensity, sigma: shape (n,), raw integrated intensity (no Lorentz or scale factor
            applied) and its standard uncertainty, in counts.
        unique_index: shape (n,), the same for reflections equivalent in the Laue group of the
            structure.
        row: shape (n,), row in the table the observation came from; observations of one experiment and
            row are slices of one reflection, each recorded on another image.
    """

    experiment: NDArray[np.int64]
    hkl: NDArray[np.int64]
    phi_start: NDArray[np.float64]
    phi_end: NDArray[np.float64]
    phi: NDArray[np.float64]
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    unique_index: NDArray[np.int64]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.intensity)

    def select(self, selection: NDArray[np.bool_] | NDArray[np.int64]) -> Observations:
        """The observations of a boolean mask or an index array."""
        return Observations(**{f.name: getattr(self, f.name)[selection] for f in fields(self)})


def joined(parts: Sequence[Observations]) -> Observations:
    """The observations of several experiments, the k-th part becoming experiment k."""
    columns = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])
        for f in fields(Observations)
    }
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Observations(**{**columns, "experiment": numbers})
