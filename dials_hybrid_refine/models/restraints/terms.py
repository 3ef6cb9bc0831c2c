"""The kinds of restraints: how far a structure is from what is asked of it.

Each gives its deviations from the target as a differentiable function of the structure. Divided by
their standard deviations sigma they are residuals, whose squares are added to the loss:
w (value - target)^2 with w = 1/sigma^2. Their exact derivatives are the rows of the linearised
equations. (Those of ``smtbx.refinement.restraints`` serve distances, angles and chiral volumes only: its
rows for off-diagonal displacement parameters are twice the derivative, those for equal distances leave
the mean out, and planes are not there. All values agree with cctbx.)

Deviations are value minus target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dials_hybrid_refine.models.restraints.atoms import Crystal, Image, Images


@dataclass(frozen=True)
class Measure:
    """One restraint at some structure.

    Attributes:
        images: the atoms.
        target, value, sigma: in the units of the kind; a target of None is zero deviation from a
            mean, a plane or isotropy. For tensors value is the length of the deviation.
        deviation: value - target, with its sign where it has one.
    """

    images: tuple[Image, ...]
    target: float | None
    value: float
    sigma: float
    deviation: float


class Restraint(ABC):
    """Restraints of one kind that were asked for together.

    Attributes:
        kind, source: see ``RestraintRequest``.
        images: all atoms, a tuple for each restraint.
    """

    def __init__(
        self, kind: str, source: str, groups: Sequence[Sequence[Image]], sigma: Sequence[float]
    ) -> None:
        """
        Args:
            groups: n groups of images, as long as each other.
            sigma: n standard deviations.
        """
        self.kind, self.source = kind, source
        self.groups = [tuple(group) for group in groups]
        self._columns = [Images(column) for column in zip(*self.groups)]
        self._sigma = torch.tensor(list(sigma), dtype=torch.float64)

    @property
    def n_equations(self) -> int:
        """Number of equations, without those that are identities whatever the structure."""
        return len(self.groups)

    @abstractmethod
    def deviations(self, crystal: Crystal) -> torch.Tensor:
        """Shape (n, c): c components of each of n deviations."""

    def sigma(self, crystal: Crystal) -> torch.Tensor:
        """Standard deviations, shape (n,)."""
        return self._sigma

    def residuals(self, crystal: Crystal) -> torch.Tensor:
        """Deviations over their standard deviations, shape (n c,)."""
        return (self.deviations(crystal) / self.sigma(crystal)[:, None]).reshape(-1)

    def measures(self, crystal: Crystal) -> list[Measure]:
        """The single restraints."""
        deviations = self.deviations(crystal)
        scalar = deviations.shape[1] == 1
        size = deviations[:, 0] if scalar else torch.linalg.vector_norm(deviations, dim=1)
        target = self._target(crystal)
        return [
            Measure(images, target, d + (target or 0.0), sigma, d)
            for images, d, sigma in zip(self.groups, size.tolist(), self.sigma(crystal).tolist())
        ]

    def _target(self, crystal: Crystal) -> float | None:
        """The target, where there is one."""
        return None


class _Targeted(Restraint):
    """Restraints of a quantity to a value."""

    def __init__(
        self,
        kind: str,
        source: str,
        groups: Sequence[Sequence[Image]],
        sigma: Sequence[float],
        target: float,
    ) -> None:
        super().__init__(kind, source, groups, sigma)
        self._value = target

    def deviations(self, crystal: Crystal) -> torch.Tensor:
        return (self._values(crystal) - self._value)[:, None]

    @abstractmethod
    def _values(self, crystal: Crystal) -> torch.Tensor:
        """Shape (n,)."""

    def _target(self, crystal: Crystal) -> float | None:
        return self._value


class Distances(_Targeted):
    """Distances of pairs of atoms, in Angstrom."""

    def _values(self, crystal: Crystal) -> torch.Tensor:
        return _lengths(crystal, self._columns)


class EqualDistances(Restraint):
    """Distances of pairs of atoms, each restrained to the mean of all, in Angstrom."""

    @property
    def n_equations(self) -> int:
        return len(self.groups) - 1

    def deviations(self, crystal: Crystal) -> torch.Tensor:
        lengths = _lengths(crystal, self._columns)
        return (lengths - lengths.mean())[:, None]

    def _target(self, crystal: Crystal) -> float | None:
        return float(_lengths(crystal, self._columns).mean())


class Angles(_Targeted):
    """Angles at the middle one of three atoms, in degrees."""

    def _values(self, crystal: Crystal) -> torch.Tensor:
        one, apex, other = (crystal.sites(images) for images in self._columns)
        a, b = one - apex, other - apex
        sine = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=1)
        # stays differentiable near 180 degrees, where the arc cosine does not
        return torch.rad2deg(torch.atan2(sine, (a * b).sum(1)))


class ChiralVolumes(_Targeted):
    """(x1 - x0) . (x2 - x0) x (x3 - x0) of atoms 0 (the centre), 1, 2, 3, in Angstrom^3."""

    def _values(self, crystal: Crystal) -> torch.Tensor:
        centre, *others = (crystal.sites(images) for images in self._columns)
        a, b, c = (site - centre for site in others)
        return (a * torch.linalg.cross(b, c)).sum(1)


class Plane(Restraint):
    """Distances of atoms from the plane that fits them best, in Angstrom.

    The plane goes through the centroid c, its normal n is the eigenvector to the smallest eigenvalue of
    A = sum_i (x_i - c)(x_i - c)^T (Schomaker et al. (1959), Acta Cryst. 12, 600-604; the same as in
    ``cctbx.geometry_restraints.planarity``). With the other eigenvectors v_k the normal follows the atoms as
    dn = sum_k v_k (v_k^T dA n) / (lambda_0 - lambda_k), first-order perturbation theory, so that
    neither shifts nor rotations of all atoms change the distances n.(x_i - c). Three equations of m
    are identities: the deviations and their first moments in the plane vanish.
    """

    def __init__(self, kind: str, source: str, images: Sequence[Image], sigma: float) -> None:
        super().__init__(kind, source, [(image,) for image in images], [sigma] * len(images))

    @property
    def n_equations(self) -> int:
        return len(self.groups) - 3

    def deviations(self, crystal: Crystal) -> torch.Tensor:
        sites = crystal.sites(self._columns[0])
        centred = sites - sites.mean(0)
        scatter = centred.T @ centred
        values, vectors = torch.linalg.eigh(scatter.detach())
        normal, in_plane = vectors[:, 0], vectors[:, 1:]
        # zero here, with the normal's derivative: torch's own of eigenvectors fails for equal eigenvalues,
        # as in a regular hexagon, although the normal does not depend on how those are resolved
        turn = (in_plane.T @ (scatter @ normal)) / (values[0] - values[1:])
        return (centred @ (normal + in_plane @ turn))[:, None]


class SimilarDisplacements(Restraint):
    """Differences of the displacement tensors of pairs of atoms, in Angstrom^2.

    The squares of the residuals add up to w sum_ij (U_ij - U'_ij)^2 over all nine components, which
    does not depend on the axes (``cctbx.adp_restraints.adp_similarity``); for two isotropic atoms to
    w (U - U')^2.
    """

    def __init__(
        self,
        kind: str,
        source: str,
        groups: Sequence[Sequence[Image]],
        sigma: Sequence[float],
        isotropic: Sequence[bool],
    ) -> None:
        """isotropic: whether both atoms of a pair are."""
        super().__init__(kind, source, groups, sigma)
        self._isotropic = torch.tensor(list(isotropic))

    @property
    def n_equations(self) -> int:
        return int((~self._isotropic).sum()) * 6 + int(self._isotropic.sum())

    def deviations(self, crystal: Crystal) -> torch.Tensor:
        one, other = (crystal.displacements(images) for images in self._columns)
        # the three equal elements of two isotropic atoms count once
        share = 3.0 ** (-0.5 * self._isotropic.double())
        return _components(one - other) * share[:, None]


class RigidBonds(Restraint):
    """Differences of the mean-square displacements of two atoms along their line, in Angstrom^2.

    Hirshfeld (1976), Acta Cryst. A32, 239-244; ``cctbx.adp_restraints.rigid_bond``.
    """

    def deviations(self, crystal: Crystal) -> torch.Tensor:
        direction, difference, _ = _along_bonds(crystal, self._columns)
        return (difference * direction).sum(1, keepdim=True)


class EnhancedRigidBonds(Restraint):
    """Differences of displacements of two atoms along their line, and of their correlation with those across.

    Thorn, Dittrich & Sheldrick (2012), Acta Cryst. A68, 448-451: U33, U13 and U23 with axis 3 along the line
    are restrained to be equal. They are the components of (U - U') e, e the unit vector of the line,
    the sum of whose squares does not depend on the other axes. sigma there is multiplied by
    d sqrt(p^2 + U_eq + U'_eq) / p with p = 0.5 Angstrom and the distance d (``cctbx.adp_restraints.rigu``).
    """

    _P = 0.5

    @property
    def n_equations(self) -> int:
        return 3 * len(self.groups)

    def deviations(self, crystal: Crystal) -> torch.Tensor:
        return _along_bonds(crystal, self._columns)[1]

    def sigma(self, crystal: Crystal) -> torch.Tensor:
        length = _along_bonds(crystal, self._columns)[2]
        tensors = (crystal.displacements(images) for images in self._columns)
        u_eq, other = (tensor.diagonal(dim1=1, dim2=2).mean(1) for tensor in tensors)
        return self._sigma * length * (self._P**2 + u_eq + other).sqrt() / self._P


class IsotropicDisplacements(Restraint):
    """Differences of displacement tensors from U_eq times the unit tensor, in Angstrom^2.

    The squares of the residuals add up to w sum_ij (U_ij - U_eq delta_ij)^2 over all nine components
    (``cctbx.adp_restraints.isotropic_adp``); one equation of six is an identity.
    """

    @property
    def n_equations(self) -> int:
        return 5 * len(self.groups)

    def deviations(self, crystal: Crystal) -> torch.Tensor:
        tensors = crystal.displacements(self._columns[0])
        u_eq = tensors.diagonal(dim1=1, dim2=2).mean(1)
        return _components(tensors - u_eq[:, None, None] * torch.eye(3, dtype=tensors.dtype))


def _lengths(crystal: Crystal, columns: Sequence[Images]) -> torch.Tensor:
    one, other = (crystal.sites(images) for images in columns)
    return torch.linalg.vector_norm(one - other, dim=1)


def _along_bonds(
    crystal: Crystal, columns: Sequence[Images]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit vectors e of lines (n, 3), (U - U') e (n, 3) and lengths (n,)."""
    one, other = (crystal.sites(images) for images in columns)
    length = torch.linalg.vector_norm(other - one, dim=1)
    direction = (other - one) / length[:, None]
    tensor, second = (crystal.displacements(images) for images in columns)
    return direction, ((tensor - second) @ direction[:, :, None])[:, :, 0], length


def _components(tensors: torch.Tensor) -> torch.Tensor:
    """Components 11 22 33 and sqrt(2) times 12 13 23, shape (n, 6): their squares add up to all nine."""
    diagonal = tensors.diagonal(dim1=1, dim2=2)
    others = torch.stack([tensors[:, 0, 1], tensors[:, 0, 2], tensors[:, 1, 2]], dim=1)
    return torch.cat([diagonal, 2**0.5 * others], dim=1)
