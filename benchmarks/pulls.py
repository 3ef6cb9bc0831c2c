"""Are the standard uncertainties true? Pulls (refined - true) / s.u. over many draws of noise.

    OMP_NUM_THREADS=1 python -m benchmarks.pulls [--minutes 10] [--scheme NAME] [--thickness neural]
        [--json FILE]

A small quartz crystal is simulated once; each realisation gets noise and scales of its own, and is refined
from a structure that is displaced by 0.02 Angstrom: sites and U, thickness, orientation and scales together,
by the cycles, the rejection of outliers and the summary of the program. The limits of the calculation are
those the data were simulated with, so that noise is the only error. The scales change as their prior says,
by 5 % from degree to degree: were they constant, the prior would allow for errors that never happen. If the stated uncertainties are right
the pulls of each quantity have a standard deviation of 1; their number leaves 1/sqrt(2n) of that.

Schemes, of noise and of the weights of the refinement:
    poisson    variance sigma^2, u = 0 in the weights
    unstable   variance sigma^2 + (0.03 I)^2, u = 0.03: what the default weights assume
    cautious   variance sigma^2, u = 0.03: default weights for data without any instability
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cctbx import xray

from benchmarks.crystals import Case, displaced, quartz
from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.workers import one_torch_thread
from dials_hybrid_refine.models.choose import ThicknessOptions, thickness_model
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.frames import FrameFilter, choose_frames
from dials_hybrid_refine.refinement.geometry import structure_geometry
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.schedule import Controls, Schedule
from dials_hybrid_refine.refinement.summarise import summarise
from dials_hybrid_refine.refinement.thickness_start import normal_distribution
from dials_hybrid_refine.refinement.weights import Weighting

_Array = NDArray[np.float64]

_INSTABILITY = 0.03

#: relative change of the scale over one degree, and its prior
_SCALE_VARIATION = 0.05

#: scheme -> instability of the noise, and u of the weights
SCHEMES = {
    "poisson": (0.0, 0.0),
    "unstable": (_INSTABILITY, _INSTABILITY),
    "cautious": (0.0, _INSTABILITY),
}

#: thickness of the crystal, its standard deviation (Angstrom), mean intensity and background (counts)
_THICKNESS, _WIDTH = 400.0, 60.0
_COUNTS, _BACKGROUND = 2000.0, 100.0

#: kinds of ``pulls`` that are squares of something of the order of 1
_SQUARES = ("distance", "chi_square")


@dataclass(frozen=True)
class Experiment:
    """A simulated crystal: the true structure and the intensities without noise."""

    case: Case
    observations: Observations

    @staticmethod
    def simulate(width: float, d_min: float, thickness_std: float = _WIDTH) -> Experiment:
        """A scan of so many degrees."""
        case = Case("pulls", quartz(), width, d_min, BeamSelection(1.1 / d_min, 0.01, 0.1), 600.0)
        observations = case.measured(case.scan(), _THICKNESS, thickness_std)
        fractions = simulate_intensities(
            case.scan(),
            observations,
            case.structure,
            GivenThickness([_THICKNESS], thickness_std, case.scan().phi_range),
            None,
            case.selection,
            PropagationSettings(n_threads=1),
        )
        intensity = _COUNTS / fractions.mean() * fractions
        return Experiment(case, replace(observations, intensity=intensity))

    def noisy(self, instability: float, seed: int) -> Observations:
        """The observations with noise of variance sigma^2 + (u I)^2, on scales that wander."""
        exact, generator = self.observations, np.random.default_rng(seed)
        n_degrees = 1 + int(exact.phi.max())
        scales = np.exp(np.cumsum(_SCALE_VARIATION * generator.normal(size=n_degrees)))
        intensity = exact.intensity * scales[exact.phi.astype(int)]
        sigma = np.sqrt(intensity + _BACKGROUND)
        error = np.hypot(sigma, instability * intensity)
        noise = error * generator.normal(size=len(error))
        return replace(exact, intensity=intensity + noise, sigma=sigma)


@one_torch_thread()
def refine(experiment: Experiment, scheme: str, thickness: str, seed: int) -> Result:
    """One realisation, refined."""
    of_noise, of_weights = SCHEMES[scheme]
    observations = experiment.noisy(of_noise, seed)
    scan, case = experiment.case.scan(), experiment.case
    nodes = np.arange(100.0, 701.0, 50.0)
    model = HybridModel(
        StructureModel(displaced(case.structure, 0.02, 0.01), RefinedParameters()),
        thickness_model(
            ThicknessOptions(model=thickness),
            nodes,
            normal_distribution(nodes, 1.05 * _THICKNESS, 1.2 * _WIDTH),
            [scan.phi_range],
            scan.image_width,
            seed=0,
        ),
        SmoothOrientation([scan.phi_range]),
    )
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    refinement = Refinement(
        data,
        model,
        PropagationSettings(n_threads=1),
        Weighting(instability=of_weights),
        scale_variation=_SCALE_VARIATION,
        schedule=Schedule(),
        controls=Controls(),
        spread=1.0,
        derivatives=lambda thickness: case.selection,
    )
    refinement.fine_cycles(case.selection)
    frames = choose_frames(None, [scan.phi_range])
    settings = PropagationSettings(n_threads=1)
    return summarise(
        refinement, data, Weighting(instability=of_weights), settings, 0.0, case.selection, frames,
        FrameFilter(), with_difference_map=False,
    )  # fmt: skip


def pulls(result: Result, truth: xray.structure) -> dict[str, list[float]]:
    """Pulls by kind of quantity: sites, U, bonds, angles, thickness; "distance" and "chi_square".

    "distance" is d^T C^-1 d over their number, for all independent structural parameters together: its
    expectation is 1 whatever the correlations. "chi_square" is chi^2 / (N - P) without E, which
    should be 1 where the weights are inverse variances of the noise.
    """
    structure, covariance = result.structure, result.covariance
    assert covariance is not None
    found: dict[str, list[float]] = {"sites": [], "U": []}
    sigma = np.sqrt(np.diag(covariance))
    difference = np.zeros(len(covariance))
    for refined, true, place in zip(
        structure.scatterers(), truth.scatterers(), structure.parameter_map()
    ):
        columns = list(range(place.site, place.site + 3))
        difference[columns] = np.subtract(refined.site, true.site)
        found["sites"] += [difference[k] / sigma[k] for k in columns if sigma[k] > 1e-9]
        if place.u_iso >= 0:
            difference[place.u_iso] = refined.u_iso - true.u_iso
            found["U"].append(difference[place.u_iso] / sigma[place.u_iso])
    exact = structure_geometry(truth)
    geometry = structure_geometry(structure, covariance)
    for kind, one, other in (
        ("bonds", geometry.bonds, exact.bonds),
        ("angles", geometry.angles, exact.angles),
    ):
        # symmetry-equivalent ones have equal values
        values = {round(b.value, 7): (b.value - a.value) / b.su for a, b in zip(other, one) if b.su}
        found[kind] = list(values.values())
    profiles = result.profiles
    middle = len(profiles.phi) // 2
    found["thickness"] = [
        (profiles.thickness_mean[middle] - _THICKNESS) / profiles.thickness_mean_su[middle]
    ]
    rank = int(np.linalg.matrix_rank(covariance / np.outer(sigma, sigma).clip(1e-30), 1e-6, True))
    found["distance"] = [float(difference @ _inverse(covariance) @ difference) / rank]
    statistics = result.statistics
    freedom = statistics.used.n_reflections - statistics.n_parameters_effective
    found["chi_square"] = [statistics.loss_final / freedom]
    return found


def _inverse(covariance: _Array) -> _Array:
    """Generalised inverse of a covariance under constraints, in units of the s.u."""
    size = np.sqrt(np.diag(covariance)).clip(1e-15)
    scaled = covariance / np.outer(size, size)
    return np.asarray(np.linalg.pinv(scaled, rcond=1e-6, hermitian=True) / np.outer(size, size))


@dataclass(frozen=True)
class Size:
    """Root mean square of a kind of pulls over realisations.

    Attributes:
        rms: root of the mean over realisations of their mean squares.
        su: of ``rms``, from the scatter of the realisations.
        mean: of the pulls.
    """

    rms: float
    su: float
    mean: float


def sizes(realisations: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Size]:
    """By kind; those in ``_SQUARES`` are squares already. Pulls of one realisation are correlated."""
    table = {}
    for kind in realisations[0]:
        values = [np.array(pulls_of_one[kind]) for pulls_of_one in realisations]
        squares = np.array([(v if kind in _SQUARES else v**2).mean() for v in values])
        rms = float(np.sqrt(squares.mean()))
        su = float(squares.std(ddof=1) / (2 * rms * np.sqrt(len(squares))))
        table[kind] = Size(rms, su, float(np.mean([v.mean() for v in values])))
    return table


def main() -> None:
    """Refine realisations until the time is up, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--scheme", choices=list(SCHEMES), default="unstable")
    parser.add_argument("--thickness", choices=["constant", "neural"], default="neural")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    # data that each model can fit
    width = _WIDTH if arguments.thickness == "neural" else 0.0
    experiment = Experiment.simulate(30.0, 0.7, width)
    realisations: list[dict[str, list[float]]] = []
    started = time.monotonic()
    while len(realisations) < 2 or time.monotonic() - started < 60 * arguments.minutes:
        seed = len(realisations) + 1
        result = refine(experiment, arguments.scheme, arguments.thickness, seed)
        realisations.append(pulls(result, experiment.case.structure))
        if arguments.json:
            arguments.json.write_text(json.dumps(realisations))
    n = len(experiment.observations)
    print(f"{arguments.scheme}, {arguments.thickness}: {seed} realisations of {n} reflections")
    for kind, size in sizes(realisations).items():
        print(f"{kind:>12}: r.m.s. {size.rms:.2f} +- {size.su:.2f}, mean {size.mean:+.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
