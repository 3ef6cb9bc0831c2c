"""Where reciprocal-lattice points lie with respect to the Ewald sphere.

All vectors are in the DIALS laboratory frame, in 1/Angstrom without 2 pi. The incident wave is
exp(+2 pi i K.r) with K along s0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class IncidentBeam:
    """The electron beam inside the crystal.

    Attributes:
        direction: shape (..., 3), unit vector along s0, to be broadcast against g.
        normal: shape (..., 3), unit vector into the crystal normal to its entrance face.
        wave_number: scalar, K = sqrt(1/lambda^2 + U_0) in 1/Angstrom.
    """

    direction: torch.Tensor
    normal: torch.Tensor
    wave_number: torch.Tensor

    @property
    def normal_wave_number(self) -> torch.Tensor:
        """K_n = K.n in 1/Angstrom."""
        return self.wave_number * (self.direction * self.normal).sum(-1)


def wave_number_in_crystal(wavelength: float, mean_inner_potential: torch.Tensor) -> torch.Tensor:
    """K = sqrt(1/lambda^2 + U_0) in 1/Angstrom, for lambda in Angstrom, U_0 in 1/Angstrom^2."""
    return torch.sqrt(1 / wavelength**2 + mean_inner_potential)


def rotation_matrices(rotation_vectors: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) in radians (Rodrigues).

    Differentiable at zero: sin(x)/x and (1 - cos x)/x^2 are written through sinc.
    """
    x, y, z = rotation_vectors.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    skew = skew.reshape(*rotation_vectors.shape[:-1], 3, 3)
    angle_sq = (rotation_vectors**2).sum(-1)
    angle = torch.sqrt(angle_sq.clamp_min(1e-30))[..., None, None]
    sin_term = torch.sinc(angle / torch.pi)
    cos_term = 0.5 * torch.sinc(angle / (2 * torch.pi)) ** 2
    identity = torch.eye(3, dtype=skew.dtype, device=skew.device)
    return identity + sin_term * skew + cos_term * (skew @ skew)


def excitation_errors(g: torch.Tensor, beam: IncidentBeam) -> torch.Tensor:
    """S_g = (K^2 - |K+g|^2) / (2K) in 1/Angstrom, shape (...), for vectors g of shape (..., 3).

    Expanded to -(g.k + g^2 / (2K)) with the unit vector k, which loses no digits.
    """
    return -((g * beam.direction).sum(-1) + (g**2).sum(-1) / (2 * beam.wave_number))


def flux_factors(g: torch.Tensor, beam: IncidentBeam) -> torch.Tensor:
    """w_g^2 = K_n / (K_n + g.n), the inverse ratio of fluxes through the exit face."""
    return 1 / (1 + (g * beam.normal).sum(-1) / beam.normal_wave_number)
