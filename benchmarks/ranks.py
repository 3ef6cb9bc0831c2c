"""How much faster are two processes than one, and what would more be?

    OMP_NUM_THREADS=1 python -m benchmarks.ranks CSPBBR3.cif_pets MODEL.cif [REPEATS]

Data of PETS2 (those of CsPbBr3 in docs/parallel.md) are imported and one calculation of a refinement is set up: one
loss with its gradient, and one normal matrix without the derivatives of the structure, which are
simulations like the first. One process and two, of one thread each, take turns; the medians are compared. The
seconds of a processor say how well the work is shared where other programs use the processors too. What is sent, and
what each process calculates beside its share, give an estimate for more processes.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from dials_hybrid_refine.command_line import import_pets
from dials_hybrid_refine.command_line.hybrid_refine import phil_scope
from dials_hybrid_refine.command_line.refine_input import read_input
from dials_hybrid_refine.command_line.refine_options import refinement_options
from dials_hybrid_refine.command_line.refine_ranks import joined_ranks
from dials_hybrid_refine.diffraction.ranks import Ranks, longest_first
from dials_hybrid_refine.diffraction.workers import one_torch_thread
from dials_hybrid_refine.io.command_input import parse_command_line
from dials_hybrid_refine.models.choose import orientation_model
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.settings import fine_selection
from dials_hybrid_refine.refinement.thickness_course import StartingThickness, set_thickness
from dials_hybrid_refine.refinement.weights import loss_weights

#: mean and standard deviation of the thickness, Angstrom
THICKNESS = (500.0, 120.0)


@dataclass(frozen=True)
class CountingRanks(Ranks):
    """Ranks that note the bytes of each message and the seconds until it was there."""

    messages: list[tuple[int, float]] = field(default_factory=list)

    def _reduced(self, message: torch.Tensor, *operation: Any) -> torch.Tensor:
        begun = time.perf_counter()
        reduced = super()._reduced(message, *operation)
        self.messages.append((message.nbytes, time.perf_counter() - begun))
        return reduced


def objective(files: Sequence[str], ranks: Ranks) -> Objective:
    """The full calculation of the data, about as a refinement begins its cycles."""
    command = parse_command_line(phil_scope, "", "", [*files, "nproc=1"])
    data, options = read_input(command), refinement_options(command.params)
    observations = data.observations
    phi_ranges = [scan.phi_range for scan in data.scans]
    model = HybridModel(
        StructureModel(data.model.structure, options.structure),
        ConstantThickness(THICKNESS[0], 1),
        orientation_model(options.orientation, phi_ranges),
    )
    none = np.zeros(len(observations), dtype=bool)
    start = StartingThickness(*(np.full(len(data.scans), value) for value in THICKNESS))
    set_thickness(model, Dataset(data.scans, observations, none), options, start)
    vectors = observations.hkl @ data.scans[0].crystal_settings[0].T
    g_data = float(np.linalg.norm(vectors, axis=1).max())
    thick = THICKNESS[0] + 2 * THICKNESS[1]
    simulator = build_simulator(
        Dataset(data.scans, observations, none),
        model,
        fine_selection(g_data, thick, 1.15 * g_data, None, None),
        replace(options.propagation, ranks=ranks),
    )
    weights = loss_weights(observations, ~none, options.weighting, 1.0)
    return Objective(model, simulator, observations, weights, options.scale_variation)


def worker(files: Sequence[str], repeats: int) -> None:
    """One of the processes: the first alone, then all together, and so on; prints what it took."""
    with joined_ranks() as ranks, one_torch_thread():
        counting = CountingRanks(**vars(ranks))
        together = objective(files, counting)
        alone = objective(files, Ranks()) if ranks.is_first else None
        structure = together.model.structure.n_parameters
        columns = torch.zeros(len(together.weights), structure, dtype=torch.float64)
        rows: list[dict[str, Any]] = []

        def measure(name: str, number: int, function: Callable[[], object]) -> None:
            before = len(counting.messages)
            wall, processor = time.perf_counter(), time.process_time()
            function()
            rows.append(
                {
                    "what": name,
                    "processes": number,
                    "wall": time.perf_counter() - wall,
                    "processor": time.process_time() - processor,
                    "messages": counting.messages[before:],
                }
            )
            row = rows[-1]
            line = f"process {ranks.rank}: {name}, {number} at work: {row['wall']:.2f} s, "
            # only the first process' standard output is shown
            print(f"{line}{row['processor']:.2f} s of the processor", file=sys.stderr, flush=True)

        jobs: dict[str, Callable[[Objective], object]] = {
            "loss and gradient": lambda o: o.evaluate_with_gradient(),
            "normal matrix": lambda o: o.gauss_newton_matrix(columns),
        }
        for _ in range(repeats):
            for name, job in jobs.items():
                if alone is not None:
                    measure(name, 1, lambda: job(alone))
                dist.barrier()
                measure(name, ranks.size, lambda: job(together))
        costs = [batch.cost for batch in together.simulator.batches]
        content = {"rank": ranks.rank, "rows": rows, "costs": costs}
        Path(os.environ["RANKS_FOLDER"], f"{ranks.rank}.json").write_text(json.dumps(content))


def run(files: Sequence[str], repeats: int, n: int, folder: str) -> list[dict[str, Any]]:
    """What n processes say."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"MASTER_PORT": port, "RANKS_FOLDER": folder, "OMPI_COMM_WORLD_SIZE": str(n)}
    shared |= {"OMPI_COMM_WORLD_LOCAL_SIZE": str(n), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.ranks", "--worker", str(repeats), *files]
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "OMPI_COMM_WORLD_RANK": str(k)})
        for k in range(n)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit("a process failed")
    return [json.loads(Path(folder, f"{k}.json").read_text()) for k in range(n)]


