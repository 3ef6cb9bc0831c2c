"""Standard uncertainties of atoms from the covariance of the crystallographic parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cctbx import adptbx

from dials_hybrid_refine.refinement.result import Result


@dataclass(frozen=True)
class AtomUncertainty:
    """Standard uncertainties of one atom; None where a parameter was not refined.

    Attributes:
        site: shape (3,), of the fractional coordinates; 0 where symmetry fixes one.
        u: shape (6,), of U_cif in order 11 22 33 12 13 23, or that of U_iso; Angstrom^2.
        u_equivalent: of U_iso or U_eq, Angstrom^2.
        occupancy: of the chemical occupancy.
    """

    site: NDArray[np.float64] | None = None
    u: NDArray[np.float64] | float | None = None
    u_equivalent: float | None = None
    occupancy: float | None = None


def standard_uncertainties(result: Result) -> list[AtomUncertainty]:
    """Those of all atoms, in the order of the structure."""
    structure = result.structure
    if result.covariance is None:
        return [AtomUncertainty() for _ in structure.scatterers()]
    covariance = result.covariance
    sigma = np.sqrt(np.clip(np.diag(covariance), 0, None))
    cell = structure.unit_cell()
    # U_ij(cif) = U*_ij / (a*_i a*_j): a factor for each component
    to_cif = np.array(adptbx.u_star_as_u_cif(cell, [1.0] * 6))
    to_equivalent = np.array(cell.u_star_to_u_iso_linear_form())
    found = []
    for indices in structure.parameter_map():
        site = u = u_equivalent = occupancy = None
        if indices.site >= 0:
            site = sigma[indices.site : indices.site + 3]
        if indices.u_aniso >= 0:
            members = slice(indices.u_aniso, indices.u_aniso + 6)
            u = sigma[members] * to_cif
            variance = float(to_equivalent @ covariance[members, members] @ to_equivalent)
            u_equivalent = max(0.0, variance) ** 0.5
        elif indices.u_iso >= 0:
            u = u_equivalent = float(sigma[indices.u_iso])
        if indices.occupancy >= 0:
            occupancy = float(sigma[indices.occupancy])
        found.append(AtomUncertainty(site, u, u_equivalent, occupancy))
    return found
