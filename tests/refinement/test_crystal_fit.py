"""Which of several crystals does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from dials_hybrid_refine.refinement.crystal_fit import Misfit, bad_crystals, misfit

GOOD, ALSO_GOOD = Misfit(0.06, 0.08), Misfit(0.09, 0.12)


@pytest.mark.parametrize(
    "misfits, expected",
    [
        ([GOOD], {}),
        ([GOOD, ALSO_GOOD], {}),
        # R_obs is a little more than twice that of others, but good
        ([GOOD, ALSO_GOOD, Misfit(0.14, 0.2)], {}),
        ([Misfit(0.35, 0.5), Misfit(0.5, 0.66)], {}),  # atoms that are far off
        ([Misfit(0.7, 0.95), Misfit(0.72, 0.98)], {}),  # the model is of neither
        ([GOOD, Misfit(0.7, 0.95)], {1: "little in common"}),
        ([Misfit(0.35, 0.5), Misfit(0.7, 0.95), Misfit(0.4, 0.55)], {1: "little in common"}),
        ([GOOD, ALSO_GOOD, Misfit(0.3, 0.4)], {2: "much worse than the others"}),
        ([Misfit(0.3, 0.4), GOOD], {0: "much worse than the others"}),
    ],
)
def test_bad_crystals(misfits: list[Misfit], expected: dict[int, str]) -> None:
    found = bad_crystals(misfits)
    assert set(found) == set(expected)
    for i, part in expected.items():
        assert part in found[i] and f"{misfits[i].r_obs:.2f}" in found[i]


def test_misfit_of_related_and_of_unrelated_intensities() -> None:
    """Intensities of Wilson's statistics: the right ones, with 10 % error of F, and others."""
    generator = np.random.default_rng(2)
    intensity = 1000 * generator.exponential(size=400)
    sigma = np.full(400, 1.0)
    near = intensity * (1 + 0.1 * generator.normal(size=400)) ** 2
    related = misfit(intensity, sigma, near)
    # mean |x| of a normal distribution: 0.1 sqrt(2/pi)
    assert related.r_obs == pytest.approx(0.08, abs=0.01) and related.share < 0.2
    others = misfit(intensity, sigma, 1000 * generator.exponential(size=400))
    assert others.share == pytest.approx(1, abs=0.15)  # scales fit intensities, R is on F
    nothing = misfit(intensity, sigma, np.zeros(400))
    assert np.isfinite([nothing.r_obs, nothing.share]).all()
