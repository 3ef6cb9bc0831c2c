"""Tabulated absorptive factors against the integral they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.absorptive_factors import (
    absorptive_scattering_factors,
    interpolation_weights,
    tabulated_b_values,
)
from dials_hybrid_refine.diffraction.electron import relativistic_factor, speed_ratio
from dials_hybrid_refine.diffraction.scattering_factors import electron_scattering_factors

COMPTON_WAVELENGTH = 0.0242631024  # h / (m0 c) in Angstrom
ELEMENTS = [1, 3, 6, 8, 14, 26, 35, 55, 82, 103]
S = np.array([0, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3])


def lost_to_vibrations(z: int, s: float, b: float) -> float:
    """(v/c) f' exp(-B s^2) in Angstrom, by integration, before any algebra is done.

    2 h / (m0 c) Int f(s1) f(s2) (<q1 q2> - <q1><q2>) d^2 s' over the diffuse wave between two
    Bragg waves: s1 + s2 = s, and an atom displaced by u contributes exp(-4 pi i s u), whose mean is
    exp(-B s^2). Gauss-Legendre in s' = 0.5 t / (1 - t) and one quadrant of the angle; 160 x 48
    points give six digits.
    """
    t, dt = np.polynomial.legendre.leggauss(160)
    t, dt = (t + 1) / 2, dt / 2
    radius, d_radius = 0.5 * t / (1 - t), 0.5 * dt / (1 - t) ** 2
    angle, d_angle = np.polynomial.legendre.leggauss(48)
    angle, d_angle = (angle + 1) * np.pi / 4, d_angle * np.pi / 4
    x, y = radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle)
    s1, s2 = np.hypot(s / 2 + x, y), np.hypot(s / 2 - x, y)
    f1, f2 = (electron_scattering_factors([z], 2 * v.ravel())[0].reshape(v.shape) for v in (s1, s2))
    together = np.exp(-b * s**2)
    apart = np.exp(-b * s1**2) * np.exp(-b * s2**2)
    integral = 4 * np.einsum(
        "ij,i,i,j", f1 * f2 * (together - apart), radius, d_radius, d_angle, optimize=True
    )
    return float(2 * COMPTON_WAVELENGTH * integral)


def of_the_package(z: int, b: float) -> NDArray[np.float64]:
    """The same from the table, at all S."""
    weights = interpolation_weights(torch.tensor([b], dtype=torch.float64))[0].numpy()
    factors = weights @ absorptive_scattering_factors([z], 2 * S)[0]
    return np.asarray(factors * np.exp(-b * S**2))


@pytest.mark.parametrize("z", ELEMENTS)
@pytest.mark.parametrize("b", [0.1, 0.3, 1.0, 2.0, 4.0, 0.17, 0.6, 1.25, 2.4, 3.5])
def test_agrees_with_the_integral_over_the_diffuse_waves(z: int, b: float) -> None:
    """To 0.6 % of f'(0), what the fits leave (between tabulated B as at them)."""
    expected = np.array([lost_to_vibrations(z, s, b) for s in S])
    assert np.abs(of_the_package(z, b) - expected).max() < 0.006 * expected[0]


def test_every_element_is_there_and_vibrating_more_scatters_more() -> None:
    numbers = list(range(1, 104))
    factors = absorptive_scattering_factors(numbers, np.linspace(0, 12, 25))
    assert factors.shape == (103, 13, 25)
    assert np.isfinite(factors).all()
    b = torch.linspace(0.1, 4, 400, dtype=torch.float64)
    forward = np.einsum("bk,zk->zb", interpolation_weights(b).numpy(), factors[:, :, 0])
    assert (forward > 0).all()
    assert (np.diff(forward) > 0).all()
    # no element is out of line with its neighbours; a swapped or broken row would be
    assert (np.abs(np.diff(np.log(forward[6:]), axis=0)) < 0.31).all()


def test_an_element_beyond_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"104.*absorption.model=proportional"):
        absorptive_scattering_factors([8, 104], np.zeros(1))


def test_interpolation_is_exact_for_parabolas_and_at_the_table() -> None:
    knots = torch.from_numpy(tabulated_b_values())
    torch.testing.assert_close(interpolation_weights(knots), torch.eye(13, dtype=torch.float64))
    b = torch.linspace(0.1, 4, 301, dtype=torch.float64)
    parabola = interpolation_weights(b) @ (3 - 2 * knots + 0.7 * knots**2)
    torch.testing.assert_close(parabola, 3 - 2 * b + 0.7 * b**2, rtol=1e-12, atol=1e-12)


def slope(b: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    b = b.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((interpolation_weights(b) @ values).sum(), b)
    return gradient


def test_slopes_are_continuous_and_right() -> None:
    """Of f'(0) of silicon; central differences have an error of step^2."""
    values = torch.from_numpy(absorptive_scattering_factors([14], np.zeros(1))[0, :, 0])
    b = torch.from_numpy(tabulated_b_values())
    inner = b[1:-1]
    below, above = slope(inner - 1e-9, values), slope(inner + 1e-9, values)
    torch.testing.assert_close(below, above, rtol=1e-6, atol=0)
    middle, step = (b[1:] * b[:-1]).sqrt(), 1e-5
    rise = (interpolation_weights(middle + step) - interpolation_weights(middle - step)) @ values
    torch.testing.assert_close(slope(middle, values), rise / (2 * step), rtol=1e-6, atol=0)


def test_beyond_the_table_the_nearest_is_held() -> None:
    values = torch.from_numpy(absorptive_scattering_factors([14], np.zeros(1))[0, :, 0])
    b = torch.tensor([-0.3, 0.0, 0.09, 4.1, 60.0], dtype=torch.float64)
    held = interpolation_weights(b) @ values
    torch.testing.assert_close(held, values[[0, 0, 0, -1, -1]])
    assert (slope(b, values) == 0).all()


@pytest.mark.parametrize("wavelength, ratio", [(0.0250793, 0.69531), (0.0334922, 0.58667)])
def test_speed(wavelength: float, ratio: float) -> None:
    """International Tables C, table 4.3.2.1; and lambda = h / (gamma m0 v)."""
    assert speed_ratio(wavelength) == pytest.approx(ratio, rel=1e-4)
    momentum = relativistic_factor(wavelength) * speed_ratio(wavelength)
    assert wavelength == pytest.approx(COMPTON_WAVELENGTH / momentum, rel=1e-6)
