"""Whether a structure that was read makes sense."""

from __future__ import annotations

from collections import Counter
from math import isfinite

import numpy as np

from cctbx import adptbx, xray

from dials_hybrid_refine.io.structure_atoms import (
    DEFAULT_U_ISO,
    LoadedStructure,
    ModelError,
    some,
)

#: atoms closer than this in Angstrom are on top of each other ...
_CLASH_DISTANCE = 0.3
#: ... unless their occupancies say that only one of them is there
_LARGEST_SHARED_OCCUPANCY = 1.01
#: occupancies that no disorder or wrong element explains, and those that leave nothing to refine
_LARGEST_OCCUPANCY, _SMALLEST_OCCUPANCY = 10.0, 1e-6
#: mean square displacements in Angstrom^2 (eigenvalues of U) that the user should know of, and those of an
#: atom that is nowhere
_NOTABLE_U, _LARGEST_U = 0.5, 10.0
#: movement in Angstrom onto a special position that the user should know of
_NOTABLE_MOVEMENT = 0.05
#: eigenvalues of U in Angstrom^2 that are zero within round-off
_SMALLEST_EIGENVALUE = 1e-9


def check_structure(loaded: LoadedStructure) -> list[str]:
    """Check a structure and repair what can be; labels are made unique, a U of zero replaced.

    Returns:
        Warnings, a sentence each.

    Raises:
        ModelError: for what cannot be repaired.
    """
    structure = loaded.structure
    if structure.scatterers().size() == 0:
        raise ModelError("no atoms were found: give a file with the structure's atomic coordinates")
    warnings = _unique_labels(structure)
    _check_finite(structure)
    warnings += _check_occupancies(structure)
    warnings += _check_displacements(structure)
    warnings += _moved_atoms(loaded)
    _check_clashes(structure)
    return warnings


def _unique_labels(structure: xray.structure) -> list[str]:
    scatterers = structure.scatterers()
    counts = Counter(s.label for s in scatterers)
    repeated = [label for label, n in counts.items() if n > 1]
    if not repeated:
        return []
    taken = set(counts)
    seen: set[str] = set()
    for scatterer in scatterers:
        label, n = scatterer.label, 2
        if label in seen:
            while f"{label}_{n}" in taken:
                n += 1
            scatterer.label = f"{label}_{n}"
            taken.add(scatterer.label)
        seen.add(label)
    return [
        f"the labels {some(repeated)} occur more than once: numbers were added to the later ones"
    ]


def _check_finite(structure: xray.structure) -> None:
    lost = [s.label for s in structure.scatterers() if not (np.abs(s.site) < 1e4).all()]
    if lost:
        raise ModelError(
            f"the coordinates of {some(lost)} are missing or not usable: complete them"
        )


def _check_occupancies(structure: xray.structure) -> list[str]:
    scatterers = structure.scatterers()
    bad = [
        f"{s.label} ({s.occupancy:g})"
        for s in scatterers
        if not (isfinite(s.occupancy) and s.occupancy > _SMALLEST_OCCUPANCY)
    ]
    if bad:
        raise ModelError(f"the occupancy of {some(bad)} is not above zero: correct or remove them")
    huge = [f"{s.label} ({s.occupancy:g})" for s in scatterers if s.occupancy > _LARGEST_OCCUPANCY]
    if huge:
        raise ModelError(f"the occupancy of {some(huge)} is impossible: correct it")
    full = [f"{s.label} ({s.occupancy:g})" for s in scatterers if s.occupancy > 1.001]
    return [f"the occupancy of {some(full)} is larger than 1"] if full else []


def _check_displacements(structure: xray.structure) -> list[str]:
    unit_cell = structure.unit_cell()
    empty: list[str] = []
    bad: list[str] = []
    large: list[str] = []
    huge: list[str] = []
    for scatterer in structure.scatterers():
        if scatterer.flags.use_u_aniso():
            tensor = adptbx.u_star_as_u_cart(unit_cell, scatterer.u_star)
            usable = bool(np.isfinite(tensor).all())
            values = adptbx.eigenvalues(tensor) if usable else (-1.0,)
        else:
            if scatterer.u_iso == 0:
                empty.append(scatterer.label)
                scatterer.u_iso = DEFAULT_U_ISO
            values = (scatterer.u_iso,)
        if not min(values) > _SMALLEST_EIGENVALUE:
            bad.append(scatterer.label)
        if max(values) > _NOTABLE_U:
            (huge if max(values) > _LARGEST_U else large).append(scatterer.label)
    if bad:
        raise ModelError(
            f"the displacement parameters of {some(bad)} are not positive definite: "
            "make these atoms isotropic or correct them"
        )
    if huge:
        raise ModelError(
            f"the displacement parameters of {some(huge)} exceed {_LARGEST_U:g} Angstrom^2: correct them, "
            "they may be B or in other units"
        )
    warnings = []
    if large:
        warnings.append(
            f"the displacement parameters of {some(large)} exceed {_NOTABLE_U:g} Angstrom^2: such atoms "
            "hardly diffract"
        )
    if empty:
        warnings.append(f"U_iso of {some(empty)} is zero: {DEFAULT_U_ISO} Angstrom^2 is assumed")
    return warnings


def _moved_atoms(loaded: LoadedStructure) -> list[str]:
    unit_cell = loaded.structure.unit_cell()
    moved = []
    for scatterer, given in zip(loaded.structure.scatterers(), loaded.given_sites):
        distance = unit_cell.distance(scatterer.site, given)
        if distance > _NOTABLE_MOVEMENT:
            moved.append(f"{scatterer.label} ({distance:.2f} Angstrom)")
    return (
        [f"atoms were moved onto the special positions next to them: {some(moved)}"]
        if moved
        else []
    )


def _check_clashes(structure: xray.structure) -> None:
    scatterers = structure.scatterers()
    pairs = structure.pair_asu_table(distance_cutoff=_CLASH_DISTANCE).extract_pair_sym_table()
    clashes = []
    for pair in pairs.iterator():
        first, second = scatterers[pair.i_seq], scatterers[pair.j_seq]
        if first.occupancy + second.occupancy > _LARGEST_SHARED_OCCUPANCY:
            clashes.append(f"{first.label} and {second.label}")
    if clashes:
        raise ModelError(
            f"atoms are on top of each other ({some(list(dict.fromkeys(clashes)), 4)}): remove one "
            "of each pair or correct the occupancies"
        )
