"""All that is refined, as one torch module."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dials_hybrid_refine.diffraction.potential import AtomicParameters
from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.models.effects import (
    Absorption,
    CurveEffect,
    Effect,
    IntensityEffect,
    checked,
)
from dials_hybrid_refine.models.mosaicity import Mosaicity
from dials_hybrid_refine.models.orientation.base import OrientationModel
from dials_hybrid_refine.models.restraints.build import StructureRestraints
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.base import ThicknessModel


class HybridModel(torch.nn.Module):
    """The crystal structure and the unknowns of the experiment.

    A further experimental effect is a ``CurveEffect`` or an ``IntensityEffect`` in ``effects``: its
    parameters are refined with the others. ``restraints`` are of the structure.
    """

    def __init__(
        self,
        structure: StructureModel,
        thickness: ThicknessModel,
        orientation: OrientationModel,
        absorption: Absorption | None = None,
        effects: Sequence[Effect] = (),
        mosaicity: Mosaicity | None = None,
        restraints: StructureRestraints | None = None,
    ) -> None:
        super().__init__()
        self.structure = structure
        self.thickness = thickness
        self.orientation = orientation
        self.absorption = absorption
        self.mosaicity = mosaicity
        self.effects = torch.nn.ModuleList(effects)
        self.restraints = restraints

    def inverted(self) -> HybridModel:
        """The same crystal inverted, restraints and all; what is not of the structure is shared."""
        structure = self.structure.inverted()
        inverse = self.with_structure(structure)
        if self.restraints is not None:
            inverse.restraints = self.restraints.inverted(structure.current_structure())
        return inverse

    def with_structure(self, structure: StructureModel) -> HybridModel:
        """The same with another structure without restraints; all else is shared."""
        return HybridModel(
            structure,
            self.thickness,
            self.orientation,
            self.absorption,
            [effect for effect in self.effects if isinstance(effect, Effect)],
            self.mosaicity,
        )

    def atoms(self) -> AtomicParameters:
        """The atoms' parameters."""
        atoms: AtomicParameters = self.structure()
        return atoms

    def physical_models(self) -> PhysicalModels:
        """The functions the simulation calls."""

        def thickness(
            experiment: torch.Tensor, phi: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            distribution = self.thickness(experiment, phi)
            return distribution.thickness, distribution.weight

        effects = list(self.effects)
        return PhysicalModels(
            thickness,
            self.orientation,
            self.absorption,
            self.mosaicity,
            [checked(effect) for effect in effects if isinstance(effect, CurveEffect)],
            [checked(effect) for effect in effects if isinstance(effect, IntensityEffect)],
        )

    def prior_residuals(self) -> torch.Tensor:
        """Prior residuals of all models, shape (q,); their squares add to chi^2."""
        parts = [self.thickness.prior_residuals(), self.orientation.prior_residuals()]
        if self.absorption is not None:
            parts.append(self.absorption.prior_residuals())
        if self.mosaicity is not None:
            parts.append(self.mosaicity.prior_residuals())
        parts += [effect.prior_residuals() for effect in self.effects if isinstance(effect, Effect)]
        return torch.cat(parts)

    def restraint_residuals(self) -> torch.Tensor:
        """Residuals of the structure's restraints, shape (k,); their squares add to chi^2."""
        if self.restraints is None:
            return torch.zeros(0, dtype=torch.float64)
        return self.restraints.residuals(self.atoms())

    def restraint_jacobian(self) -> torch.Tensor:
        """d restraint residuals / d structural parameters, shape (k, p)."""
        if self.restraints is None:
            return torch.zeros(0, self.structure.n_parameters, dtype=torch.float64)
        return self.structure.derivatives(self.restraints.residuals)
