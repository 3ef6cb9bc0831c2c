"""Bonds, angles and torsion angles: values, symmetry codes and standard uncertainties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from examples import Array, quartz_structure, triclinic_structure
from molecules import alanine

from cctbx import sgtbx, uctbx, xray

from benchmarks.validation.structures import nitrobenzene
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.refinement.geometry import (
    GeometricValue,
    cell_covariance,
    structure_geometry,
)

#: s.u. of a, b, c (Angstrom) and alpha, beta, gamma (degrees)
CELL_SU = np.array([0.004, 0.004, 0.005, 0.03, 0.04, 0.05])


def measured(points: Array) -> float:
    """Distance, angle or torsion angle (degrees, right-handed) of 2, 3 or 4 points."""
    bonds = np.diff(points, axis=0)
    if len(points) == 2:
        return float(np.linalg.norm(bonds))
    if len(points) == 3:
        cosine = -bonds[0] @ bonds[1] / np.linalg.norm(bonds[0]) / np.linalg.norm(bonds[1])
        return float(np.degrees(np.arccos(cosine)))
    normals = np.cross(bonds[0], bonds[1]), np.cross(bonds[1], bonds[2])
    sine = bonds[0] @ normals[1] * np.linalg.norm(bonds[1])
    return float(np.degrees(np.arctan2(sine, normals[0] @ normals[1])))


def from_codes(structure: xray.structure, entry: GeometricValue) -> Callable[[Array, Array], float]:
    """The quantity of sites (n, 3) and a cell (6,), its atoms found by the codes of the CIF."""
    operations = list(structure.as_cif_block(format="coreCIF")["_space_group_symop_operation_xyz"])
    labels = [s.label for s in structure.scatterers()]
    atoms = []
    for label, code in zip(entry.labels, entry.symmetry):
        number, _, shift = ("1_555" if code == "." else code).partition("_")
        operation = sgtbx.rt_mx(operations[int(number) - 1])
        rotation = np.array(operation.r().as_double()).reshape(3, 3)
        cells = np.array([int(digit) - 5 for digit in shift or "555"])
        atoms.append((labels.index(label), rotation, operation.t().as_double() + cells))

    def quantity(sites: Array, cell: Array) -> float:
        orthogonal = uctbx.unit_cell(tuple(cell)).orthogonalization_matrix()
        to_cartesian = np.array(orthogonal).reshape(3, 3)
        points = [to_cartesian @ (r @ sites[i] + t) for i, r, t in atoms]
        return measured(np.array(points))

    return quantity


def slopes(function: Callable[[Array], float], at: Array) -> Array:
    """Central differences by each element."""
    found = np.zeros(at.size)
    for i in range(at.size):
        step = np.zeros(at.size)
        step[i] = 1e-6
        change = function(at + step.reshape(at.shape)) - function(at - step.reshape(at.shape))
        # torsion angles near 180 degrees may change sign
        found[i] = ((change + 180) % 360 - 180) / 2e-6
    return found


def covariance_of(structure: xray.structure, sites: bool = True) -> tuple[xray.structure, Array]:
    """A structure with refined parameters, and a covariance that its constraints allow."""
    model = StructureModel(structure, RefinedParameters(sites=sites))
    root = np.random.default_rng(2).normal(size=(model.n_parameters, model.n_parameters))
    jacobian = model.jacobian()
    return model.current_structure(), 1e-5 * jacobian.T @ (root @ root.T) @ jacobian


STRUCTURES = {
    "quartz": quartz_structure,
    "nitrobenzene": nitrobenzene,
    "triclinic": triclinic_structure,
}


@pytest.mark.parametrize("with_cell", [False, True], ids=["sites", "sites and cell"])
@pytest.mark.parametrize("name", list(STRUCTURES))
def test_values_and_uncertainties(name: str, with_cell: bool) -> None:
    """Values of the atoms that the codes name; J C J^T with J from central differences.

    Those leave 1e-8 of the value over steps of 1e-6 and 1e-5 of the slope.
    """
    structure, covariance = covariance_of(STRUCTURES[name]())
    of_cell = cell_covariance(structure, CELL_SU) if with_cell else np.zeros((6, 6))
    geometry = structure_geometry(structure, covariance, of_cell if with_cell else None)
    sites = np.array([s.site for s in structure.scatterers()])
    cell = np.array(structure.unit_cell().parameters())
    columns = [p.site + k for p in structure.parameter_map() for k in range(3)]
    of_sites = covariance[np.ix_(columns, columns)]
    entries = [*geometry.bonds, *geometry.angles, *geometry.torsions]
    assert len(entries) > 5
    for entry in entries:
        quantity = from_codes(structure, entry)
        difference = entry.value - quantity(sites, cell)
        assert abs((difference + 180) % 360 - 180) < 1e-6, entry
        by_site = slopes(lambda x: quantity(x, cell), sites)
        by_cell = slopes(lambda c: quantity(sites, c), cell)
        variance = by_site @ of_sites @ by_site + by_cell @ of_cell @ by_cell
        assert entry.su == pytest.approx(variance**0.5, rel=1e-3), entry


def test_all_bonds_and_angles_of_quartz() -> None:
    """SiO4 and Si-O-Si: 4 bonds, 6 + 1 angles; no torsion angles in a framework."""
    geometry = structure_geometry(quartz_structure())
    assert [round(b.value, 2) for b in geometry.bonds] == [1.6, 1.6, 1.61, 1.61]
    by_vertex = [a.labels[1][:2] for a in geometry.angles]
    assert sorted(by_vertex) == ["O1"] + 6 * ["Si"]
    assert all(105 < a.value < 115 for a in geometry.angles if a.labels[1] == "Si0")
    assert [round(a.value) for a in geometry.angles if a.labels[1] == "O1"] == [144]
    assert geometry.torsions == ()
    assert all(entry.su is None for entry in (*geometry.bonds, *geometry.angles))


def test_molecule() -> None:
    """Nitrobenzene as built: 14 bonds, 21 angles, 12 torsion angles without hydrogen."""
    geometry = structure_geometry(nitrobenzene())
    assert len(geometry.bonds) == 14 and len(geometry.angles) == 21
    assert sum(bond.hydrogen for bond in geometry.bonds) == 5
    lengths = {tuple(sorted(b.labels)): b.value for b in geometry.bonds}
    assert lengths["C1", "N12"] == pytest.approx(1.47)
    assert lengths["N12", "O13"] == pytest.approx(1.22)
    (nitro,) = (a for a in geometry.angles if a.labels[1] == "N12" and a.labels[0][0] == "O"
                and a.labels[2][0] == "O")  # fmt: skip
    assert nitro.value == pytest.approx(124)
    assert len(geometry.torsions) == 12  # 6 x 1 in the ring, 2 N-C-C-C, 4 C-C-N-O
    for torsion in geometry.torsions:
        assert not any(label.startswith("H") for label in torsion.labels)
        assert min(abs(torsion.value), 180 - abs(torsion.value)) < 1e-6


def test_angles_of_riding_atoms_have_no_uncertainty() -> None:
    """Constraints prescribe N-H and C-N-H; what does not depend on them is as without."""
    structure, covariance = alanine(), 1e-6 * np.eye(3 * 13)
    for scatterer in structure.scatterers():
        scatterer.flags.set_grad_site(True)
    riding = [i for i, s in enumerate(structure.scatterers()) if s.element_symbol() == "H"]
    free, bound = (structure_geometry(structure, covariance, riding=r) for r in ((), riding))
    for before, after in zip((*free.bonds, *free.angles), (*bound.bonds, *bound.angles)):
        assert before.su is not None
        assert after.su == (None if after.hydrogen else before.su)
    assert sum(v.hydrogen for v in bound.angles) == 15


def test_fixed_atoms_have_no_uncertainty() -> None:
    structure, covariance = covariance_of(quartz_structure(), sites=False)
    assert covariance.any()
    geometry = structure_geometry(structure, covariance)
    assert all(bond.su is None for bond in geometry.bonds)
    of_cell = cell_covariance(structure, CELL_SU)
    with_cell = structure_geometry(structure, covariance, of_cell)
    assert all(bond.su and bond.su > 1e-4 for bond in with_cell.bonds)


@pytest.mark.parametrize(
    "symbol, cell, linked, fixed",
    [
        ("P 32 2 1", (5, 5, 5.4, 90, 90, 120), [(0, 1)], [3, 4, 5]),
        ("P 1 21 1", (6, 7, 7.3, 90, 104, 90), [], [3, 5]),
        ("P a -3", (6, 6, 6, 90, 90, 90), [(0, 1), (0, 2), (1, 2)], [3, 4, 5]),
        ("R -3 :R", (5, 5, 5, 70, 70, 70), [(0, 1), (1, 2), (3, 4), (4, 5)], []),
        ("P -1", (5, 6, 7, 80, 95, 101), [], []),
    ],
)
def test_covariance_of_the_cell(
    symbol: str, cell: tuple[float, ...], linked: list[tuple[int, int]], fixed: list[int]
) -> None:
    """Equal parameters are fully correlated, those that symmetry fixes have none."""
    from cctbx import crystal

    structure = xray.structure(crystal_symmetry=crystal.symmetry(cell, symbol))
    su = np.array([0.01, 0.01, 0.01, 0.02, 0.02, 0.02])
    found = cell_covariance(structure, su)
    for i in range(6):
        assert found[i, i] == pytest.approx(0 if i in fixed else su[i] ** 2)
        for j in range(i):
            expected = su[i] * su[j] if (j, i) in linked else None
            if expected is not None:
                assert found[i, j] == found[j, i] == pytest.approx(expected)
            elif not any({i, j} <= set(range(s, s + 3)) for s in (0, 3)) or not linked:
                assert found[i, j] == found[j, i] == 0
    assert np.linalg.eigvalsh(found).min() > -1e-12
