"""Relativistic quantities of the electron beam."""

from __future__ import annotations

import math

# CODATA 2018: h c / e in V Angstrom and m c^2 / e in V.
_HC_OVER_E = 12398.419843320026
_REST_ENERGY_VOLT = 510998.95

#: h^2 / (2 pi m e) in V Angstrom^2: the potential in volt is this times sum F_h exp(-2 pi i h r) over the
#: volume, with F in Angstrom (International Tables C (2006), 4.3.1)
POTENTIAL_VOLT = 47.87801
#: e / (4 pi eps_0) in V Angstrom: volt in e/Angstrom
VOLT_PER_CHARGE = 14.399645


def accelerating_voltage(wavelength: float) -> float:
    """Accelerating voltage in volt of electrons of a wavelength in Angstrom.

    Inverts ``lambda = h / sqrt(2 m e V (1 + e V / (2 m c^2)))`` (International Tables C, 4.3.1).

    Raises:
        ValueError: for a wavelength that is not positive.
    """
    if not wavelength > 0:
        raise ValueError(f"an electron wavelength must be positive, not {wavelength}")
    momentum = _HC_OVER_E / wavelength  # p c / e in volt
    return math.sqrt(momentum**2 + _REST_ENERGY_VOLT**2) - _REST_ENERGY_VOLT


def speed_ratio(wavelength: float) -> float:
    """v/c of the electrons: 0.6953 at 200 kV; v/c = sqrt(1 - 1/gamma^2)."""
    return math.sqrt(1 - 1 / relativistic_factor(wavelength) ** 2)


def relativistic_factor(wavelength: float) -> float:
    """gamma = 1 + e V / (m c^2): 1.3914 at 200 kV (0.02508 Angstrom)."""
    return 1 + accelerating_voltage(wavelength) / _REST_ENERGY_VOLT
