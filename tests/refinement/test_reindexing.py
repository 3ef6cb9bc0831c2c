"""Which settings of the data a lattice allows, and which of them fits a structure."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from examples import crossing_reflections, make_scan, make_structure, quartz_structure

from cctbx import crystal, miller, sgtbx
from cctbx.array_family import flex

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.models.choose import OrientationOptions, ThicknessOptions
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.options import BeamOptions, RefinementOptions
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.reindexing import (
    before_reindexing,
    reindexing_operators,
)
from dials_hybrid_refine.refinement.schedule import Schedule

ONE_THREAD = PropagationSettings(n_threads=1)


@pytest.mark.parametrize(
    "cell, group, n_others",
    [
        ((4.92, 4.92, 5.40, 90, 90, 120), "P 32 2 1", 1),  # -3m1 in 6/mmm
        ((4.92, 4.92, 5.40, 90, 90, 120), "P 32", 3),  # -3 in 6/mmm
        ((5, 6, 7, 90, 90.5, 90), "P 1 21 1", 1),  # beta near 90
        ((5, 6, 7, 90, 97, 90), "P 1 21 1", 0),
        ((5, 6, 7, 90, 90, 90), "P n a 21", 0),  # c up or down is a question of hand
        ((5, 5.05, 9, 90, 90, 90), "P 21 21 21", 1),  # a near b
        ((5, 5, 5, 90, 90, 90), "P 21 3", 1),  # m-3 in m-3m
        ((10, 10, 5, 90, 90, 90), "I 41", 1),  # 4/m in 4/mmm
        ((10, 10, 15, 90, 90, 120), "R 3 :H", 1),  # -3 in -3m, obverse stays obverse
        ((5, 5, 5, 90, 90, 90), "P 1 2 1", 11),  # 2/m in m-3m, not a normal subgroup
    ],
)
def test_operators(cell, group, n_others):
    """As many as Laue groups have room in the lattice, proper, and all different for intensities."""
    symmetry = crystal.symmetry(cell, group)
    operators = reindexing_operators(symmetry)
    assert len(operators) == n_others
    for operator in operators:
        assert operator.c().r().determinant() > 0
        changed = operator.apply(symmetry.unit_cell()).parameters()
        assert changed == pytest.approx(cell, rel=0.02)
    structure = make_structure(cell, group, [("Ca", (0.137, 0.212, 0.083), 0.01, 1.0),
                                             ("O", (0.312, 0.071, 0.438), 0.02, 0.7)])  # fmt: skip
    # absent in neither I nor R
    hkl = flex.miller_index([(4, 2, 2), (2, 4, -2), (2, 6, 2), (6, 4, 2)])
    seen = []
    for operator in [sgtbx.change_of_basis_op(), *operators]:
        wanted = miller.set(symmetry, operator.apply(hkl), anomalous_flag=True)
        f = wanted.structure_factors_from_scatterers(structure, "direct").f_calc()
        seen.append(np.abs(np.array(f.data())))
        before = before_reindexing(structure, operator)
        present = miller.set(before.crystal_symmetry(), hkl, anomalous_flag=True)
        f = present.structure_factors_from_scatterers(before, "direct").f_calc()
        # within what a pseudo-symmetric cell changes of |h|
        assert np.abs(np.array(f.data())) == pytest.approx(seen[-1], rel=0.05)
    for one, other in combinations(seen, 2):
        assert np.abs(one - other).max() > 0.01 * max(one)


def simulated(operator):
    """Quartz, 24 degrees, 400 Angstrom thick, indexed so that ``operator`` leads to its setting."""
    structure = quartz_structure()
    scan = make_scan(structure, -12, 12)
    observations = crossing_reflections(scan, 1.0, 0.006)
    thickness = GivenThickness([400.0], 40.0, scan.phi_range)
    selection = BeamSelection(1.1, 0.012, 0.1)
    other = structure.change_basis(sgtbx.change_of_basis_op(operator).inverse())
    intensity = simulate_intensities(
        scan, observations, other, thickness, None, selection, ONE_THREAD
    )
    sigma = 0.03 * intensity + 0.01 * intensity.mean()
    noise = sigma * np.random.default_rng(0).normal(size=len(sigma))
    return scan, replace(observations, intensity=intensity + noise, sigma=sigma)


OPTIONS = RefinementOptions(
    thickness=ThicknessOptions(model="constant", largest=700.0),
    beams=BeamOptions(g_max=1.1, s_max=0.012, tilt_step=0.1),
    orientation=OrientationOptions(refine=False),
    structure=RefinedParameters(sites=True, displacements=False),
    schedule=Schedule(coarse_steps=1, cycles=1, steps_per_cycle=1),
    propagation=ONE_THREAD,
)


def displaced():
    """Quartz with oxygen 0.15 Angstrom from its place: a start as poor as any that is refined."""
    structure = quartz_structure()
    oxygen = structure.scatterers()[1]
    shift = structure.unit_cell().fractionalize((0.1, -0.05, 0.1))
    oxygen.site = tuple(np.array(oxygen.site) + shift)
    return structure


def test_wrong_setting_is_named():
    scan, observations = simulated("-a,-b,c")
    with pytest.raises(ValueError, match="another setting") as raised:
        run_refinement([scan], observations, displaced(), OPTIONS)
    assert "dials.reindex change_of_basis_op=-a,-b,c" in str(raised.value)
    untested = replace(OPTIONS, test_setting=False)
    assert run_refinement([scan], observations, displaced(), untested).history


def test_right_setting_is_accepted():
    scan, observations = simulated("a,b,c")
    assert run_refinement([scan], observations, displaced(), OPTIONS).history
