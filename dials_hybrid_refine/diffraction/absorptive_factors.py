"""Absorptive scattering factors of neutral atoms: thermal diffuse scattering, Einstein model.

Electrons that an atom scatters between the Bragg beams because it vibrates are lost to them. With
isotropic, independent vibrations of the atoms (Hall & Hirsch (1965), Proc. R. Soc. A286, 158;
Bird & King (1990), Acta Cryst. A46, 202)

    f'(s, B) = 2 h / (m0 v) Int f(|s/2 + s'|) f(|s/2 - s'|) (1 - exp(-2 B (s'^2 - s^2/4))) d^2 s'

in Angstrom, s = sin(theta) / lambda, m0 the rest mass. It stands beside f in f + i f', before the
relativistic factor gamma and before the temperature factor exp(-B s^2), by which f' is multiplied
as f is. Thomas, Cleverley & Beanland (2024), Acta Cryst. A80, 146-150, fitted (v/c) f' with four
Gaussians and a constant for each of 13 values of B.

At large B s^2 the integral and the fits become negative. Their authors put zero there; here the
fits are used as they are. exp(-B s^2) f' is then within 0.6 % of f'(0) of the integral (0.9 %
with zero).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray

_TABLE = "thomas_cleverley_beanland_2024.json"


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.float64], dict[int, NDArray[np.float64]]]:
    """B values (k,) and for each atomic number the rows (k, 9) a1 b1 a2 b2 a3 b3 a4 b4 c."""
    content = json.loads((resources.files("dials_hybrid_refine") / "data" / _TABLE).read_text())
    rows = {int(z): np.array(values) for z, values in content["coefficients"].items()}
    return np.array(content["b_values"]), rows


def tabulated_b_values() -> NDArray[np.float64]:
    """The k values of B = 8 pi^2 U in Angstrom^2 for which factors are tabulated, ascending."""
    return _table()[0].copy()


def absorptive_scattering_factors(
    atomic_numbers: Sequence[int], g: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(v/c) f' in Angstrom at the tabulated B values.

    Thomas, Cleverley & Beanland (2024): (v/c) f'(s, B) = sum_i a_i exp(-b_i s^2) + c.

    Args:
        atomic_numbers: n atomic numbers, 1 to 103.
        g: shape (m,), lengths of reciprocal vectors in 1/Angstrom; s = g / 2.

    Returns:
        Array of shape (n, k, m).

    Raises:
        ValueError: for an atomic number that is not tabulated.
    """
    b_values, table = _table()
    missing = sorted({z for z in atomic_numbers if z not in table})
    if missing:
        raise ValueError(
            f"no tabulated absorption for atomic number(s) {missing}: use "
            "absorption.model=proportional or absorption.model=none"
        )
    s_sq = (np.asarray(g, dtype=float) / 2) ** 2
    factors = np.empty((len(atomic_numbers), len(b_values), len(s_sq)))
    for target, z in zip(factors, atomic_numbers):
        target[:] = table[z][:, 8:]
        for i in range(0, 8, 2):
            a, b = table[z][:, i, None], table[z][:, i + 1, None]
            target += a * np.exp(-b * s_sq)
    return factors


def interpolation_weights(b: torch.Tensor) -> torch.Tensor:
    """Weights of the tabulated B values that interpolate any function of B.

    Cubic Hermite interpolation whose slopes at the tabulated values are those of the parabola
    through three neighbours: the first derivative is continuous, so that U can be refined across
    tabulated values. Beyond the table B is held at its end, and the derivative is zero.

    Args:
        b: shape (n,), B in Angstrom^2.

    Returns:
        Tensor of shape (n, k), differentiable in ``b``; rows add to 1.
    """
    knots = tabulated_b_values()
    values = torch.eye(len(knots), dtype=b.dtype)
    slopes = torch.from_numpy(np.gradient(np.eye(len(knots)), knots, axis=0, edge_order=2)).to(b)
    x = torch.from_numpy(knots).to(b)
    inside = b.clamp(x[0], x[-1])
    left = (torch.searchsorted(x, inside.detach()) - 1).clamp(0, len(knots) - 2)
    width = (x[left + 1] - x[left])[:, None]
    t = (inside - x[left])[:, None] / width
    return (
        (1 + 2 * t) * (1 - t) ** 2 * values[left]
        + t**2 * (3 - 2 * t) * values[left + 1]
        + width * t * (1 - t) * ((1 - t) * slopes[left] - t * slopes[left + 1])
    )
