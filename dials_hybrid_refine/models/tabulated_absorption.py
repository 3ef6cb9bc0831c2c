"""Absorption by thermal diffuse scattering, from tabulated factors of the atoms."""

from __future__ import annotations

import numpy as np
import torch

from cctbx import xray

from dials_hybrid_refine.diffraction.absorptive_factors import tabulated_b_values
from dials_hybrid_refine.diffraction.potential import AtomicParameters, CrystalPotential
from dials_hybrid_refine.models.effects import ScaledAbsorption


class TabulatedAbsorption(ScaledAbsorption):
    """U' = factor times that of the Einstein model at the atoms' U_eq (``thermal_diffuse``).

    A factor of 1 is the theory. Losses to other processes, as plasmons that an energy filter
    takes out, raise it.
    """

    name = "tabulated"

    def __init__(self, factor: float = 1.0, refine: bool = True, n_experiments: int = 1) -> None:
        """factor: starting value; refine: or else fixed at it."""
        super().__init__(factor, refine, n_experiments)

    def forward(
        self,
        atoms: AtomicParameters,
        crystal: CrystalPotential,
        potential: torch.Tensor,
        experiment: int = 0,
    ) -> torch.Tensor:
        return self.strength[experiment] * crystal.thermal_diffuse(atoms)

    def warnings(self, structure: xray.structure) -> list[str]:
        """A sentence naming the atoms whose B lies outside the table."""
        lowest, highest = tabulated_b_values()[[0, -1]]
        cell = structure.unit_cell()
        b = {s.label: 8 * np.pi**2 * s.u_iso_or_equiv(cell) for s in structure.scatterers()}
        outside = [label for label, value in b.items() if not lowest <= value <= highest]
        if not outside:
            return []
        return [
            f"absorption is tabulated for B = 8 pi^2 U from {lowest:g} to {highest:g} Angstrom^2 "
            f"and was held at the nearer of these for {', '.join(outside)}"
        ]
