"""Experimental effects beside thickness, orientation and scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from cctbx import xray

from dials_hybrid_refine.diffraction.batches import BlockBatch
from dials_hybrid_refine.diffraction.parts import IntensityParts
from dials_hybrid_refine.diffraction.potential import AtomicParameters, CrystalPotential
from dials_hybrid_refine.diffraction.scan import ScanGeometry

_Data = TypeVar("_Data", bound=BlockBatch | IntensityParts)


class Effect(torch.nn.Module, ABC):
    """A differentiable change of what the simulation calculates; ``docs/effects.md`` is the guide.

    Its ``torch.nn.Parameter`` attributes, in double precision and in units in which a step of 1 is
    large, are refined with the rest.
    """

    def report(self) -> dict[str, torch.Tensor]:
        """Quantities for the log and the summary, each a differentiable function of the
        parameters; standard uncertainties follow from their gradients."""
        return dict(self.named_parameters())

    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
        return torch.zeros(0, dtype=torch.float64)


class CurveEffect(Effect):
    """An effect that changes rocking curves after the propagation."""

    @abstractmethod
    def forward(self, curves: torch.Tensor, batch: BlockBatch) -> torch.Tensor:
        """Changed rocking curves (B, R, n) of the observed beams 1 to R of a batch."""


class IntensityEffect(Effect):
    """An effect that changes intensities after their integration over rotation."""

    @abstractmethod
    def forward(self, values: torch.Tensor, parts: IntensityParts) -> torch.Tensor:
        """Changed parts (P,) of integrated intensities, fractions of the incident beam times
        degrees."""


@dataclass(frozen=True)
class EffectContext:
    """The experiment that an effect is made for.

    Attributes:
        scans: geometry of each experiment.
    """

    scans: Sequence[ScanGeometry]

    @property
    def n_experiments(self) -> int:
        """Number of experiments."""
        return len(self.scans)

    @property
    def phi_ranges(self) -> list[tuple[float, float]]:
        """First and last angle of each scan in degrees."""
        return [scan.phi_range for scan in self.scans]

    @property
    def wavelength(self) -> float:
        """That of the first experiment in Angstrom; ``scans`` have those of the others."""
        return self.scans[0].wavelength


@dataclass(frozen=True)
class NamedEffect:
    """An effect, what it is called, and the package (with its version) that it came from."""

    effect: Effect
    name: str
    package: str | None = None
    version: str | None = None


def described(error: BaseException) -> str:
    """What other people's code raised, in one line; its kind where the text is no sentence."""
    text = " ".join(str(error).split())
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def checked(
    effect: Callable[[torch.Tensor, _Data], torch.Tensor],
) -> Callable[[torch.Tensor, _Data], torch.Tensor]:
    """An effect's function whose failures name it.

    Raises (when called):
        ValueError: if the effect fails or does not keep the shape.
        ArithmeticError: if its values are not finite; the refinement takes no such step.
    """
    kind = type(effect)
    name = f"the effect {kind.__qualname__} of {kind.__module__}"

    def change(values: torch.Tensor, data: _Data) -> torch.Tensor:
        try:
            changed = effect(values, data)
        except ArithmeticError:
            raise
        except Exception as error:  # other people's code may raise anything
            raise ValueError(
                f"{name} failed ({described(error)}): refine without it, or tell its authors"
            ) from error
        if not isinstance(changed, torch.Tensor) or changed.shape != values.shape:
            got = tuple(changed.shape) if isinstance(changed, torch.Tensor) else type(changed)
            raise ValueError(
                f"{name} gave {got} where a tensor of shape {tuple(values.shape)} is needed: refine "
                "without it, or tell its authors"
            )
        if not changed.isfinite().all():
            raise ArithmeticError(f"{name} gives values that are not finite")
        return changed

    return change


class Absorption(torch.nn.Module, ABC):
    """An imaginary potential U' that takes electrons out of the elastic beams."""

    @abstractmethod
    def forward(
        self,
        atoms: AtomicParameters,
        crystal: CrystalPotential,
        potential: torch.Tensor,
        experiment: int = 0,
    ) -> torch.Tensor:
        """U' (n,), complex, in 1/Angstrom^2; U'_0 > 0.

        Args:
            atoms: parameters of the atoms.
            crystal: the sum over atoms for the reflections that are wanted.
            potential: shape (n,), U of these reflections, that is ``crystal(atoms)``.
            experiment: index of the experiment, and so of the crystal.
        """

    def warnings(self, structure: xray.structure) -> list[str]:
        """Sentences for the user about a structure that the model does not describe well."""
        return []

    def prior_residuals(self) -> torch.Tensor:
        """Shape (q,): their sum of squares, minus twice the log of the prior, adds to chi^2."""
        return torch.zeros(0, dtype=torch.float64)


class ScaledAbsorption(Absorption):
    """An absorption of which only the strength, a positive number for each crystal, is unknown.

    The refined number is its logarithm.
    """

    #: how ``absorption.model`` calls it
    name: str

    def __init__(self, strength: float, refine: bool = True, n_experiments: int = 1) -> None:
        """strength: starting value; refine: or else fixed at it."""
        super().__init__()
        logarithm = torch.full((n_experiments,), strength, dtype=torch.float64).log()
        self.log_strength = torch.nn.Parameter(logarithm, requires_grad=refine)

    @property
    def strength(self) -> torch.Tensor:
        """The strength, shape (n_experiments,)."""
        return self.log_strength.exp()


class ProportionalAbsorption(ScaledAbsorption):
    """U' = kappa U with one kappa > 0 (Humphreys (1979), Rep. Prog. Phys. 42, 1825, 5.3).

    The strength is kappa.
    """

    name = "proportional"

    def __init__(self, ratio: float = 0.05, refine: bool = True, n_experiments: int = 1) -> None:
        """ratio: starting value of kappa; refine: or else fixed at it."""
        super().__init__(ratio, refine, n_experiments)

    def forward(
        self,
        atoms: AtomicParameters,
        crystal: CrystalPotential,
        potential: torch.Tensor,
        experiment: int = 0,
    ) -> torch.Tensor:
        return self.strength[experiment] * potential
