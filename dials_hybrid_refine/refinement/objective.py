"""The function that is minimised, its gradient, and its Gauss-Newton matrix.

    L = sum_i w_i (I_i - sum_s k_s X_is)^2 + k^T P k + |prior residuals|^2 + |restraint residuals|^2

X_is is the part of reflection i diffracted in segment s of the scan, w_i = 1 / (sigma_i^2 + (u I_i)^2). The
scales k are solved in closed form (variable projection), so that the gradient of the other
parameters may take them as constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.potential import AtomicParameters
from dials_hybrid_refine.diffraction.simulator import Contributions, PhysicalModels, Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.scale import overall_scale, solve_scales
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.jacobian import (
    indices,
    parameter_jacobian,
    places_of,
    product_with_itself,
)

#: standard deviation of the wide normal prior that the covariance knows on each parameter of the thickness
#: model, in units in which 1 is a large step (a logarithm, a weight of a network). A network has
#: directions that the normal matrix counts as determined, however little they change the
#: intensities; but before they do its function saturates, and no refinement goes so far. Of 1, 3.2, 10
#: and 32, 10 gave deviations of the thickness nearest their s.u. in six draws of noise on the data of
#: ``test_profile_uncertainty`` (root mean square 0.8 for the mean, 1.0 for the width; with 1 it was 1.3
#: and 2.1). ``docs/uncertainties.md`` has what it does to chi^2 and to the structure's s.u.
_WIDEST_WEIGHT = 10.0


@dataclass(frozen=True)
class Evaluation:
    """The state of a fit.

    Attributes:
        loss: chi^2 plus priors.
        chi_square: weighted sum of squares of the used reflections.
        calculated: shape (n,), calculated intensities on the scale of the observed ones, used or
            not.
        scales: shape (s,), scale of each segment: counts per incident electron and degree.
        design: shape (n, s), parts of intensity in each segment.
    """

    loss: float
    chi_square: float
    calculated: torch.Tensor
    scales: torch.Tensor
    design: torch.Tensor


class Objective:
    """Loss of a model against observations, for fixed blocks, weights and used reflections."""

    def __init__(
        self,
        model: HybridModel,
        simulator: Simulator,
        observations: Observations,
        weights: torch.Tensor,
        scale_variation: float,
    ) -> None:
        """
        Args:
            weights: shape (n,), zero for reflections that are not used.
            scale_variation: prior standard deviation of the relative change of scale between
                neighbouring segments that are one degree apart.
        """
        self.model = model
        self.simulator = simulator
        self.weights = weights
        self._ranks = simulator.settings.ranks
        self._intensity = torch.from_numpy(observations.intensity)
        self._scale_variation = scale_variation
        self._roughness = torch.zeros(0)
        self._experiment = torch.from_numpy(observations.experiment)
        #: counts per incident electron and degree that the scales' prior of each experiment starts from,
        #: shape (n_experiments,); None until the first evaluation, which finds it
        self.overall_scale: NDArray[np.float64] | None = None

    def parameters(self) -> list[torch.nn.Parameter]:
        """The refined parameters, in a fixed order."""
        return [parameter for _, parameter in self._named_parameters()]

    def _named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def _design(self, contributions: Contributions) -> torch.Tensor:
        shape = (len(self._intensity), len(self.simulator.segment_positions()[0]))
        return torch.zeros(shape, dtype=torch.float64).index_put(
            (contributions.observation, contributions.segment), contributions.value, accumulate=True
        )

    def _scale_prior(self, design: torch.Tensor) -> torch.Tensor:
        """P, fixed at the first evaluation from the overall scale found there."""
        if not len(self._roughness):
            experiments, phi = (x.tolist() for x in self.simulator.segment_positions())
            if self.overall_scale is None:
                self.overall_scale = self._overall_scales(design.detach(), 1 + experiments[-1])
            rows = []
            for i in range(len(phi) - 1):
                if experiments[i] == experiments[i + 1]:
                    row = torch.zeros(len(phi), dtype=torch.float64)
                    distance = abs(phi[i + 1] - phi[i])
                    scale = float(self.overall_scale[experiments[i]])
                    size = self._scale_variation * scale * distance**0.5
                    row[i], row[i + 1] = -1 / size, 1 / size
                    rows.append(row)
            differences = (
                torch.stack(rows) if rows else torch.zeros(0, len(phi), dtype=torch.float64)
            )
            self._roughness = differences.T @ differences
        return self._roughness

    def _overall_scales(self, design: torch.Tensor, n_experiments: int) -> NDArray[np.float64]:
        """One scale for each experiment; where none of its reflections is used that of all.

        Raises:
            ArithmeticError: unless they are positive numbers (``overall_scale``).
        """
        total = design.sum(1)
        scales = np.zeros(n_experiments)
        for i in range(n_experiments):
            mine = self._experiment == i
            if not (self.weights[mine] * total[mine] ** 2).any():
                mine = torch.ones_like(mine)
            try:
                scales[i] = overall_scale(total[mine], self._intensity[mine], self.weights[mine])
            except ArithmeticError as error:
                if n_experiments == 1:
                    raise
                raise ArithmeticError(f"experiment {i}: {error}") from error
        return scales

    def loss_with(self, potential_change: torch.Tensor) -> torch.Tensor:
        """The loss with U changed (``PhysicalModels.potential_change``), differentiable in the change."""
        models = replace(self.model.physical_models(), potential_change=potential_change)
        return self._loss(self.simulator(self.model.atoms(), models))[0]

    def agreed(self, values: torch.Tensor) -> torch.Tensor:
        """The same values in all processes that share the calculation (``Ranks.first``)."""
        return self._ranks.first(values)

    def contributions(self) -> Contributions:
        """The simulation at the current parameters, differentiable once."""
        return self.simulator(self.model.atoms(), self.model.physical_models())

    def _loss(
        self, contributions: Contributions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        design = self._design(contributions)
        roughness = self._scale_prior(design)
        scales = solve_scales(design.detach(), self._intensity, self.weights, roughness)
        calculated = design @ scales
        chi_square = (self.weights * (self._intensity - calculated) ** 2).sum()
        prior = scales @ roughness @ scales + self.model.prior_residuals().square().sum()
        prior = prior + self.model.structure.prior_residuals().square().sum()
        prior = prior + self.model.restraint_residuals().square().sum()
        return chi_square + prior, chi_square, scales, design

    def evaluate(self) -> Evaluation:
        """The fit at the current parameters.

        Raises:
            ArithmeticError: if the loss is not finite.
        """
        with torch.no_grad():
            return _evaluation(*self._loss(self.contributions()))

    def evaluate_for_gradient(
        self, contributions: Contributions | None = None
    ) -> tuple[Evaluation, Callable[[], torch.Tensor]]:
        """The fit at the current parameters, and a function that gives the gradient (p,) of its loss there.

        The gradient costs twice the fit, may be asked for once, and raises ArithmeticError if it is not finite.

        Args:
            contributions: those of the current parameters, if they are there.

        Raises:
            ArithmeticError: if the loss is not finite.
        """
        loss, *rest = self._loss(contributions or self.contributions())
        with torch.no_grad():
            chi_square, scales, design = rest
            numbers = self.agreed(torch.cat([loss[None], chi_square[None], scales]))
            evaluation = _evaluation(numbers[0], numbers[1], numbers[2:], design)
        return evaluation, lambda: self._gradient(loss)

    def evaluate_with_gradient(self) -> tuple[Evaluation, torch.Tensor]:
        """The fit and the gradient of its loss, shape (p,), at the current parameters.

        Raises:
            ArithmeticError: if one of them is not finite.
        """
        evaluation, gradient = self.evaluate_for_gradient()
        return evaluation, gradient()

    def _gradient(self, loss: torch.Tensor) -> torch.Tensor:
        parameters = self.parameters()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for found_one, (name, _) in zip(found, self._named_parameters()):
                if found_one is None:
                    raise ValueError(
                        f"the loss has no gradient by the parameter {name}: its model must be "
                        "differentiable"
                    )
            gradient = self.agreed(torch.cat([g.reshape(-1) for g in found]))
            own = gradient.split([p.numel() for p in parameters])
            for part, (name, _) in zip(own, self._named_parameters()):
                if not part.isfinite().all():
                    raise ArithmeticError(f"the derivative of the loss by {name} is not finite")
            return gradient

    def structure_columns(self) -> torch.Tensor:
        """dI / d structural parameters, shape (n, p_s): a simulation for each of them."""
        with torch.no_grad():
            base = self.simulator(self.model.atoms(), self.model.physical_models())
            scales = self._scales(self._design(base))
            return self._differences(self.model.structure, base, scales)

    def gauss_newton_matrix(
        self,
        structure_columns: torch.Tensor | None = None,
        contributions: Contributions | None = None,
    ) -> GaussNewton:
        """The normal matrix of the parameters with the scales marginalised.

        Args:
            structure_columns: shape (n, p_s), of parameters or limits of the calculation that are
                about the same; None: made anew.
            contributions: those at the current parameters, if they are there.
        """
        with torch.no_grad():
            base = contributions or self.contributions()
            jacobian, scale_jacobian = self._jacobians(structure_columns, base)
            prior = _prior_jacobian(self.model)
            prior_normal = prior.T @ prior
            restraints = torch.zeros_like(prior_normal)
            if self.model.structure.shifts.requires_grad:
                own = self.model.structure.prior_jacobian()
                prior_normal[: own.shape[1], : own.shape[1]] += own.T @ own
                slopes = self.model.restraint_jacobian()
                n_restrained = slopes.shape[1]
                restraints[:n_restrained, :n_restrained] += slopes.T @ slopes
                prior_normal += restraints
            # in place: for many reflections and parameters no other array is as large
            root = self.weights.sqrt()[:, None]
            jacobian.mul_(root)
            product = product_with_itself([jacobian, root * scale_jacobian], self._ranks)
            n = jacobian.shape[1]
            data, cross, scale_data = product[:n, :n], product[:n, n:], product[n:, n:]
            scale_normal = scale_data + self._roughness
            ridge = 1e-9 * scale_normal.diagonal().max()
            scale_normal = scale_normal + ridge * torch.eye(len(scale_normal), dtype=ridge.dtype)
            solved = torch.linalg.solve(scale_normal, torch.cat([cross.T, scale_data], dim=1))
            by_parameters, by_scales = solved[:, : len(data)], solved[:, len(data) :]
            return GaussNewton(
                normal=data + prior_normal - cross @ by_parameters,
                prior=prior_normal + by_parameters.T @ self._roughness @ by_parameters,
                n_scales=float(by_scales.diagonal().sum()),
                restraints=restraints,
                bounds=self._bounds(),
            )

    def _bounds(self) -> torch.Tensor:
        """``GaussNewton.bounds``: of the parameters of the thickness model."""
        own = places_of(self.model.thickness.parameters(), self.parameters())
        bounds = torch.zeros(sum(p.numel() for p in self.parameters()), dtype=torch.float64)
        bounds[own] = 1 / _WIDEST_WEIGHT**2
        return bounds

    def _scales(self, design: torch.Tensor) -> torch.Tensor:
        roughness = self._scale_prior(design)
        return solve_scales(design, self._intensity, self.weights, roughness)

    def _jacobians(
        self, structure_columns: torch.Tensor | None, base: Contributions
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """dI/d parameters (n, p) and dI/d scales (n, s)."""
        atoms, models = self.model.atoms(), self.model.physical_models()
        design = self._design(base)
        scales = self._scales(design)
        columns = []
        for module in self.model.children():
            if module is self.model.thickness:
                columns.append(self._thickness_columns(atoms, models, base, scales))
            elif module is self.model.orientation:
                columns.append(self._orientation_columns(atoms, models, base, scales))
            elif module is self.model.structure and structure_columns is not None:
                columns.append(structure_columns)
            else:
                columns.append(self._differences(module, base, scales))
        return torch.cat(columns, dim=1), design

    def _gather(
        self, parts: torch.Tensor, base: Contributions, scales: torch.Tensor
    ) -> torch.Tensor:
        """Sum contributions' derivatives (P, q) to those of the intensities (n, q)."""
        result = torch.zeros(len(self._intensity), parts.shape[1], dtype=torch.float64)
        return result.index_add_(0, base.observation, parts * scales[base.segment, None])

    def _gather_by_place(
        self,
        parts: torch.Tensor,
        by_parameter: torch.Tensor,
        place: torch.Tensor,
        base: Contributions,
        scales: torch.Tensor,
    ) -> torch.Tensor:
        """The same for derivatives (P, m) by m quantities of each ``place`` (P,) and
        those, (b, m, p), by the parameters: summed place by place, without an array of P x p."""
        used = by_parameter.abs().amax((0, 2)) > 0
        order = torch.argsort(place, stable=True)
        scaled = (parts[:, used] * scales[base.segment, None])[order]
        counts = torch.bincount(place, minlength=len(by_parameter)).tolist()
        result = torch.zeros(len(self._intensity), by_parameter.shape[2], dtype=torch.float64)
        rows = base.observation[order].split(counts)
        for row, part, jacobian in zip(rows, scaled.split(counts), by_parameter[:, used]):
            result.index_add_(0, row, part @ jacobian)
        return result

    def _differences(
        self, module: torch.nn.Module, base: Contributions, scales: torch.Tensor
    ) -> torch.Tensor:
        """Forward differences; parameters are in units in which 1 is a large step."""
        step = 0.02
        columns = [torch.zeros(len(self._intensity), 0, dtype=torch.float64)]
        for parameter in (p for p in module.parameters() if p.requires_grad):
            for index in indices(parameter):
                original = parameter[index].clone()
                parameter[index] = original + step
                try:
                    moved = self.simulator(self.model.atoms(), self.model.physical_models())
                finally:
                    parameter[index] = original
                slope = (moved.value - base.value)[:, None] / step
                columns.append(self._gather(slope, base, scales))
        return torch.cat(columns, dim=1)

    def _thickness_columns(
        self,
        atoms: AtomicParameters,
        models: PhysicalModels,
        base: Contributions,
        scales: torch.Tensor,
    ) -> torch.Tensor:
        module = self.model.thickness
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            return torch.zeros(len(self._intensity), 0, dtype=torch.float64)
        experiment, phi = self.simulator.block_positions()

        def nodes() -> torch.Tensor:
            distribution = module(experiment, phi)
            return torch.cat([distribution.weight, distribution.thickness], dim=1)

        by_parameter = parameter_jacobian(nodes, parameters)
        moving = bool(by_parameter[:, by_parameter.shape[1] // 2 :].any())
        parts, by_thickness = self.simulator.thickness_derivatives(atoms, models, moving)
        if by_thickness is None:
            by_parameter = by_parameter[:, : parts.shape[1]]
        else:
            parts = torch.cat([parts, by_thickness], dim=1)
        return self._gather_by_place(parts, by_parameter, base.block, base, scales)

    def _orientation_columns(
        self,
        atoms: AtomicParameters,
        models: PhysicalModels,
        base: Contributions,
        scales: torch.Tensor,
    ) -> torch.Tensor:
        module = self.model.orientation
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            return torch.zeros(len(self._intensity), 0, dtype=torch.float64)
        step = 2e-5  # radians: small against 1 / (g t), large against round-off
        # taken as constant within a stretch: that of one frame where frames are segments
        place, experiment, phi = self.simulator.overlaps()
        parts = torch.zeros(len(base.value), 3, dtype=torch.float64)
        directions = self.simulator.beam_directions
        axes = self.simulator.rotation_axes

        def slopes(axes: torch.Tensor) -> torch.Tensor:
            turned = replace(models, rotation=_offset_rotation(models.rotation, step * axes))
            return (self.simulator(atoms, turned).value - base.value) / step

        moves_windows = self.simulator.moves_windows
        normal = torch.linalg.cross(axes, directions)
        for turn in [normal] if moves_windows else _axes_across(directions):
            turn = turn / turn.norm(dim=1, keepdim=True)
            parts += slopes(turn)[:, None] * turn[experiment[place]]

        def columns(
            parts: torch.Tensor, place: torch.Tensor, experiment: torch.Tensor, phi: torch.Tensor
        ) -> torch.Tensor:
            by_parameter = parameter_jacobian(
                lambda: module(experiment, phi[:, None])[:, 0], parameters
            )
            return self._gather_by_place(parts, by_parameter, place, base, scales)

        found = columns(parts, place, experiment, phi)
        if moves_windows:
            has_effects = bool(models.intensity_effects)
            by_axis = slopes(axes) if has_effects else base.turn_slope * (180 / torch.pi)
            place, experiment, phi = self.simulator.window_places()
            share = _without_beam(axes, directions)
            found += columns(by_axis[:, None] * share[experiment[place]], place, experiment, phi)
        return found


def _evaluation(
    loss: torch.Tensor, chi_square: torch.Tensor, scales: torch.Tensor, design: torch.Tensor
) -> Evaluation:
    if not loss.isfinite():
        raise ArithmeticError("the loss is not finite")
    design = design.detach()
    return Evaluation(
        float(loss.detach()), float(chi_square.detach()), design @ scales, scales, design
    )


def _offset_rotation(
    rotation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], offset: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """offset: shape (n_experiments, 3), radians."""
    return lambda experiment, phi: rotation(experiment, phi) + offset[experiment][:, None]


def _axes_across(directions: torch.Tensor) -> list[torch.Tensor]:
    """Two vectors normal to each of n and to each other, both of shape (n, 3).

    A turn about the beam changes no excitation error, and no intensity.
    """
    smallest = directions.abs().argmin(1)
    first = torch.linalg.cross(directions, torch.eye(3, dtype=directions.dtype)[smallest])
    return [first, torch.linalg.cross(directions, first)]


def _without_beam(axes: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The vectors (n, 3) in the plane of axis and beam whose product with a small turn in it is its equivalent
    about the axis: 1 with the axis, 0 with the beam, about which a turn changes nothing."""
    along = (axes * directions).sum(1, keepdim=True)
    return (axes - along * directions) / (1 - along**2)


def _prior_jacobian(model: HybridModel) -> torch.Tensor:
    """d prior residuals / d parameters, shape (q, p); they do not depend on the structure."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    n_structure = sum(p.numel() for p in model.structure.parameters() if p.requires_grad)
    others = [p for p in parameters if p is not model.structure.shifts]
    n_residuals = len(model.prior_residuals())
    none = torch.zeros(n_residuals, n_structure, dtype=torch.float64)
    return torch.cat([none, parameter_jacobian(model.prior_residuals, others)], dim=1)
