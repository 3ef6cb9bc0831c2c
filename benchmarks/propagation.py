"""Time the propagation and its gradient, against dense linear algebra, and how they grow.

    python benchmarks/propagation.py [--threads 2] [--json FILE] [--plot FILE.svg] [--quick]

Prints a table for three crystals: seconds of a forward calculation and of one with its gradient,
the ratio of the latter to the same by torch.linalg.eigh and by torch.matrix_exp with autograd, the
rate of arithmetic as a share of a large matrix product's on this machine in this run (of the Chebyshev
series alone, of the whole forward calculation, and of both), and the peak of memory. Then how the time grows with beams, tilts, nodes of thickness, atoms and parameters.

The dense methods get the active beams of each tilt only (fewer than a block has), real matrices
where the potential is real, one thickness for matrix_exp, all nodes for eigh, and as many tilts as
take a few seconds; their time is counted per tilt. Medians of several runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from crystals import Case, atoms_of, models_of, organic, standard_cases

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.chebyshev import chebyshev_coefficients, chebyshev_waves
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.diffraction.spectrum import ScatteringMatrices, estimated_bounds
from dials_hybrid_refine.diffraction.workers import in_threads


def seconds(function: Callable[[], object], most: float = 4.0, repeats: int = 7) -> float:
    """Median time of a function after one call to warm up."""
    function()
    times: list[float] = []
    while len(times) < repeats and (len(times) < 3 or sum(times) < most):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Problem:
    """A simulator with parameters to differentiate by."""

    def __init__(self, case: Case, settings: PropagationSettings) -> None:
        self.case = case
        self.simulator: Simulator = case.simulator(settings)
        self.atoms = atoms_of(case.structure, requires_grad=True)
        nodes = case.nodes()
        weight = torch.exp(-0.5 * ((nodes / nodes[-1] - 0.5) / 0.15) ** 2)
        self.weight = (weight / weight.sum()).requires_grad_()
        self.models = models_of(nodes, self.weight)

    def forward(self) -> None:
        with torch.no_grad():
            self.simulator(self.atoms, self.models)

    def gradient(self, parameters: Sequence[torch.Tensor] | None = None) -> None:
        value = self.simulator(self.atoms, self.models).value.sum()
        chosen = parameters or [self.atoms.sites, self.atoms.u_star, self.weight]
        torch.autograd.grad(value, chosen)

    @property
    def n_tilts(self) -> int:
        return sum(len(block.phi) for block in self.simulator.blocks)

    def matrices(self) -> list[ScatteringMatrices]:
        """The matrices of all batches, as the propagation makes them."""
        from dials_hybrid_refine.diffraction.batch_propagation import _Problem

        with torch.no_grad():
            potential = self.simulator.potential(self.atoms)
            inputs = self.simulator._inputs(self.atoms, [potential], self.models)
            settings = self.simulator.settings
            return [_Problem(batch.coupling, settings).matrices(batch) for batch in inputs]

    def series_seconds(self) -> float:
        """Seconds of the Chebyshev series alone, the matrices and bounds being there."""
        nodes = self.case.nodes()[None]
        tasks = []
        for batch, m in zip(self.simulator.batches, self.matrices()):
            bounds = estimated_bounds(m)
            coefficients, _ = chebyshev_coefficients(nodes, bounds.half_width, m.flux.dtype)
            arguments = (m, bounds, coefficients.expand(len(m.flux), -1, -1), batch.n_rows, False)
            tasks.append(lambda a=arguments: torch.no_grad()(chebyshev_waves)(*a))
        return seconds(lambda: in_threads(tasks, self.simulator.settings.n_threads))

    def operations(self) -> float:
        """Floating-point operations of the products of one forward calculation."""
        total = 0.0
        nodes = self.case.nodes()[None]
        for m in self.matrices():
            half_width = estimated_bounds(m).half_width
            n_terms = chebyshev_coefficients(nodes, half_width, m.flux.dtype)[0].shape[1]
            total += 2.0 * m.coupling.numel() * m.flux.shape[2] * n_terms
        return total


def dense_matrices(problem: Problem, n_tilts: int) -> list[torch.Tensor]:
    """Hermitian M (N, N) of the active beams at the first tilts of the first batch."""
    m = problem.matrices()[0]
    n_beams = m.flux.shape[1]
    coupling = m.coupling[0, :n_beams, :n_beams]
    if m.n_parts == 2:
        coupling = torch.complex(coupling, m.coupling[0, n_beams:, :n_beams])
    found = []
    for tilt in range(min(n_tilts, m.flux.shape[2])):
        on = m.flux[0, :, tilt] > 0
        root = m.flux[0, on, tilt].sqrt()
        matrix = root[:, None] * coupling[on][:, on] * root
        found.append(matrix + torch.diag(m.diagonal[0, on, tilt]).to(matrix))
    return found


def eigh_loss(matrix: torch.Tensor, nodes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """sum_m p_m sum_g |psi_g(t_m)|^2 a_g for some a, from the eigenvectors."""
    values, vectors = torch.linalg.eigh(matrix)
    phases = torch.polar(torch.ones(1), 2 * torch.pi * nodes[:, None].float() * values)
    waves = (phases * vectors[0].conj()) @ vectors.mT.to(phases.dtype)
    slope = torch.linspace(0, 1, matrix.shape[0])
    return (weight[:, None].float() * waves.abs().square() * slope).sum()


def exponential_loss(matrix: torch.Tensor, thickness: float) -> torch.Tensor:
    """sum_g |psi_g(t)|^2 a_g from the matrix exponential."""
    waves = torch.matrix_exp(2j * torch.pi * thickness * matrix)[:, 0]
    return (waves.abs().square() * torch.linspace(0, 1, matrix.shape[0])).sum()


def dense_seconds(problem: Problem, loss: Callable[[torch.Tensor], torch.Tensor], n: int) -> float:
    """Seconds of a loss with its gradient per tilt, over n tilts."""
    matrices = [m.requires_grad_() for m in dense_matrices(problem, n)]

    def run() -> None:
        for matrix in matrices:
            torch.autograd.grad(loss(matrix), matrix)

    return seconds(run, most=8.0, repeats=3) / len(matrices)


def product_rate(threads: int) -> float:
    """GFLOP/s of a large product of single-precision matrices."""
    size = 3000
    one, other = torch.randn(size, size), torch.randn(size, size)
    torch.set_num_threads(threads)
    return 2e-9 * size**3 / seconds(lambda: one @ other)


def measure(case: Case, threads: int) -> dict[str, Any]:
    """All figures of one crystal."""
    # the dense methods too meet numbers below 1e-38, which are many times slower
    torch.set_flush_denormal(True)
    rate = product_rate(threads)
    problem = Problem(case, PropagationSettings(n_threads=threads))
    forward, gradient = seconds(problem.forward), seconds(problem.gradient)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    operations = problem.operations()
    nodes, weight = case.nodes(), problem.weight.detach()
    n = 16 if max(problem.simulator.n_beams) < 1000 else 2
    eigh = dense_seconds(problem, lambda m: eigh_loss(m, nodes, weight), n)
    few = 16 if max(problem.simulator.n_beams) < 200 else 1
    middle = float(nodes[-1]) / 2
    exponential = dense_seconds(problem, lambda m: exponential_loss(m, middle), few)
    active = [float(b.active.sum(0).mean()) for b in problem.simulator.blocks]
    per_tilt = gradient / problem.n_tilts
    return {
        "case": case.name,
        "beams_of_a_block": sum(problem.simulator.n_beams) / len(problem.simulator.blocks),
        "beams_at_a_tilt": sum(active) / len(active),
        "tilts": problem.n_tilts,
        "forward_s": forward,
        "gradient_s": gradient,
        "eigh_ratio": eigh / per_tilt,
        "matrix_exp_ratio": exponential / per_tilt,
        "product_gflops": rate,
        "series_share": 1e-9 * operations / problem.series_seconds() / rate,
        "forward_share": 1e-9 * operations / forward / rate,
        "gradient_share": 3e-9 * operations / gradient / rate,
        "peak_gb": peak,
    }


def growth(threads: int) -> dict[str, list[dict[str, float]]]:
    """How the time of a forward calculation with gradient grows with each size."""
    settings = PropagationSettings(n_threads=threads)
    base = Case("organic", organic(), 1.6, 0.6, BeamSelection(1.4, 0.01, 0.05), 800.0)

    def row(x: float, problem: Problem) -> dict[str, float]:
        return {
            "x": x,
            "forward_s": seconds(problem.forward),
            "gradient_s": seconds(problem.gradient),
        }

    curves: dict[str, list[dict[str, float]]] = {}
    curves["beams"] = []
    for s_max in (0.002, 0.004, 0.007, 0.01, 0.014, 0.02):
        case = replace(base, selection=replace(base.selection, s_max=s_max))
        problem = Problem(case, settings)
        beams = problem.simulator.n_beams
        curves["beams"].append(row(sum(beams) / len(beams), problem))
    curves["tilts"] = []
    for width in (0.8, 1.6, 3.2, 6.4):
        problem = Problem(replace(base, width=width), settings)
        curves["tilts"].append(row(problem.n_tilts, problem))
    curves["thickness nodes"] = [
        row(n, Problem(replace(base, n_nodes=n), settings)) for n in (5, 20, 50, 100)
    ]
    curves["largest thickness"] = [
        row(t, Problem(replace(base, largest_thickness=t), settings))
        for t in (200.0, 400.0, 800.0, 1600.0, 3000.0)
    ]
    curves["atoms"] = [
        row(n, Problem(replace(base, structure=organic(n)), settings)) for n in (5, 20, 80, 160)
    ]
    problem = Problem(replace(base, structure=organic(160)), settings)
    one = problem.weight
    curves["parameters"] = []
    for count, chosen in (
        (len(one), [one]),
        (160 * 3 + len(one), [problem.atoms.sites, one]),
        (160 * 9 + len(one), [problem.atoms.sites, problem.atoms.u_star, one]),
    ):
        time_s = seconds(lambda chosen=chosen: problem.gradient(chosen))
        curves["parameters"].append({"x": count, "gradient_s": time_s})
    return curves


def plot(curves: dict[str, list[dict[str, float]]], path: str) -> None:
    """The growth curves as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(10, 6), layout="constrained")
    for axis, (name, rows) in zip(axes.flat, curves.items()):
        x = [r["x"] for r in rows]
        if "forward_s" in rows[0]:
            axis.plot(x, [r["forward_s"] for r in rows], "o-", label="forward")
        axis.plot(x, [r["gradient_s"] for r in rows], "s-", color="C1", label="with gradient")
        axis.set_xlabel(name)
        axis.set_ylabel("seconds")
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
    axes.flat[0].legend()
    figure.savefig(path)


