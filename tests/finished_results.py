"""Results of refinements put together by hand: any structure, known intensities and covariances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from examples import WAVELENGTH, make_structure

from cctbx import sgtbx, xray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.io.kinematical_intensities import structure_factors
from dials_hybrid_refine.io.symmetry import unique_indices
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.refinement.frame_statistics import frame_statistics
from dials_hybrid_refine.refinement.frames import FrameFilter, regular_frames
from dials_hybrid_refine.refinement.result import Profiles, Result, Statistics, Timing
from dials_hybrid_refine.refinement.shifts import Shifts
from dials_hybrid_refine.refinement.statistics import agreement, merged_agreement

EVERYTHING = RefinedParameters(sites=True, displacements=True, occupancies=True)


def polar_structure() -> xray.structure:
    """An invented organic one in P 21, whose origin is free along b."""
    return make_structure(
        (7.21, 6.13, 8.02, 90, 101.7, 90),
        "P 1 21 1",
        [
            ("C", (0.112, 0.25, 0.337), (0.021, 0.018, 0.030, 0.002, 0.004, -0.001), 1.0),
            ("N", (0.291, 0.338, 0.401), 0.024, 1.0),
            ("H", (0.060, 0.131, 0.409), 0.04, 1.0),
        ],
    )


def caesium_lead_bromide() -> xray.structure:
    """CsPbBr3 in P b n m: atoms on centres, on mirror planes and in general positions."""
    return make_structure(
        (8.1189, 8.3590, 11.759, 90, 90, 90),
        "P b n m",
        [
            ("Cs", (0.51538, 0.55358, 0.75), (0.038, 0.041, 0.034, 0.003, 0, 0), 1.0),
            ("Pb", (0.5, 1.0, 0.5), (0.016, 0.015, 0.014, 0.001, 0.0005, -0.0003), 1.0),
            ("Br", (0.30160, 0.70122, 0.46804), (0.03, 0.025, 0.027, -0.009, 0.002, 0.001), 1.0),
            ("Br", (0.43856, 0.99353, 0.75), (0.05, 0.042, 0.014, 0.008, 0, 0), 0.93),
        ],
    )


def finished(
    structure: xray.structure,
    refined: RefinedParameters = EVERYTHING,
    constraints: tuple = (),
    d_min: float = 1.2,
    disorder: Disorder = Disorder(),  # noqa: B008  immutable
) -> Result:
    """Each reflection and its mates measured once, with a factor of its own between |F|^2 and I_c.

    I_o / I_c is 0.9 or 1.1, the same for equivalents. Every seventh unique reflection is held out,
    the first measurement is rejected. The covariance is that of s.u. of 1 % to 10 % of the units of
    the independent parameters, correlated by 0.3.
    """
    model = StructureModel(structure, refined, constraints, disorder)
    random = np.random.default_rng(5)
    su = random.uniform(0.001, 0.01, model.n_parameters)
    correlation = 0.3 + 0.7 * np.eye(model.n_parameters)
    jacobian = model.jacobian()
    current = model.current_structure()
    hkl = _with_mates(current, d_min)
    unique = unique_indices(hkl, current)
    calculated = np.abs(structure_factors(current, hkl, WAVELENGTH)) ** 2
    calculated = calculated * random.uniform(2, 20, len(hkl)) + 1e-3
    intensity = calculated * np.where(unique % 2, 1.1, 0.9)
    sigma = 0.05 * intensity + 0.1
    held_out, rejected = unique % 7 == 0, np.arange(len(hkl)) == 0
    held_out &= ~rejected
    n = len(hkl)
    phi = np.linspace(-9, 9, n)
    observations = Observations(
        experiment=np.zeros(n, dtype=np.int64),
        hkl=hkl,
        phi_start=phi - 0.5,
        phi_end=phi + 0.5,
        phi=phi,
        intensity=intensity,
        sigma=sigma,
        unique_index=unique,
        row=np.arange(n),
    )
    used = ~(held_out | rejected)
    frames = regular_frames([(-10, 10)], 1.0, 1.0)
    members = [np.flatnonzero(np.abs(phi - centre) < 1) for centre in frames.phi]
    statistics = Statistics(
        used=agreement(intensity[used], sigma[used], calculated[used], model.n_parameters),
        merged=merged_agreement(
            intensity[used], sigma[used], calculated[used], np.ones(used.sum()), unique[used]
        ),
        held_out=agreement(intensity[held_out], sigma[held_out], calculated[held_out]),
        held_out_by="reflections",
        frames=frame_statistics(
            frames, FrameFilter(), members, observations, calculated, held_out, rejected
        ),
        n_rejected=1,
        n_parameters=model.n_parameters + 20,
        n_parameters_structure=model.n_parameters,
        n_parameters_effective=model.n_parameters + 12.3,
        loss_start=900.0,
        loss_final=300.0,
        n_iterations=7,
        shifts=Shifts(0.21, 0.054),
    )
    blocks = np.arange(20.0)
    return Result(
        status="converged",
        structure=current,
        covariance=jacobian.T @ (np.outer(su, su) * correlation) @ jacobian,
        observations=observations,
        held_out=held_out,
        rejected=rejected,
        calculated=calculated,
        scale=np.ones(n),
        weight=1 / (sigma**2 + (0.03 * intensity) ** 2),
        residual=(intensity - calculated) / sigma,
        statistics=statistics,
        profiles=Profiles(
            experiment=np.zeros(20, dtype=np.int64),
            phi=blocks - 9.5,
            thickness_mean=400 + 5 * blocks,
            thickness_std=40 + blocks,
            thickness_mean_su=3 + 0.1 * blocks,
            thickness_std_su=np.full(20, 2.0),
            orientation=np.zeros((20, 3)),
            orientation_su=np.full((20, 3), 0.01),
            scale=np.ones(20),
            thickness_nodes=np.tile([300.0, 400.0, 500.0], (20, 1)),
            thickness_weight=np.full((20, 3), 1 / 3),
        ),
        history=(),
        timing=Timing(1.0, 2.0, 0.3, "cpu", "complex64", 40.2, 47),
    )


def one_thickness(result: Result, mean: float, su: float) -> Result:
    """The same with one thickness (Angstrom) at all angles."""
    profiles = replace(
        result.profiles,
        thickness_mean=np.full(20, mean),
        thickness_mean_su=np.full(20, su),
        thickness_std=np.zeros(20),
    )
    return replace(result, profiles=profiles)


def _with_mates(structure: xray.structure, d_min: float) -> np.ndarray:
    """Indices (n, 3) of all reflections to d_min that are not systematically absent."""
    in_p1 = structure.crystal_symmetry().customized_copy(
        space_group_info=sgtbx.space_group_info("P 1")
    )
    indices = in_p1.build_miller_set(anomalous_flag=True, d_min=d_min).indices()
    present = ~structure.space_group().is_sys_absent(indices)
    return np.array(list(indices.select(present)), dtype=np.int64)
