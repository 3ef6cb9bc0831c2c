# LIBTBX_SET_DISPATCHER_NAME dials.hybrid_simulate
"""Simulate the intensities of a 3D electron diffraction experiment by many-beam theory.

Predicts which reflections an experiment would record to a resolution, and with what integrated
intensity a crystal of a known structure and thickness would give them. The files written are
read by dials.hybrid_refine. For planning experiments, teaching and tests.

Examples::

  dials.hybrid_simulate experiments.expt model.cif thickness.mean=600 d_min=0.7

  dials.hybrid_simulate experiments.expt model.cif thickness.mean=400,700,500 noise.poisson=True
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import iotbx.phil
import libtbx
from dials.util import show_mail_handle_errors
from dxtbx.model import ExperimentList

from dials_hybrid_refine.command_line.start import errors_for_users, start
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.io.command_input import (
    INPUT_PHIL,
    exactly_one,
    naming,
    read_experiment,
)
from dials_hybrid_refine.io.dials_versions import cpu_count
from dials_hybrid_refine.io.effect_plugins import (
    make_effects,
    parse_with_effects,
    warn_of_broken,
)
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.output_files import write_atomically
from dials_hybrid_refine.io.predictions import delta_m_of, predict, windows_of, with_intensities
from dials_hybrid_refine.io.reflection_file import write_reflections
from dials_hybrid_refine.io.simulated_slices import add_shoeboxes, on_whole_images
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.io.symmetry import check_compatible
from dials_hybrid_refine.models.choose import AbsorptionOptions, absorption_model
from dials_hybrid_refine.models.effects import EffectContext
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.settings import exact_tilt_step, fine_selection

logger = logging.getLogger("dials.hybrid_simulate")

#: beams reach beyond the simulated reflections by this factor
_G_MAX_FACTOR = 1.15
#: NumPy draws Poisson distributions of integers of 64 bits
_MOST_COUNTS = 1e18
#: mean fraction of the incident beam, times degrees, below which nothing would ever be recorded
_WEAKEST = 1e-15

phil_scope = iotbx.phil.parse(
    INPUT_PHIL
    + """
d_min = 0.8
  .type = float(value_min=0.1)
  .help = "Reflections down to this spacing (Angstrom) are simulated."
structure {
  data_block = None
    .type = str
    .help = "Name of the data block of a CIF in which several have atoms."
}
thickness {
  mean = 500
    .type = floats(value_min=1, value_max=1e5)
    .help = "Mean thickness (Angstrom): one value, or several at evenly spaced angles along the"
            "scan, with linear interpolation between them."
  std = 0
    .type = float(value_min=0, value_max=1e5)
    .help = "Standard deviation (Angstrom) of the thickness at each angle."
}
absorption {
  model = *none proportional tabulated
    .type = choice
    .help = "proportional: the imaginary potential is a share of the real one. tabulated: it is that"
            "of thermal diffuse scattering (Einstein model), times a factor."
  ratio = 0.05
    .type = float(value_min=1e-6, value_max=1)
    .help = "That share."
  factor = 1
    .type = float(value_min=1e-3, value_max=1000)
    .help = "That factor."
}
window {
  delta_m = Auto
    .type = float(value_min=0.01)
    .help = "Half the rotation (degrees) over which a reflection with zeta=1 is integrated. Auto:"
            "n_sigma sigma_m of the experiment's profile model, or 0.5."
  min_zeta = 0.1
    .type = float(value_min=0.001, value_max=1)
    .help = "Reflections nearer to the rotation axis are left out."
}
beams {
  g_max = Auto
    .type = float(value_min=0.1, value_max=12)
    .help = "Beams up to this |g| (1/Angstrom). Auto: 1.15 / d_min."
  s_max = 0.015
    .type = float(value_min=1e-4)
    .help = "Beams within this distance of the Ewald sphere (1/Angstrom) take part."
  tilt_step = Auto
    .type = float(value_min=1e-3)
    .help = "Degrees between the orientations that sample rocking curves. Auto: as resolution and"
            "thickness require for exact integrals."
}
slices = False
  .type = bool
  .help = "The intensity of each image too, as pixels in the column shoebox (for intensity=slices of"
          "dials.hybrid_refine). Windows are whole images then."
mean_intensity = 1000
  .type = float(value_min=1e-6, value_max=1e20)
  .help = "The intensities are scaled to this mean, in counts."
noise {
  poisson = False
    .type = bool
    .help = "Draw the intensities from Poisson distributions."
  background = 20
    .type = float(value_min=0, value_max=1e20)
    .help = "Background counts under each reflection; they add to the variance."
}
seed = 0
  .type = int(value_min=0, value_max=4294967295)
  .help = "Seed of the noise. Same seed, same result."
nproc = Auto
  .type = int(value_min=1, value_max=1024)
  .help = "Number of threads. Auto: as many as there are processors."
  .expert_level = 1
