"""Atoms far from where they belong, brought nearer with reflections of low resolution alone.

With an atom 0.3 Angstrom away the phase of its contribution to a reflection at d = 0.5 Angstrom is wrong by
up to 200 degrees, and descent ends in a minimum beside the right one; at d = 1 Angstrom it is 110 degrees.
So few reflections cannot tell a course of thicknesses and orientations too: the thickness is one,
the orientation stays as it is.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.settings import coarse_selection

logger = logging.getLogger("dials.hybrid_refine.low_resolution")

#: d in Angstrom of the reflections, one after the other: ways to be tried. The first brought atoms of quartz near home in three of three
#: cases 0.3 Angstrom away. A simulation with too few reflections for it came home by the second in two of three cases, 0.35 Angstrom away.
_WAYS = ((1.0, 0.8), (0.8,))
#: reflections for each parameter of the structure, at least
_FEWEST = 5
#: steps at each resolution at most, and the share of the loss that a step gains at least: where atoms leave one
#: minimum for another the loss hardly falls for some steps
_STEPS, _TOLERANCE = 25, 5e-4


def usable_ways(data: Dataset, n_parameters: int) -> list[tuple[float, ...]]:
    """Ways of ``approach_structure`` for which there are enough reflections, each once.

    Args:
        n_parameters: of the structure.
    """
    spacings = 1 / data.inverse_spacings()[~data.held_out]
    enough = {d for d in itertools.chain(*_WAYS) if (spacings >= d).sum() >= _FEWEST * n_parameters}
    ways = [tuple(d for d in way if d in enough) for way in _WAYS]
    return [way for way in dict.fromkeys(ways) if way]


def approach_structure(
    refinement: Refinement,
    data: Dataset,
    coarse: Callable[[float], BeamSelection],
    way: Sequence[float],
) -> None:
    """Refine the structure at low resolution, with the orientation as it is.

    Args:
        refinement: its model, whose thickness is the same at all angles, is left with the atoms found, or as
            it was where that fails. Its status says if it was interrupted.
        coarse: the coarse calculation for crystals of a thickness in Angstrom.
        way: d of the reflections in Angstrom, one after the other.
    """
    model, spacings = refinement.state.model, 1 / data.inverse_spacings()
    with _kept_as_it_is(model.orientation):
        for d_min in way:

            def selection(thickness: float, d_min: float = d_min) -> BeamSelection:
                at_low = coarse_selection(1 / d_min, thickness)
                return replace(coarse(thickness), g_max=at_low.g_max, tilt_step=at_low.tilt_step)

            before = {name: value.clone() for name, value in model.state_dict().items()}
            part = refinement.with_data(data.select(spacings >= d_min), selection)
            thickness = model.thickness.largest_mean([scan.phi_range for scan in data.scans])
            part.stage(selection(thickness), _STEPS, f"d > {d_min:g}", _TOLERANCE)
            if part.state.breakdown is not None:
                logger.warning("At low resolution: %s", part.state.breakdown)
                model.load_state_dict(before)
            refinement.state.status = part.state.status
            if part.state.status == "interrupted":
                break


@contextmanager
def _kept_as_it_is(module: torch.nn.Module) -> Iterator[None]:
    """Its parameters are not refined meanwhile."""
    refined = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in refined:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in refined:
            parameter.requires_grad_(True)
