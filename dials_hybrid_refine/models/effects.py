"""Experimental effects beside thickness, orientation and scale."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from cctbx import xray

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.potential import AtomicParameters, CrystalPotential


class CurveEffect(torch.nn.Module, ABC):
    """An effect that changes rocking curves after the propagation.

    To add an effect of your own, derive from this class, give it ``torch.nn.Parameter``
    attributes in units in which a step of 1 is sensible, and add it to ``HybridModel``.
    """

    @abstractmethod
    def forward(self, curves: torch.Tensor, batch: BlockBatch) -> torch.Tensor:
        """Changed rocking curves (B, R, n) of the observed beams 1 to R of a batch."""

    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
        return torch.zeros(0, dtype=torch.float64)


class Absorption(torch.nn.Module, ABC):
    """An imaginary potential U' that takes electrons out of the elastic beams."""

    @abstractmethod
    def forward(
        self, atoms: AtomicParameters, crystal: CrystalPotential, potential: torch.Tensor
    ) -> torch.Tensor:
        """U' (n,), complex, in 1/Angstrom^2; U'_0 > 0.

        Args:
            atoms: parameters of the atoms.
            crystal: the sum over atoms for the reflections that are wanted.
            potential: shape (n,), U of these reflections, that is ``crystal(atoms)``.
        """

    def warnings(self, structure: xray.structure) -> list[str]:
        """Sentences for the user about a structure that the model does not describe well."""
        return []

    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
        return torch.zeros(0, dtype=torch.float64)


class ScaledAbsorption(Absorption):
    """An absorption of which only the strength, a positive number, is unknown.

    The refined number is its logarithm.
    """

    #: how ``absorption.model`` calls it
    name: str

    def __init__(self, strength: float, refine: bool = True) -> None:
        """strength: starting value; refine: or else fixed at it."""
        super().__init__()
        logarithm = torch.tensor(strength, dtype=torch.float64).log()
        self.log_strength = torch.nn.Parameter(logarithm, requires_grad=refine)

    @property
    def strength(self) -> torch.Tensor:
        """The strength, scalar."""
        return self.log_strength.exp()


class ProportionalAbsorption(ScaledAbsorption):
    """U' = kappa U with one kappa > 0 (Humphreys (1979), Rep. Prog. Phys. 42, 1825, 5.3).

    The strength is kappa.
    """

    name = "proportional"

    def __init__(self, ratio: float = 0.05, refine: bool = True) -> None:
        """ratio: starting value of kappa; refine: or else fixed at it."""
        super().__init__(ratio, refine)

    def forward(
        self, atoms: AtomicParameters, crystal: CrystalPotential, potential: torch.Tensor
    ) -> torch.Tensor:
        return self.strength * potential
