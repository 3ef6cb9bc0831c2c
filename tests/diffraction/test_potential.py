"""U_h against a plain sum over all atoms of the cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import (
    WAVELENGTH,
    atoms_of,
    inverted,
    make_structure,
    quartz_structure,
    triclinic_structure,
)
from numpy.typing import NDArray

from cctbx import miller, xray
from cctbx.array_family import flex
from cctbx.eltbx import tiny_pse

from dials_hybrid_refine.diffraction.potential import CrystalPotential
from dials_hybrid_refine.diffraction.scattering_factors import electron_scattering_factors
from dials_hybrid_refine.models.structure import composition_of

GAMMA = 1.391390  # at 200 kV


def c_centred() -> xray.structure:
    return make_structure(
        (9.1, 6.2, 5.3, 90, 107.3, 90),
        "C 2/c",
        [
            ("Ti", (0, 0.113, 0.25), (0.010, 0.013, 0.009, 0, 0.002, 0), 1.0),
            ("O", (0.21, 0.33, 0.07), (0.012, 0.016, 0.014, 0.003, 0.004, -0.005), 0.8),
            ("Na", (0.25, 0.25, 0), 0.02, 0.5),
        ],
    )


def hexagonal() -> xray.structure:
    return make_structure(
        (6.1, 6.1, 9.7, 90, 90, 120),
        "P 63/m m c",
        [
            ("Ba", (1 / 3, 2 / 3, 0.25), (0.01, 0.01, 0.02, 0.005, 0, 0), 1.0),
            ("Ti", (0, 0, 0), (0.008, 0.008, 0.013, 0.004, 0, 0), 1.0),
            ("O", (0.17, 0.34, 0.43), (0.02, 0.018, 0.011, 0.009, 0.0015, 0.003), 0.6),
        ],
    )


STRUCTURES = {
    "quartz": quartz_structure,
    "triclinic": triclinic_structure,
    "C 2/c": c_centred,
    "P 63/m m c": hexagonal,
    "R -3 c": lambda: make_structure(
        (4.99, 4.99, 17.06, 90, 90, 120),
        "R -3 c :H",
        [
            ("Ca", (0, 0, 0), 0.008, 1.0),
            ("C", (0, 0, 0.25), 0.008, 1.0),
            ("O", (0.257, 0, 0.25), (0.008, 0.015, 0.016, 0.0075, -0.003, -0.006), 1.0),
        ],
    ),
}
by_structure = pytest.mark.parametrize("name", STRUCTURES)


def all_hkl(n: int) -> NDArray[np.int64]:
    grid = np.arange(-n, n + 1)
    return np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)


def brute_force(structure: xray.structure, hkl: NDArray[np.int64]) -> NDArray[np.complex128]:
    """gamma/(pi Omega) sum f_j occ_j exp(-2 pi^2 h.U*.h) exp(-2 pi i h.x) over the whole cell."""
    full = structure.expand_to_p1(sites_mod_positive=True)
    full.convert_to_anisotropic()
    cell = full.unit_cell()
    g = 1 / np.array([cell.d(h) if any(h) else np.inf for h in map(tuple, hkl.tolist())])
    total = np.zeros(len(hkl), dtype=complex)
    for s in full.scatterers():
        u11, u22, u33, u12, u13, u23 = s.u_star
        u_star = np.array([[u11, u12, u13], [u12, u22, u23], [u13, u23, u33]])
        factor = electron_scattering_factors(
            [tiny_pse.table(s.scattering_type).atomic_number()], g
        )[0]
        damping = np.exp(-2 * np.pi**2 * np.einsum("ni,ij,nj->n", hkl, u_star, hkl))
        total += s.occupancy * factor * damping * np.exp(-2j * np.pi * hkl @ np.array(s.site))
    return GAMMA / (np.pi * cell.volume()) * total


def potential_of(structure: xray.structure, hkl: NDArray[np.int64]) -> NDArray[np.complex128]:
    potential = CrystalPotential(hkl, composition_of(structure), WAVELENGTH)
    return potential(atoms_of(structure)).numpy()


@by_structure
def test_agrees_with_the_sum_over_the_cell(name: str) -> None:
    """Round-off of some 100 terms; gamma is given to 7 digits."""
    structure, hkl = STRUCTURES[name](), all_hkl(5)
    expected = brute_force(structure, hkl)
    found = potential_of(structure, hkl)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_the_exponent_has_the_sign_opposite_to_structure_factors() -> None:
    """cctbx' F is sum f exp(+2 pi i h.x): the phases of U are those of its conjugate."""
    structure, hkl = quartz_structure(), all_hkl(3)
    structure.scattering_type_registry(table="electron")
    found = potential_of(structure, hkl)
    indices = flex.miller_index(hkl.tolist())
    array = miller.set(structure.crystal_symmetry(), indices, anomalous_flag=True)
    factors = array.structure_factors_from_scatterers(structure, algorithm="direct").f_calc()
    f = np.array(factors.data())
    strong = np.abs(found) > 0.1 * np.abs(found).max()
    turned = np.angle(found[strong] * f[strong])
    # the tables differ by 1-2 % between Si and O, which turns phases a little
    assert np.abs(turned).max() < 0.05
    assert np.abs(np.angle(found[strong] * f[strong].conj())).max() > 1


