"""What became of the restraints of a refinement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton


@dataclass(frozen=True)
class RestraintRow:
    """One restraint at the end.

    Attributes:
        kind: a key of ``models.restraints.build.KINDS``. source: what asked for it.
        group: number of what it was asked for with: a plane, a set of equal distances, ...
        labels, operations: of its atoms.
        target: None where it is zero deviation from a plane, a second tensor or isotropy; the mean of
            equal distances.
        value, deviation: value - target; lengths of differences of tensors (square root of the sum of
            the squares of the nine components, of three for enhanced rigid bonds).
        sigma: standard deviation. All in Angstrom, degrees, Angstrom^2 or Angstrom^3.
        ratio: deviation / sigma; its square is the term in the loss.
    """

    kind: str
    source: str
    group: int
    labels: tuple[str, ...]
    operations: tuple[str, ...]
    target: float | None
    value: float
    deviation: float
    sigma: float
    ratio: float


@dataclass(frozen=True)
class RestraintSummary:
    """All restraints, and what they add to the statistics.

    Attributes:
        rows: in the order they were asked for.
        n_equations: number of equations, identities left out.
        chi_square: sum of (deviation / sigma)^2.
        restrained_s: sqrt[(chi^2 of the data + ``chi_square``) / (N + n - P)] with the loss's weights,
            for N reflections, n equations and P parameters that data or restraints determine.
    """

    rows: tuple[RestraintRow, ...]
    n_equations: int
    chi_square: float
    restrained_s: float


def summarise_restraints(
    model: HybridModel, normal: GaussNewton, chi_square: float, n_used: int
) -> RestraintSummary | None:
    """The restraints at the model's current parameters; None without.

    Args:
        chi_square: of the data, with the weights of the loss.
        n_used: number of reflections used.
    """
    restraints = model.restraints
    if restraints is None or not restraints.restraints:
        return None
    with torch.no_grad():
        atoms = model.atoms()
        crystal = restraints.crystal(atoms)
        total = float(restraints.residuals(atoms).square().sum())
        rows = [
            RestraintRow(
                kind=restraint.kind,
                source=restraint.source,
                group=group,
                labels=tuple(image.label for image in measure.images),
                operations=tuple(image.operation.as_xyz() for image in measure.images),
                target=measure.target,
                value=measure.value,
                deviation=measure.deviation,
                sigma=measure.sigma,
                ratio=measure.deviation / measure.sigma,
            )
            for group, restraint in enumerate(restraints.restraints, start=1)
            for measure in restraint.measures(crystal)
        ]
    n_parameters = normal.effective_parameters() + normal.restrained_parameters()
    freedom = max(1.0, n_used + restraints.n_equations - n_parameters)
    return RestraintSummary(
        rows=tuple(rows),
        n_equations=restraints.n_equations,
        chi_square=total,
        restrained_s=math.sqrt((chi_square + total) / freedom),
    )
