"""The refined model and its data as SHELX files (.res and .hkl).

Formats: SHELX-97 manual (Sheldrick 1997), chapters 2 and 7, and SHELXL's online reference; Sheldrick
(2015), Acta Cryst. C71, 3-8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctbx import adptbx, xray
from smtbx.refinement.constraints.adp import u_iso_proportional_to_pivot_u_eq

from dials_hybrid_refine import __version__
from dials_hybrid_refine.io.formula import formula_of
from dials_hybrid_refine.io.kinematical_intensities import KinematicalIntensities
from dials_hybrid_refine.io.shelx_scattering import sfac_lines

#: numbers of AFIX by the names of smtbx's constraints (``iotbx.shelx.parsers.afix_parser``)
_AFIX = {
    "tertiary_xh_site": 1,
    "secondary_xh2_sites": 2,
    "staggered_terminal_tetrahedral_xh3_sites": 3,
    "secondary_planar_xh_site": 4,
    "staggered_terminal_tetrahedral_xh_site": 8,
    "terminal_planar_xh2_sites": 9,
    "terminal_tetrahedral_xh3_sites": 13,
    "terminal_tetrahedral_xh_site": 14,
    "polyhedral_bh_site": 15,
    "terminal_linear_ch_site": 16,
}
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
        constraints: of ``smtbx.refinement.constraints``; riding atoms become AFIX.
        instructions: further lines before the list of atoms: restraints, and constraints
            that are instructions of their own. Names of atoms: ``shelx_names``.
        overall_scale: FVAR(1).
    """

    structure: xray.structure
    wavelength: float
    cell_su: Sequence[float] | None = None
    constraints: Sequence[Any] = ()
    instructions: Sequence[str] = ()
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
    """Instructions for the refinement, and the atoms with their AFIX."""
    yield from ("L.S. 10", "BOND", "FMAP 2", "PLAN 20", "WGHT 0 0")
    yield from model.instructions
    yield f"FVAR {model.overall_scale:.6f}"
    starts, ends = _riding_groups(model.constraints)
    names = shelx_names(model.structure)
    pivot = None
    for i, name in enumerate(names):
        yield from starts.get(i, ())
        multiplier = _multiplier(model.constraints, i, pivot)
        yield from _atom(model.structure, i, name, multiplier)
        if multiplier is None:
            pivot = i
        if i in ends:
            yield "AFIX 0"


def _riding_groups(constraints: Sequence[Any]) -> tuple[dict[int, list[str]], set[int]]:
    """The line AFIX by the first atom of each group of riding atoms, and the last atoms."""
    starts: dict[int, list[str]] = {}
    ends: set[int] = set()
    for constraint in constraints:
        m = _AFIX.get(type(constraint).__name__)
        if m is None:
            continue
        members = constraint.constrained_site_indices
        n = {(False, False): 3, (True, False): 7, (False, True): 4, (True, True): 8}[
            bool(constraint.rotating), bool(constraint.stretching)
        ]
        length = "" if constraint.bond_length is None else f" {constraint.bond_length:g}"
        starts[members[0]] = [f"AFIX {10 * m + n}{length}"]
        ends.add(members[-1])
    return starts, ends


def _multiplier(constraints: Sequence[Any], i: int, pivot: int | None) -> float | None:
    """U_iso of atom i in units of U_eq of the last atom with a U of its own, where so constrained."""
    for constraint in constraints:
        if isinstance(constraint, u_iso_proportional_to_pivot_u_eq) and (
            (constraint.u_iso_scatterer_idx, constraint.u_eq_scatterer_idx) == (i, pivot)
        ):
            return float(constraint.multiplier)
    return None


def _atom(structure: xray.structure, i: int, name: str, multiplier: float | None) -> Iterator[str]:
    scatterer = structure.scatterers()[i]
    flags = scatterer.flags
    number = 1 + elements_of(structure).index(scatterer.element_symbol())
    site_code = 0.0 if flags.grad_site() else _FIXED
    site = " ".join(f"{x + site_code:11.6f}" for x in scatterer.site)
    occupancy = scatterer.weight() + (0.0 if flags.grad_occupancy() else _FIXED)
    start = f"{name:<4} {number:2d} {site} {occupancy:11.6f}"
    if not flags.use_u_aniso():
        fixed = 0.0 if flags.grad_u_iso() else _FIXED
        u = scatterer.u_iso + fixed if multiplier is None else -multiplier
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
