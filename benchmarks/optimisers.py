"""Compare ways to minimise the loss: which reaches the minimum in the least processor time?

    OMP_NUM_THREADS=1 python benchmarks/optimisers.py [--json FILE] [--plot FILE.svg]
        [--problem NAME ...] [--seconds 60] [--read FILE ...]

Three problems: the DIALS quartz data (``quartz_processed`` of ``dials_data``; DIALS_DATA, or a
network), started as in quartz.py; CsPbBr3 and a small molecular crystal, both simulated by this
package with noise, their atoms then displaced. All methods minimise the loss of the coarse
calculation, with the model and thickness that a refinement has when its first stage begins, and
no reflection is rejected on the way. One thread; the time is that of the processor (user and
system), in which the gradients and Gauss-Newton matrices of a method are all counted.

The table tells seconds (gradients + matrices) until the loss is little above that which all methods
reach, and above the lowest that any reached; "-" where the budget (--seconds) ended before.
Methods with a free constant are tried with several for a quarter of the budget each; the one
that is lowest then is run. These trials are not counted. A run ends early when a quarter of the
budget has lowered the loss by less than 0.01 %.

--read makes the table and the picture of files that --json has written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dials_data.download
import numpy as np
import torch
from crystals import Case, cspbbr3, displaced, organic
from quartz import _start as quartz_start

from cctbx import xray

from dials_hybrid_refine.command_line.hybrid_refine import phil_scope
from dials_hybrid_refine.command_line.refine_input import read_input
from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.workers import one_torch_thread
from dials_hybrid_refine.io.command_input import parse_command_line
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement import minimise
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.held_out import choose_held_out
from dials_hybrid_refine.refinement.objective import Evaluation
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.schedule import Controls
from dials_hybrid_refine.refinement.settings import coarse_selection
from dials_hybrid_refine.refinement.thickness_course import (
    StartingThickness,
    scan_basin,
    set_thickness,
)

#: share of the budget for each trial of a constant, and after which a run may end for want of gain
_TRIAL = 0.25
_LEAST_GAIN = 1e-4
_SHARED = 3  # steps that share the structural derivatives in "LM, shared"


@dataclass(frozen=True)
class Problem:
    """Data and a structure to start from."""

    scan: ScanGeometry
    observations: Observations
    start: xray.structure


def quartz_problem() -> Problem:
    """The DIALS quartz data, read as the program reads them."""
    data = Path(dials_data.download.DataFetcher()("quartz_processed"))
    with tempfile.TemporaryDirectory() as name:
        files = [str(data / f"integrated.{suffix}") for suffix in ("expt", "refl")]
        files.append(str(quartz_start(Path(name))))
        read = read_input(parse_command_line(phil_scope, "", "", files))
    return Problem(read.scans[0], read.observations, read.model.structure)


def simulated(case: Case, thickness: float, displacement: float, anisotropic: bool) -> Problem:
    """A crystal of a thickness (+- 20 %), started from displaced atoms with a U of 0.02."""
    start = displaced(case.structure, displacement, 0.02)
    if anisotropic:
        start.convert_to_anisotropic()
    return Problem(scan := case.scan(), case.measured(scan, thickness, 0.2 * thickness), start)


CSPBBR3 = Case("CsPbBr3", cspbbr3(), 20.0, 0.7, BeamSelection(1.65, 0.016, 0.04), 0.0)
MOLECULAR = Case(
    "molecular", organic(12, 600, apart=1.3), 40, 0.85, BeamSelection(1.45, 0.015, 0.05), 0.0
)

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "quartz": quartz_problem,
    "CsPbBr3": lambda: simulated(CSPBBR3, 400.0, 0.07, True),
    "molecular": lambda: simulated(MOLECULAR, 600.0, 0.05, False),
}


def at_start(problem: Problem) -> tuple[Refinement, BeamSelection]:
    """A refinement where ``run_refinement`` begins its first stage, and the limits of that."""
    options = RefinementOptions(propagation=PropagationSettings(n_threads=1))
    phi_ranges = [problem.scan.phi_range]
    model = HybridModel(
        StructureModel(problem.start, options.structure),
        ConstantThickness(500.0, 1),
        SmoothOrientation(phi_ranges),  # its defaults are those of the options
    )
    index = problem.observations.unique_index
    held_out = choose_held_out(index, options.held_out_fraction, options.seed)
    data = Dataset([problem.scan], problem.observations, held_out)
    vectors = problem.observations.hkl @ problem.scan.crystal_settings[0].T
    g_data = float(np.linalg.norm(vectors, axis=1).max())
    scan = scan_basin(model, data, options, lambda t: coarse_selection(g_data, t))
    set_thickness(model, data, options, StartingThickness.of([scan.best]))
    coarse = coarse_selection(g_data, scan.best[0])
    spread = float(np.sqrt(scan.chi_square.min() / (~held_out).sum()))
    limits = (options.propagation, options.weighting, options.scale_variation)

    def limits_of_derivatives(thickness: float) -> BeamSelection:
        return coarse_selection(g_data, thickness)

    refinement = Refinement(
        data, model, *limits, options.schedule, Controls(), spread, limits_of_derivatives
    )
    return refinement, coarse


class Finished(Exception):
    """The budget is spent, or going on brings too little."""


@dataclass
class Descent:
    """The loss as a method sees it, from the common start; keeps a record.

    ``trace`` holds seconds, gradients so far, matrices so far and the loss of each gradient.
    """

    refinement: Refinement
    selection: BeamSelection
    start: torch.Tensor
    budget: float
    trace: list[tuple[float, int, int, float]] = field(default_factory=list)
    n_matrices: int = 0
    matrix_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.refinement._set_vector(self.start)
        self.objective = self.refinement._objective(self.selection)
        self.best, self.best_loss = self.start, np.inf
        self._columns: torch.Tensor | None = None
        self._begin = time.process_time()

    def vector(self) -> torch.Tensor:
        """The refined parameters as they are."""
        return self.refinement._vector()

    def function(self, vector: torch.Tensor) -> tuple[Evaluation, Callable[[], torch.Tensor]]:
        """What the steps call; raises ``Finished``."""
        self._check()
        self.refinement._set_vector(vector)
        evaluation, gradient = self.objective.evaluate_for_gradient()
        seconds = time.process_time() - self._begin
        self.trace.append((seconds, len(self.trace) + 1, self.n_matrices, evaluation.loss))
        if evaluation.loss < self.best_loss:
            self.best, self.best_loss = vector.clone(), evaluation.loss
        return evaluation, gradient

    def matrix(self, renew_structure: bool = True) -> torch.Tensor:
        """Half the Gauss-Newton Hessian where the loss was evaluated last."""
        self._check()
        begin = time.process_time()
        if renew_structure or self._columns is None:
            self._columns = self.objective.structure_columns()
        normal = self.objective.gauss_newton_matrix(self._columns).normal
        self.n_matrices += 1
        self.matrix_seconds += time.process_time() - begin
        return normal

    def _check(self) -> None:
        seconds = time.process_time() - self._begin
        earlier = [p[3] for p in self.trace if p[0] < seconds - _TRIAL * self.budget]
        settled = len(self.trace) - len(earlier) >= 5  # fewer, where matrices take that long
        stalled = earlier and settled and min(earlier) < (1 + _LEAST_GAIN) * self.best_loss
        if seconds > self.budget or stalled:
            raise Finished


def follow(steps: Iterator[minimise.Step], most: int | None = None) -> minimise.Step | None:
    """Take so many steps, or all there are."""
    last = None
    for last in itertools.islice(steps, most):
        pass
    return last


def lm_steps(descent: Descent, shared: int = _SHARED) -> Iterator[minimise.Step]:
    """Levenberg-Marquardt; so many steps share the structural derivatives."""
    renewals = itertools.cycle([True] + [False] * (shared - 1))
    return minimise.levenberg_marquardt_steps(
        descent.function, lambda: descent.matrix(next(renewals)), descent.vector()
    )


def lm(descent: Descent, shared: float) -> None:
    follow(lm_steps(descent, int(shared)))


def lbfgs(descent: Descent, curvature: float) -> None:
    hessian = curvature * torch.eye(len(descent.start), dtype=torch.float64)
    follow(minimise.quasi_newton_steps(descent.function, descent.start, hessian))


def lbfgs_gauss_newton(descent: Descent, damping: float) -> None:
    hessian = minimise.damped(2 * descent.matrix(), damping)
    follow(minimise.quasi_newton_steps(descent.function, descent.start, hessian))


def lm_then_lbfgs(descent: Descent, most: float) -> None:
    last = follow(lm_steps(descent), int(most))
    if last is None:
        return
    hessian = minimise.damped(2 * descent.matrix(renew_structure=False), min(last.damping, 1.0))
    follow(minimise.quasi_newton_steps(descent.function, last.parameters, hessian))


def structure_then_lbfgs(descent: Descent, most: float) -> None:
    model = descent.refinement.state.model
    others = [model.thickness, model.orientation]
    try:
        for module in others:
            module.requires_grad_(False)
        last = follow(lm_steps(descent, 1), int(most))
    finally:
        for module in others:
            module.requires_grad_(True)
    damping = min(last.damping, 1.0) if last else 1.0
    hessian = minimise.damped(2 * descent.matrix(renew_structure=False), damping)
    follow(minimise.quasi_newton_steps(descent.function, descent.vector(), hessian))


def adam(descent: Descent, rate: float, most: int | None = None) -> None:
    parameters = torch.nn.Parameter(descent.start.clone())
    optimiser = torch.optim.Adam([parameters], lr=rate)
    for _ in itertools.count() if most is None else range(most):
        _, parameters.grad = descent.function(parameters.detach())
        optimiser.step()


def adam_then_lm(descent: Descent, rate: float) -> None:
    adam(descent, rate, 30)
    descent.refinement._set_vector(descent.best)
    follow(lm_steps(descent))


Method = Callable[[Descent, float], None]

#: the methods, what their constant is, and its values to choose from
METHODS: dict[str, tuple[Method, str, Sequence[float]]] = {
    "LM": (lm, "", (1,)),
    "LM, shared": (lm, "", (_SHARED,)),
    "L-BFGS": (lbfgs, "c", (1e1, 1e2, 1e3, 1e4)),
    "L-BFGS on GN": (lbfgs_gauss_newton, "damping", (0.1, 1.0)),
    "LM, shared, then L-BFGS": (lm_then_lbfgs, "steps", (3,)),
    "LM of structure, then L-BFGS": (structure_then_lbfgs, "steps", (3,)),
    "Adam": (adam, "rate", (1e-2, 3e-2, 1e-1)),
    "Adam, then LM, shared": (adam_then_lm, "rate", (1e-2, 3e-2, 1e-1)),
}


@dataclass(frozen=True)
class Outcome:
    """How one method went; ``constant`` with its name, ``trials``: the losses of all values."""

    method: str
    constant: str
    trials: dict[str, float]
    trace: list[tuple[float, int, int, float]]
    matrix_seconds: float

    def reached(self, loss: float) -> tuple[float, int, int, float] | None:
        """The point of the trace where the loss got so low."""
        return next((point for point in self.trace if point[3] <= loss), None)

    @property
    def lowest(self) -> float:
        return min((point[3] for point in self.trace), default=np.inf)


def descend(
    problem: tuple[Refinement, BeamSelection], method: Method, constant: float, budget: float
) -> Descent:
    """One run of a method from the start."""
    start = problem[0]._vector()
    descent = Descent(*problem, start, budget)
    with suppress(Finished):
        method(descent, constant)
    problem[0]._set_vector(start)
    return descent


def compare(name: str, seconds: float) -> dict[str, Any]:
    """All methods on one problem."""
    problem = at_start(PROBLEMS[name]())
    torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()  # it imports for seconds
    outcomes = []
    for title, (method, constant, values) in METHODS.items():
        trials: dict[str, float] = {}
        value = values[0]
        if len(values) > 1:
            losses = [descend(problem, method, v, _TRIAL * seconds).best_loss for v in values]
            trials = {f"{v:g}": loss for v, loss in zip(values, losses)}
            value = values[int(np.argmin(losses))]
        descent = descend(problem, method, value, seconds)
        label = f"{constant} {value:g}" if constant else ""
        outcomes.append(Outcome(title, label, trials, descent.trace, descent.matrix_seconds))
        print(f"{name}: {title} {label}: {descent.best_loss:.2f}, {trials}", flush=True)
    refinement = problem[0]
    simulator = descent.objective.simulator
    return {
        "problem": name,
        "n_reflections": len(refinement._data.observations),
        "n_structural": refinement.state.model.structure.n_parameters,
        "n_parameters": len(refinement._vector()),
        "n_beams": float(np.mean(simulator.n_beams)),
        "n_tilts": sum(len(block.phi) for block in simulator.blocks),
        "start_loss": outcomes[0].trace[0][3],
        "budget_s": seconds,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def table(result: dict[str, Any]) -> str:
    """The outcomes of one problem in Markdown."""
    outcomes = [Outcome(**o) for o in result["outcomes"]]
    lowest, common = (f(o.lowest for o in outcomes) for f in (min, max))
    levels = [1.05 * common, 1.01 * common, 1.001 * common, 1.01 * lowest, 1.001 * lowest]
    lines = [
        f"{result['problem']}: {result['n_reflections']} reflections, {result['n_parameters']} "
        f"parameters ({result['n_structural']} of the structure), {result['n_beams']:.0f} beams, "
        f"{result['n_tilts']} tilts; loss at the start {result['start_loss']:.0f}, reached by all "
        f"{common:.1f}, lowest {lowest:.1f}\n",
        "|method|constant|all + 5 %|all + 1 %|all + 0.1 %|lowest + 1 %|lowest + 0.1 %|lowest loss|",
        "|---" * 8 + "|",
    ]
    for o in outcomes:
        points = [o.reached(level) for level in levels]
        cells = [f"{p[0]:.1f} s ({p[1]} + {p[2]})" if p else "-" for p in points]
        lines.append("|" + "|".join([o.method, o.constant, *cells, f"{o.lowest:.1f}"]) + "|")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: str) -> None:
    """Loss against seconds, a panel for each problem."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    n = len(results)
    figure, axes = pyplot.subplots(1, n, figsize=(4 * n, 4.2), layout="constrained", squeeze=False)
    for axis, result in zip(axes[0], results):
        outcomes = [Outcome(**o) for o in result["outcomes"]]
        lowest = min(o.lowest for o in outcomes)
        for i, o in enumerate(outcomes):
            loss = np.minimum.accumulate([point[3] for point in o.trace])
            excess = np.maximum(loss / lowest - 1, 1e-5)
            seconds, style = [p[0] for p in o.trace], "--" if i >= 5 else "-"
            axis.step(seconds, excess, f"C{i}{style}", where="post", label=o.method)
        axis.set_yscale("log")
        axis.set_xlabel("processor seconds")
        axis.set_title(result["problem"])
    axes[0, 0].set_ylabel("loss / lowest loss - 1")
    axes[0, -1].legend(fontsize="x-small")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--seconds", type=float, default=60.0, help="budget of each method")
    parser.add_argument("--json", help="write all figures to this file")
    parser.add_argument("--plot", help="draw the loss against time into this file")
    parser.add_argument("--read", nargs="+", help="files of --json to show instead")
    options = parser.parse_args()
    if options.read:
        results = [r for path in options.read for r in json.loads(Path(path).read_text())]
    else:
        with one_torch_thread():
            results = [compare(name, options.seconds) for name in options.problem]
    print("\n\n".join(map(table, results)))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
