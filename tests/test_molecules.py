"""The crystals that tests and benchmarks simulate are those of the literature, by their geometry."""

from __future__ import annotations

import numpy as np
import pytest
from molecules import alanine, alanine_in_p1, oxamide, separation, urea

from cctbx import xray

from benchmarks.left_out import lead_titanate
from benchmarks.left_out import urea as benchmark_urea
from dials_hybrid_refine.refinement.geometry import structure_geometry

#: bond lengths (Angstrom) and angles (degrees) of C, N and O, without corrections for libration
ALANINE = {
    # neutrons, room temperature: Lehmann, Koetzle & Hamilton (1972)
    "O1 C1": 1.242, "O2 C1": 1.258, "C1 C2": 1.531, "N1 C2": 1.487, "C2 C3": 1.524,
    "O1 C1 O2": 125.6, "O1 C1 C2": 118.4, "O2 C1 C2": 116.0,
    "N1 C2 C1": 110.1, "N1 C2 C3": 109.8, "C1 C2 C3": 111.1,
}  # fmt: skip
UREA = {
    # neutrons, 12 K: Swaminathan, Craven & McMullan (1984)
    "C1 O1": 1.262, "C1 N1": 1.345, "N1 H1": 1.009, "N1 H2": 1.005,
    "O1 C1 N1": 121.4, "C1 N1 H1": 119.1, "C1 N1 H2": 120.5,
}  # fmt: skip


def geometry(structure: xray.structure) -> dict[str, float]:
    """Bond lengths and angles by labels."""
    found = structure_geometry(structure)
    return {" ".join(v.labels): v.value for v in (*found.bonds, *found.angles)}


def shortest(structure: xray.structure, first: str, second: str, limit: float) -> list[float]:
    """Distances in Angstrom below a limit between all images of atoms of two elements."""
    scatterers, cell = structure.scatterers(), structure.unit_cell()
    pairs = structure.pair_asu_table(distance_cutoff=limit).extract_pair_sym_table()
    return sorted(
        cell.distance(scatterers[p.i_seq].site, tuple(p.rt_mx_ji * scatterers[p.j_seq].site))
        for p in pairs.iterator()
        if {scatterers[p.i_seq].element_symbol(), scatterers[p.j_seq].element_symbol()}
        == {first, second}
    )


@pytest.mark.parametrize("make, expected", [(alanine, ALANINE), (urea, UREA)])
def test_bonds_and_angles(make, expected) -> None:
    found = geometry(make())
    found |= {" ".join(reversed(labels.split())): value for labels, value in found.items()}
    for labels, value in expected.items():
        assert found[labels] == pytest.approx(value, abs=0.002 if value < 2 else 0.2), labels


def test_urea_of_the_benchmarks_is_the_same() -> None:
    for ours, other in zip(urea().scatterers(), benchmark_urea().scatterers()):
        assert ours.site == other.site


def test_alanine_is_the_l_form() -> None:
    """(S) by the rules of Cahn, Ingold and Prelog: NH3+ before COO- before CH3, H away from the viewer."""
    for structure in (alanine(), alanine_in_p1()):
        sites = {
            s.label: np.array(p) for s, p in zip(structure.scatterers(), structure.sites_cart())
        }
        arms = {label: sites[label] - sites["C2"] for label in ("N1", "C1", "C3", "H2")}
        # anticlockwise about the direction to the viewer, which is opposite to H
        turn = np.cross(arms["N1"], arms["C1"]) + np.cross(arms["C1"], arms["C3"])
        turn += np.cross(arms["C3"], arms["N1"])
        assert turn @ -arms["H2"] > 1


@pytest.mark.parametrize("make, n_bonds", [(alanine, 12), (alanine_in_p1, 12), (urea, 5)])
def test_molecules_are_closed(make, n_bonds) -> None:
    """Every atom is bound as in one molecule, and none to another (in urea both equivalents of C-N count)."""
    assert len(structure_geometry(make()).bonds) == n_bonds


def test_hydrogen_bonds_of_alanine() -> None:
    """Three N-H...O, N...O 2.81 to 2.85 Angstrom: Lehmann et al. (1972)."""
    structure = alanine()
    assert shortest(structure, "H", "O", 2.2) == pytest.approx([1.80, 1.83, 1.85], abs=0.04)
    between = [d for d in shortest(structure, "N", "O", 2.9) if d > 2.75]  # 2.69: in the molecule
    assert between == pytest.approx([2.81, 2.83, 2.85], abs=0.03)


def test_hydrogen_bonds_of_urea() -> None:
    """N...O 2.955 and 2.985 Angstrom at 12 K: Swaminathan et al. (1984)."""
    between = [d for d in shortest(urea(), "N", "O", 3.1) if d > 2.5]
    assert between == pytest.approx([2.955, 2.985], abs=0.002)


def test_oxamide() -> None:
    found = geometry(oxamide())
    for labels, value in {"C1 C1": 1.54, "C1 O1": 1.24, "C1 N1": 1.32, "N1 H1A": 1.01}.items():
        assert found[labels] == pytest.approx(value, abs=1e-6)
    assert found["O1 C1 N1"] == pytest.approx(125, abs=1e-6)
    assert separation(oxamide(), "H1A", "H1B") == pytest.approx(1.01 * 3**0.5, abs=1e-6)


def test_lead_titanate() -> None:
    """Ti-O 1.78 and 2.38 along c, 1.98 across, Pb-O 2.53 Angstrom: Shirane et al. (1956)."""
    structure = lead_titanate()
    assert shortest(structure, "Ti", "O", 2.5) == pytest.approx([1.78, 1.98, 2.37], abs=0.01)
    assert shortest(structure, "Pb", "O", 2.6) == pytest.approx([2.53], abs=0.01)
