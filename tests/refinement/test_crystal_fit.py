"""Which of several crystals does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from dials_hybrid_refine.diffraction.observations import Observations, joined
from dials_hybrid_refine.refinement.crystal_fit import Misfit, bad_crystals, crystal_fits, misfit
from dials_hybrid_refine.refinement.result import AbsorptionStrength, Profiles

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
        ([GOOD, ALSO_GOOD, Misfit(0.5, 0.66)], {2: "little in common"}),
        ([GOOD, ALSO_GOOD, Misfit(0.3, 0.4)], {2: "much worse than the others"}),
        ([Misfit(0.3, 0.4), GOOD], {0: "much worse than the others"}),
    ],
)
def test_bad_crystals(misfits: list[Misfit], expected: dict[int, str]) -> None:
    found = bad_crystals(misfits, are_refined=True)
    assert set(found) == set(expected)
    at_first = bad_crystals(misfits, are_refined=False)
    assert set(at_first) == {i for i, part in expected.items() if "common" in part}
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


def observations(n: int, intensity: float) -> Observations:
    zero = np.zeros(n)
    return Observations(
        experiment=np.zeros(n, dtype=np.int64),
        hkl=np.zeros((n, 3), dtype=np.int64),
        phi_start=zero,
        phi_end=zero,
        phi=zero,
        intensity=np.full(n, intensity),
        sigma=np.ones(n),
        unique_index=np.arange(n),
        row=np.arange(n),
    )


def test_figures_of_each_crystal() -> None:
    """Two crystals: F is 10 and 20, calculated as 9 and 20; one held out, one rejected of the second."""
    data = joined([observations(4, 100.0), observations(6, 400.0)])
    assert data.experiment.tolist() == [0] * 4 + [1] * 6 and data.row.tolist() == [
        0,
        1,
        2,
        3,
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    one = np.array([0, 0, 1])
    profiles = Profiles(
        experiment=one,
        phi=np.arange(3.0),
        thickness_mean=np.array([200.0, 300.0, 500.0]),
        thickness_std=np.array([20.0, 40.0, 50.0]),
        thickness_mean_su=np.ones(3),
        thickness_std_su=np.ones(3),
        orientation=np.array([[0.3, 0, 0], [0, 0.4, 0], [0, 0, 0.1]]),
        orientation_su=np.zeros((3, 3)),
        scale=np.array([1.0, 3.0, 7.0]),
        thickness_nodes=np.ones((3, 1)),
        thickness_weight=np.ones((3, 1)),
    )
    held_out, rejected = (np.arange(10) == k for k in (4, 5))
    strengths = [AbsorptionStrength("tabulated", v, 0.1) for v in (1.0, 2.0)]
    calculated = np.where(data.experiment == 0, 81.0, 400.0)
    first, second = crystal_fits(
        data, calculated, held_out, rejected, profiles, strengths, [(0.1, 0.01), (0.2, None)]
    )
    assert first.used.r_obs == pytest.approx(0.1) and second.used.r_obs == pytest.approx(0)
    assert [f.used.n_reflections for f in (first, second)] == [4, 4]
    assert [f.held_out.n_reflections for f in (first, second)] == [0, 1]
    assert [f.n_rejected for f in (first, second)] == [0, 1]
    assert [f.thickness for f in (first, second)] == [250, 500]
    assert [f.scale for f in (first, second)] == [2, 7]
    assert first.orientation == pytest.approx(np.sqrt((0.09 + 0.16) / 2))
    assert (second.absorption, second.mosaicity) == (strengths[1], (0.2, None))
