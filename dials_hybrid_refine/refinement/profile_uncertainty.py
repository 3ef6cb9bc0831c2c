"""How well the profiles of thickness and orientation along the scan are known.

Laplace's approximation: around the minimum the parameters are normally distributed with the covariance
of the normal equations, and the profile changes linearly with them (delta method). The priors are part
of the normal matrix: where the data say little the uncertainty is that of the priors.

The approximation knows the neighbourhood of the minimum only. A neural distribution that has run to a
single node, where no data hold it, does not change with its parameters there: its stated uncertainty
is far too small.
"""

from __future__ import annotations

import torch

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.base import OrientationModel
from dials_hybrid_refine.models.thickness.base import ThicknessModel
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.jacobian import parameter_jacobian, places_of


def covariance_of(part: torch.nn.Module, model: HybridModel, normal: GaussNewton) -> torch.Tensor:
    """Covariance (q, q) of the parameters of a part of the model for unit weight, all others marginalised.

    Of the thickness model: a linear extrapolation would carry directions of a network that neither data nor priors see to any
    thickness: ``GaussNewton.bounds`` keep the approximation where it can hold.
    """
    refined = [p for p in model.parameters() if p.requires_grad]
    own = places_of(part.parameters(), refined)
    return normal.covariance()[own][:, own]


def profile_uncertainty(
    thickness: ThicknessModel, covariance: torch.Tensor, experiment: torch.Tensor, phi: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard uncertainties of the thickness's mean and standard deviation, each (s,), Angstrom.

    The variances are the diagonal of J C J^T, J being the derivatives of mean and standard deviation
    with respect to the refined parameters. They are 0 where a model leaves no freedom, as for the
    width of a single thickness.

    Args:
        covariance: shape (q, q), C of the refined parameters of the thickness model.
        experiment, phi: shape (s,), where; phi in degrees.
    """
    parameters = [p for p in thickness.parameters() if p.requires_grad]

    def profile() -> torch.Tensor:
        distribution = thickness(experiment, phi)
        return torch.stack([distribution.mean(), distribution.standard_deviation()])

    with torch.no_grad():
        jacobian = parameter_jacobian(profile, parameters)
    variance = torch.einsum("ksp,pq,ksq->ks", jacobian, covariance, jacobian)
    mean, std = variance.clamp_min(0).sqrt()
    return mean, std


def orientation_uncertainty(
    orientation: OrientationModel,
    covariance: torch.Tensor,
    experiment: torch.Tensor,
    phi: torch.Tensor,
) -> torch.Tensor:
    """Standard uncertainties (s, 3) of the rotation vectors' components in degrees.

    Args:
        covariance: shape (q, q), of the refined parameters of the orientation model.
        experiment, phi: shape (s,), where; phi in degrees.
    """
    parameters = [p for p in orientation.parameters() if p.requires_grad]
    with torch.no_grad():
        jacobian = parameter_jacobian(
            lambda: orientation(experiment, phi[:, None])[:, 0], parameters
        )
    variance = torch.einsum("scp,pq,scq->sc", jacobian, covariance, jacobian)
    return torch.rad2deg(variance.clamp_min(0).sqrt())
