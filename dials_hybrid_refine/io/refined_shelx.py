"""The refined model and its data as SHELX files (.res and .hkl).

Formats: SHELX-97 manual (Sheldrick 1997), chapters 2 and 7, and SHELXL's online reference; Sheldrick
(2015), Acta Cryst. C71, 3-8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctbx import adptbx, xray
from smtbx.refinement.constraints.adp import shared_u
from smtbx.refinement.constraints.site import shared_site

from dials_hybrid_refine import __version__
from dials_hybrid_refine.io.formula import formula_of
from dials_hybrid_refine.io.kinematical_intensities import KinematicalIntensities
from dials_hybrid_refine.io.shelx_atom_order import AtomPlace, place_atoms
from dials_hybrid_refine.io.shelx_free_variables import free_variables
from dials_hybrid_refine.io.shelx_lines import remark, wrapped
from dials_hybrid_refine.io.shelx_restraint_lines import ShelxRestraints, shelx_restraints
from dials_hybrid_refine.io.shelx_scattering import sfac_lines
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.refined_flags import in_effect
from dials_hybrid_refine.models.restraints.request import RestraintRequest

#: the largest number of format F8.2
_LARGEST = 99999.99
_FIXED = 10.0
_REMARKS = f"""\
Model of dials.hybrid_refine {__version__}, refined with dynamical theory.
SFAC: electron scattering factors of Lobato & Van Dyck (2014), fitted by
four Gaussians and a constant. The .hkl file of the same run holds
|Fc|^2 Io/Ic, intensities freed of dynamical effects as far as this model
explains them. Kinematical refinement against it serves for maps, geometry
and tests of the model; its R factors and s.u. are not those of the
dynamical refinement."""


@dataclass(frozen=True)
class ShelxModel:
    """What a .res file states.

    Attributes:
        structure: refined; a gradient flag that is not set makes a fixed parameter.
        wavelength: in Angstrom.
        cell_su: s.u. of a, b, c (Angstrom), alpha, beta, gamma (degrees), or None.
        constraints: of ``smtbx.refinement.constraints``, as they were refined with.
        disorder: alternatives, which become PART.
        restraints: by the labels of the structure.
        overall_scale: FVAR(1).
    """

    structure: xray.structure
    wavelength: float
    cell_su: Sequence[float] | None = None
    constraints: Sequence[Any] = ()
    disorder: Disorder = Disorder()
    restraints: Sequence[RestraintRequest] = ()
    overall_scale: float = 1.0


def check_shelx(structure: xray.structure) -> None:
    """Whether SHELX can hold a structure.

    Raises:
        ValueError: for a centrosymmetric structure whose origin is not on a centre of symmetry.
    """
    group = structure.space_group()
    if group.is_centric() and not group.is_origin_centric():
        raise ValueError(
            f"SHELX wants the origin on a centre of symmetry, which {structure.space_group_info()} "
            "has not: give the structure in the other origin choice, or output.res=None"
        )


def shelx_names(structure: xray.structure) -> list[str]:
    """Names of at most four characters that differ in more than case: the labels where they are so.

    Other atoms are called by their element and the first number that is free.
    """
    labels = [scatterer.label.strip() for scatterer in structure.scatterers()]
    upper = [label.upper() for label in labels]
    good = [
        len(label) <= 4 and label.isalnum() and label[0].isalpha() and upper.index(u) == i
        for i, (label, u) in enumerate(zip(labels, upper))
    ]
    taken = {u for u, is_good in zip(upper, good) if is_good}
    names = []
    for scatterer, label, is_good in zip(structure.scatterers(), labels, good):
        if not is_good:
            element = scatterer.element_symbol()
            label = next(
                name for n in range(1, 1000) if (name := f"{element}{n}").upper() not in taken
            )
            taken.add(label.upper())
        names.append(label)
    return names


def shelx_text(model: ShelxModel) -> str:
    """The .res file.

    Raises:
        ValueError: see ``check_shelx``.
    """
    check_shelx(model.structure)
    return "\n".join([*_header(model), *_body(model), "HKLF 4", "END"]) + "\n"


def _header(model: ShelxModel) -> Iterator[str]:
    structure = model.structure
    group = structure.space_group()
    yield f"TITL hybrid_refined in {structure.space_group_info()}"
    yield from (f"REM {line}" for line in _REMARKS.splitlines())
    for scatterer, name in zip(structure.scatterers(), shelx_names(structure)):
        if name != scatterer.label.strip():
            yield f"REM {name} is the atom {scatterer.label.strip()} of the CIF"
    cell = " ".join(f"{v:.5f}" for v in structure.unit_cell().parameters())
    yield f"CELL {model.wavelength:.6f} {cell}"
    su = " ".join(f"{v:.5f}" for v in model.cell_su or [0.0] * 6)
    yield f"ZERR {formula_of(structure).z} {su}"
    lattice = 1 + "PIRFABC".index(group.conventional_centring_type_symbol())
    yield f"LATT {lattice if group.is_centric() else -lattice}"
    for i in range(1, group.n_smx()):
        yield f"SYMM {group(0, 0, i).as_xyz().upper()}"
    content = structure.unit_cell_content()
    for element in elements_of(structure):
        yield from sfac_lines(element)
    yield "UNIT " + " ".join(f"{content[element]:g}" for element in elements_of(structure))


def elements_of(structure: xray.structure) -> list[str]:
    """The elements in the order of SFAC: C and H first."""
    found = {scatterer.element_symbol() for scatterer in structure.scatterers()}
    return sorted(found, key=lambda e: (e != "C", e != "H", e))


def _body(model: ShelxModel) -> Iterator[str]:
    """Instructions for the refinement, and the atoms."""
    yield from ("L.S. 10", "BOND", "FMAP 2", "PLAN 20", "WGHT 0 0")
    names = shelx_names(model.structure)
    restraints = _restraints(model)
    constraints = in_effect(model.structure, model.constraints)
    variables = free_variables(model.structure, constraints)
    places, notes = place_atoms(model.structure, constraints, model.disorder)
    for note in (*restraints.notes, *notes):
        yield from remark(note)
    equalities = _equalities(constraints, names)
    for instruction in (*restraints.lines, *equalities, *variables.sums):
        yield from wrapped(instruction)
    numbers = " ".join(f"{value:.6f}" for value in (model.overall_scale, *variables.values))
    yield from wrapped(f"FVAR {numbers}")
    for place in places:
        yield from place.before
        yield from _atom(model.structure, names[place.index], place, variables.codes)
    instructions = [line.split() for place in places for line in place.before]
    for name in ("AFIX", "PART"):  # what is still open
        if [words[1] for words in instructions if words[0] == name][-1:] not in ([], ["0"]):
            yield f"{name} 0"


def _restraints(model: ShelxModel) -> ShelxRestraints:
    names = shelx_names(model.structure)
    return shelx_restraints(model.structure, names, model.restraints, model.disorder)


def shelx_notes(model: ShelxModel) -> list[str]:
    """Sentences on what was refined otherwise than the file can say; it has them as remarks."""
    constraints = in_effect(model.structure, model.constraints)
    _, notes = place_atoms(model.structure, constraints, model.disorder)
    return [*_restraints(model).notes, *notes]


def _equalities(constraints: Sequence[Any], names: Sequence[str]) -> Iterator[str]:
    """Atoms with common coordinates or U."""
    for constraint in constraints:
        for kind, instruction in ((shared_site, "EXYZ"), (shared_u, "EADP")):
            if isinstance(constraint, kind):
                yield " ".join([instruction, *(names[i] for i in constraint.indices)])


def _atom(
    structure: xray.structure, name: str, place: AtomPlace, occupancies: Mapping[int, float]
) -> Iterator[str]:
    scatterer = structure.scatterers()[place.index]
    flags = scatterer.flags
    number = 1 + elements_of(structure).index(scatterer.element_symbol())
    site_code = 0.0 if flags.grad_site() else _FIXED
    site = " ".join(f"{x + site_code:11.6f}" for x in scatterer.site)
    plain = scatterer.weight() + (0.0 if flags.grad_occupancy() else _FIXED)
    occupancy = occupancies.get(place.index, plain)
    start = f"{name:<4} {number:2d} {site} {occupancy:11.6f}"
    if not flags.use_u_aniso():
        fixed = 0.0 if flags.grad_u_iso() else _FIXED
        u = scatterer.u_iso + fixed if place.multiplier is None else -place.multiplier
        yield f"{start} {u:.5f}"
        return
    fixed = 0.0 if flags.grad_u_aniso() else _FIXED
    cif = adptbx.u_star_as_u_cif(structure.unit_cell(), scatterer.u_star)
    u11, u22, u33, u12, u13, u23 = (value + fixed for value in cif)
    yield f"{start} {u11:.5f} {u22:.5f} ="
    yield f"     {u33:.5f} {u23:.5f} {u13:.5f} {u12:.5f}"


def hkl_factor(data: KinematicalIntensities) -> float:
    """The power of ten that brings intensities into format F8.2 with most digits."""
    largest = float(max(np.abs(data.intensity).max(), data.sigma.max()))
    if not largest > 0:
        return 1.0
    return float(10.0 ** math.floor(math.log10(_LARGEST / largest)))


def write_hkl(data: KinematicalIntensities, path: str) -> None:
    """Write intensities times ``hkl_factor`` in SHELX's format HKLF 4."""
    factor = hkl_factor(data)
    with open(path, "w") as stream:
        data.intensities(factor).export_as_shelx_hklf(file_object=stream)