def report(found: Sequence[dict[str, Any]]) -> None:
    """Print the ratios, and the estimate for more processes."""

    def median(content: dict[str, Any], name: str, number: int, column: str) -> float:
        rows = [r for r in content["rows"] if (r["what"], r["processes"]) == (name, number)]
        return statistics.median(row[column] for row in rows)

    n, first, costs = len(found), found[0], found[0]["costs"]
    share = max(sum(costs[i] for i in own) for own in longest_first(costs, n)) / sum(costs)
    print(f"{len(costs)} batches; the largest share of two has {share:.3f} of the predicted cost")
    for name in dict.fromkeys(row["what"] for row in first["rows"]):
        wall = [median(first, name, number, "wall") for number in (1, n)]
        one = median(first, name, 1, "processor")
        each = [median(content, name, n, "processor") for content in found]
        messages = next(
            r["messages"] for r in first["rows"] if (r["what"], r["processes"]) == (name, n)
        )
        sizes = [size for size, _ in messages]
        print(f"{name}: one process {wall[0]:.2f} s, {n} processes {wall[1]:.2f} s", end=", ")
        print(f"ratio {wall[0] / wall[1]:.2f}")
        print(f"  processor: {one:.2f} s; {' and '.join(f'{s:.2f}' for s in each)} s", end=", ")
        print(f"ratio {one / max(each):.2f}")
        print(
            f"  {len(sizes)} messages, {sum(sizes) / 1e6:.2f} MB, the largest {max(sizes) / 1e6:.2f}"
        )
        # each = alike + share * shared, one = alike + shared
        alike = max(0.0, (sum(each) - one) / (n - 1))  # measured: may come out negative
        print(f"  not shared: {alike:.2f} s; estimated for more processes:")
        for more in (2, 4, 8, 16, 32, 64):
            own = max(sum(costs[i] for i in mine) for mine in longest_first(costs, more))
            line = []
            for rate in (1e9, 1e10):  # bytes per second: 10 and 100 Gbit/s, ring all-reduce
                sent = 2 * (more - 1) / more * sum(sizes) / rate
                latency = len(sizes) * 2 * (more - 1) * 5e-5
                seconds = alike + own / sum(costs) * (one - alike) + sent + latency
                line.append(f"{seconds:.3f} s ({one / seconds:.1f} x)")
            print(f"    {more:3d}: {', '.join(line)}")


def main(arguments: Sequence[str]) -> None:
    """Import the data, run, report."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/imported.{kind}" for kind in ("expt", "refl")]
        outputs = [f"output.experiments={names[0]}", f"output.reflections={names[1]}"]
        import_pets.run([arguments[0], *outputs, "output.log=None"])
        repeats = int(arguments[2]) if len(arguments) > 2 else 3
        report(run([*names, str(Path(arguments[1]).resolve())], repeats, 2, folder))


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        worker(sys.argv[3:], int(sys.argv[2]))
    else:
        main(sys.argv[1:])
