"""Where a refinement starts the orientation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.breakdown import unless_broken
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.journal import Journal
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.orientation_scan import OrientationPath, scan_orientation
from dials_hybrid_refine.refinement.settings import LARGEST_SCANNED, scan_nodes
from dials_hybrid_refine.refinement.weights import loss_weights

logger = logging.getLogger("dials.hybrid_refine.orientation_course")

#: reflections that are enough
_REFLECTIONS = 2500
#: thicknesses up to so many times that of the scan, and up to so many Angstrom at least
_REACH, _LEAST_REACH = 2.0, 600.0


def start_orientation(
    journal: Journal,
    model: HybridModel,
    data: Dataset,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    thickness: float,
) -> bool:
    """Turn the crystals further where they clearly fit better so; says whether any was.

    Args:
        coarse: the coarse calculation for crystals of a thickness in Angstrom.
        thickness: of the thickest crystal, Angstrom, as far as it is known.
    """
    sample = data.sample(_REFLECTIONS)

    def scan() -> dict[str, Any]:
        reach = max(_LEAST_REACH, _REACH * thickness)
        largest = options.thickness.largest or LARGEST_SCANNED[-1]
        nodes = scan_nodes(min(reach, largest), options.thickness.node_distance)
        limits = coarse(nodes[-1])
        used = ~sample.held_out
        weights = loss_weights(sample.observations, used, options.weighting, 1.0)
        found, _ = unless_broken(
            "the search of the orientation",
            lambda: scan_orientation(
                lambda model: build_simulator(sample, model, limits, options.propagation),
                model,
                sample,
                weights,
                nodes,
            ),
        )
        return asdict(found or OrientationPath.as_given())

    entry = journal.remembered("orientation scan", scan)
    phi = entry.array("phi", (None,))
    experiment = entry.array("experiment", phi.shape, kind="i")
    path = OrientationPath(
        experiment, phi, entry.array("angles", (len(phi), 2)), entry.number("gain")
    )
    if not path.is_clear:
        logger.info("Orientation scan: best about as it is")
        return False
    logger.info("Orientation scan: better turned, by up to %.2f degrees", path.largest)
    path.apply(model, sample.scans)
    return True
