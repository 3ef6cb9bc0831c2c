"""Molecular crystals for tests, small enough to be simulated in no time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from cctbx import crystal, xray
from smtbx.refinement.constraints.geometrical import hydrogens as geometries

from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.generated_hydrogens import add_hydrogens, generate

Atoms = list[tuple[str, str, tuple[float, float, float], float]]


def molecular_crystal(cell: tuple[float, ...], symbol: str, atoms: Atoms) -> xray.structure:
    """A structure of isotropic atoms (label, element, site, U)."""
    symmetry = crystal.symmetry(cell, space_group_symbol=symbol)
    structure = xray.structure(crystal.special_position_settings(symmetry))
    for label, element, site, u in atoms:
        structure.add_scatterer(xray.scatterer(label, site, u, 1.0, scattering_type=element))
    return structure


def urea() -> xray.structure:
    """Urea at 12 K: Swaminathan, Craven & McMullan (1984), Acta Cryst. B40, 300-306; neutrons.

    All atoms on special positions: C, O on 2mm, N and H on mirror planes. U_iso is made up.
    """
    return molecular_crystal(
        (5.565, 5.565, 4.684, 90, 90, 90),
        "P -4 21 m",
        [
            ("C1", "C", (0.0, 0.5, 0.3260), 0.010),
            ("O1", "O", (0.0, 0.5, 0.5953), 0.012),
            ("N1", "N", (0.1459, 0.6459, 0.1766), 0.015),
            ("H1", "H", (0.2575, 0.7575, 0.2827), 0.020),
            ("H2", "H", (0.1441, 0.6441, -0.0380), 0.020),
        ],
    )


def alanine(hydrogens: bool = True) -> xray.structure:
    """L-alanine at room temperature: Lehmann, Koetzle & Hamilton (1972), J. Am. Chem. Soc. 94, 2657-2660.

    Cell, bond lengths and angles of C, N and O are those of that neutron structure (``test_molecules``);
    the place of the molecule in the cell is, within some 0.02 Angstrom; U_iso is made up. Hydrogen
    atoms stand where X-H rides at the distances of Allen & Bruno (2010). Zwitterion: NH3, CH, CH3.
    """
    structure = molecular_crystal(
        (6.032, 12.343, 5.784, 90, 90, 90),
        "P 21 21 21",
        [
            ("O1", "O", (0.7266, 0.0854, 0.6292), 0.022),
            ("O2", "O", (0.4438, 0.1833, 0.7601), 0.024),
            ("N1", "N", (0.6551, 0.1377, 0.1861), 0.018),
            ("C1", "C", (0.5570, 0.1409, 0.6014), 0.016),
            ("C2", "C", (0.4749, 0.1608, 0.3545), 0.017),
            ("C3", "C", (0.2734, 0.0909, 0.3000), 0.026),
        ],
    )
    if not hydrogens:
        return structure
    complete = generate(structure, Disorder()).structure
    ammonium = geometries.staggered_terminal_tetrahedral_xh3_sites
    assert len(add_hydrogens(complete, 2, ammonium, Disorder())) == 3
    return complete


def _placed(
    cell: tuple[float, ...],
    symbol: str,
    atoms: Sequence[tuple[str, str, float]],
    cartesian: np.ndarray,
    turn: tuple[float, float, float],
) -> xray.structure:
    """A molecule, turned by a vector (radians), in an invented crystal.

    Args:
        atoms: label, element, U of each. cartesian: shape (n, 3), Angstrom.
    """
    unit_cell = crystal.symmetry(cell, space_group_symbol=symbol).unit_cell()
    sites = Rotation.from_rotvec(turn).apply(cartesian)
    return molecular_crystal(
        cell,
        symbol,
        [
            (label, element, unit_cell.fractionalize(tuple(site)), u)
            for (label, element, u), site in zip(atoms, sites)
        ],
    )


def oxamide() -> xray.structure:
    """(CONH2)2, planar, on a centre of symmetry of an invented triclinic crystal.

    Mean lengths of oxamides: C-C 1.54, C=O 1.24, C-N 1.32, N-H 1.01 Angstrom; O-C-N 125 degrees. Atoms of
    neighbouring molecules are at least their van der Waals distance apart.
    """
    carbon = np.array([0.77, 0.0, 0.0])
    oxygen, nitrogen = carbon + _in_plane(1.24, 60.0), carbon + _in_plane(1.32, -65.0)
    hydrogens = [nitrogen + _in_plane(1.01, angle) for angle in (-5.0, -125.0)]
    atoms = [("C1", "C", 0.020), ("O1", "O", 0.024), ("N1", "N", 0.024)]
    atoms += [("H1A", "H", 0.029), ("H1B", "H", 0.029)]
    return _placed(
        (3.9, 5.3, 5.8, 84.0, 110.0, 112.0),
        "P -1",
        atoms,
        np.array([carbon, oxygen, nitrogen, *hydrogens]),
        (-0.17, -1.56, 0.19),
    )


def _in_plane(length: float, angle: float) -> np.ndarray:
    return length * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle)), 0.0])


def alanine_in_p1() -> xray.structure:
    """The molecule of L-alanine alone in an invented triclinic cell, atoms of neighbours apart."""
    molecule = alanine()
    sites = np.array(molecule.sites_cart())
    atoms = [(s.label, s.element_symbol(), s.u_iso) for s in molecule.scatterers()]
    return _placed(
        (5.2, 5.5, 5.6, 80.0, 97.0, 103.0),
        "P 1",
        atoms,
        sites - sites.mean(0),
        (-1.55, -0.75, -1.19),
    )


def separation(structure: xray.structure, first: str, second: str) -> float:
    """Distance in Angstrom of two atoms as they stand, without symmetry."""
    sites = {s.label: s.site for s in structure.scatterers()}
    return float(structure.unit_cell().distance(sites[first], sites[second]))
