"""The refined structure as a CIF that can be deposited, with the electron-diffraction items of the core
dictionary. Each part of its content has a file of its own, ``cif_*.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import iotbx.cif.model

from dials_hybrid_refine.io.cif_absolute_structure import absolute_structure_items
from dials_hybrid_refine.io.cif_atoms import atom_loops
from dials_hybrid_refine.io.cif_experiment import (
    Measurement,
    cell_items,
    crystal_items,
    hall_symbol,
    measurement_items,
    software_items,
    wavelength_loops,
)
from dials_hybrid_refine.io.cif_refinement import RefinementModel, refinement_items
from dials_hybrid_refine.io.geometry_loops import geometry_loops
from dials_hybrid_refine.io.restraints_cif import add_restraints
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.refinement.geometry import Geometry
from dials_hybrid_refine.refinement.result import Result


@dataclass(frozen=True)
class CifContext:
    """What a CIF states beyond the result.

    Attributes:
        measurement: the experiment. model: what was refined and how.
        disorder: which atoms are alternatives.
        geometry: bonds and angles, or None to leave them out.
        loops: further ones, such as reflections.
        items: further ones, which win over those of the same name.
        data_name: name of the data block.
    """

    measurement: Measurement
    model: RefinementModel
    disorder: Disorder = Disorder()
    geometry: Geometry | None = None
    loops: Sequence[iotbx.cif.model.loop] = ()
    items: Mapping[str, str] = field(default_factory=dict)
    data_name: str = "hybrid_refined"


def refined_cif(result: Result, context: CifContext) -> iotbx.cif.model.cif:
    """A CIF model of the refined structure, its uncertainties and statistics."""
    structure = result.structure
    block = structure.crystal_symmetry().as_cif_block(format="coreCIF")
    for name in ("_space_group_name_Hall", "_symmetry_space_group_name_Hall"):
        block[name] = hall_symbol(structure.space_group())
    items = {
        **cell_items(structure, context.measurement),
        **crystal_items(structure),
        **measurement_items(result, context.measurement),
        **refinement_items(result, context.model),
        **absolute_structure_items(result),
        **software_items(context.measurement),
        **context.items,
    }
    for name, value in items.items():
        block[name] = value
    for loop in wavelength_loops(context.measurement):
        block.add_loop(loop)
    for loop in atom_loops(result, context.model.constraints, context.disorder):
        block.add_loop(loop)
    for loop in geometry_loops(context.geometry) if context.geometry else ():
        block.add_loop(loop)
    for loop in context.loops:
        block.add_loop(loop)
    if result.restraints is not None:
        add_restraints(block, structure, result.restraints)
    cif = iotbx.cif.model.cif()
    cif[context.data_name] = block
    return cif