output {
  experiments = hybrid_simulated.expt
    .type = path
    .help = "The experiments, as read. None: not written; so for all output files."
  reflections = hybrid_simulated.refl
    .type = path
    .help = "The reflections, with their windows of rotation in phi_start and phi_end."
  log = dials.hybrid_simulate.log
    .type = path
}
""",
    process_includes=True,
)


def _observed(
    expected: NDArray[np.float64], noise: Any, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intensities and variances of a measurement, in counts, from the expected intensities.

    Raises:
        ValueError: for more counts than Poisson distributions can be drawn of.
    """
    if not noise.poisson:
        return expected, expected + noise.background + 1
    largest = float(expected.max()) + noise.background
    if largest > _MOST_COUNTS:
        raise ValueError(
            f"noise.poisson cannot draw from {largest:.3g} counts: choose a smaller mean_intensity or "
            "noise.background"
        )
    generator = np.random.default_rng(seed)
    counts = generator.poisson(expected + noise.background).astype(float)
    return counts - noise.background, np.maximum(counts, 1) + noise.background


def _observed_slices(
    expected: NDArray[np.float64], reflection: NDArray[np.int64], noise: Any, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts and background on each image; the background of a reflection is spread over its images."""
    background = noise.background / np.bincount(reflection)[reflection]
    counts = expected + background
    if noise.poisson:
        counts = np.random.default_rng(seed).poisson(counts).astype(float)
    return counts, background


@show_mail_handle_errors()
def run(args: Sequence[str] | None = None, phil: Any = phil_scope) -> None:
    """Run the program with command-line arguments (default: those of the process)."""
    usage = "dials.hybrid_simulate [options] experiments.expt model.cif"
    arguments = list(sys.argv[1:] if args is None else args)
    with errors_for_users((ValueError, ArithmeticError)):
        command, plugins = parse_with_effects(phil, usage, __doc__, arguments or ["-h"])
        params = command.params
        start(command, "dials.hybrid_simulate")
        warn_of_broken(plugins)
        remedy = "dials.hybrid_simulate needs an .expt and a structure file"
        if command.reflections:
            raise ValueError(f"{command.reflections[0]} is not needed: {remedy}")
        expt = exactly_one(command.experiments, "experiments file", remedy)
        cif = exactly_one(command.structures, "structure file", remedy)
        experiment = read_experiment(expt)
        with naming(expt):
            scan = scan_geometry(experiment)
            if experiment.detector is None:
                raise ValueError(
                    "there is no detector model: give the .expt file of dials.integrate"
                )
        model = read_structure(cif, command.params.structure.data_block)
        for warning in model.warnings:
            logger.warning("%s: %s", cif, warning)
        with naming(f"{expt} and {cif}"):
            messages = check_compatible(model.structure, experiment.crystal.get_crystal_symmetry())
        for message in messages:
            logger.info("%s", message)
        absorption = absorption_model(
            AbsorptionOptions(
                params.absorption.model, params.absorption.ratio, params.absorption.factor
            )
        )
        for warning in absorption.warnings(model.structure) if absorption else []:
            logger.warning("%s: %s", cif, warning)
        effects = make_effects(plugins, params, EffectContext([scan]))
        thickness = GivenThickness(params.thickness.mean, params.thickness.std, scan.phi_range)
        delta_m = params.window.delta_m
        with naming(expt):
            table, observations = windows_of(
                predict(experiment, params.d_min),
                experiment,
                delta_m_of(experiment) if delta_m is libtbx.Auto else delta_m,
                params.window.min_zeta,
            )
        g_max, tilt_step = (
            None if value is libtbx.Auto else value
            for value in (params.beams.g_max, params.beams.tilt_step)
        )
        pieces = observations
        if params.slices:
            observations, pieces = on_whole_images(observations, experiment)
        thick = max(params.thickness.mean) + 2 * params.thickness.std
        selection = fine_selection(
            1 / params.d_min,
            thick,
            g_max or _G_MAX_FACTOR / params.d_min,
            params.beams.s_max,
            tilt_step or exact_tilt_step(1 / params.d_min, thick),
        )
        logger.info("Simulating %d reflections to d_min %g", len(table), params.d_min)
        fractions = simulate_intensities(
            scan,
            pieces,
            model.structure,
            thickness,
            absorption,
            selection,
            PropagationSettings(
                dtype=torch.complex64,
                n_threads=cpu_count() if params.nproc is libtbx.Auto else params.nproc,
            ),
            [named.effect for named in effects],
        )
        if not fractions.mean() > _WEAKEST:
            raise ValueError(
                f"{cif}: the structure diffracts nothing to d_min={params.d_min:g} Angstrom: correct its "
                "occupancies and displacement parameters"
            )
        scale = params.mean_intensity / (fractions.sum() / len(observations))
        logger.info("Scale: %.6g counts per incident electron and degree", scale)
        expected = scale * fractions
        if params.slices:
            counts, under = _observed_slices(expected, pieces.row, params.noise, params.seed)
            add_shoeboxes(table, pieces, counts, under, experiment)
            intensity, variance = (
                np.bincount(pieces.row, weights=of_image).astype(float)
                for of_image in (counts - under, np.maximum(counts, 1))
            )
        else:
            intensity, variance = _observed(expected, params.noise, params.seed)
        if params.output.experiments is not None:
            logger.info("Saving the experiments to %s", params.output.experiments)
            experiments = ExperimentList([experiment])
            write_atomically(params.output.experiments, lambda path: experiments.as_file(path))
        if params.output.reflections is not None:
            logger.info("Saving the reflections to %s", params.output.reflections)
            integrated = with_intensities(table, observations, intensity, variance)
            write_atomically(
                params.output.reflections, lambda path: write_reflections(integrated, path)
            )


if __name__ == "__main__":
    run()
