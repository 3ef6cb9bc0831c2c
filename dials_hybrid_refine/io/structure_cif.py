"""CIF (core, magnetic and macromolecular) to a structure.

Symmetry and atoms are taken from the data items here rather than by iotbx's builders, which
choose between symmetry operations and names differently from release to release and pass over
questionable items in silence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import pi
from typing import Any

from cctbx import adptbx, crystal, sgtbx

from dials_hybrid_refine.io.cif_syntax import Items, parse_cif
from dials_hybrid_refine.io.modulation import sign_of_modulation
from dials_hybrid_refine.io.structure_atoms import (
    Atom,
    LoadedStructure,
    ModelError,
    build_structure,
    check_amount,
    element_of_label,
    element_of_type,
    make_symmetry,
    replaced_types,
    some,
)
from dials_hybrid_refine.io.structure_mmcif import as_core_items, is_macromolecular
from dials_hybrid_refine.models.connectivity import Disorder

_OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
_MAGNETIC_OPERATIONS = (
    "_space_group_symop_magn_operation_xyz",
    "_space_group_symop_magn_centering_xyz",
)
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_HERMANN_MAUGUIN = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
)
_NUMBER = ("_space_group_it_number", "_symmetry_int_tables_number")
_CELL = tuple(f"_cell_length_{x}" for x in "abc") + tuple(
    f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")
)
_ORDER = ("11", "22", "33", "12", "13", "23")
#: more than one value each: the crystal of the file is a twin
_TWIN = ("_twin_individual_id", "_twin_individual_mass_fraction_refined")


def read_cif(text: str, data_block: str | None = None) -> LoadedStructure:
    """The structure in the one data block of a CIF that has atoms, or in the one that is named.

    Raises:
        ModelError: if there is no such block, or several, or what it says cannot be used.
    """
    items = parse_cif(text)
    chosen = [name for name, block in items.items() if _has_atoms(block)]
    if data_block is not None:
        if data_block not in chosen:
            raise ModelError(
                f"there is no data block {data_block!r} with atoms, only {some(chosen) or 'none'}: "
                "correct structure.data_block"
            )
        chosen = [data_block]
    if not chosen:
        raise ModelError("no atoms were found: give a file with the structure's atomic coordinates")
    if len(chosen) > 1:
        raise ModelError(
            f"several data blocks hold atoms ({some(chosen)}): "
            f"name the one to be used, as in structure.data_block={chosen[0]}"
        )
    found = items[chosen[0]]
    return _structure(as_core_items(found) if is_macromolecular(found) else found)


def _has_atoms(items: Items) -> bool:
    columns = (items.get("_atom_site_fract_x"), items.get("_atom_site_cartn_x"))
    return any(any(v not in ".?" for v in column) for column in columns if column)


def _first(items: Items, names: Sequence[str]) -> str | None:
    for name in names:
        for value in items.get(name, [])[:1]:
            if value.strip() not in ("", ".", "?"):
                return value.strip()
    return None


def _number(text: str, name: str) -> float | None:
    """A number with or without its standard uncertainty; None for . and ?."""
    if text.strip() in (".", "?"):
        return None
    try:
        return float(re.sub(r"\(\d*\)?$", "", text.strip()))
    except ValueError:
        raise ModelError(
            f"{name} has the value {text!r}, which is not a number: correct it"
        ) from None


def _numbers(items: Items, name: str) -> list[float | None] | None:
    return [_number(v, name) for v in items[name]] if name in items else None


def _cell(items: Items) -> list[float]:
    values = [_number(_first(items, [name]) or "?", name) for name in _CELL]
    missing = [name for name, value in zip(_CELL, values) if value is None]
    if missing:
        raise ModelError(f"the unit cell is not complete: add {some(missing)}")
    return [value for value in values if value is not None]


def _cell_su(items: Items) -> tuple[float, ...]:
    """Standard uncertainties of the cell, from parentheses; 0 where there are none."""
    found = []
    for name in _CELL:
        match = re.fullmatch(r"[-+]?\d*(\.\d*)?\((\d+)\)", _first(items, [name]) or "")
        digits = len(match[1] or ".") - 1 if match else 0
        found.append(int(match[2]) * 10.0**-digits if match else 0.0)
    return tuple(found)


def _group_of_operations(operations: Sequence[str]) -> Any:
    group = sgtbx.space_group()
    for operation in operations:
        try:
            group.expand_smx(sgtbx.rt_mx(operation))
        except (RuntimeError, ValueError):
            raise ModelError(
                f"the symmetry operation {operation!r} is not understood or does not go with "
                "the others: correct it"
            ) from None
    return group


def _named_groups(items: Items) -> dict[str, Any]:
    """Space groups by the name they are given in the file; names not understood are left out."""
    groups = {}
    makers = (
        (_HALL, lambda name: sgtbx.space_group(name)),
        (_HERMANN_MAUGUIN, lambda name: sgtbx.space_group_info(symbol=name).group()),
        (_NUMBER, lambda name: sgtbx.space_group_info(number=int(name)).group()),
    )
    for names, make in makers:
        name = _first(items, names)
        if name is None:
            continue
        try:
            groups[name] = make(name)
        except (RuntimeError, ValueError):
            continue
    return groups


def _space_group(items: Items) -> tuple[Any, list[str]]:
    """The space group and warnings: operations, else Hall, Hermann-Mauguin symbol, number."""
    operations: list[str] = next((items[n] for n in _OPERATIONS if n in items), [])
    if not operations:  # magnetic: the last entry is time reversal, which electrons do not see
        magnetic = [v for n in _MAGNETIC_OPERATIONS for v in items.get(n, [])]
        operations = [value.rpartition(",")[0] for value in magnetic]
    named = _named_groups(items)
    group = _group_of_operations(operations) if operations else next(iter(named.values()), None)
    if group is None:
        raise ModelError("no symmetry was found: add the space group or its symmetry operations")
    symbol = _first(items, _HERMANN_MAUGUIN)
    if not operations and symbol is not None and list(named) == [_first(items, _NUMBER)]:
        raise ModelError(
            f"the space group symbol {symbol!r} is not understood, and the number does not tell the "
            "setting: add the symmetry operations"
        )
    number, info = group.type().number(), group.info()
    for name, other in named.items():
        if other.type().number() != number:
            raise ModelError(
                f"the symmetry is inconsistent: the space group is called {name}, but "
                f"{'the symmetry operations make' if operations else 'another item says'} {info} "
                f"({number}): correct one of them, the hand of the structure may depend on it"
            )
    if operations:
        return group, []
    if group.conventional_centring_type_symbol() == "R" and abs(_cell(items)[5] - 120) > 1:
        info = info.primitive_setting()  # an R group's name often does not state its axes
        group = info.group()
    if list(named) == [_first(items, _NUMBER)]:
        return group, [
            f"only the number of the space group is given: the setting {info} is assumed"
        ]
    return group, []


def _displacements(items: Items, labels: list[str], symmetry: crystal.symmetry) -> list[Any]:
    """U* of each atom, or None where the file has no complete anisotropic entry."""
    given = items.get("_atom_site_aniso_label", labels)
    for kind, to_u_star in (
        ("u", lambda v: adptbx.u_cif_as_u_star(symmetry.unit_cell(), v)),
        ("b", lambda v: adptbx.u_cif_as_u_star(symmetry.unit_cell(), adptbx.b_as_u(v))),
        ("beta", adptbx.beta_as_u_star),
        ("ucart", lambda v: adptbx.u_cart_as_u_star(symmetry.unit_cell(), v)),
    ):
        columns = [_numbers(items, f"_atom_site_aniso_{kind}_{ij}") for ij in _ORDER]
        if all(column is not None and len(column) == len(given) for column in columns):
            break
    else:
        return [None] * len(labels)
    rows = list(zip(*[column for column in columns if column is not None]))
    tensors = [None if None in row else to_u_star(row) for row in rows]
    if given == labels:
        return tensors
    by_label = dict(zip(reversed(given), reversed(tensors)))
    return [by_label.get(label) for label in labels]


def _isotropic(items: Items, n: int) -> list[float | None]:
    values: list[float | None] = [None] * n
    for kind, factor in (("u", 1.0), ("b", 1 / (8 * pi**2))):
        for name in (f"_atom_site_{kind}_iso_or_equiv", f"_atom_site_{kind}_equiv_geom_mean"):
            for i, value in enumerate((_numbers(items, name) or [])[:n]):
                if values[i] is None and value is not None:
                    values[i] = value * factor
    return values


def _sites(items: Items, symmetry: crystal.symmetry) -> list[tuple[float, float, float]]:
    """Fractional coordinates, NaN where the file states none."""
    fractional = "_atom_site_fract_x" in items
    stem = "_atom_site_fract_" if fractional else "_atom_site_cartn_"
    columns = [_numbers(items, stem + x) for x in "xyz"]
    if None in columns:
        raise ModelError(f"coordinates are missing: {stem}x, y and z are all needed")
    rows = zip(*[column for column in columns if column is not None])
    sites = [(_or_nan(x), _or_nan(y), _or_nan(z)) for x, y, z in rows]
    return sites if fractional else [symmetry.unit_cell().fractionalize(s) for s in sites]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _elements(items: Items, labels: list[str]) -> tuple[list[str], list[str]]:
    """The element of each atom, and warnings."""
    symbols = items.get("_atom_site_type_symbol")
    if symbols is None or all(s in ".?" for s in symbols):
        return [element_of_label(label) for label in labels], []
    types = {symbol: element_of_type(symbol) for symbol in dict.fromkeys(symbols)}
    return [types[symbol] for symbol in symbols], replaced_types(types)


def _check_multiplicities(items: Items, loaded: LoadedStructure) -> list[str]:
    stated = _numbers(items, "_atom_site_site_symmetry_multiplicity")
    scatterers = loaded.structure.scatterers()
    if stated is None or len(stated) != len(scatterers):
        return []
    differ = [
        f"{s.label} ({m:g} in the file, {s.multiplicity()} from its coordinates)"
        for s, m in zip(scatterers, stated)
        if m is not None and m != s.multiplicity()
    ]
    if not differ:
        return []
    return [f"the multiplicity of these sites differs, check their coordinates: {some(differ)}"]


def _structure(items: Items) -> LoadedStructure:
    sign = sign_of_modulation(items)
    if sign is not None:
        raise ModelError(
            f"the structure is modulated or a composite ({sign}), which cannot be refined: give a "
            "structure with three-dimensional symmetry"
        )
    group, warnings = _space_group(items)
    symmetry = make_symmetry(_cell(items), group)
    sites = _sites(items, symmetry)
    n = len(sites)
    check_amount(n, symmetry)
    labels = items.get("_atom_site_label") or items.get("_atom_site_id")
    if labels is None:
        symbols = items.get("_atom_site_type_symbol", ["X"] * n)
        labels = [f"{symbol}{i}" for i, symbol in enumerate(symbols, 1)]
    elements, replaced = _elements(items, labels)
    occupancies = _numbers(items, "_atom_site_occupancy") or [1.0] * n
    anisotropic, isotropic = _displacements(items, labels, symmetry), _isotropic(items, n)
    u = [
        iso if aniso is None or not any(aniso) else aniso
        for aniso, iso in zip(anisotropic, isotropic)
    ]
    kinds = items.get("_atom_site_adp_type") or items.get("_atom_site_thermal_displace_type")
    if kinds is not None:
        lost = [
            x
            for x, kind, value in zip(labels, kinds, anisotropic)
            if kind.lower() == "uani" and value is None
        ]
        if lost:
            warnings.append(
                f"{some(lost)} should be anisotropic, but have no U_ij: isotropic is assumed"
            )
    flags = items.get("_atom_site_calc_flag", ["."] * n)
    atoms = [
        Atom(label, element, site, 1.0 if occupancy is None else occupancy, value or None)
        for label, element, site, occupancy, value, flag in zip(
            labels, elements, sites, occupancies, u, flags
        )
        if flag != "dum"
    ]
    if not atoms:
        raise ModelError("all atoms are dummies: give a file with real ones")
    if any(len(items.get(name, [])) > 1 for name in _TWIN):
        warnings.append(
            "the file is of a twin: the crystal that is refined is taken for a single one"
        )
    loaded = build_structure(symmetry, atoms)
    real = [i for i, flag in enumerate(flags) if flag != "dum"]
    warnings += replaced + _check_multiplicities(items, loaded) + _missing_hydrogens(items, labels)
    return replace(
        loaded,
        disorder=_disorder(items, real),
        riding=_riding(items, loaded, real),
        cell_su=_cell_su(items),
        warnings=(*warnings, *loaded.warnings),
    )


def _disorder(items: Items, real: Sequence[int]) -> Disorder:
    """Alternatives: a negative number marks those that symmetry takes onto each other."""
    groups = items.get("_atom_site_disorder_group") or items.get("_atom_site_label_alt_id")
    if groups is None or all(group in (".", "?", "") for group in groups):
        return Disorder()
    names = sorted({g for g in groups if g not in (".", "?", "") and not g.startswith("-")})
    return Disorder(
        tuple(names.index(groups[i]) + 1 if groups[i] in names else 0 for i in real),
        tuple(abs(int(g)) if re.fullmatch(r"-\d+", g := groups[i]) else 0 for i in real),
    )


def _riding(items: Items, loaded: LoadedStructure, real: Sequence[int]) -> tuple[int, ...]:
    """Hydrogen atoms that were calculated or rode in the refinement that wrote the file."""
    none = ["."] * (max(real) + 1)
    calculated = items.get("_atom_site_calc_flag", none)
    refinement = [
        items.get(f"_atom_site_refinement_flags{suffix}", none) for suffix in ("_posn", "")
    ]
    return tuple(
        k
        for k, i in enumerate(real)
        if loaded.structure.scatterers()[k].element_symbol() == "H"
        and (calculated[i] in ("calc", "c") or any("R" in flags[i] for flags in refinement))
    )


def _missing_hydrogens(items: Items, labels: Sequence[str]) -> list[str]:
    """Atoms of which the file says that they bear hydrogen without stating its coordinates."""
    numbers = items.get("_atom_site_attached_hydrogens", [])
    bearing = [label for label, n in zip(labels, numbers) if re.fullmatch(r"[1-9]\d*", n)]
    if not bearing or any(s.startswith("H") for s in items.get("_atom_site_type_symbol", [])):
        return []
    return [
        f"hydrogen atoms attached to {some(bearing)} have no coordinates and are left out: add them, "
        "or let structure.hydrogens=generate do so where it can"
    ]
