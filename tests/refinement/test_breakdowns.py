"""Numbers that break down: named, stepped back from, or stopped with the best result so far.

Every breakdown is brought about by models, data or limits that lead there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import quartz_structure
from small_refinement import OPTIONS, data

from cctbx import xray

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.models.choose import OrientationOptions, ThicknessOptions
from dials_hybrid_refine.models.effects import CurveEffect, NamedEffect
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.refinement.absolute_structure import AbsoluteStructureOptions
from dials_hybrid_refine.refinement.journal import Journal
from dials_hybrid_refine.refinement.options import BeamOptions, RefinementOptions
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.schedule import Controls, Schedule

SHORT = replace(
    OPTIONS,
    schedule=Schedule(coarse_steps=1, cycles=1, steps_per_cycle=3, tolerance=1e-6),
    absolute_structure=AbsoluteStructureOptions(test=False),
)


def refine(
    options: RefinementOptions = SHORT,
    observations: Observations | None = None,
    structure: xray.structure | None = None,
    effects: Sequence[CurveEffect] = (),
    journal: Journal | None = None,
) -> Result:
    scan, measured = data()
    return run_refinement(
        [scan],
        measured if observations is None else observations,
        structure or quartz_structure(),
        options,
        Controls(journal=journal or Journal()),
        effects=[NamedEffect(effect, "toy") for effect in effects],
    )


def assert_finite(result: Result) -> None:
    """All that is written, but for standard uncertainties, which may be unknown."""
    profiles = result.profiles
    for values in (
        result.calculated, result.scale, result.weight, result.residual,
        profiles.thickness_mean, profiles.thickness_std, profiles.orientation, profiles.scale,
    ):  # fmt: skip
        assert np.isfinite(values).all()
    if result.covariance is not None:
        assert np.isfinite(result.covariance).all()
        assert np.isfinite(profiles.thickness_mean_su).all()
    for atom in result.structure.scatterers():
        assert np.isfinite([*atom.site, *atom.u_star, atom.u_iso]).all()
    assert result.statistics.used.r_obs is not None


def with_intensities(factor: float) -> Observations:
    _, observations = data()
    return replace(observations, intensity=factor * observations.intensity)


@pytest.mark.parametrize("factor", [0.0, -1.0, 1e200])
def test_intensities_that_no_scale_fits(factor: float) -> None:
    """All zero, negative, or so large that their squares overflow."""
    with pytest.raises(ArithmeticError, match="no positive scale .* check them"):
        refine(observations=with_intensities(factor))


def test_a_model_that_scatters_nothing() -> None:
    """With U of 60 Angstrom^2 nothing is left in single precision even at 0.2/Angstrom."""
    structure = quartz_structure()
    for atom in structure.scatterers():
        atom.convert_to_isotropic(structure.unit_cell())
        atom.u_iso = 60.0
    with pytest.raises(ArithmeticError, match="the model scatters nothing"):
        refine(structure=structure)


def test_a_crystal_too_thick_for_the_calculation() -> None:
    options = replace(SHORT, thickness=ThicknessOptions(largest=1e6, node_distance=1e5))
    with pytest.raises(ArithmeticError, match="too thick .* thickness.max"):
        refine(options)


def test_a_full_calculation_that_fails_leaves_the_result_of_the_coarse_one() -> None:
    """All beams at once for up to 1600 Angstrom: the expansion would need thousands of terms."""
    scan, observations = data()
    lengths = np.linalg.norm(observations.hkl @ scan.crystal_settings[0].T, axis=1)
    thick = ThicknessOptions(largest=1600.0, node_distance=160.0)
    result = refine(
        replace(SHORT, thickness=thick, beams=BeamOptions(g_max=0.9, s_max=5.0)),
        observations.select(lengths <= np.sort(lengths)[14]),
    )
    assert_finite(result)
    assert result.status == "max_iterations" and result.breakdown is not None
    assert "the choice of the full calculation (beams are too far" in result.breakdown
    assert "best result so far" in result.breakdown and "lower beams.s_max" in result.breakdown
    assert result.warnings[0] == result.breakdown
    assert {iteration.stage for iteration in result.history} == {"start", "coarse"}
    assert result.statistics.used.r_obs < 0.05


class AngularFilter(CurveEffect):
    """A toy effect: beams lose exp(-0.3 arcsin(x) |g|^2), which nothing continues beyond x = 1."""

    def __init__(self, x: float) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.tensor(x, dtype=torch.float64))

    def forward(self, curves: torch.Tensor, batch: BlockBatch) -> torch.Tensor:
        hkl = batch.geometry.hkl[:, 1 : 1 + batch.n_rows]
        g_sq = torch.einsum("bij,brj->bri", batch.bases[:, 0], hkl).square().sum(-1)
        return curves * torch.exp(-0.3 * torch.arcsin(self.x) * g_sq)[:, :, None]


#: only the effect and the scales are refined, against data that want as much of it as there is
ONE_EFFECT = replace(
    SHORT,
    structure=RefinedParameters(sites=False, displacements=False),
    orientation=OrientationOptions(refine=False),
    schedule=Schedule(coarse_steps=1, cycles=2, steps_per_cycle=9, tolerance=1e-9),
)


def faded() -> Observations:
    """Intensities that fall off faster with the scattering angle than any x up to 1 explains."""
    scan, observations = data()
    g_sq = ((observations.hkl @ scan.crystal_settings[0].T) ** 2).sum(1)
    return replace(observations, intensity=observations.intensity * np.exp(-0.55 * g_sq))


def test_steps_end_where_no_derivative_can_be_had() -> None:
    """The minimum lies at the end of what the effect can calculate: trials beyond are not taken, and
    when the derivative would be taken there the steps before stay.

    A journal that knows of it brings another run to the same end.
    """
    journal = Journal()
    result = refine(ONE_EFFECT, faded(), effects=[AngularFilter(0.2)], journal=journal)
    assert_finite(result)
    assert result.breakdown is not None and "not finite" in result.breakdown
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    x = float(result.effects[0].values["x"])
    assert 0.95 < x <= 1
    assert result.covariance is None and np.isnan(result.effects[0].su["x"]).all()
    assert any("standard uncertainties could not" in warning for warning in result.warnings)
    again = refine(
        ONE_EFFECT, faded(), effects=[AngularFilter(0.2)], journal=Journal(list(journal.entries))
    )
    assert again.breakdown == result.breakdown
    assert float(again.effects[0].values["x"]) == x


def test_an_infinite_gradient_where_the_refinement_starts_is_named() -> None:
    """The slope of arcsin at 1."""
    with pytest.raises(ArithmeticError, match=r"by effects\.0\.x is not finite"):
        refine(ONE_EFFECT, effects=[AngularFilter(1.0)])


@pytest.mark.parametrize(
    "options",
    [
        SHORT,
        replace(SHORT, thickness=ThicknessOptions(model="per_image", largest=400.0)),
        replace(SHORT, orientation=OrientationOptions(model="per_frame", frame_width=0.5)),
    ],
    ids=["smooth", "thickness per image", "orientation per frame"],
)
def test_stretches_without_reflections(options: RefinementOptions) -> None:
    """None in one degree in the middle, and none in the last: the rest is what priors say."""
    _, observations = data()
    chosen = (observations.phi < -1) | (observations.phi > 0)
    assert 12 < chosen.sum() < 0.7 * len(chosen) and observations.phi.max() < 2
    result = refine(options, observations.select(chosen))
    assert_finite(result)
    assert result.covariance is not None and len(result.profiles.scale) == 6
    ratio = result.profiles.scale / np.median(result.profiles.scale)
    assert ((ratio > 0.8) & (ratio < 1.25)).all()
    mean = result.profiles.thickness_mean
    assert ((mean > 100) & (mean < 500)).all()
    assert result.warnings == ()


def test_a_distribution_that_runs_into_its_end_is_named() -> None:
    """The crystal is 250 Angstrom thick, and 160 at most are allowed."""
    options = replace(SHORT, thickness=ThicknessOptions(largest=160.0, node_distance=20.0))
    result = refine(options)
    assert_finite(result)
    assert any("thickest crystals considered, 160" in warning for warning in result.warnings)


def test_a_network_that_has_run_away_gives_no_number() -> None:
    """exp of 1000: the distribution is not a number, which the propagation refuses by name."""
    model = NeuralThickness(np.arange(50.0, 401.0, 50.0), np.ones(8), [(-3.0, 3.0)])
    with torch.no_grad():
        model.moments_bias.fill_(1000.0)
    assert model(torch.zeros(1, dtype=torch.int64), torch.zeros(1).double()).weight.isnan().any()
