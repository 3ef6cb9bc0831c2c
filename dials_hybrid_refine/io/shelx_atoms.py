"""The atoms of a SHELX file: how instructions name them, group them and fix their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cctbx import xray
from iotbx import builders

from dials_hybrid_refine.io.structure_atoms import ModelError, some


@dataclass(frozen=True)
class AtomLine:
    """An atom's label as written and the number of its residue."""

    label: str
    residue: str


@dataclass(frozen=True)
class ModelInstruction:
    """An instruction that names atoms or free variables.

    Attributes:
        name: without suffix. suffix: what follows the underscore, as in EADP_2.
        position: number of atoms before it.
    """

    name: str
    suffix: str
    arguments: list[str]
    position: int


@dataclass
class AfixGroup:
    """The atoms (indices) between AFIX mn and the next AFIX; n is the last digit.

    ``distance``, ``occupancy``, ``u``: as given there, or None.
    """

    m: int
    n: int
    distance: float | None = None
    occupancy: float | None = None
    u: float | None = None
    members: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, arguments: Sequence[float]) -> AfixGroup | None:
        """None for AFIX 0, which ends a group."""
        number = int(arguments[0]) if arguments else 0
        if number == 0:
            return None
        given: list[float | None] = [value or None for value in arguments[1:4]]
        distance, occupancy, u = given + [None] * (3 - len(given))
        return cls(number // 10, number % 10, distance, occupancy, u)

    @property
    def name(self) -> str:
        return f"AFIX {10 * self.m + self.n}"

    def with_values(self, arguments: Sequence[str]) -> list[str]:
        """An atom's numbers with the occupancy and U that the group prescribes."""
        changed = list(arguments)
        if self.occupancy is not None:
            changed[4] = repr(self.occupancy)
        if self.u is not None and len(changed) == 6:
            changed[5] = repr(self.u)
        return changed


class RecordingBuilder(builders.crystal_structure_builder):
    """Builds the structure, and keeps what iotbx found out about each parameter.

    ``behaviours``: for each atom x, y, z, occupancy and U or six U; 0 fixed, 1 refined, or a tuple
    for one that depends on a free variable or on another U (``iotbx.shelx.parsers``).
    """

    def __init__(self, set_grad_flags: bool = False, min_distance_sym_equiv: float = 0.5) -> None:
        super().__init__(set_grad_flags, min_distance_sym_equiv)
        self.behaviours: list[list[Any]] = []

    def add_scatterer(self, scatterer: Any, is_refined: Any, *args: Any, **kwds: Any) -> None:
        self.behaviours.append(list(is_refined))
        super().add_scatterer(scatterer, is_refined, *args, **kwds)


def free_partly_fixed(structure: xray.structure, behaviours: Sequence[Sequence[Any]]) -> list[str]:
    """Refine coordinates and U of which a part only is fixed, as symmetry and a free origin are looked
    after; and sentences on those that the user may have meant otherwise."""
    polar = _polar_axes(structure)
    surprising = []
    for i, (scatterer, behaviour) in enumerate(zip(structure.scatterers(), behaviours)):
        special = structure.site_symmetry_table().is_special_position(i)
        site, u = behaviour[:3], behaviour[4:]
        if any(site) and not all(site):
            scatterer.flags.set_grad_site(True)
            fixed = [axis for axis, refined in enumerate(site) if not refined]
            if not special and not all(polar[axis] for axis in fixed):
                surprising.append(scatterer.label)
        if scatterer.flags.use_u_aniso() and any(u) and not all(u):
            scatterer.flags.set_grad_u_aniso(True)
            if not special:
                surprising.append(scatterer.label)
    if not surprising:
        return []
    names = some(list(dict.fromkeys(surprising)))
    return [f"single coordinates or U_ij of {names} are fixed in the file: all are refined"]


def _polar_axes(structure: xray.structure) -> list[bool]:
    """Whether the origin is free to move along each axis."""
    free = structure.space_group_info().structure_seminvariants().vectors_and_moduli()
    return [any(v.m == 0 and v.v[axis] for v in free) for axis in range(3)]


def atoms_named(
    instruction: ModelInstruction, names: Sequence[str], atoms: Sequence[AtomLine], structure: Any
) -> list[int]:
    """Indices of the atoms that an instruction names: C1, C1_2, $C, C1 > C5, and the reverse with <.

    Without names: all. Hydrogen atoms count in ranges and elements only where asked for by name.

    Raises:
        ModelError: for an atom that is not there.
    """
    scatterers = structure.scatterers()
    heavy = [i for i, s in enumerate(scatterers) if s.element_symbol() != "H"]
    residue = instruction.suffix if instruction.suffix.isdigit() else None

    def find(name: str) -> int:
        label, _, suffix = name.partition("_")
        wanted = suffix or residue or "0"
        for i, atom in enumerate(atoms):
            if atom.label.upper() == label.upper() and (atom.residue == wanted):
                return i
        raise ModelError(
            f"{instruction.name} names the atom {name}, which is not in the list: correct one of them"
        )

    found: list[int] = []
    pending = ""
    for name in names:
        if name in "<>":
            pending = name
        elif pending:
            first, last = found[-1], find(name)
            between = [i for i in heavy if min(first, last) < i < max(first, last)]
            found += [*(between if pending == ">" else between[::-1]), last]
            pending = ""
        elif name.startswith("$"):
            element = name[1:].partition("_")[0].capitalize()
            found += [i for i, s in enumerate(scatterers) if s.element_symbol() == element]
        else:
            found.append(find(name))
    return list(dict.fromkeys(found))


def set_anisotropic(
    structure: xray.structure,
    atoms: Sequence[AtomLine],
    instructions: Sequence[ModelInstruction],
) -> None:
    """Carry out ANIS: all isotropic atoms that follow but hydrogen, the next n, or those named.

    Raises:
        ModelError: for an atom that is not there.
    """
    scatterers = structure.scatterers()
    for instruction in instructions:
        if instruction.name != "ANIS":
            continue
        names = instruction.arguments
        following = [
            i
            for i, s in enumerate(scatterers)
            if i >= instruction.position and s.flags.use_u_iso() and s.element_symbol() != "H"
        ]
        if not names:
            chosen = following
        elif len(names) == 1 and names[0].lstrip("-").isdigit():
            chosen = following[: int(names[0])]
        else:
            chosen = atoms_named(instruction, names, atoms, structure)
        for i in chosen:
            if scatterers[i].flags.use_u_iso():
                refined = scatterers[i].flags.grad_u_iso()
                scatterers[i].convert_to_anisotropic(structure.unit_cell())
                scatterers[i].flags.set_grad_u_aniso(refined)
                scatterers[i].flags.set_grad_u_iso(False)


def cartesian(structure: xray.structure, i: int) -> np.ndarray:
    """Cartesian coordinates (3,) of an atom."""
    return np.array(structure.unit_cell().orthogonalize(structure.scatterers()[i].site))
