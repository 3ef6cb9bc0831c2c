"""What the residuals of a good fit say about the data; nothing where all is well, or the fit is poor."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from finished_results import finished
from numpy.typing import NDArray
from quartz_scan import measured_quartz
from scipy.stats import binom, chi

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.at_end import findings_at_end
from dials_hybrid_refine.refinement.data_checks.beam_damage import progress
from dials_hybrid_refine.refinement.data_checks.error_model import fit_error_model
from dials_hybrid_refine.refinement.data_checks.extra_intensity import extra_intensity
from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, Finding
from dials_hybrid_refine.refinement.data_checks.lorentz import lorentz_by_residuals
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.statistics import agreement
from dials_hybrid_refine.refinement.weights import residual_spread, variances

#: u of the weights, and the share by which the model misses intensities
INSTABILITY, MISFIT = 0.03, 0.04
EXPECTED = 0.05


@lru_cache(maxsize=1)
def _finished() -> Result:
    return finished(measured_quartz().structure)


def result_of(observations: Observations, calculated: NDArray[np.float64]) -> Result:
    """A refinement that ended with these calculated intensities."""
    variance = variances(observations.intensity, observations.sigma, INSTABILITY)
    residual = (observations.intensity - calculated) / np.sqrt(variance)
    none = np.zeros(len(calculated), dtype=bool)
    used = agreement(observations.intensity, observations.sigma, calculated)
    profiles = replace(
        _finished().profiles, phi=np.array([0.0, 1.0]), orientation=np.full((2, 3), 0.04)
    )
    return replace(
        _finished(),
        observations=observations,
        calculated=calculated,
        held_out=none,
        rejected=none,
        residual=residual / residual_spread(residual, ~none),
        statistics=replace(_finished().statistics, used=used),
        profiles=profiles,
    )


def model(seed: int = 3, misfit: float = MISFIT) -> NDArray[np.float64]:
    """Calculated intensities that miss the true ones by a share."""
    true = measured_quartz().true
    return true * np.exp(misfit * np.random.default_rng(seed).normal(size=len(true)))


def findings(result: Result) -> dict[str, Finding]:
    found = findings_at_end(result, [measured_quartz().scan], INSTABILITY, EXPECTED)
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize("seed", range(4))
def test_sound_data(seed):
    assert findings(result_of(measured_quartz().with_noise(seed=seed), model(seed + 10))) == {}


@pytest.mark.parametrize(
    "factor, severity", [(1 / 3, "warning"), (1 / 1.2, None), (1.2, None), (3.0, "note")]
)
def test_wrong_sigmas(factor, severity):
    """Of data whose weakest quarter is zero."""
    zero = measured_quartz().true < 800
    observations = measured_quartz().with_noise(np.where(zero, 0.0, measured_quartz().true))
    stated = replace(observations, sigma=factor * observations.sigma)
    found = findings(result_of(stated, np.where(zero, 1e-3, model())))
    if severity is None:
        assert found == {}
    else:
        (finding,) = found.values()
        assert (finding.name, finding.severity) == ("wrong_sigmas", severity)
        error = 3 * 1.17 / finding.values["n_weak"] ** 0.5
        assert finding.values["weak_factor"] == pytest.approx(1 / factor, rel=error)
        assert finding.values["sigma_factor"] == pytest.approx(1 / factor, rel=0.2)


def test_error_model():
    """Normal errors of (2 sigma)^2 + (0.1 I)^2: 3000 of them give k and u to about 3 %."""
    random = np.random.default_rng(0)
    calculated = random.exponential(1000, 3000)
    sigma = random.uniform(10, 30, 3000)
    residual = np.hypot(2 * sigma, 0.1 * calculated) * random.normal(size=3000)
    fitted = fit_error_model(residual, sigma, calculated, INSTABILITY)
    assert (fitted.k, fitted.u) == pytest.approx((2, 0.1), rel=0.1)
    assert fitted.log_likelihood_gain > 100
    small = fit_error_model(residual, sigma, calculated, 0.1)
    assert 0 <= small.log_likelihood_gain < 8


def test_strong_reflections_that_misfit():
    found = findings(result_of(measured_quartz().with_noise(), model(misfit=0.15)))
    assert list(found) == ["large_instability"]
    assert found["large_instability"].severity == "note"
    # the noise of the data adds its 2 %
    assert found["large_instability"].values["instability"] == pytest.approx(0.15, rel=0.2)


def test_lorentz_factor():
    """Also without equivalents. Fits of such data are poor, so that the check is called by itself."""
    data = measured_quartz()
    lorentz = data.passing.lorentz / data.passing.lorentz.mean()
    observations = data.with_noise()
    corrected = replace(
        observations,
        intensity=observations.intensity / lorentz,
        sigma=observations.sigma / lorentz,
        unique_index=np.arange(len(lorentz)),
    )
    used = np.ones(len(lorentz), dtype=bool)
    finding = lorentz_by_residuals(corrected, model(), used, data.passing, INSTABILITY)
    assert finding is not None
    # of the expansion about an exponent of 1, with factors of up to 3
    assert finding.values["exponent"] == pytest.approx(0, abs=0.3)
    assert lorentz_by_residuals(observations, model(), used, data.passing, INSTABILITY) is None


@pytest.mark.parametrize("rise, is_found", [(-1.0, False), (0.1, False), (1.0, True)])
def test_beam_damage(rise, is_found):
    data = measured_quartz()
    time = progress([data.scan], data.observations)
    fading = np.exp(-2 * rise * (time - 0.5) * data.passing.inverse_d**2 / 4)
    found = findings(result_of(data.with_noise(data.true * fading), model()))
    assert ("beam_damage" in found) == is_found
    if is_found:
        values = found["beam_damage"].values
        # I_c is off by up to 30 %, by which the linear fit is off, too
        assert values["rise_of_b"] == pytest.approx(rise, rel=0.3)


def test_overlapping_crystal():
    """A tenth of the reflections holds intensity of another crystal; R_obs stays below 0.15."""
    data = measured_quartz()
    random = np.random.default_rng(1)
    extra = random.exponential(4e3, len(data.true)) * (random.random(len(data.true)) < 0.1)
    result = result_of(data.with_noise(data.true + extra), model())
    assert result.statistics.used.r_obs < 0.15
    assert "extra_intensity" in findings(result)


@pytest.mark.parametrize(
    "more, fewer, is_found", [(30, 30, False), (40, 5, True), (9, 0, False), (150, 70, False)]
)
def test_what_counts_as_extra(more, fewer, is_found):
    """Signs by chance with probability 1e-6 at most, and three times as many positive ones."""
    residual = np.concatenate([np.full(more, 4.0), np.full(fewer, -4.0), np.zeros(100)])
    assert (extra_intensity(residual) is not None) == is_found
    chance = binom.sf(more - 1, more + fewer, 0.5)
    assert (chance < CHANCE and more > 3 * fewer) == is_found


@pytest.mark.parametrize("share, is_found", [(0.95, False), (1.05, True)])
def test_correction_beyond_its_prior(share, is_found):
    result = result_of(measured_quartz().with_noise(), model())
    size = share * EXPECTED * chi.isf(CHANCE, 3)
    orientation = np.array([[0.0, 0.0, 0.0], [0.0, size, 0.0]])
    turned = replace(result, profiles=replace(result.profiles, orientation=orientation))
    assert list(findings(turned)) == (["large_correction"] if is_found else [])
    # a free correction of each frame takes up noise, and is not judged
    assert findings_at_end(turned, [measured_quartz().scan], INSTABILITY, None) == ()


def test_a_poor_fit_is_not_blamed_on_the_data():
    data = measured_quartz()
    observations = data.with_noise()
    stated = replace(observations, sigma=observations.sigma / 3)
    assert findings(result_of(stated, model(misfit=0.6))) == {}


def test_what_was_said_at_the_start_is_not_said_again():
    result = result_of(measured_quartz().with_noise(), model(misfit=0.15))
    assert list(findings(result)) == ["large_instability"]
    said = Finding("large_instability", "note", "said")
    assert findings(replace(result, data_checks=(said,))) == {}


def test_an_interrupted_run_is_not_judged():
    result = result_of(measured_quartz().with_noise(), model(misfit=0.15))
    assert findings(replace(result, status="interrupted")) == {}
