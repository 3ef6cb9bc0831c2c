"""Hydrogen atoms that ride: recognised, put at neutron distances, generated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from molecules import alanine, molecular_crystal, separation, urea

from cctbx import xray
from smtbx.refinement.constraints.rigid import rigid_riding_expandable_group

from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.generated_hydrogens import generate
from dials_hybrid_refine.models.hydrogens import hydrogen_atoms
from dials_hybrid_refine.models.prepare import Model, ModelChoices, prepare
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.xh_distances import neutron_distance

RIDING = ModelChoices(hydrogens="riding")


def cartesian(structure: xray.structure, label: str) -> np.ndarray:
    sites = {s.label: s.site for s in structure.scatterers()}
    return np.array(structure.unit_cell().orthogonalize(sites[label]))


def angle(structure: xray.structure, left: str, centre: str, right: str) -> float:
    """In degrees."""
    a, b = (cartesian(structure, x) - cartesian(structure, centre) for x in (left, right))
    return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))


def molecule(atoms: list[tuple[str, str, tuple[float, float, float]]]) -> xray.structure:
    """One molecule of Cartesian coordinates in a large box."""
    return molecular_crystal(
        (20, 20, 20, 90, 90, 90),
        "P 1",
        [(n, e, tuple((x + 5) / 20 for x in site), 0.02) for n, e, site in atoms],
    )


def kinds(model: Model) -> list[str]:
    return [type(c).__name__ for c in model.constraints if hasattr(c, "pivot")]


def shortened(structure: xray.structure, factor: float = 0.88) -> xray.structure:
    """The same with X-H bonds as short as X-rays see them (parents by label: H3A on C3, H1A on N1)."""
    result = structure.deep_copy_scatterers()
    sites = {s.label: np.array(s.site) for s in structure.scatterers()}
    for s in result.scatterers():
        if s.label.startswith("H"):
            number = s.label[1]
            parent = (
                "N1" if number == "1" or structure.space_group().order_z() == 8 else f"C{number}"
            )
            s.site = tuple(sites[parent] + factor * (sites[s.label] - sites[parent]))
    return result


def test_geometries_of_alanine_are_told() -> None:
    """Start from X-ray distances; a tertiary C-H and two tetrahedral groups that turn."""
    start = shortened(alanine())
    assert separation(start, "C2", "H2") == pytest.approx(0.88 * 1.099, abs=1e-4)
    model, notes = prepare(Model(start), RIDING)
    assert notes == []
    assert kinds(model) == ["tertiary_xh_site"] + 2 * ["terminal_tetrahedral_xh3_sites"]
    for parent, hydrogen, length in (
        ("C2", "H2", 1.099),
        ("C3", "H3B", 1.077),
        ("N1", "H1C", 1.032),
    ):
        assert separation(model.structure, parent, hydrogen) == pytest.approx(length, abs=1e-6)


def test_riding_hydrogens_follow_however_far_their_parents_move() -> None:
    model, _ = prepare(Model(alanine()), RIDING)
    refined = StructureModel(model.structure, RefinedParameters(), model.constraints)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        refined.shifts.copy_(torch.randn(refined.n_parameters, generator=generator))
    moved = refined.current_structure()
    assert separation(moved, "C2", "H2") == pytest.approx(1.099, abs=1e-9)
    for parent, neighbour, group in (("C3", "C2", "H3"), ("N1", "C2", "H1")):
        for a, b in ("AB", "BC", "CA"):
            assert angle(moved, group + a, parent, group + b) == pytest.approx(109.4712, abs=1e-3)
            assert angle(moved, group + a, parent, neighbour) == pytest.approx(109.4712, abs=1e-3)
    # of three equal angles to the neighbours
    angles = [angle(moved, "H2", "C2", x) for x in ("N1", "C1", "C3")]
    assert np.ptp(angles) < 1e-6
    assert np.abs(cartesian(moved, "C2") - cartesian(model.structure, "C2")).max() > 0.02


def test_planar_group_on_a_mirror_plane() -> None:
    """NH2 of urea: all atoms on special positions, which riding keeps."""
    model, _ = prepare(Model(shortened(urea())), RIDING)
    assert kinds(model) == ["terminal_planar_xh2_sites"]
    refined = StructureModel(model.structure, RefinedParameters(), model.constraints)
    # z of C and O, x and z of N, three U
    assert refined.n_parameters == 4 + 3
    with torch.no_grad():
        refined.shifts += 0.5
    moved = refined.current_structure()
    for label in ("H1", "H2"):
        assert separation(moved, "N1", label) == pytest.approx(1.013, abs=1e-6)
        assert angle(moved, "C1", "N1", label) == pytest.approx(120, abs=1e-4)
        site = {s.label: s.site for s in moved.scatterers()}[label]
        assert site[1] - site[0] == pytest.approx(0.5, abs=1e-9)


def test_unusual_geometry_keeps_its_direction() -> None:
    """A pyramidal X-NH-Y, which smtbx has no geometry for, and water, at neutron distances."""
    start = molecule(
        [
            ("N1", "N", (0, 0, 0)),
            ("C1", "C", (1.47, 0, 0)),
            ("C2", "C", (-0.49, 1.386, 0)),
            ("H1", "H", (-0.28, -0.46, 0.72)),
            ("O1", "O", (5, 5, 5)),
            ("H2", "H", (5.76, 5.59, 5)),
            ("H3", "H", (4.24, 5.59, 5)),
        ]
    )
    before = cartesian(start, "H1") - cartesian(start, "N1")
    model, notes = prepare(Model(start), RIDING)
    assert notes == []
    assert all(
        isinstance(c, rigid_riding_expandable_group)
        for c in model.constraints
        if hasattr(c, "pivot")
    )
    after = cartesian(model.structure, "H1") - cartesian(model.structure, "N1")
    np.testing.assert_allclose(after, before / np.linalg.norm(before) * 1.015, atol=1e-9)
    assert separation(model.structure, "O1", "H2") == pytest.approx(0.993, abs=1e-9)


def test_bridging_hydrogen_is_left_free_and_named() -> None:
    start = molecule(
        [("B1", "B", (0, 0, 0)), ("B2", "B", (1.77, 0, 0)), ("H1", "H", (0.885, 0.95, 0))]
    )
    model, notes = prepare(Model(start), RIDING)
    assert model.constraints == []
    (note,) = notes
    assert "H1" in note and "freely" in note


@pytest.mark.parametrize(
    "distances, length", [("neutron", 1.099), ("xray", 0.98), ("input", 0.88 * 1.099)]
)
def test_choice_of_distances(distances: str, length: float) -> None:
    choices = ModelChoices(hydrogens="riding", distances=distances)
    model, _ = prepare(Model(shortened(alanine())), choices)
    assert separation(model.structure, "C2", "H2") == pytest.approx(length, abs=1e-4)


def test_hydrogens_ride_by_default_only_where_the_file_says_so() -> None:
    structure = alanine()
    assert prepare(Model(structure), ModelChoices())[0].constraints == []
    chosen = tuple(hydrogen_atoms(structure)[:1])
    model, _ = prepare(Model(structure, riding=chosen), ModelChoices())
    assert kinds(model) == ["tertiary_xh_site"]
    free, _ = prepare(Model(structure, model.constraints), ModelChoices(hydrogens="free"))
    bound = {kind for c in free.constraints for _, kind in c.constrained_parameters}
    assert bound <= {"occupancy"}


def test_missing_hydrogens_of_alanine() -> None:
    """CH and CH3 are certain; whether the nitrogen bears two or three is not."""
    model, notes = prepare(Model(alanine(hydrogens=False)), ModelChoices(hydrogens="generate"))
    assert [s.label for s in model.structure.scatterers()][6:] == ["H2", "H3A", "H3B", "H3C"]
    assert notes[0] == "4 hydrogen atoms were added: H2, H3A, H3B, H3C"
    assert "N1" in notes[1] and "O1" not in notes[1]
    assert angle(model.structure, "H2", "C2", "N1") == pytest.approx(109, abs=3)
    # staggered against the bonds of the neighbour
    assert (
        min(
            separation(model.structure, a, b)
            for a in ("H3A", "H3B", "H3C")
            for b in ("H2", "N1", "C1")
        )
        > 2.3
    )
    refined = StructureModel(model.structure, RefinedParameters(), model.constraints)
    assert refined.n_parameters == 6 * 4 + 1


@pytest.mark.parametrize(
    "atoms, expected",
    [
        # carbon atoms of benzene, propane, isobutene, propyne
        ([(1.39 * np.cos(k * np.pi / 3), 1.39 * np.sin(k * np.pi / 3), 0) for k in range(6)], [1] * 6),
        ([(0, 0, 0), (1.53, 0, 0), (2.05, 1.44, 0)], [3, 2, 3]),
        ([(0, 0, 0), (1.33, 0, 0), (2.09, 1.31, 0), (2.09, -1.31, 0)], [2, 0, 3, 3]),
        ([(0, 0, 0), (1.20, 0, 0), (2.66, 0, 0)], [1, 0, 3]),
    ],
)  # fmt: skip
def test_number_of_missing_hydrogens(
    atoms: list[tuple[float, float, float]], expected: list[int]
) -> None:
    structure = molecule([(f"C{k}", "C", site) for k, site in enumerate(atoms, 1)])
    complete = generate(structure, Disorder()).structure
    labels = [s.label for s in complete.scatterers()]
    counts = [
        sum(l == f"H{k}" or l[:-1] == f"H{k}" for l in labels) for k in range(1, len(atoms) + 1)
    ]
    assert counts == expected


def test_group_without_the_symmetry_of_its_site_is_not_generated() -> None:
    """A methyl carbon on a fourfold axis."""
    structure = molecular_crystal(
        (8, 8, 8, 90, 90, 90),
        "P 4",
        [("C1", "C", (0, 0, 0), 0.02), ("C2", "C", (0, 0, 0.19), 0.02)],
    )
    generated = generate(structure, Disorder())
    assert generated.added == []
    assert "no hydrogen atoms could be placed on C1, C2" in generated.notes[-1]


def test_hydrogens_next_to_disorder_are_not_guessed() -> None:
    """C2 stands in two places, on which the hydrogen atoms of C1 depend; those of C2 are certain."""
    structure = molecule(
        [("C1", "C", (0, 0, 0)), ("C2", "C", (1.5, 0.25, 0)), ("C3", "C", (1.5, -0.25, 0))]
    )
    for scatterer in list(structure.scatterers())[1:]:
        scatterer.occupancy = 0.5
    generated = generate(structure, Disorder((0, 1, 2), (0, 0, 0)))
    complete = generated.structure.scatterers()
    assert [s.label[:2] for s in complete] == ["C1", "C2", "C3"] + 3 * ["H2"] + 3 * ["H3"]
    assert complete[3].occupancy == 0.5
    assert generated.disorder.conformers == (0, 1, 2, 1, 1, 1, 2, 2, 2)
    assert "could be placed on C1:" in generated.notes[0]


def test_neutron_distances_are_longer_than_those_of_x_rays() -> None:
    """Allen & Bruno (2010)."""
    assert neutron_distance("C", "secondary_planar_xh_site") == 1.083
    assert neutron_distance("C", "staggered_terminal_tetrahedral_xh3_sites") == 1.077
    assert neutron_distance("C") == 1.089
    assert neutron_distance("Fe") is None
