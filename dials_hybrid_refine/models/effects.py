"""Experimental effects beside thickness, orientation and scale."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from dials_hybrid_refine.diffraction.batches import BlockBatch


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
    def forward(self, potential: torch.Tensor) -> torch.Tensor:
        """U' (n,), complex, in 1/Angstrom^2, of the same reflections as U (n,); U'_0 > 0."""

    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
        return torch.zeros(0, dtype=torch.float64)


class ProportionalAbsorption(Absorption):
    """U' = kappa U with one kappa > 0 (Humphreys (1979), Rep. Prog. Phys. 42, 1825, 5.3).

    The refined number is log(kappa).
    """

    def __init__(self, ratio: float = 0.05) -> None:
        """ratio: starting value of kappa."""
        super().__init__()
        self.log_ratio = torch.nn.Parameter(torch.tensor(ratio, dtype=torch.float64).log())

    @property
    def ratio(self) -> torch.Tensor:
        """kappa, scalar."""
        return self.log_ratio.exp()

    def forward(self, potential: torch.Tensor) -> torch.Tensor:
        return self.ratio * potential
