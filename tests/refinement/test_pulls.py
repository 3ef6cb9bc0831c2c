"""Standard uncertainties against the scatter of refinements of the same crystal under other noise.

``benchmarks/pulls.py`` does the same with more reflections and realisations.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from benchmarks.pulls import Experiment, pulls, refine, standard_deviations

_REALISATIONS = 6


@pytest.fixture(scope="module")
def collected() -> dict[str, list[float]]:
    experiment = Experiment.simulate(24.0, 0.8, thickness_std=0.0)
    found: dict[str, list[float]] = {}
    for seed in range(_REALISATIONS):
        result = refine(experiment, "poisson", "constant", seed)
        for kind, values in pulls(result, experiment.case.structure).items():
            found.setdefault(kind, []).extend(values)
    return found


def test_pulls_of_all_structural_parameters(collected: dict[str, list[float]]) -> None:
    """d^T C^-1 d is distributed as chi^2 of 6 (4 coordinates, 2 U) in each realisation.

    Bounds that a correct covariance fails once in 1000 times.
    """
    n = 6 * _REALISATIONS
    total = 6 * sum(collected["distance"])
    assert chi2.ppf(0.0005, n) < total < chi2.ppf(0.9995, n)


@pytest.mark.parametrize("kind", ["sites", "U", "bonds", "angles", "thickness"])
def test_pulls_by_kind(collected: dict[str, list[float]], kind: str) -> None:
    """Those of one realisation may all be the same but for correlation: as many degrees of freedom as
    realisations, bounds as above, for the root mean square."""
    size, _, number = standard_deviations(collected)[kind]
    assert number >= _REALISATIONS
    bounds = np.sqrt(chi2.ppf((0.0005, 0.9995), _REALISATIONS) / _REALISATIONS)
    assert bounds[0] < size < bounds[1]
