"""Deviations of a refinement from what is known to be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cctbx import adptbx, sgtbx, xray

from benchmarks.validation.perturb import SmoothRotation, turn_left
from dials_hybrid_refine.models.thickness.given import GivenThickness

#: standard uncertainties of mean and width, relative, up to which the data determine them
DETERMINED_MEAN = 0.03
DETERMINED_WIDTH = 0.15
#: the same of a component of the orientation correction, degrees
DETERMINED_TURN = 0.025


def refined_structure(summary: Mapping[str, Any], truth: xray.structure) -> xray.structure:
    """The atoms of the summary of a refinement (sites, U), in the order of the true ones.

    Raises:
        ValueError: if the atoms are not those of the truth.
    """
    atoms = {atom["label"]: atom for atom in summary["structure"]["atoms"]}
    if sorted(atoms) != sorted(s.label for s in truth.scatterers()):
        raise ValueError("the refined structure has other atoms than the true one")
    found = truth.deep_copy_scatterers()
    for scatterer in found.scatterers():
        atom = atoms[scatterer.label]
        scatterer.site = tuple(atom["site"])
        scatterer.flags.set_use_u(iso="u_iso" in atom, aniso="u_cif" in atom)
        if "u_iso" in atom:
            scatterer.u_iso = atom["u_iso"]
        else:
            scatterer.u_star = adptbx.u_cif_as_u_star(found.unit_cell(), atom["u_cif"])
    return found


def _free_directions(structure: xray.structure) -> NDArray[np.float64]:
    """Directions (k, 3) in fractional coordinates along which the origin is arbitrary."""
    seminvariants = structure.space_group_info().structure_seminvariants()
    free = [np.array(v.v, dtype=float) for v in seminvariants.vectors_and_moduli() if v.m == 0]
    return np.array(free).reshape(-1, 3)


def _nearest(
    found: xray.structure, truth: xray.structure, shift: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], sgtbx.rt_mx]]:
    """For each atom: equivalent of the found site minus shift nearest the true one, minus that one.

    As fractional coordinates (3,), with the operation that leads there.
    """
    nearest = []
    for atom, true in zip(found.scatterers(), truth.scatterers()):
        equivalents = truth.sym_equiv_sites(true.site)
        site = tuple(np.array(atom.site) - shift)
        operation = sgtbx.min_sym_equiv_distance_info(equivalents, site).sym_op()
        nearest.append((np.array(operation * site) - true.site, operation))
    return nearest


def _matched(
    found: xray.structure, truth: xray.structure
) -> list[tuple[NDArray[np.float64], sgtbx.rt_mx]]:
    """As ``_nearest``, the origin placed where the mean deviation along free directions is zero."""
    directions = _free_directions(truth)
    shift = np.zeros(3)
    pairs = _nearest(found, truth, shift)
    for _ in range(3 if len(directions) else 0):
        # no operation of the space group changes a free direction
        mean, *_ = np.linalg.lstsq(directions.T, np.mean([d for d, _ in pairs], axis=0), rcond=None)
        shift = shift + directions.T @ mean
        pairs = _nearest(found, truth, shift)
    return pairs


def _rotation(operation: sgtbx.rt_mx) -> NDArray[np.float64]:
    return np.array(operation.r().as_double()).reshape(3, 3)


def site_deviations(found: xray.structure, truth: xray.structure) -> dict[str, float]:
    """Distance in Angstrom of each atom from the true one or its nearest equivalent, by label.

    Equivalent by the space group and, in polar ones, a common shift along the free axes. Both
    structures have the same atoms in the same order, in the same setting.
    """
    cell = truth.unit_cell()
    return {
        scatterer.label: float(cell.length(tuple(difference)))
        for scatterer, (difference, _) in zip(truth.scatterers(), _matched(found, truth))
    }


def _u_cart(scatterer: xray.scatterer, cell: Any, turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """U (3, 3) in Cartesian axes, Angstrom^2, after a symmetry operation's rotation part."""
    if not scatterer.flags.use_u_aniso():
        return scatterer.u_iso * np.eye(3)
    u11, u22, u33, u12, u13, u23 = scatterer.u_star
    u_star = np.array([[u11, u12, u13], [u12, u22, u23], [u13, u23, u33]])
    to_cartesian = np.array(cell.orthogonalization_matrix()).reshape(3, 3) @ turn
    return to_cartesian @ u_star @ to_cartesian.T