@by_structure
def test_friedel_opposites_are_conjugate(name: str) -> None:
    hkl = all_hkl(4)
    values = potential_of(STRUCTURES[name](), hkl)
    np.testing.assert_allclose(values[::-1], values.conj(), rtol=0, atol=1e-15)


def test_a_centre_at_the_origin_makes_the_potential_real() -> None:
    for structure in (c_centred(), hexagonal(), triclinic_structure("P -1")):
        values = potential_of(structure, all_hkl(4))
        assert np.abs(values.imag).max() < 1e-14


def test_inverting_the_structure_conjugates_the_potential() -> None:
    hkl = all_hkl(4)
    for structure in (quartz_structure(), triclinic_structure()):
        found = potential_of(inverted(structure), hkl)
        np.testing.assert_allclose(found, potential_of(structure, hkl).conj(), atol=1e-14)


@by_structure
def test_absences_by_centring(name: str) -> None:
    """Those hkl that vanish for any structure in the lattice; screw axes do not count."""
    structure, hkl = STRUCTURES[name](), all_hkl(5)
    absent = composition_of(structure).is_systematically_absent(hkl)
    expected = {"C 2/c": hkl[:, :2].sum(axis=1) % 2 != 0, "R -3 c": hkl @ [-1, 1, 1] % 3 != 0}
    np.testing.assert_array_equal(absent, expected.get(name, np.zeros(len(hkl), dtype=bool)))
    values = potential_of(structure, hkl)
    assert np.abs(values[absent]).max(initial=0) < 1e-15
    if name == "quartz":  # 3_2: 00l absent unless l = 3n, which many-beam theory does not forbid
        along = (hkl[:, :2] == 0).all(axis=1) & (hkl[:, 2] % 3 != 0)
        assert np.abs(values[along]).max() < 1e-15
        assert not absent[along].any()


def test_the_inner_potential_has_its_size() -> None:
    """V_0 = h^2 / (2 pi m e Omega) sum f(0) with h^2 / (2 pi m e) = 47.878 V Angstrom^2.

    f(0) of Si and O are 5.827 and 1.983 Angstrom (International Tables C, 4.3.2.2), the latter 2.3 %
    less than Lobato & Van Dyck's. U_0 = gamma V_0 2 m e / h^2.
    """
    structure = quartz_structure()
    (u_0,) = potential_of(structure, np.zeros((1, 3), dtype=np.int64))
    volt = 47.878 / structure.unit_cell().volume() * (3 * 5.827 + 6 * 1.983)
    assert u_0.imag == 0
    assert u_0.real / (GAMMA * 0.0066485) == pytest.approx(volt, rel=0.015)


def test_chunks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    structure, hkl = quartz_structure(), all_hkl(3)
    whole = potential_of(structure, hkl)
    monkeypatch.setattr(CrystalPotential, "_CHUNK", 100)
    np.testing.assert_allclose(potential_of(structure, hkl), whole, rtol=0, atol=1e-16)


def test_gradient_with_respect_to_all_parameters() -> None:
    structure, hkl = triclinic_structure(), np.array([[1, 0, 2], [-2, 1, 1], [0, 0, 0], [3, -1, 0]])
    potential = CrystalPotential(hkl, composition_of(structure), WAVELENGTH)
    atoms = atoms_of(structure)
    inputs = tuple(
        x.clone().requires_grad_() for x in (atoms.sites, atoms.u_star, atoms.occupancies)
    )
    assert torch.autograd.gradcheck(
        lambda *x: torch.view_as_real(potential(type(atoms)(*x))), inputs, eps=1e-7, atol=1e-8
    )
