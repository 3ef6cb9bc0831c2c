"""How much of reciprocal space was measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cctbx import miller, xray
from cctbx.array_family import flex


@dataclass(frozen=True)
class Coverage:
    """Attributes:
    d_min: smallest spacing measured, in Angstrom.
    completeness: share of the unique reflections to d_min that were measured at least once.
    """

    d_min: float
    completeness: float


def coverage(structure: xray.structure, hkl: NDArray[np.int64]) -> Coverage:
    """Of reflections (n, 3), n > 0, unique in the Laue group, systematic absences left out."""
    indices = flex.miller_index([tuple(map(int, h)) for h in hkl])
    measured = miller.set(structure.crystal_symmetry(), indices, anomalous_flag=False)
    unique = measured.map_to_asu().unique_under_symmetry().remove_systematic_absences()
    completeness = float(unique.completeness()) if len(unique.indices()) else 0.0
    return Coverage(float(measured.d_min()), completeness)