def displacement_deviations(found: xray.structure, truth: xray.structure) -> dict[str, float]:
    """|U - U_true| / |U_true| of each atom (Frobenius norms of Cartesian tensors), by label."""
    cell = truth.unit_cell()
    deviations = {}
    for atom, true, (_, op) in zip(found.scatterers(), truth.scatterers(), _matched(found, truth)):
        true_u = _u_cart(true, cell, np.eye(3))
        difference = _u_cart(atom, cell, _rotation(op)) - true_u
        deviations[true.label] = float(np.linalg.norm(difference) / np.linalg.norm(true_u))
    return deviations


def mean_and_largest(
    deviations: Mapping[str, float], truth: xray.structure
) -> dict[str, float | None]:
    """Mean and largest over atoms other than hydrogen, and the largest over hydrogen atoms."""
    hydrogen = {s.label for s in truth.scatterers() if s.element_symbol() in ("H", "D")}
    heavy = [d for label, d in deviations.items() if label not in hydrogen]
    light = [d for label, d in deviations.items() if label in hydrogen]
    return {
        "mean": float(np.mean(heavy)),
        "largest": max(heavy),
        "largest_hydrogen": max(light, default=None),
    }


def orientation_deviations(
    entries: Sequence[Mapping[str, Any]], turn: SmoothRotation
) -> dict[str, float | int | None]:
    """Rms and largest angle in degrees that the correction leaves of a turn.

    And those of the components that the data determine: by the program's own standard uncertainties
    below DETERMINED_TURN. None: there are none.

    Args:
        entries: "orientation" of the summary.
    """
    left = turn_left([e["correction"] for e in entries], turn.at([e["phi"] for e in entries]))
    angles = np.linalg.norm(left, axis=1)
    known = left[np.array([e["correction_su"] for e in entries]) < DETERMINED_TURN]
    return {
        "rms": _rms(angles),
        "largest": float(angles.max()),
        "rms_determined": _rms(known),
        "largest_determined": float(np.abs(known).max()) if len(known) else None,
        "n_determined": len(known),
        "n": left.size,
    }


def thickness_deviations(
    entries: Sequence[Mapping[str, Any]], truth: GivenThickness
) -> dict[str, float | int | None]:
    """Relative rms deviations of mean and width of the thickness along the scan.

    Over all angles, and over those that the data determine: by the program's own standard
    uncertainties below DETERMINED_MEAN and DETERMINED_WIDTH of the true value. None: no such angle.

    Args:
        entries: "thickness" of the summary.
    """
    phi = torch.tensor([e["phi"] for e in entries], dtype=torch.float64)
    given = truth(torch.zeros(len(phi), dtype=torch.int64), phi)
    figures: dict[str, float | int | None] = {"n": len(entries)}
    for name, key, true, limit in (
        ("mean", "mean", given.mean().numpy(), DETERMINED_MEAN),
        ("width", "std", given.standard_deviation().numpy(), DETERMINED_WIDTH),
    ):
        relative = np.array([e[key] for e in entries]) / true - 1
        su = [e.get(f"{key}_su") for e in entries]
        known = np.array([s is not None and s < limit * t for s, t in zip(su, true)])
        figures[name] = _rms(relative)
        figures[f"{name}_determined"] = _rms(relative[known])
        figures[f"n_{name}_determined"] = int(known.sum())
    return figures


def _rms(values: NDArray[np.float64]) -> float | None:
    return float(np.sqrt(np.mean(values**2))) if len(values) else None
