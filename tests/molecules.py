"""Molecular crystals for tests, small enough to be simulated in no time."""

from __future__ import annotations

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

    All atoms on special positions: C, O on 2mm, N and H on mirror planes.
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
    """L-alanine with the cell of Lehmann, Koetzle & Hamilton (1972), J. Am. Chem. Soc. 94, 2657-2660.

    The coordinates are rounded ones of about that structure (bonds within 0.03 Angstrom); hydrogen
    atoms stand where X-H rides at the distances of Allen & Bruno (2010). Zwitterion: NH3, CH, CH3.
    """
    structure = molecular_crystal(
        (6.032, 12.343, 5.784, 90, 90, 90),
        "P 21 21 21",
        [
            ("O1", "O", (0.7285, 0.0844, 0.6280), 0.022),
            ("O2", "O", (0.4408, 0.1840, 0.7612), 0.024),
            ("N1", "N", (0.6558, 0.1379, 0.1834), 0.018),
            ("C1", "C", (0.5541, 0.1408, 0.6002), 0.016),
            ("C2", "C", (0.4777, 0.1611, 0.3552), 0.017),
            ("C3", "C", (0.2740, 0.0907, 0.3032), 0.026),
        ],
    )
    if not hydrogens:
        return structure
    complete = generate(structure, Disorder()).structure
    ammonium = geometries.staggered_terminal_tetrahedral_xh3_sites
    assert len(add_hydrogens(complete, 2, ammonium, Disorder())) == 3
    return complete


def separation(structure: xray.structure, first: str, second: str) -> float:
    """Distance in Angstrom of two atoms as they stand, without symmetry."""
    sites = {s.label: s.site for s in structure.scatterers()}
    return float(structure.unit_cell().distance(sites[first], sites[second]))
