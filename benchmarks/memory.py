"""How much memory one evaluation with gradient takes, and how much was foretold.

    OMP_NUM_THREADS=1 python -m benchmarks.memory FILE.expt FILE.refl MODEL [PARAMETER=VALUE ...]

The limits of the calculation are those at which a refinement starts, or those given (beams.*).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.command_line.refine_input import read_input
from dials_hybrid_refine.command_line.refine_options import refinement_options
from dials_hybrid_refine.diffraction.memory import peak_bytes
from dials_hybrid_refine.diffraction.workers import one_torch_thread
from dials_hybrid_refine.io.effect_plugins import parse_with_effects
from dials_hybrid_refine.models.choose import orientation_model
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator, check_memory
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.settings import fine_selection
from dials_hybrid_refine.refinement.thickness_course import StartingThickness, set_thickness


def main(arguments: Sequence[str]) -> None:
    """Evaluate once and say what it took."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    logging.getLogger("dials.hybrid_refine.dataset").setLevel(logging.INFO)
    command, _ = parse_with_effects(hybrid_refine.phil_scope, "", "", list(arguments))
    files = read_input(command)
    options = refinement_options(command.params)
    structure = StructureModel(files.model.structure, options.structure, files.model.constraints)
    scans, observations = files.scans, files.observations
    orientation = orientation_model(options.orientation, [scan.phi_range for scan in scans])
    model = HybridModel(structure, ConstantThickness(500.0, len(scans)), orientation)
    data = Dataset(scans, observations, np.zeros(len(observations), dtype=bool))
    set_thickness(model, data, options, StartingThickness.of(len(scans) * [(500.0, 125.0)]))
    lengths = np.linalg.norm(observations.hkl @ scans[0].crystal_settings[0].T, axis=1)
    beams = options.beams
    limits = fine_selection(
        lengths.max(), 750.0, beams.g_max or 1.15 * lengths.max(), beams.s_max, beams.tilt_step
    )
    limits = replace(limits, tilts_per_window=beams.tilts_per_window)
    print(f"{len(observations)} reflections; {peak_bytes() / 1e9:.2f} GB after reading them")
    check_memory(data, model, limits, options.propagation)
    started = time.monotonic()
    simulator = build_simulator(data, model, limits, options.propagation)
    weights = torch.from_numpy(observations.sigma**-2.0)
    with one_torch_thread():
        Objective(model, simulator, observations, weights, 0.05).evaluate_with_gradient()
    print(
        f"{max(simulator.n_beams)} beams at most, {sum(len(b.phi) for b in simulator.blocks)} tilts: "
        f"{peak_bytes() / 1e9:.2f} GB at the peak, {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
