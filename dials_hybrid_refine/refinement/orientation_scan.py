"""Whether the crystal fits better turned, stretch by stretch of the scan: a search on a grid.

A thick crystal diffracts within hundredths of a degree. An orientation that is wrong by more leaves no slope for
a descent to follow; and with it a wrong thickness, whose broader curves hide the error, fits best. Turned about
the normal of rotation axis and beam, a crystal passes other reflections; turned about the axis, it passes the
same a little earlier, which only windows that cut passages off show; turned about the beam, no excitation
error changes. The first is tried, then, where windows cut enough off, the second.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import InterpolatedUnivariateSpline
from scipy.optimize import minimize

from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.thickness_start import (
    SCANNED_WIDTHS,
    normal_distribution,
    uniform_on,
)

#: degrees: of a stretch of the scan, and between trials
_STRETCH = 10.0
_STEP = 0.1
#: most trials on each side of the orientation as it is
_MOST_STEPS = 5
#: fewest reflections of a stretch
_FEWEST_REFLECTIONS = 30
#: standard deviation of the angles, and of their change between neighbouring stretches, in degrees
_EXPECTED_SIZE, _EXPECTED_CHANGE = 0.15, 0.1
#: so many residuals count as one: where the atoms are wrong, they are so for all
_RESIDUALS_PER_INDEPENDENT = 10.0
#: by which the log of the posterior probability must rise
_CLEARLY_BETTER = 5.0
#: change of the intensities by a step about the axis, relative to their sum; with less the windows
#: cut nothing off that would tell
_LEAST_CUT = 0.02
#: of the angle between rotation axis and beam: below, their normal is arbitrary
_LEAST_SINE = 1e-3
#: the directions, in their order
_AXIS, _NORMAL = 0, 1

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class OrientationPath:
    """How each crystal is turned along its scan.

    Attributes:
        experiment: shape (s,); phi: shape (s,), middle of each stretch in degrees.
        angles: shape (s, 2), degrees about the rotation axis and about the normal of axis and beam.
        gain: by which the log of the posterior probability is above that of the orientation as given.
    """

    experiment: NDArray[np.int64]
    phi: _Array
    angles: _Array
    gain: float

    @classmethod
    def as_given(cls) -> OrientationPath:
        """No turn anywhere."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, 2)), 0.0)

    @property
    def is_clear(self) -> bool:
        """Whether the crystal had better be turned."""
        return self.gain > _CLEARLY_BETTER

    @property
    def largest(self) -> float:
        """The largest angle in degrees."""
        return float(np.linalg.norm(self.angles, axis=1).max(initial=0.0))

    def apply(self, model: HybridModel, scans: Sequence[ScanGeometry]) -> None:
        """Add it to the model's orientation correction."""
        for i, scan in enumerate(scans):
            mine = self.experiment == i
            if mine.any():
                vectors = np.radians(self.angles[mine]) @ _directions(scan)
                model.orientation.turn_by(i, self.phi[mine], vectors)


def _directions(scan: ScanGeometry) -> _Array:
    """Rotation axis and normal of axis and beam, unit vectors (2, 3) of the laboratory frame."""
    axis = scan.middle_axis
    normal = np.cross(axis, scan.beam_direction)
    length = np.linalg.norm(normal)
    if length < _LEAST_SINE:
        raise ArithmeticError("the rotation axis is parallel to the beam")
    return np.stack([axis, normal / length])


@dataclass(frozen=True)
class _Stretches:
    """Reflections of the stretches of all scans: which ones (lists of rows), where."""

    rows: list[NDArray[np.int64]]
    experiment: NDArray[np.int64]
    phi: _Array

    @classmethod
    def of(cls, data: Dataset, used: NDArray[np.bool_]) -> _Stretches:
        rows, experiments, middles = [], [], []
        for i, scan in enumerate(data.scans):
            first, last = scan.phi_range
            n = max(1, round((last - first) / _STRETCH))
            number = (
                ((data.observations.phi - first) / (last - first) * n).astype(int).clip(0, n - 1)
            )
            for k in range(n):
                chosen = used & (data.observations.experiment == i) & (number == k)
                if chosen.sum() >= _FEWEST_REFLECTIONS:
                    rows.append(np.flatnonzero(chosen))
                    experiments.append(i)
                    middles.append(float(data.observations.phi[chosen].mean()))
        return cls(rows, np.array(experiments, dtype=np.int64), np.array(middles))


