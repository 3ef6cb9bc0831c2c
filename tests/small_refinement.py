"""A refinement that takes a second: a few reflections of quartz on six degrees, simulated."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from examples import crossing_reflections, make_scan, quartz_structure

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.models.choose import ThicknessOptions
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.absolute_structure import AbsoluteStructureOptions
from dials_hybrid_refine.refinement.options import BeamOptions, RefinementOptions
from dials_hybrid_refine.refinement.schedule import Schedule

OPTIONS = RefinementOptions(
    thickness=ThicknessOptions(largest=400.0, node_distance=80.0),
    beams=BeamOptions(g_max=1.0, s_max=0.012),
    structure=RefinedParameters(displacements=False),
    test_setting=False,
    schedule=Schedule(coarse_steps=2, cycles=2, steps_per_cycle=2, tolerance=1e-6),
    propagation=PropagationSettings(n_threads=1),
    absolute_structure=AbsoluteStructureOptions(test=True),
    difference_map=False,
)


@lru_cache(maxsize=None)
def data() -> tuple[ScanGeometry, Observations]:
    structure = quartz_structure()
    scan = make_scan(structure, -3, 3)
    observations = crossing_reflections(scan, 1.0, 0.006)
    thickness = GivenThickness([250.0], 25.0, scan.phi_range)
    limits = BeamSelection(1.0, 0.012, 0.1)
    intensity = simulate_intensities(
        scan, observations, structure, thickness, None, limits, OPTIONS.propagation
    )
    intensity *= 1e4 / intensity.mean()
    sigma = 0.03 * intensity + 50
    noise = sigma * np.random.default_rng(0).normal(size=len(sigma))
    return scan, replace(observations, intensity=intensity + noise, sigma=sigma)
