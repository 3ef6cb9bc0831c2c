"""The refined structure and its data in the formats of other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from dials_hybrid_refine.io.cif_experiment import Measurement, cell_su
from dials_hybrid_refine.io.cif_refinement import RefinementModel
from dials_hybrid_refine.io.cif_reflections import measured_reflections, merged_reflections
from dials_hybrid_refine.io.kinematical_intensities import (
    KinematicalIntensities,
    kinematical_intensities,
)
from dials_hybrid_refine.io.refined_cif import CifContext, refined_cif
from dials_hybrid_refine.io.refined_mtz import write_mtz
from dials_hybrid_refine.io.refined_shelx import (
    ShelxModel,
    check_shelx,
    hkl_factor,
    shelx_text,
    write_hkl,
)
from dials_hybrid_refine.models.prepare import Model
from dials_hybrid_refine.refinement.geometry import Geometry
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.result import Result

#: what is written, the path or None, and what writes it to a given path
Writer = tuple[str, str | None, Callable[[str], object]]


def check_formats(params: Any, model: Model) -> None:
    """Whether the files asked for can hold the structure, found out before hours of computing.

    Raises:
        ValueError: says which cannot, and what to do.
    """
    if params.output.res is not None:
        check_shelx(model.structure)


def shelx_instructions(model: Model) -> Sequence[str]:
    """Instructions for output.res beyond what the atoms and AFIX say.

    Restraints, and constraints that are instructions of their own (EADP, SUMP), belong here: there
    are none, as those of the input are not applied  yet.
    """
    return ()


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
        cif = refined_cif(
            result, CifContext(measurement, refinement, loops=loops, geometry=geometry)
        )
        with open(path, "w") as stream:
            cif.show(out=stream)

    def write_res(path: str) -> None:
        text = shelx_text(
            ShelxModel(
                structure,
                wavelength,
                cell_su(structure, measurement.cell),
                model.constraints,
                shelx_instructions(model),
                hkl_factor(merged()) ** 0.5,
            )
        )
        with open(path, "w") as stream:
            stream.write(text)

    output = params.output
    return [
        ("structure", output.structure, write_cif),
        ("SHELX model", output.res, write_res),
        ("SHELX intensities", output.hkl, lambda path: write_hkl(merged(), path)),
        ("merged intensities", output.mtz, lambda path: write_mtz(merged(), wavelength, path)),
    ]
