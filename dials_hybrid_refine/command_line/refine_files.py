"""The refined structure and its data in the formats of other programs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from dials_hybrid_refine.io.cif_experiment import Measurement, cell_su
from dials_hybrid_refine.io.cif_refinement import RefinementModel
from dials_hybrid_refine.io.cif_reflections import measured_reflections, merged_reflections
from dials_hybrid_refine.io.kinematical_intensities import (
    KinematicalIntensities,
    kinematical_intensities,
)
from dials_hybrid_refine.io.output_files import TEXT
from dials_hybrid_refine.io.refined_cif import CifContext, refined_cif
from dials_hybrid_refine.io.refined_mtz import write_mtz
from dials_hybrid_refine.io.refined_shelx import (
    ShelxModel,
    check_shelx,
    hkl_factor,
    shelx_notes,
    shelx_text,
    write_hkl,
)
from dials_hybrid_refine.models.prepare import Model
from dials_hybrid_refine.models.restraints.request import inverted_request
from dials_hybrid_refine.refinement.geometry import Geometry
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.result import Result

logger = logging.getLogger("dials.hybrid_refine")

#: what is written, the path or None, and what writes it to a given path
Writer = tuple[str, str | None, Callable[[str], object]]


def check_formats(params: Any, model: Model) -> None:
    """Whether the files asked for can hold the structure, found out before hours of computing.

    Raises:
        ValueError: says which cannot, and what to do.
    """
    if params.output.res is not None:
        check_shelx(model.structure)


def shelx_model(
    model: Model, measurement: Measurement, result: Result, overall_scale: float
) -> ShelxModel:
    """What output.res states: of the inverse, if that was taken, restraints are those of the inverse."""
    restraints = model.restraints
    if result.absolute_structure is not None and result.absolute_structure.applied:
        change = model.structure.space_group_info().type().change_of_hand_op()
        restraints = tuple(inverted_request(request, change) for request in restraints)
    return ShelxModel(
        result.structure,
        measurement.wavelength,
        cell_su(result.structure, measurement.cell),
        model.constraints,
        model.disorder,
        restraints,
        overall_scale,
    )


def structure_writers(
    params: Any,
    model: Model,
    options: RefinementOptions,
    measurement: Measurement,
    result: Result,
    geometry: Geometry,
) -> list[Writer]:
    """Writers of CIF, SHELX and MTZ files."""
    wavelength, structure = measurement.wavelength, result.structure
    refinement = RefinementModel(
        options.weighting,
        options.thickness.model,
        options.thickness.tilt_correction,
        model.constraints,
    )

    @cache
    def merged() -> KinematicalIntensities:
        return kinematical_intensities(result, wavelength)

    def write_cif(path: str) -> None:
        loops = {
            "none": lambda: [],
            "measured": lambda: [measured_reflections(result)],
            "merged": lambda: [merged_reflections(merged(), structure.unit_cell().volume())],
        }[params.cif.reflections]()
        context = CifContext(measurement, refinement, model.disorder, geometry, loops)
        cif = refined_cif(result, context)
        with open(path, "w", **TEXT) as stream:
            cif.show(out=stream)

    def write_res(path: str) -> None:
        written = shelx_model(model, measurement, result, hkl_factor(merged()) ** 0.5)
        for note in shelx_notes(written):
            logger.warning("Warning: %s: %s", path, note)
        with open(path, "w", **TEXT) as stream:
            stream.write(shelx_text(written))

    output = params.output
    return [
        ("structure", output.structure, write_cif),
        ("SHELX model", output.res, write_res),
        ("SHELX intensities", output.hkl, lambda path: write_hkl(merged(), path)),
        ("merged intensities", output.mtz, lambda path: write_mtz(merged(), wavelength, path)),
    ]
