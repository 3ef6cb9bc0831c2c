"""True structures of the data sets, and starts away from them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cctbx import crystal, xray
from cctbx.array_family import flex

from benchmarks.validation.rows import Dataset, Start
from dials_hybrid_refine.io.cif_syntax import parse_cif
from dials_hybrid_refine.io.structure import read_structure

#: cell of the molecular crystal (Angstrom, degrees), rotation vector (radians) and place (fractional)
#: of the molecule: no atoms of neighbours come closer than 0.97 of their van der Waals distance
_CELL = (6.2, 7.4, 7.3, 90.0, 104.0, 90.0)
_TURN = (-1.01, 1.65, 0.93)
_PLACE = (0.31, 0.0, 0.11)


def package_file(name: str) -> Path:
    """A file that the package ships as data."""
    return Path(str(resources.files("dials_hybrid_refine") / "data" / name))


def source_files(dataset: Dataset, start: Start, paper: Path) -> list[Path]:
    """Files that the structures of a row are read from."""
    if start.file != "truth":
        return [paper / dataset.crystal / start.file]
    if dataset.crystal == "quartz":
        return [package_file("quartz_demo.cif")]
    return [paper / "cspbbr3" / "reference.cif"] if dataset.crystal == "cspbbr3" else []


def true_structure(dataset: Dataset, paper: Path) -> xray.structure:
    """What is true (synthetic, simulated) or the structure from X-rays (measured).

    Of synthetic data of the paper the sites alone are true: the displacement parameters are
    those of the authors' first start.
    """
    if dataset.table == "synthetic":
        assert dataset.pets is not None
        first = read_structure(paper / dataset.crystal / "synthetic_start_1.cif").structure
        return _with_sites_of(first, paper / dataset.pets)
    if dataset.crystal == "molecule":
        return nitrobenzene()
    if dataset.crystal == "quartz":
        return read_structure(package_file("quartz_demo.cif")).structure
    return read_structure(paper / "cspbbr3" / "reference.cif").structure


def start_structure(dataset: Dataset, start: Start, paper: Path) -> xray.structure:
    """The structure that a refinement starts from."""
    truth = true_structure(dataset, paper)
    if start.file == "truth":
        structure = truth.deep_copy_scatterers()
    else:
        structure = read_structure(paper / dataset.crystal / start.file).structure
    if start.displacement:
        for scatterer, true in zip(structure.scatterers(), truth.scatterers()):
            scatterer.site = true.site
        structure = displaced(structure, start.displacement, start.seed)
    for scatterer in structure.scatterers():
        if scatterer.flags.use_u_aniso():
            scatterer.u_star = tuple(start.u_factor * u for u in scatterer.u_star)
        else:
            scatterer.u_iso *= start.u_factor
    return structure


def displaced(structure: xray.structure, distance: float, seed: int) -> xray.structure:
    """A copy, its atoms moved in random directions as far as their site symmetry allows.

    Args:
        distance: mean over the atoms that are free to move, in Angstrom.
        seed: of the directions.
    """
    moved = structure.deep_copy_scatterers()
    random = flex.mersenne_twister(seed=seed).random_double
    moved.shake_sites_in_place(mean_distance=distance, random_double=random)
    return moved


def _with_sites_of(structure: xray.structure, pets: Path) -> xray.structure:
    """A copy with the sites of the atom list of a synthetic PETS2 file.

    Raises:
        ValueError: if its atoms are others.
    """
    (items,) = (
        block for block in parse_cif(pets.read_text()).values() if "_atom_site_label" in block
    )
    columns = [items[f"_atom_site_fract_{axis}"] for axis in "xyz"]
    sites = dict(zip(items["_atom_site_label"], zip(*columns)))
    copy = structure.deep_copy_scatterers()
    if sorted(sites) != sorted(s.label for s in copy.scatterers()):
        raise ValueError(f"{pets.name} lists other atoms than synthetic_start_1.cif")
    for scatterer in copy.scatterers():
        scatterer.site = tuple(map(float, sites[scatterer.label]))
    copy.apply_symmetry_sites()
    return copy


def nitrobenzene() -> xray.structure:
    """Nitrobenzene from mean bond lengths (International Tables C, 9.5) in an invented P 21 packing.

    The space group is polar. C-C 1.39, C-H 1.08, C-N 1.47, N-O 1.22 Angstrom, O-N-O 124 degrees.
    """
    angles = np.radians(60.0 * np.arange(6))
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], axis=1)
    half = np.radians(62.0)
    nitrogen = np.array([1.39 + 1.47, 0.0, 0.0])
    oxygen = [nitrogen + 1.22 * np.array([np.cos(half), s * np.sin(half), 0.0]) for s in (1, -1)]
    cartesian = np.vstack([1.39 * circle, 2.47 * circle[1:], [nitrogen], oxygen])
    cartesian -= cartesian[[0, 1, 2, 3, 4, 5, 11, 12, 13]].mean(axis=0)
    elements = ["C"] * 6 + ["H"] * 5 + ["N", "O", "O"]
    symmetry = crystal.symmetry(_CELL, space_group_symbol="P 1 21 1")
    structure = xray.structure(crystal.special_position_settings(symmetry))
    placed = Rotation.from_rotvec(_TURN).apply(cartesian)
    for i, (element, position) in enumerate(zip(elements, placed)):
        site = np.array(symmetry.unit_cell().fractionalize(tuple(position))) + _PLACE
        u_iso = {"H": 0.045, "O": 0.040}.get(element, 0.030)
        structure.add_scatterer(
            xray.scatterer(f"{element}{i + 1}", tuple(site), u_iso, scattering_type=element)
        )
    return structure
