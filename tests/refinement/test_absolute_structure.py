"""Which hand of a structure the data favour."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from examples import (
    crossing_reflections,
    inverted,
    make_scan,
    make_structure,
    perovskite_structure,
    quartz_structure,
)
from scipy.stats import binom

from cctbx import miller, xray
from cctbx.array_family import flex

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.models.choose import OrientationOptions, ThicknessOptions
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.absolute_structure import (
    AbsoluteStructureOptions,
    Votes,
    votes,
)
from dials_hybrid_refine.refinement.options import BeamOptions, RefinementOptions
from dials_hybrid_refine.refinement.other_hand import has_hand
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.result import Iteration, Result
from dials_hybrid_refine.refinement.schedule import Controls, Schedule

ONE_THREAD = PropagationSettings(n_threads=1)
THICKNESS = 250.0


def test_formula_of_klar() -> None:
    """L-alanine, as published with their tools: 1515 of 2860 reflections, z = 3.2, p = 99.9 %."""
    found = Votes(n_compared=2860, n_closer=1515)
    assert found.z_score == pytest.approx(3.2, abs=0.05)
    assert found.probability == pytest.approx(0.999, abs=0.0005)


@pytest.mark.parametrize("n, k", [(400, 215), (400, 180), (50, 30)])
def test_probability_is_that_of_the_binomial_distribution(n: int, k: int) -> None:
    """By the central limit theorem, with half a vote on either side of k."""
    exact = 0.5 * (binom.cdf(k, n, 0.5) + binom.cdf(k - 1, n, 0.5))
    assert Votes(n, k).probability == pytest.approx(exact, abs=0.3 / n**0.5 / n**0.5)


def test_votes() -> None:
    observed = np.array([1.0, 2.0, 3.0, 4.0, -1.0])
    calculated = np.array([1.1, 2.5, 3.0, 4.0, 0.1])
    other = np.array([0.8, 2.2, 3.1, 4.0, 0.5])
    # for, against, for, none, for
    assert votes(observed, calculated, other) == Votes(n_compared=4, n_closer=3)
    assert votes(observed, calculated, calculated) == Votes(0, 0)
    assert (Votes(0, 0).z_score, Votes(0, 0).probability) == (0.0, 0.5)


def structure_factors(structure: xray.structure, hkl: list[tuple[int, ...]]) -> np.ndarray:
    indices = flex.miller_index(hkl)
    symmetry = structure.crystal_symmetry()
    wanted = miller.set(symmetry, indices, anomalous_flag=True)
    return np.array(wanted.structure_factors_from_scatterers(structure, "direct").f_calc().data())


@pytest.mark.parametrize(
    "symbol, other",
    [
        ("P 32 2 1", "P 31 2 1"),
        ("P 41 21 2", "P 43 21 2"),
        ("P 21 21 21", "P 21 21 21"),
        ("I 41", "I 41"),
        ("F d d 2", "F d d 2"),
        ("P n a 21", "P n a 21"),
        ("I -4 2 d", "I -4 2 d"),
    ],
)
def test_inverse_has_conjugate_phases(symbol: str, other: str) -> None:
    """|F| stays, and phases of products F(h) F(k) F(-h-k), which know no origin, change their sign."""
    cell = (9, 9, 7, 90, 90, 120 if symbol.startswith("P 3") else 90)
    if symbol in ("P 21 21 21", "F d d 2", "P n a 21"):
        cell = (8, 9, 7, 90, 90, 90)
    atoms = [
        ("Ca", (0.137, 0.212, 0.083), 0.01, 1.0),
        ("O", (0.312, 0.071, 0.438), (0.02, 0.014, 0.018, 0.004, 0.005, -0.003), 0.7),
    ]
    structure = make_structure(cell, symbol, atoms)
    refined = RefinedParameters()
    model = HybridModel(
        StructureModel(structure, refined),
        ConstantThickness(500.0),
        SmoothOrientation([(0.0, 10.0)]),
    )
    other_structure = model.inverted().structure.current_structure()
    assert str(other_structure.space_group_info()) == other
    # all even: no centring makes them absent
    triples = [((2, 4, 2), (2, 2, 4)), ((4, 2, 2), (2, 4, 2)), ((2, 2, 4), (4, 2, 2))]
    largest = 0.0
    for h, k in triples:
        hkl = [h, k, tuple(-a - b for a, b in zip(h, k))]
        f, f_other = (structure_factors(s, hkl) for s in (structure, other_structure))
        assert np.abs(f_other) == pytest.approx(np.abs(f), rel=1e-9, abs=1e-9)
        assert np.prod(f_other) == pytest.approx(np.prod(f).conjugate(), rel=1e-6, abs=1e-6)
        largest = max(largest, abs(np.sin(np.angle(np.prod(f)))) * bool(np.abs(f).min() > 1e-3))
    assert largest > 0.05  # some phase has a sign to change


def simulate(structure: xray.structure) -> tuple[ScanGeometry, Observations]:
    """24 degrees of a crystal 250 Angstrom thick; noise of 3 % and 0.5 % of the mean."""
    scan = make_scan(structure, -12, 12)
    observations = crossing_reflections(scan, 1.2, 0.006)
    intensity = simulate_intensities(
        scan,
        observations,
        structure,
        GivenThickness([THICKNESS], 25.0, scan.phi_range),
        None,
        BeamSelection(1.2, 0.012, 0.1),
        ONE_THREAD,
    )
    intensity *= 1e4 / intensity.mean()
    sigma = 0.03 * intensity + 50
    noise = sigma * np.random.default_rng(0).normal(size=len(sigma))
    return scan, replace(observations, intensity=intensity + noise, sigma=sigma)


OPTIONS = RefinementOptions(
    thickness=ThicknessOptions(model="constant", largest=400.0),
    thickness_start=THICKNESS,
    beams=BeamOptions(g_max=1.2, s_max=0.012, tilt_step=0.1),
    orientation=OrientationOptions(refine=False),
    structure=RefinedParameters(displacements=False),
    test_setting=False,
    schedule=Schedule(coarse_steps=2, tolerance=5e-3),
    propagation=ONE_THREAD,
)


def refine(
    structure: xray.structure,
    scan: ScanGeometry,
    observations: Observations,
    apply: bool = False,
    controls: Controls | None = None,
    test: bool | None = None,
) -> Result:
    options = replace(OPTIONS, absolute_structure=AbsoluteStructureOptions(test, apply))
    return run_refinement([scan], observations, structure, options, controls)


@lru_cache(maxsize=None)
def chiral_data() -> tuple[ScanGeometry, Observations]:
    return simulate(quartz_structure())


def test_right_hand_is_confirmed() -> None:
    result = refine(quartz_structure(), *chiral_data())
    found = result.absolute_structure
    assert found is not None and result.status == "converged"
    assert found.z_score > 3 and found.probability > 0.998 and found.preferred == "as given"
    assert found.is_clear
    assert found.r_obs is not None and found.r_obs_inverted is not None
    assert found.r_obs == pytest.approx(result.statistics.used.r_obs, abs=0.002)
    assert found.r_obs_inverted > found.r_obs + 0.01
    assert found.loss_inverted > found.loss + 100
    assert (found.space_group, found.space_group_inverted) == ("P 32 2 1", "P 31 2 1")
    assert found.is_chiral and not found.applied
    assert not any("inverse" in warning for warning in result.warnings)


def test_wrong_hand_is_replaced() -> None:
    """With apply=True; the result is as good as if the right hand had been given."""
    result = refine(inverted(quartz_structure()), *chiral_data(), apply=True)
    found = result.absolute_structure
    assert found is not None and result.status == "converged"
    assert found.z_score < -3 and found.probability < 0.002 and found.preferred == "inverted"
    assert found.r_obs is not None and found.r_obs_inverted is not None
    assert found.r_obs > found.r_obs_inverted + 0.01
    assert found.applied and str(result.structure.space_group_info()) == "P 32 2 1"
    assert not any("inverse" in warning for warning in result.warnings)
    assert result.statistics.used.r_obs == pytest.approx(found.r_obs_inverted, abs=1e-6)
    truth = quartz_structure()
    cell = truth.unit_cell()
    for scatterer, true in zip(result.structure.scatterers(), truth.scatterers()):
        difference = np.array(scatterer.site) - true.site
        assert cell.length(tuple(difference - np.round(difference))) < 0.01


def test_interruption_keeps_the_first_result() -> None:
    """Ctrl-C during the refinement of the inverse: all of the structure as given, and a sentence."""
    stages: list[str] = []

    def observe(iteration: Iteration) -> None:
        stages.append(iteration.stage)

    controls = Controls(observe, lambda: "inverse 1" in stages)
    result = refine(quartz_structure(), *chiral_data(), controls=controls)
    assert stages[-1] == "inverse 1"
    assert result.status == "interrupted" and result.absolute_structure is None
    assert any("test of the hand was not finished" in warning for warning in result.warnings)
    assert any("ended: converged" in warning for warning in result.warnings)
    assert result.covariance is not None and result.statistics.used.r_obs is not None
    assert not any(i.stage.startswith("inverse") for i in result.history)


def test_polar_direction() -> None:
    """P n a 21 is not chiral, but c points one way in the indexed crystal."""
    atoms = [
        ("Ti", (0.13, 0.07, 0.0), 0.008, 1.0),
        ("O", (0.21, 0.31, 0.17), 0.012, 1.0),
    ]
    structure = make_structure((5.1, 4.6, 5.6, 90, 90, 90), "P n a 21", atoms)
    data = simulate(structure)
    found = refine(structure, *data).absolute_structure
    assert found is not None and not found.is_chiral and found.z_score > 3
    assert found.space_group_inverted == "P n a 21"


def test_no_hand() -> None:
    """A centrosymmetric space group is not tested, and to ask for it is an error."""
    structure = perovskite_structure()
    assert not has_hand(structure)
    scan = make_scan(structure, -2, 2)
    with pytest.raises(ValueError, match="P n m a has a centre of symmetry"):
        refine(structure, scan, crossing_reflections(scan, 0.5, 0.004), test=True)


def test_centre_that_the_space_group_does_not_state() -> None:
    """Atoms of P -1 written down in P 1: there is nothing to choose."""
    site = np.array((0.21, 0.13, 0.32))
    atoms = [("Si", tuple(site), 0.01, 1.0), ("Si", tuple(-site), 0.01, 1.0)]
    structure = make_structure((4.1, 4.6, 5.2, 81, 97, 95), "P 1", atoms)
    scan, observations = simulate(structure)
    options = replace(
        OPTIONS,
        structure=RefinedParameters(False, False, False),
        schedule=Schedule(coarse_steps=1, cycles=1, steps_per_cycle=1),
        absolute_structure=AbsoluteStructureOptions(test=True),
    )
    result = run_refinement([scan], observations, structure, options)
    assert result.absolute_structure is None
    assert not any("hand" in warning for warning in result.warnings)
