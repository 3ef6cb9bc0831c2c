"""Standard uncertainties against the scatter of refinements of the same crystal under other noise.

``benchmarks/pulls.py`` does the same with more reflections and realisations.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from benchmarks.pulls import Experiment, pulls, refine, sizes

_REALISATIONS = 3

#: shares of the chi^2 distribution that bound what a correct covariance leaves once in 1000 times
_SHARES = (0.0005, 0.9995)

Pulls = list[dict[str, list[float]]]


@pytest.fixture(
    scope="module", params=[("poisson", "constant"), ("unstable", "neural")], ids=lambda p: p[1]
)
def realisations(request: pytest.FixtureRequest) -> Pulls:
    """Of data that the thickness model can fit, with the noise that the weights assume."""
    scheme, thickness = request.param
    experiment = Experiment.simulate(24.0, 0.8, 60.0 if thickness == "neural" else 0.0)
    structure = experiment.case.structure
    return [
        pulls(refine(experiment, scheme, thickness, seed), structure)
        for seed in range(_REALISATIONS)
    ]


def test_pulls_of_all_structural_parameters(realisations: Pulls) -> None:
    """d^T C^-1 d is distributed as chi^2 of 6 (4 coordinates, 2 U) in each realisation."""
    n = 6 * _REALISATIONS
    total = 6 * sum(found["distance"][0] for found in realisations)
    assert chi2.ppf(_SHARES[0], n) < total < chi2.ppf(_SHARES[1], n)


@pytest.mark.parametrize("kind", ["sites", "U", "bonds", "angles", "thickness"])
def test_pulls_by_kind(realisations: Pulls, kind: str) -> None:
    """Those of one realisation may all be the same but for correlation: as many degrees of freedom as
    realisations, for the root mean square."""
    bounds = np.sqrt(chi2.ppf(_SHARES, _REALISATIONS) / _REALISATIONS)
    assert bounds[0] < sizes(realisations)[kind].rms < bounds[1]


def test_chi_square_over_degrees_of_freedom(realisations: Pulls) -> None:
    """1 where P counts no more than what the refinement fits. Of 110 reflections P, which is 28 to 38
    here, leaves 70 or more in each realisation; bounds as above."""
    n = 70 * _REALISATIONS
    mean = float(np.mean([found["chi_square"][0] for found in realisations]))
    low, high = chi2.ppf(_SHARES, n) / n
    assert low < mean < high
