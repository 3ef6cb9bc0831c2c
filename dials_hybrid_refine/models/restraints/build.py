"""Restraints that were asked for, applied to the atoms of a structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cctbx import sgtbx, xray

from dials_hybrid_refine.diffraction.potential import AtomicParameters
from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.restraints.atoms import Crystal, Image, Images
from dials_hybrid_refine.models.restraints.neighbours import Neighbours
from dials_hybrid_refine.models.restraints.request import (
    AtomName,
    RestraintRequest,
    inverted_request,
)
from dials_hybrid_refine.models.restraints.terms import (
    Angles,
    ChiralVolumes,
    Distances,
    EnhancedRigidBonds,
    EqualDistances,
    IsotropicDisplacements,
    Plane,
    Restraint,
    RigidBonds,
    SimilarDisplacements,
)

#: atoms closer than this in Angstrom are one and the same
_COINCIDENT = 1e-3


class StructureRestraints:
    """All restraints of a structure.

    Attributes:
        restraints: in the order they were asked for.
        warnings: a sentence for each request that found nothing to restrain.
    """

    def __init__(
        self,
        structure: xray.structure,
        requests: Sequence[RestraintRequest],
        disorder: Disorder = Disorder(),  # noqa: B008  immutable
    ) -> None:
        """
        Args:
            disorder: alternatives, which are not bound to each other.

        Raises:
            ValueError: one sentence that names the request and what is wrong with it.
        """
        matrix = structure.unit_cell().orthogonalization_matrix()
        self._orthogonalization = torch.tensor(matrix, dtype=torch.float64).reshape(3, 3)
        selection = _Selection(structure, self._orthogonalization, disorder)
        self._requests, self._symmetry = tuple(requests), structure.space_group_info()
        self._disorder = disorder
        self.restraints: list[Restraint] = []
        self.warnings: list[str] = []
        for request in requests:
            restraint = _build(selection, request)
            if restraint is None:
                self.warnings.append(f"{request.source}: no atoms were found to restrain")
            else:
                self.restraints.append(restraint)

    def inverted(self, inverse: xray.structure) -> StructureRestraints:
        """The same asked of the inverse of the structure (``StructureModel.inverted``)."""
        change = self._symmetry.type().change_of_hand_op()
        requests = [inverted_request(r, change) for r in self._requests]
        return StructureRestraints(inverse, requests, self._disorder)

    @property
    def n_equations(self) -> int:
        """Number of equations of all restraints."""
        return sum(restraint.n_equations for restraint in self.restraints)

    def crystal(self, atoms: AtomicParameters) -> Crystal:
        """The atoms on Cartesian axes."""
        return Crystal(atoms, self._orthogonalization)

    def residuals(self, atoms: AtomicParameters) -> torch.Tensor:
        """Deviations over their standard deviations, shape (k,): their squares add to the loss."""
        crystal = self.crystal(atoms)
        none = torch.zeros(0, dtype=torch.float64)
        return torch.cat([none, *(r.residuals(crystal) for r in self.restraints)])


def _build(selection: _Selection, request: RestraintRequest) -> Restraint | None:
    """None: nothing to restrain."""

    def refuse(reason: str) -> ValueError:
        return ValueError(f"{request.source}: {reason}")

    for name, value in (("", request.sigma), (" of far atoms", request.sigma_far)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise refuse(f"the standard deviation{name} {value:g} is not above zero: correct it")
    try:
        images = [selection.image(name) for name in request.atoms]
        return KINDS[request.kind](selection, request, images)
    except _Unsuitable as error:
        raise refuse(str(error)) from None


class _Unsuitable(Exception):
    """Why a request cannot be met, without its name."""


@dataclass(frozen=True)
class _Selection:
    """Atoms of a structure by their names."""

    structure: xray.structure
    orthogonalization: torch.Tensor
    disorder: Disorder

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours(self.structure, self.disorder)

    @cached_property
    def _indices(self) -> dict[str, int]:
        labels = [s.label for s in self.structure.scatterers()]
        exact = {label: i for i, label in reversed(list(enumerate(labels)))}
        # SHELX does not distinguish case
        return {**{label.upper(): i for label, i in exact.items()}, **exact}

    def image(self, name: AtomName) -> Image:
        """An atom under its operation."""
        index = self._indices.get(name.label, self._indices.get(name.label.upper()))
        if index is None:
            raise _Unsuitable(
                f"there is no atom {name.label} in the structure: correct the label or the structure"
            )
        try:
            operation = sgtbx.rt_mx(name.operation)
        except (RuntimeError, ValueError):
            raise _Unsuitable(
                f"{name.operation!r} is not a symmetry operation: write it like -x,y+1/2,1-z"
            ) from None
        # without lattice translations, of which any number may be added
        group, reduced = self.structure.space_group(), operation.mod_positive()
        if not any(reduced == op.mod_positive() for op in group.all_ops()):
            raise _Unsuitable(
                f"the operation {name.operation} is not one of the space group "
                f"{self.structure.space_group_info()}: give one that is"
            )
        return Image(index, self.structure.scatterers()[index].label, operation)

    def of(self, index: int) -> Image:
        """An atom of the asymmetric unit."""
        return Image(index, self.structure.scatterers()[index].label, sgtbx.rt_mx())

    def is_anisotropic(self, index: int) -> bool:
        return bool(self.structure.scatterers()[index].flags.use_u_aniso())

    def groups(self, images: Sequence[Image], size: int) -> list[tuple[Image, ...]]:
        """The atoms, so many at a time, all in different places."""
        if not images or len(images) % size:
            raise _Unsuitable(
                f"{len(images)} atoms were given, not a multiple of {size}: name {size} for each "
                "restraint"
            )
        groups = [tuple(images[i : i + size]) for i in range(0, len(images), size)]
        for group in groups:
            self.check_apart(group)
        return groups

    def sites(self, images: Sequence[Image]) -> np.ndarray:
        """Cartesian coordinates (n, 3) in Angstrom."""
        sites = torch.tensor([s.site for s in self.structure.scatterers()], dtype=torch.float64)
        none = torch.zeros(0, dtype=torch.float64)
        crystal = Crystal(AtomicParameters(sites, none, none), self.orthogonalization)
        return np.asarray(crystal.sites(Images(images)).numpy())

    def check_apart(self, images: Sequence[Image]) -> None:
        """Refuse images at the same place."""
        sites = self.sites(images)
        for i, first in enumerate(images):
            for j in range(i):
                if np.linalg.norm(sites[i] - sites[j]) < _COINCIDENT:
                    raise _Unsuitable(
                        f"{images[j]} and {first} are the same place: name different atoms"
                    )


def _target(request: RestraintRequest, low: float, high: float, unit: str) -> float:
    target = request.target
    if target is None:
        raise _Unsuitable("the target is missing: give its value")
    if not low < target <= high:
        raise _Unsuitable(f"the target {target:g} {unit} is not possible: correct it")
    return target


def _distances(
    selection: _Selection, request: RestraintRequest, images: Sequence[Image]
) -> Restraint:
    groups = selection.groups(images, 2)
    target = _target(request, 0.0, 1000.0, "Angstrom")
    return Distances(request.kind, request.source, groups, [request.sigma] * len(groups), target)


def _equal_distances(
    selection: _Selection, request: RestraintRequest, images: Sequence[Image]
) -> Restraint:
    groups = selection.groups(images, 2)
    if len(groups) < 2:
        raise _Unsuitable("one distance has no other to be equal to: name two pairs or more")
    return EqualDistances(request.kind, request.source, groups, [request.sigma] * len(groups))


def _angles(selection: _Selection, request: RestraintRequest, images: Sequence[Image]) -> Restraint:
    groups = selection.groups(images, 3)
    target = _target(request, 0.0, 180.0, "degrees")
    return Angles(request.kind, request.source, groups, [request.sigma] * len(groups), target)


def _plane(selection: _Selection, request: RestraintRequest, images: Sequence[Image]) -> Restraint:
    if len(images) < 4:
        raise _Unsuitable(f"{len(images)} atoms are always in a plane: name four or more")
    selection.check_apart(images)
    sites = selection.sites(images)
    extent = np.linalg.svd(sites - sites.mean(0), compute_uv=False)
    if extent[1] - extent[2] < 1e-3 * extent[0]:
        raise _Unsuitable("the atoms define no plane, or more than one: name others")
    return Plane(request.kind, request.source, images, request.sigma)


def _chiral_volumes(
    selection: _Selection, request: RestraintRequest, images: Sequence[Image]
) -> Restraint:
    groups = selection.groups(images, 4)
    target = _target(request, -1000.0, 1000.0, "Angstrom^3")
    sigma = [request.sigma] * len(groups)
    return ChiralVolumes(request.kind, request.source, groups, sigma, target)


def _chiral_centres(
    selection: _Selection, request: RestraintRequest, images: Sequence[Image]
) -> Restraint:
    """Chiral volumes of atoms with their three neighbours in the ASCII order of their labels.

    SHELXL's convention for CHIV, in which that of C_alpha of an L amino acid is +2.5 Angstrom^3.
    """
    named = []
    for image in images:
        neighbours = [selection.of(i) for i in selection.neighbours.bonded_to(image.index)]
        if len(neighbours) != 3:
            raise _Unsuitable(
                f"{image.label} has {len(neighbours)} bonds to atoms other than hydrogen, not three: "
                "name another atom"
            )
        named += [selection.of(image.index), *sorted(neighbours, key=lambda n: n.label.upper())]
    return _chiral_volumes(selection, request, named)


def _chosen(selection: _Selection, images: Sequence[Image]) -> list[int]:
    """The atoms among which restraints are looked for."""
    moved = [image for image in images if not image.operation.is_unit_mx()]
    if moved:
        raise _Unsuitable(f"{moved[0]} is not in the asymmetric unit: name atoms without operation")
    return [image.index for image in images] or selection.neighbours.heavy()


def _pair(selection: _Selection, pair: tuple[int, int]) -> tuple[Image, Image]:
    return selection.of(pair[0]), selection.of(pair[1])


def _similar_displacements(
    selection: _Selection, request: RestraintRequest, images: Sequence[Image]
) -> Restraint | None:
    assert request.max_distance is not None and request.sigma_far is not None
    neighbours = selection.neighbours
    pairs = neighbours.near(_chosen(selection, images), request.max_distance)
    sigma = [
        request.sigma_far if any(map(neighbours.is_terminal, pair)) else request.sigma
        for pair in pairs
    ]
    isotropic = [not any(map(selection.is_anisotropic, pair)) for pair in pairs]
    groups = [_pair(selection, pair) for pair in pairs]
    if not groups:
        return None
    return SimilarDisplacements(request.kind, request.source, groups, sigma, isotropic)


def _rigid_bonds(
    selection: _Selection, request: RestraintRequest, images: Sequence[Image]
) -> Restraint | None:
    """Of anisotropic atoms: bonds, and 1,3-distances with ``sigma_far``."""
    assert request.sigma_far is not None
    atoms = [i for i in _chosen(selection, images) if selection.is_anisotropic(i)]
    bonds = selection.neighbours.bonds(atoms)
    others = selection.neighbours.one_three(atoms)
    groups = [_pair(selection, pair) for pair in [*bonds, *others]]
    sigma = [request.sigma] * len(bonds) + [request.sigma_far] * len(others)
    kind = RigidBonds if request.kind == "rigid_bond" else EnhancedRigidBonds
    return kind(request.kind, request.source, groups, sigma) if groups else None


def _isotropic_displacements(
    selection: _Selection, request: RestraintRequest, images: Sequence[Image]
) -> Restraint | None:
    assert request.sigma_far is not None
    atoms = [i for i in _chosen(selection, images) if selection.is_anisotropic(i)]
    sigma = [
        request.sigma_far if selection.neighbours.is_terminal(i) else request.sigma for i in atoms
    ]
    groups = [(selection.of(i),) for i in atoms]
    if not groups:
        return None
    return IsotropicDisplacements(request.kind, request.source, groups, sigma)


#: how each kind is made
KINDS: dict[str, Callable[[_Selection, RestraintRequest, Sequence[Image]], Restraint | None]] = {
    "distance": _distances,
    "equal_distance": _equal_distances,
    "angle": _angles,
    "plane": _plane,
    "chiral_volume": _chiral_volumes,
    "chiral_centre": _chiral_centres,
    "similar_displacements": _similar_displacements,
    "rigid_bond": _rigid_bonds,
    "enhanced_rigid_bond": _rigid_bonds,
    "isotropic_displacements": _isotropic_displacements,
}
