"""Elastic scattering factors of neutral atoms for electrons.

The parametrisation of Lobato & Van Dyck (2014), Acta Cryst. A70, 636-649, is valid at any
scattering angle, hydrogen included. That matters here: differences g-h between beams reach
twice the resolution of the beams, beyond the s = 2 1/Angstrom of five-Gaussian tables.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

_TABLE = "lobato_van_dyck_2014.json"


@lru_cache(maxsize=1)
def _coefficients() -> dict[int, tuple[tuple[float, ...], tuple[float, ...]]]:
    text = (resources.files("dials_hybrid_refine") / "data" / _TABLE).read_text()
    return {
        int(z): (tuple(row["a"]), tuple(row["b"]))
        for z, row in json.loads(text)["coefficients"].items()
    }


def electron_scattering_factors(
    atomic_numbers: Sequence[int], g: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scattering factors f_e(g) in Angstrom, without the relativistic factor.

    f_e(g) = sum_i a_i (2 + b_i g^2) / (1 + b_i g^2)^2, Lobato & Van Dyck (2014), equation 16.

    Args:
        atomic_numbers: n atomic numbers, 1 to 103.
        g: shape (m,), lengths of reciprocal vectors in 1/Angstrom (g = 2 sin(theta) / lambda).

    Returns:
        Array of shape (n, m).

    Raises:
        ValueError: for an atomic number without tabulated coefficients.
    """
    table = _coefficients()
    missing = sorted({z for z in atomic_numbers if z not in table})
    if missing:
        raise ValueError(f"no electron scattering factor for atomic number(s) {missing}")
    g_sq = np.asarray(g, dtype=float) ** 2
    rows = []
    for z in atomic_numbers:
        a, b = (np.array(values)[:, None] for values in table[z])
        rows.append((a * (2 + b * g_sq) / (1 + b * g_sq) ** 2).sum(axis=0))
    return np.array(rows).reshape(len(atomic_numbers), len(g_sq))
