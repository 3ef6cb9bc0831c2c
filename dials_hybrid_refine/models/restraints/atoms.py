"""Atoms and their symmetry images in Cartesian coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cctbx import sgtbx

from dials_hybrid_refine.diffraction.potential import AtomicParameters

#: where U11, U12, ... of the order 11 22 33 12 13 23 stand in the matrix
_TENSOR = ((0, 3, 4), (3, 1, 5), (4, 5, 2))


@dataclass(frozen=True)
class Image:
    """Atom ``index`` of the asymmetric unit, with label ``label``, under a symmetry operation."""

    index: int
    label: str
    operation: sgtbx.rt_mx

    def __str__(self) -> str:
        if self.operation.is_unit_mx():
            return self.label
        return f"{self.label} ({self.operation.as_xyz()})"


class Crystal:
    """Sites and displacement tensors in Angstrom and Angstrom^2, on Cartesian axes.

    U* is taken along by an operation (R, t) as R U* R^T (Grosse-Kunstleve & Adams (2002),
    J. Appl. Cryst. 35, 477-480); U_cart = O U* O^T with the orthogonalization matrix O.
    """

    def __init__(self, atoms: AtomicParameters, orthogonalization: torch.Tensor) -> None:
        """orthogonalization: shape (3, 3), fractional to Cartesian coordinates."""
        self._atoms = atoms
        self._orthogonalization = orthogonalization

    def sites(self, images: Images) -> torch.Tensor:
        """Shape (n, 3), Angstrom."""
        fractional = (images.rotation @ self._atoms.sites[images.index][:, :, None])[:, :, 0]
        return (fractional + images.translation) @ self._orthogonalization.T

    def displacements(self, images: Images) -> torch.Tensor:
        """U_cart, shape (n, 3, 3), Angstrom^2."""
        u_star = self._atoms.u_star[images.index][:, torch.tensor(_TENSOR)]
        turn = self._orthogonalization @ images.rotation
        return turn @ u_star @ turn.transpose(1, 2)


class Images:
    """Several images as arrays: index (n,), rotation (n, 3, 3) and translation (n, 3), fractional."""

    def __init__(self, members: Sequence[Image]) -> None:
        self.members = tuple(members)
        rotations = [np.reshape(m.operation.r().as_double(), (3, 3)) for m in members]
        self.index = torch.tensor([m.index for m in members], dtype=torch.int64)
        self.rotation = torch.from_numpy(np.array(rotations).reshape(-1, 3, 3))
        self.translation = torch.tensor(
            [m.operation.t().as_double() for m in members], dtype=torch.float64
        )
