"""Where reciprocal-lattice points lie with respect to the Ewald sphere.

All vectors are in the DIALS laboratory frame, in 1/Angstrom without 2 pi. The incident wave is
exp(+2 pi i K.r) with K along s0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


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


@dataclass(frozen=True)
class BeamGeometry:
    """The beams of a batch of blocks, as the geometry needs them.

    Attributes:
        hkl: shape (B, N, 3), float64.
        active: shape (B, N, n), whether a beam is on at a tilt.
        direction: shape (B, 3), unit vectors along s0.
        normal: shape (B, 3), unit vectors into the crystal normal to its entrance face.
    """

    hkl: torch.Tensor
    active: torch.Tensor
    direction: torch.Tensor
    normal: torch.Tensor


def diagonal_and_flux(
    beams: BeamGeometry, bases: torch.Tensor, wave_number: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """w_g^2 K S_g / K_n in 1/Angstrom and w_g^2, each (B, N, n), 0 where a beam is off.

    S_g = (K^2 - |K+g|^2) / (2K), expanded to -(g.k + g^2 / (2K)) with the unit vector k, which
    loses no digits; w_g^2 = K_n / (K_n + g.n), the inverse ratio of fluxes through the exit face;
    K_n = K.n.

    Args:
        bases: shape (B, n, 3, 3), reciprocal bases G with g = G h, in 1/Angstrom.
        wave_number: scalar, K in the crystal, 1/Angstrom.
    """
    g_along, g_normal = (
        beams.hkl @ torch.einsum("bi,btij->btj", vector, bases).mT
        for vector in (beams.direction, beams.normal)
    )
    metrics = bases.mT @ bases
    h, k, m = beams.hkl.unbind(-1)
    products = torch.stack([h * h, k * k, m * m, 2 * h * k, 2 * h * m, 2 * k * m], dim=-1)
    rows, columns = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    g_sq = products @ metrics[..., rows, columns].mT
    cosine = (beams.direction * beams.normal).sum(-1)[:, None, None]
    flux = torch.where(beams.active, 1 / (1 + g_normal / (wave_number * cosine)), 0)
    return -flux * (g_along + g_sq / (2 * wave_number)) / cosine, flux
