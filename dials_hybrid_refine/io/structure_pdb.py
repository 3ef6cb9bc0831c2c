"""PDB files to a structure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import iotbx.pdb
from cctbx import adptbx

from dials_hybrid_refine.io.structure_atoms import (
    MOST_ATOMS,
    Atom,
    LoadedStructure,
    ModelError,
    build_structure,
    check_amount,
    element_of_label,
    element_of_type,
    make_symmetry,
    replaced_types,
)
from dials_hybrid_refine.models.connectivity import Disorder

#: column at which the coordinates of an atom end (wwPDB format 3.3, section 9)
_END_OF_COORDINATES = 54


def read_pdb(text: str) -> LoadedStructure:
    """The structure of a PDB file.

    Raises:
        ModelError: if what the file says cannot be used.
        Exception: whatever iotbx raises where the text is not a PDB file.
    """
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):  # iotbx reads missing coordinates as 0
        if line.startswith(("ATOM  ", "HETATM")) and len(line.rstrip()) < _END_OF_COORDINATES:
            raise ModelError(f"line {number} is not complete: give a complete file")
    content = iotbx.pdb.input(source_info=None, lines=lines)
    records = list(content.atoms_with_labels())
    if not records:
        raise ModelError("no atoms were found: give a file with the structure's atomic coordinates")
    if len(records) > MOST_ATOMS:
        check_amount(len(records), _symmetry(content))
    if content.model_indices().size() > 1:
        raise ModelError("several models were found: give a file with only the one to be used")
    symmetry = _symmetry(content)
    types: dict[str, str] = {}
    atoms = []
    for record in records:
        name = record.name.strip()
        kind = record.element.strip() or (record.determine_chemical_element_simple() or "").strip()
        if kind and kind not in types:
            types[kind] = element_of_type(kind)
        label = f"{name}_{record.chain_id.strip()}{record.resseq.strip()}{record.icode.strip()}"
        if record.uij_is_defined():
            u = adptbx.u_cart_as_u_star(symmetry.unit_cell(), record.uij)
        else:
            u = adptbx.b_as_u(record.b)
        atoms.append(
            Atom(
                label=label + record.altloc.strip(),
                element=types[kind] if kind else element_of_label(name),
                site=symmetry.unit_cell().fractionalize(record.xyz),
                occupancy=record.occ,
                u=u or None,
            )
        )
    loaded = build_structure(symmetry, atoms)
    locations = [record.altloc.strip() for record in records]
    names = sorted(set(locations) - {""})
    disorder = (
        Disorder(tuple(names.index(x) + 1 if x else 0 for x in locations)) if names else Disorder()
    )
    return replace(
        loaded,
        disorder=disorder,
        warnings=(*_signs_of_truncation(lines), *replaced_types(types), *loaded.warnings),
    )


def _signs_of_truncation(lines: list[str]) -> list[str]:
    if any(line.startswith("END") for line in lines):
        return []
    return ["there is no END record: the file may be truncated"]


def _symmetry(content: Any) -> Any:
    symmetry = content.crystal_symmetry()
    cell = None if symmetry is None else symmetry.unit_cell()
    if cell is None or cell.volume() < 2:  # 1 1 1 90 90 90 stands for no crystal
        raise ModelError("no unit cell was found: add a CRYST1 record")
    if symmetry.space_group() is None:
        raise ModelError("no symmetry was found: add the space group to the CRYST1 record")
    symmetry = make_symmetry(cell.parameters(), symmetry.space_group())
    scale = content.scale_matrix()
    standard = cell.fractionalization_matrix()
    if scale is not None and not (
        np.allclose(scale[0], standard, atol=1e-4) and np.allclose(scale[1], 0, atol=1e-4)
    ):
        raise ModelError(
            "the SCALE records describe another orthogonal frame than the PDB's standard one: "
            "convert the model to CIF"
        )
    return symmetry
