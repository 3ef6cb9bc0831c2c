"""What symmetry and hand of a crystal demand of its many-beam intensities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from examples import (
    Array,
    inverted,
    quartz_structure,
    reciprocal_basis,
    still_intensities,
    triclinic_structure,
)
from numpy.typing import NDArray

from cctbx import xray

from dials_hybrid_refine.models.structure import composition_of

Intensities = dict[tuple[int, int, int], float]
THICKNESS = 450.0
ORIENTATION = (0.4, -0.7, 1.1)


def basis_of_quartz() -> Array:
    return reciprocal_basis(quartz_structure(), ORIENTATION)


def relabelled(found: Intensities, matrix: NDArray[np.int64]) -> Intensities:
    return {tuple((matrix @ h).tolist()): value for h, value in found.items()}


def largest_difference(one: Intensities, other: Intensities) -> float:
    """Of the same beams, relative to the strongest."""
    assert one.keys() == other.keys()
    return max(abs(one[h] - other[h]) for h in one) / max(one.values())


def test_equivalent_orientations_give_equivalent_intensities() -> None:
    """Turned by an operation x -> R x of its point group a crystal looks the same.

    g = A h = (A R^-T) (R^T h): the crystal with basis A R^-T has at R^T h what the other has at h.
    Equal to round-off although other beams are labelled and phases shift with the screw axes.
    """
    structure, basis = quartz_structure(), basis_of_quartz()
    first = still_intensities(structure, basis, THICKNESS)
    assert len(first) > 30
    rotations = {tuple(r.ravel()): r for r in composition_of(structure).rotations}
    assert len(rotations) == 6
    for rotation in rotations.values():
        turned = basis @ np.linalg.inv(rotation).T
        turn = turned @ np.linalg.inv(basis)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        other = still_intensities(structure, turned, THICKNESS)
        assert largest_difference(relabelled(first, rotation.T), other) < 1e-10


def test_a_symmetry_of_the_lattice_alone_does_not() -> None:
    """The twofold axis along c of the hexagonal lattice is none of quartz (Dauphine twin)."""
    structure, basis = quartz_structure(), basis_of_quartz()
    twofold = np.diag([-1, -1, 1])
    first = still_intensities(structure, basis, THICKNESS)
    other = still_intensities(structure, basis @ twofold, THICKNESS)
    assert largest_difference(relabelled(first, twofold), other) > 0.1


@pytest.mark.parametrize("make", [quartz_structure, triclinic_structure])
def test_inverting_structure_and_lattice_is_a_relabelling(
    make: Callable[[], xray.structure],
) -> None:
    """x -> -x together with hkl -> -hkl, A -> -A: the same atoms at the same places."""
    structure = make()
    basis = reciprocal_basis(structure, ORIENTATION)
    first = still_intensities(structure, basis, THICKNESS)
    other = still_intensities(inverted(structure), -basis, THICKNESS)
    assert largest_difference(relabelled(first, -np.eye(3, dtype=int)), other) < 1e-10


@pytest.mark.parametrize(
    "make, orientation",
    [(quartz_structure, (1.3, 0.9, -0.7)), (triclinic_structure, (-0.3, 1.5, 2.0))],
)
def test_the_hand_matters_away_from_a_zone_axis(
    make: Callable[[], xray.structure], orientation: tuple[float, float, float]
) -> None:
    """The inverted structure on the same lattice: other intensities, unless kinematical."""
    structure = make()
    basis = reciprocal_basis(structure, orientation)
    hands = (structure, inverted(structure))
    thick = [still_intensities(s, basis, THICKNESS) for s in hands]
    assert largest_difference(*thick) > 0.2
    # U has conjugate phases: what differs are three-beam terms, of first order in pi t U / K,
    # 0.03 at most for 3 Angstrom
    thin = [still_intensities(s, basis, 3.0) for s in hands]
    assert largest_difference(*thin) < 0.03


def test_the_hand_does_not_matter_with_a_centre() -> None:
    structure = triclinic_structure("P -1")
    basis = reciprocal_basis(structure, ORIENTATION)
    hands = [still_intensities(s, basis, THICKNESS) for s in (structure, inverted(structure))]
    assert largest_difference(*hands) < 1e-10


def test_azimuth_about_the_beam_is_arbitrary() -> None:
    structure, basis = triclinic_structure(), reciprocal_basis(triclinic_structure(), ORIENTATION)
    first = still_intensities(structure, basis, THICKNESS)
    for angle in (0.3, 2.0, np.pi):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        other = still_intensities(structure, turn @ basis, THICKNESS)
        assert largest_difference(first, other) < 1e-10