COLUMNS = [
    ("case", "crystal", "{}"),
    ("beams_of_a_block", "N block", "{:.0f}"),
    ("beams_at_a_tilt", "N tilt", "{:.0f}"),
    ("tilts", "tilts", "{}"),
    ("forward_s", "forward s", "{:.3f}"),
    ("gradient_s", "+ gradient s", "{:.3f}"),
    ("eigh_ratio", "eigh x", "{:.1f}"),
    ("matrix_exp_ratio", "matrix_exp x", "{:.0f}"),
    ("series_share", "rate of series", "{:.0%}"),
    ("forward_share", "of forward", "{:.0%}"),
    ("gradient_share", "of both", "{:.0%}"),
    ("product_gflops", "product GFLOP/s", "{:.0f}"),
    ("peak_gb", "peak GB", "{:.2f}"),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write all figures to this file")
    parser.add_argument("--plot", help="draw the growth of the time into this file")
    parser.add_argument("--quick", action="store_true", help="no growth curves")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case = next(c for c in standard_cases() if c.name == options.case)
        print(json.dumps(measure(case, options.threads)))
        return
    rows = []
    print("| " + " | ".join(title for _, title, _ in COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for case in standard_cases():
        # a process of its own for each: the peak of memory is that of a process
        command = [sys.executable, __file__, "--case", case.name, "--threads", str(options.threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(
            "| " + " | ".join(f.format(rows[-1][key]) for key, _, f in COLUMNS) + " |", flush=True
        )
    curves = {} if options.quick else growth(options.threads)
    for name, points in curves.items():
        print(f"\n{name}: " + ", ".join(f"{p['x']:.0f}: {p['gradient_s']:.3f} s" for p in points))
    if options.json:
        with open(options.json, "w") as stream:
            json.dump(
                {"threads": options.threads, "cases": rows, "growth": curves}, stream, indent=2
            )
    if options.plot and curves:
        plot(curves, options.plot)


if __name__ == "__main__":
    main()
