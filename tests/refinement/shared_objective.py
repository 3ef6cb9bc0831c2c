"""One process of test_ranks.py: calculate together with the others and write what this one has.

python shared_objective.py FOLDER BLOCK_WIDTH
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from test_objective import make_model, make_objective, neural_thickness, toy_effects

from dials_hybrid_refine.command_line.refine_ranks import joined_ranks
from dials_hybrid_refine.diffraction.ranks import Ranks

#: degrees; with the second there are fewer blocks than four processes
BLOCK_WIDTHS = (1.0, 2.0)


def calculate(ranks: Ranks, widths: Sequence[float] = BLOCK_WIDTHS) -> dict[str, np.ndarray]:
    """All that processes calculate together, with effects that see parts of it."""
    found: dict[str, np.ndarray] = {}
    for width in widths:
        model = make_model(neural_thickness(), effects=toy_effects(), seed=1)
        objective = make_objective(model, make_model(), block_width=width, ranks=ranks)
        fit, gradient = objective.evaluate_with_gradient()
        matrix = objective.gauss_newton_matrix()
        atoms, models = model.atoms(), model.physical_models()
        simulator = objective.simulator
        with torch.no_grad():
            by_weight, by_thickness = simulator.thickness_derivatives(atoms, models)
            curves = simulator.rocking_curves(atoms, models)
        change = torch.zeros(len(simulator.crystal.unique_hkl), dtype=torch.complex128)
        change.requires_grad_()
        (by_change,) = torch.autograd.grad(objective.loss_with(change), [change])
        tensors = {
            "loss": torch.tensor([fit.loss, fit.chi_square]),
            "calculated": fit.calculated,
            "scales": fit.scales,
            "gradient": gradient,
            "normal": matrix.normal,
            "prior": matrix.prior,
            "by_weight": by_weight,
            "by_thickness": by_thickness,
            "curves": torch.cat([curve.reshape(-1) for curve in curves]),
            "by_change": torch.view_as_real(by_change),
        }
        found |= {f"{name} {width}": tensor.numpy() for name, tensor in tensors.items()}
        found[f"batches {width}"] = np.array(len(simulator.batches))
    return found


def failure_of_the_last(ranks: Ranks) -> str:
    """What a process hears where the last one fails."""
    try:
        last = ranks.rank == ranks.size - 1
        ranks.sum(torch.zeros(3, dtype=torch.float64), ArithmeticError("bad") if last else None)
    except ArithmeticError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined_ranks() as ranks:
        content = calculate(ranks, [float(sys.argv[2])])
        content["failure"] = np.array(failure_of_the_last(ranks))
        last = ranks.rank == ranks.size - 1
        content["flags"] = np.array([ranks.any(last), ranks.any(False)])
        content["agree"] = np.array([ranks.agree("same"), ranks.agree(str(last))])
        np.savez(Path(sys.argv[1]) / f"{ranks.rank}.npz", **content)
