"""Normal equations of a linearised fit: covariance, effective parameters, what nothing determines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

#: eigenvalues of the scaled normal matrix below this share of the largest count as zero
_SINGULAR = 1e-12


@dataclass(frozen=True)
class GaussNewton:
    """Normal equations of the linearised problem.

    Attributes:
        normal: shape (p, p), J^T W J plus the priors' part, with the scales marginalised: half
            the Hessian of the loss where residuals are small.
        prior: shape (p, p), the priors' part: restraints and what the scales' prior, by holding the
            scales, says about these parameters included. The rest is J^T W J of the data, with
            J the derivatives of the intensities when the scales follow.
        n_scales: effective number of scales (their prior makes it smaller than their number).
        restraints: shape (p, p), the restraints' part; None: there are none.
        bounds: shape (p,), a wide prior on each parameter that the covariance knows but not the
            steps (``objective._WIDEST_WEIGHT``); None: there is none.
    """

    normal: torch.Tensor
    prior: torch.Tensor
    n_scales: float
    restraints: torch.Tensor | None = None
    bounds: torch.Tensor | None = None

    @classmethod
    def unknown(cls, n_parameters: int, n_effective: float) -> GaussNewton:
        """Equations of which only the effective number of parameters is known."""
        shape = n_parameters, n_parameters
        nothing = torch.full(shape, torch.nan, dtype=torch.float64)
        return cls(nothing, torch.zeros(shape, dtype=torch.float64), n_effective)

    def covariance(self) -> torch.Tensor:
        """Inverse of the bounded normal matrix, (p, p), for unit weight of chi^2 / (N - P).

        NaN where the matrix is not known.
        """
        return self._inverse.clone()

    @cached_property
    def _inverse(self) -> torch.Tensor:
        scaled, size = self._scaled()
        inverse = torch.linalg.pinv(scaled, rtol=_SINGULAR, hermitian=True)
        return inverse / size[:, None] / size[None]

    def _scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The bounded matrix scaled to a diagonal of ones, and the roots of its diagonal."""
        normal = self.normal if self.bounds is None else self.normal + torch.diag(self.bounds)
        size = normal.diagonal().clamp_min(1e-12).sqrt()
        return normal / size[:, None] / size[None], size

    def undetermined(self) -> torch.Tensor:
        """Unit vectors (k, p) of parameters, scaled to equal information, that nothing determines.

        The inverse takes their variance for zero.
        """
        if not self.normal.isfinite().all():
            return self.normal[:0]
        values, vectors = torch.linalg.eigh(self._scaled()[0])
        return vectors.T[values.abs() <= _SINGULAR * values.abs().max()]

    def effective_parameters(self) -> float:
        """tr[(normal - prior) (normal + bounds)^-1] plus the scales: what the data determine.

        The trace of the matrix that gives the calculated intensities from the observed ones
        (Hastie, Tibshirani & Friedman (2009), The Elements of Statistical Learning, section 7.6):
        for truths drawn from the priors the expectation of chi^2 is N less this.
        """
        if not self.normal.isfinite().all():
            return self.n_scales
        share = self.covariance() @ (self.normal - self.prior)
        return float(share.diagonal().sum()) + self.n_scales

    def restrained_parameters(self) -> float:
        """The same of what the restraints determine: tr[restraints normal^-1]."""
        if self.restraints is None:
            return 0.0
        return float((self.covariance() @ self.restraints).diagonal().sum())
