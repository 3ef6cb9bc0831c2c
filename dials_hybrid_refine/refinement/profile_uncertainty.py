"""How well the thickness profile is known."""

from __future__ import annotations

import torch

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.jacobian import parameter_jacobian


def thickness_uncertainty(
    model: HybridModel, covariance: torch.Tensor, experiment: torch.Tensor, phi: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard uncertainties of the thickness's mean and standard deviation, each (s,), Angstrom.

    Laplace's approximation: around the minimum the parameters are normally distributed with the
    covariance C of the normal equations, and mean and standard deviation change linearly with them
    (delta method), so that their variances are the diagonal of J C J^T, J being their derivatives
    with respect to the thickness model's parameters. The parameters of all other models and the
    scales are marginalised by taking the block of C. The priors are part of the normal matrix: where
    the data say little the uncertainty is that of the priors. It is 0 where a model leaves no
    freedom, as for the width of a single thickness.

    Args:
        covariance: shape (p, p), of the refined parameters in the model's order.
        experiment, phi: shape (s,), where; phi in degrees.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    sizes = [model.get_parameter(name).numel() for name in names]
    own = torch.tensor([name.startswith("thickness.") for name in names]).repeat_interleave(
        torch.tensor(sizes)
    )
    parameters = [p for p in model.thickness.parameters() if p.requires_grad]

    def profile() -> torch.Tensor:
        distribution = model.thickness(experiment, phi)
        return torch.stack([distribution.mean(), distribution.standard_deviation()])

    with torch.no_grad():
        jacobian = parameter_jacobian(profile, parameters)
    variance = torch.einsum("ksp,pq,ksq->ks", jacobian, covariance[own][:, own], jacobian)
    mean, std = variance.clamp_min(0).sqrt()
    return mean, std
