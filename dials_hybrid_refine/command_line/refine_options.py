"""From PHIL parameters to the options of a refinement."""

from __future__ import annotations

from typing import Any

import torch

import libtbx

from dials_hybrid_refine.command_line.refine_ranks import with_device
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.ranks import Ranks
from dials_hybrid_refine.diffraction.workers import keep_bytes
from dials_hybrid_refine.io.dials_versions import cpu_count
from dials_hybrid_refine.models.choose import (
    AbsorptionOptions,
    OrientationOptions,
    ThicknessOptions,
)
from dials_hybrid_refine.models.prepare import ModelChoices
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.refinement.absolute_structure import AbsoluteStructureOptions
from dials_hybrid_refine.refinement.frames import FrameFilter
from dials_hybrid_refine.refinement.options import (
    BeamOptions,
    RefinementOptions,
)
from dials_hybrid_refine.refinement.schedule import Schedule
from dials_hybrid_refine.refinement.weights import Weighting


def auto(value: Any) -> Any:
    """None for a parameter that is Auto."""
    return None if value is libtbx.Auto else value


def _device(name: str, ranks: Ranks) -> str:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("device=cuda: torch finds no CUDA device here; use device=cpu")
    if not available or name == "cpu":
        return "cpu"
    return "cuda" if ranks.size == 1 else f"cuda:{ranks.on_machine % torch.cuda.device_count()}"


def model_choices(params: Any) -> ModelChoices:
    """How the atoms of the model are described, from the PHIL parameters."""
    structure = params.structure
    return ModelChoices(structure.adp, structure.hydrogens, structure.hydrogen_distances)


def _propagation(params: Any, ranks: Ranks) -> PropagationSettings:
    """Processes that share a machine share its processors and memory."""
    device = _device(params.device, ranks)
    return PropagationSettings(
        dtype=torch.complex64 if params.precision == "single" else torch.complex128,
        n_threads=auto(params.nproc) or max(1, cpu_count() // ranks.n_on_processors),
        device=device,
        keep_bytes=keep_bytes(params.memory / ranks.n_on_machine),
        memory=params.memory / ranks.n_on_machine,
        ranks=with_device(ranks, device),
    )


def refinement_options(
    params: Any,
    ranks: Ranks = Ranks(),  # noqa: B008  immutable
) -> RefinementOptions:
    """The options of the refinement from the PHIL parameters.

    Args:
        ranks: the processes that share it.

    Raises:
        ValueError: for a device that is not there, or options that do not go together.
    """
    thickness, orientation = params.thickness, params.orientation
    return RefinementOptions(
        thickness=ThicknessOptions(
            model=thickness.model,
            largest=auto(thickness.max),
            node_distance=thickness.node_distance,
            resolution=thickness.resolution,
            smoothness=thickness.smoothness,
            shape_smoothness=thickness.shape_smoothness,
            frame_width=auto(thickness.frame_width),
            tilt_correction=thickness.tilt_correction,
        ),
        thickness_start=auto(thickness.start),
        beams=BeamOptions(
            g_max=auto(params.beams.g_max),
            s_max=auto(params.beams.s_max),
            tilt_step=auto(params.beams.tilt_step),
            accuracy=params.beams.accuracy,
            tilts_per_window=params.beams.tilts_per_window,
        ),
        orientation=OrientationOptions(
            model=orientation.model,
            refine=orientation.refine,
            scan=orientation.scan,
            knot_distance=orientation.knot_distance,
            expected_size=orientation.expected_size,
            expected_change=orientation.expected_change,
            frame_width=orientation.frame_width,
        ),
        structure=RefinedParameters(
            params.structure.sites,
            params.structure.displacements,
            auto(params.structure.occupancies),
            tuple(params.structure.occupancies_of or ()),
        ),
        absorption=AbsorptionOptions(
            params.absorption.model,
            params.absorption.ratio,
            params.absorption.factor,
            params.absorption.refine,
        ),
        mosaicity=params.mosaicity.start if params.mosaicity.refine else None,
        scale_variation=params.scale.variation,
        weighting=Weighting(
            params.weighting.instability,
            params.weighting.outlier_threshold,
            params.weighting.max_rejected,
        ),
        held_out_fraction=params.held_out.fraction,
        held_out_by=params.held_out.by,
        held_out_width=params.held_out.frame_width,
        frame_filter=FrameFilter(params.frames.rsg, params.frames.dsg),
        seed=params.seed,
        schedule=Schedule(
            coarse_steps=params.refinement.coarse_steps,
            cycles=params.refinement.max_cycles,
            steps_per_cycle=params.refinement.max_steps,
            tolerance=params.refinement.tolerance,
        ),
        propagation=_propagation(params, ranks),
        convergence=params.convergence,
        test_setting=params.reindexing.test,
        absolute_structure=AbsoluteStructureOptions(
            auto(params.absolute_structure.test), params.absolute_structure.apply
        ),
        difference_map=params.difference_map,
        exclude_bad=params.crystals.exclude_bad,
    )
