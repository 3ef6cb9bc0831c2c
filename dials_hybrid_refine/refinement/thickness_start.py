"""Where to start the thickness: the basin is found by a scan, never by descent alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.scale import overall_scale, solve_scales

#: standard deviations of the distributions that are tried, relative to their means
SCANNED_WIDTHS = (0.15, 0.35)

#: share of chi^2 that the best of a range of thicker crystals may leave of that of a thinner range
_CLEARLY_BETTER = 0.9


@dataclass(frozen=True)
class ThicknessScan:
    """chi^2 of distributions of thickness that are the same at all angles.

    Attributes:
        mean: shape (q,), mean thickness in Angstrom; width: shape (q,), standard deviation.
        chi_square: shape (q,), with the best scale of each block.
    """

    mean: NDArray[np.float64]
    width: NDArray[np.float64]
    chi_square: NDArray[np.float64]

    @property
    def best(self) -> tuple[float, float]:
        """Mean and width of the best distribution, in Angstrom."""
        i = int(self.chi_square.argmin())
        return float(self.mean[i]), float(self.width[i])

    @property
    def contrast(self) -> float:
        """By which share chi^2 of the best is below that of the worst: small where atoms are wrong."""
        return float(1 - self.chi_square.min() / self.chi_square.max())


def normal_distribution(
    nodes: NDArray[np.float64], mean: float, width: float
) -> NDArray[np.float64]:
    """Weights (m,) of a normal distribution on nodes, each standing for its share of the axis.

    They sum to 1.
    """
    exponent = -0.5 * ((nodes - mean) / width) ** 2
    weights = np.exp(exponent - exponent.max()) * np.gradient(nodes)
    return np.asarray(weights / weights.sum())


def uniform_on(
    nodes: NDArray[np.float64],
) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """``PhysicalModels.thickness`` that gives all nodes (m,) the same weight everywhere."""
    node_tensor = torch.from_numpy(nodes)

    def uniform(experiment: torch.Tensor, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        thickness = node_tensor.expand(len(phi), len(nodes))
        return thickness, torch.full_like(thickness, 1 / len(nodes))

    return uniform


def scan_thickness(
    simulator: Simulator,
    model: HybridModel,
    observations: Observations,
    weights: torch.Tensor,
    nodes: NDArray[np.float64],
) -> ThicknessScan:
    """Try normal distributions around every node; none needs a propagation of its own.

    Args:
        simulator: blocks to use (a coarse calculation is enough).
        model: atoms and orientation are taken from it; its thickness is not.
        observations: the data; weights: shape (n,), zero for reflections not used.
        nodes: shape (m,), thicknesses in Angstrom, increasing.

    Raises:
        ArithmeticError: if no thickness fits the observations at all, saying why.
    """
    with torch.no_grad():
        models = replace(model.physical_models(), thickness=uniform_on(nodes))
        base = simulator(model.atoms(), models)
        by_node, _ = simulator.thickness_derivatives(model.atoms(), models, slopes=False)
        # the tails beyond s_max do not depend on thickness: whole in every node
        rest = base.value - by_node.mean(1)
        parts = by_node + rest[:, None]

        means, widths, chi_squares = [], [], []
        unusable: ArithmeticError | None = None
        intensity = torch.from_numpy(observations.intensity)
        for mean, spacing in zip(nodes, np.gradient(nodes)):
            for relative in SCANNED_WIDTHS:
                width = max(spacing, relative * mean)
                weight = torch.from_numpy(normal_distribution(nodes, mean, width))
                design = torch.zeros(
                    len(observations), len(simulator.segment_positions()[0]), dtype=torch.float64
                )
                design.index_put_((base.observation, base.segment), parts @ weight, accumulate=True)
                total = design.sum(1)
                try:
                    overall = overall_scale(total, intensity, weights)
                except ArithmeticError as error:
                    unusable = error
                    continue
                ridge = torch.eye(design.shape[1], dtype=torch.float64) * (2 / overall) ** 2
                # scales free within a factor of about two of the overall one
                scales = overall + solve_scales(design, intensity - overall * total, weights, ridge)
                residual = intensity - design @ scales
                means.append(mean)
                widths.append(width)
                chi_squares.append(float((weights * residual**2).sum()))
    if not np.isfinite(chi_squares).all() or not chi_squares:
        raise unusable or ArithmeticError("the misfit is not finite at any thickness")
    return ThicknessScan(np.array(means), np.array(widths), np.array(chi_squares))


def search_thickness(
    simulator: Callable[[float], Simulator],
    model: HybridModel,
    observations: Observations,
    weights: torch.Tensor,
    ranges: Sequence[NDArray[np.float64]],
) -> ThicknessScan:
    """The scan of the first range that holds the best thickness.

    The time of a scan grows with the square of the largest thickness, which asks for more terms and
    for more tilts: thick crystals are looked for only where thinner ones do not fit. Where the atoms
    are wrong, thick crystals, whose intensities depend little on thickness, fit a little better than thin
    ones: so little is no reason to believe in them.

    Args:
        simulator: blocks for crystals up to a thickness in Angstrom.
        ranges: nodes (``scan_nodes``) of each range, the thinnest first. The next is scanned where
            the best of one lies in its last third.
    """
    best = None
    for nodes in ranges:
        scan = scan_thickness(simulator(nodes[-1]), model, observations, weights, nodes)
        if best is not None and scan.chi_square.min() > _CLEARLY_BETTER * best.chi_square.min():
            break
        best = scan
        if scan.best[0] <= 2 / 3 * nodes[-1]:
            break
    assert best is not None
    return best
