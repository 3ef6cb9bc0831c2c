"""Electron scattering factors as SHELX takes them: four Gaussians and a constant."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from cctbx.eltbx import covalent_radii, tiny_pse

from dials_hybrid_refine.diffraction.scattering_factors import electron_scattering_factors

#: the fit is for sin(theta) / lambda up to this, 1/Angstrom (d = 0.4 Angstrom)
LARGEST_S = 1.25


@lru_cache(maxsize=103)
def gaussian_coefficients(atomic_number: int) -> tuple[float, ...]:
    """a1 b1 a2 b2 a3 b3 a4 b4 c of f(s) = sum a exp(-b s^2) + c in Angstrom, s = sin(theta)/lambda.

    A fit to the factors of the simulation (``electron_scattering_factors``) of least relative
    error: widths b by scipy, a and c linear in each step.
    """
    s = np.linspace(0, LARGEST_S, 126)
    target = electron_scattering_factors([atomic_number], 2 * s)[0]

    def design(log_b: NDArray[np.float64]) -> NDArray[np.float64]:
        gaussians = np.exp(-np.exp(log_b) * s[:, None] ** 2)
        return np.concatenate([gaussians, np.ones((len(s), 1))], axis=1) / target[:, None]

    def linear(log_b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.lstsq(design(log_b), np.ones(len(s)), rcond=None)[0])

    fit = least_squares(
        lambda log_b: design(log_b) @ linear(log_b) - 1,
        np.log([0.7, 3.0, 12.0, 45.0]),
        bounds=(np.log(0.02), np.log(300.0)),
    )
    a = linear(fit.x)
    pairs = [value for pair in zip(a[:4], np.exp(fit.x)) for value in pair]
    return (*map(float, pairs), float(a[4]))


def sfac_lines(element: str) -> list[str]:
    """The instruction SFAC of an element in two lines: coefficients, f', f'', mu, radius, weight."""
    entry = tiny_pse.table(element)
    coefficients = gaussian_coefficients(entry.atomic_number())
    radius = covalent_radii.table(element).radius()
    first = " ".join(f"{value:.4f}" for value in coefficients[:6])
    second = " ".join(f"{value:.4f}" for value in coefficients[6:])
    return [f"SFAC {element} {first} =", f" {second} 0 0 0 {radius:.2f} {entry.weight():.3f}"]