class _Trials:
    """chi^2 of each stretch with its best thickness and scale, for trial rotations."""

    def __init__(
        self,
        simulator: Simulator,
        model: HybridModel,
        data: Dataset,
        weights: torch.Tensor,
        nodes: _Array,
    ) -> None:
        self._simulator, self._model, self._data = simulator, model, data
        self._weights = weights.numpy()
        self.stretches = _Stretches.of(data, self._weights > 0)
        distributions = [
            normal_distribution(nodes, mean, max(spacing, relative * mean))
            for mean, spacing in zip(nodes, np.gradient(nodes))
            for relative in SCANNED_WIDTHS
        ]
        self._distributions = np.stack(distributions, axis=1)
        self._directions = [_directions(scan) for scan in data.scans]
        self._models = replace(model.physical_models(), thickness=uniform_on(nodes))
        base = simulator(model.atoms(), self._models)
        self._observation = base.observation
        self._whole = base
        # what does not depend on thickness (the tails) changes little with orientation
        self._rest = base.value - self._by_node(np.zeros((len(self.stretches.rows), 2))).mean(1)

    def _by_node(self, angles: _Array) -> torch.Tensor:
        rotation, stretches = self._models.rotation, self.stretches

        def turned(experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
            turn = torch.zeros(*phi.shape, 3, dtype=torch.float64)
            for i in torch.unique(experiment).tolist():
                mine = stretches.experiment == i
                if mine.any():
                    chosen = experiment == i
                    vectors = np.radians(angles[mine]) @ self._directions[i]
                    columns = [
                        np.interp(phi[chosen].numpy(), stretches.phi[mine], v) for v in vectors.T
                    ]
                    turn[chosen] = torch.from_numpy(np.stack(columns, axis=-1))
            return rotation(experiment, phi) + turn

        models = replace(self._models, rotation=turned)
        return self._simulator.thickness_derivatives(self._model.atoms(), models, slopes=False)[0]

    def tells_turns_about_the_axis(self) -> bool:
        """Whether a step about the rotation axis changes the intensities enough to be tried."""
        if not self._simulator.moves_windows:
            return True
        whole = torch.zeros(len(self._data.observations), 2, dtype=torch.float64)
        both = torch.stack([self._whole.value, self._whole.turn_slope], dim=1)
        value, slope = whole.index_add_(0, self._observation, both).abs().sum(0).tolist()
        return _STEP * slope > _LEAST_CUT * value

    def chi_square(self, angles: _Array) -> _Array:
        """Shape (s,), with the crystals turned by angles (s, 2) in degrees in each stretch."""
        parts = self._by_node(angles) + self._rest[:, None]
        shape = len(self._data.observations), parts.shape[1]
        whole = torch.zeros(shape, dtype=torch.float64).index_add_(0, self._observation, parts)
        calculated = whole.numpy() @ self._distributions
        return np.array([self._of(calculated, rows) for rows in self.stretches.rows])

    def _of(self, calculated: _Array, rows: NDArray[np.int64]) -> float:
        c, weight = calculated[rows], self._weights[rows, None]
        observed = self._data.observations.intensity[rows, None]
        overlap = np.maximum((weight * observed * c).sum(0), 0)
        explained = overlap**2 / np.maximum((weight * c**2).sum(0), np.finfo(float).tiny)
        return float((weight * observed**2).sum() - explained.max())


def scan_orientation(
    simulator_of: Callable[[HybridModel], Simulator],
    model: HybridModel,
    data: Dataset,
    weights: torch.Tensor,
    nodes: NDArray[np.float64],
) -> OrientationPath:
    """How each crystal should be turned along its scan; not at all where that is not clearly better.

    A few trials say whether it is worth a search; this goes as far as it finds something, to half a degree.

    Args:
        simulator_of: blocks to use (a coarse calculation is enough), for a model's orientation.
        model: atoms and orientation are taken from it; its thickness is not.
        data: the data; weights: shape (n,), zero for reflections not used.
        nodes: shape (m,), thicknesses in Angstrom, increasing, that the best is chosen from at each trial.

    Raises:
        ArithmeticError: where something is not finite.
    """
    with torch.no_grad():
        as_given = _Trials(simulator_of(model), model, data, weights, nodes)
        stretches = as_given.stretches
        angles = np.zeros((len(stretches.rows), 2))

        def planned(turns: _Array) -> _Array:
            """chi^2 of blocks of their own, as windows move to where no tilts were."""
            turned = model.with_structure(model.structure)
            turned.orientation = copy.deepcopy(model.orientation)
            OrientationPath(stretches.experiment, stretches.phi, turns, 0.0).apply(
                turned, data.scans
            )
            trials = _Trials(simulator_of(turned), turned, data, weights, nodes)
            return trials.chi_square(np.zeros_like(turns))

        gain = _search(as_given.chi_square, stretches, angles, _NORMAL)
        if as_given.tells_turns_about_the_axis():
            gain += _search(planned, stretches, angles, _AXIS)
        return OrientationPath(stretches.experiment, stretches.phi, angles, gain)


def _search(
    chi_square: Callable[[_Array], _Array], stretches: _Stretches, angles: _Array, direction: int
) -> float:
    """Add the best turns about a direction to angles (s, 2); what that gains, 0 if it is not clearly better.

    Args:
        chi_square: of each stretch (s,), for angles (s, 2).
    """
    if not len(angles):
        return 0.0
    axis = np.zeros(2)
    axis[direction] = _STEP
    n = np.array([len(rows) for rows in stretches.rows]) / _RESIDUALS_PER_INDEPENDENT

    def cost(step: int) -> _Array:
        misfit = chi_square(angles + step * axis)
        return np.asarray(n / 2 * np.log(np.maximum(misfit, np.finfo(float).tiny)))

    costs = [cost(0)]
    for size in range(1, _MOST_STEPS + 1):
        costs = [cost(-size), *costs, cost(size)]
        relative = np.stack(costs, axis=1) - costs[size][:, None]
        if not np.isfinite(relative).all():
            raise ArithmeticError("the misfit is not finite at any orientation")
        turns, gain = _best_path(stretches, relative)
        at_edge = np.abs(turns).max() > (size - 0.5) * _STEP
        if gain < _CLEARLY_BETTER:
            return 0.0
        if size > 1 and not at_edge:
            break
    angles[:, direction] += turns
    return gain


def _best_path(stretches: _Stretches, costs: _Array) -> tuple[_Array, float]:
    """The most probable turns (s,), those of neighbours being about the same, and their gain.

    On the grid by dynamic programming (Viterbi), then between its points.

    Args:
        costs: shape (s, 2 size + 1), minus the log of the likelihood relative to no turn.
    """
    size = costs.shape[1] // 2
    grid = _STEP * np.arange(-size, size + 1)
    own = costs + grid**2 / (2 * _EXPECTED_SIZE**2)
    between = (grid[:, None] - grid) ** 2 / (2 * _EXPECTED_CHANGE**2)
    start = np.zeros(len(costs))
    for i in np.unique(stretches.experiment):
        mine = np.flatnonzero(stretches.experiment == i)
        start[mine] = grid[_viterbi(own[mine], between)]
    same = np.diff(stretches.experiment) == 0
    curves = [InterpolatedUnivariateSpline(grid, cost, k=2) for cost in costs]

    def cost(turns: _Array) -> float:
        changes = np.diff(turns)[same]
        likelihood = sum(float(curve(turn)) for curve, turn in zip(curves, turns))
        prior = (turns**2).sum() / _EXPECTED_SIZE**2 + (changes**2).sum() / _EXPECTED_CHANGE**2
        return likelihood + float(prior) / 2

    found = minimize(cost, start, method="L-BFGS-B", bounds=[(grid[0], grid[-1])] * len(start))
    return found.x, -float(found.fun)


def _viterbi(own: _Array, between: _Array) -> NDArray[np.int64]:
    """The states (s,) of least sum of own costs (s, q) and of costs (q, q) between neighbours."""
    total = own[0]
    origins = []
    for cost in own[1:]:
        through = total[:, None] + between
        origins.append(through.argmin(0))
        total = through.min(0) + cost
    states = [int(total.argmin())]
    for origin in reversed(origins):
        states.append(int(origin[states[-1]]))
    return np.array(states[::-1])
