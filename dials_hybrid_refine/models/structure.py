"""The crystal structure as a torch module, constrained by smtbx.

smtbx's reparametrisation holds the independent parameters: site symmetry of coordinates and
displacement parameters, and any constraint it knows, are obeyed by construction. Its Jacobian
carries gradients of the crystallographic parameters back to the independent ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cctbx import adptbx, xray
from cctbx.array_family import flex
from cctbx.eltbx import tiny_pse
from smtbx import utils as smtbx_utils
from smtbx.refinement import constraints

from dials_hybrid_refine.diffraction.potential import AtomicParameters, CrystalComposition


@dataclass(frozen=True)
class RefinedParameters:
    """Which structural parameters are refined."""

    sites: bool = True
    displacements: bool = True
    occupancies: bool = False


def composition_of(structure: xray.structure) -> CrystalComposition:
    """Symmetry, cell and elements of a structure for the simulator.

    Raises:
        ValueError: for a scattering type that is not an element.
    """
    numbers = []
    for scatterer in structure.scatterers():
        symbol = scatterer.element_symbol()
        if symbol is None:
            raise ValueError(
                f"atom {scatterer.label} has the scattering type {scatterer.scattering_type!r}, "
                "which is not an element"
            )
        numbers.append(tiny_pse.table(symbol).atomic_number())
    group = structure.space_group()
    operations = list(group.all_ops())
    cell = structure.unit_cell()
    fraction = np.array(cell.fractionalization_matrix()).reshape(3, 3)
    return CrystalComposition(
        atomic_numbers=tuple(numbers),
        multiplicity_fractions=np.array(
            [s.multiplicity() / group.order_z() for s in structure.scatterers()]
        ),
        rotations=np.array(
            [np.array(op.r().as_double()).reshape(3, 3).round() for op in operations],
            dtype=np.int64,
        ),
        translations=np.array([op.t().as_double() for op in operations]),
        # G* = F F^T for the fractionalization matrix F with x_frac = F x_cart
        metric=fraction @ fraction.T,
        volume=cell.volume(),
    )


def set_refined(structure: xray.structure, refined: RefinedParameters) -> None:
    """Set the gradient flags of all scatterers.

    Where some are set already, as from SHELX files, parameters whose flag is not set are fixed by
    the user and stay so.
    """
    scatterers = structure.scatterers()
    told = any(
        s.flags.grad_site() or s.flags.grad_u_iso() or s.flags.grad_u_aniso() for s in scatterers
    )
    for scatterer in scatterers:
        flags = scatterer.flags
        site, u_iso, u_aniso = (
            not told or flag
            for flag in (flags.grad_site(), flags.grad_u_iso(), flags.grad_u_aniso())
        )
        flags.set_grad_site(refined.sites and site)
        flags.set_grad_u_iso(refined.displacements and flags.use_u_iso() and u_iso)
        flags.set_grad_u_aniso(refined.displacements and flags.use_u_aniso() and u_aniso)
        flags.set_grad_occupancy(refined.occupancies)
        flags.set_grad_fp(False)
        flags.set_grad_fdp(False)


def unphysical_parameters(structure: xray.structure) -> list[str]:
    """A sentence for each atom whose U is not positive definite or whose occupancy is odd."""
    cell = structure.unit_cell()
    found = []
    for scatterer in structure.scatterers():
        if scatterer.flags.use_u_aniso():
            smallest = min(adptbx.eigenvalues(adptbx.u_star_as_u_cart(cell, scatterer.u_star)))
        else:
            smallest = scatterer.u_iso
        # smtbx keeps isotropic U at 1e-4 or above
        if smallest <= 1.001e-4:
            found.append(
                f"the displacement parameters of {scatterer.label} are not positive definite"
            )
        if not 0 < scatterer.occupancy <= 1.0001:
            found.append(f"the occupancy of {scatterer.label} is {scatterer.occupancy:.3f}")
    return found


class _Reparametrised(torch.autograd.Function):
    """Crystallographic parameters of given independent ones, gradient through the Jacobian."""

    @staticmethod
    def forward(ctx: Any, shifts: torch.Tensor, model: StructureModel) -> torch.Tensor:
        values, jacobian = model.evaluate(shifts.detach().numpy())
        ctx.save_for_backward(jacobian)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (jacobian,) = ctx.saved_tensors
        return jacobian @ gradient, None


class StructureModel(torch.nn.Module):
    """Sites, displacement parameters and occupancies of the asymmetric unit.

    ``shifts`` (p,) are the refined numbers: changes of the independent parameters, each in
    units that move atoms by about 0.1 Angstrom, or change U by about 0.01 Angstrom^2 or an
    occupancy by 0.1, so that one step size suits all.

    The refined numbers are attached to a private copy of the structure; ``current_structure``
    returns one.
    """

    _UNIT = {"site": 0.1, "displacement": 0.01, "occupancy": 0.1}

    def __init__(
        self,
        structure: xray.structure,
        refined: RefinedParameters,
        shelx_constraints: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self._start = structure.deep_copy_scatterers()
        set_refined(self._start, refined)
        self._constraints = list(shelx_constraints)
        self._connectivity = smtbx_utils.connectivity_table(self._start)
        self._restart()
        self._annotations = list(self._reparametrisation.component_annotations)
        self._units = self._parameter_units()
        self._layout = _ParameterLayout(self._structure)
        self.shifts = torch.nn.Parameter(torch.zeros(len(self._units), dtype=torch.float64))

    def _restart(self) -> None:
        """A fresh reparametrisation of the starting structure.

        Shifts are always applied to that: smtbx stops isotropic U at a positive floor, so that
        shifts applied one after the other would depend on the path.
        """
        self._structure = self._start.deep_copy_scatterers()
        self._reparametrisation = constraints.reparametrisation(
            structure=self._structure,
            constraints=list(self._constraints),
            connectivity_table=self._connectivity,
            temperature=20,
        )
        self._reparametrisation.linearise()
        self._reparametrisation.store()

    @property
    def n_parameters(self) -> int:
        """Number of independent parameters."""
        return len(self._units)

    def _jacobian(self) -> NDArray[np.float64]:
        if not self._reparametrisation.n_independents:
            return np.zeros((0, len(self._annotations)))
        matrix = self._reparametrisation.jacobian_transpose_matching_grad_fc()
        return np.array(matrix.as_dense_matrix().as_numpy_array())

    def _parameter_units(self) -> NDArray[np.float64]:
        """Size of each independent parameter's step, from the movement it causes."""
        jacobian = self._jacobian()
        cell = self._structure.unit_cell()
        orthogonal = np.array(cell.orthogonalization_matrix()).reshape(3, 3)
        to_cart = np.array(adptbx_matrix(cell))
        units = np.ones(len(jacobian))
        kinds = _ParameterLayout(self._structure)
        for i, row in enumerate(jacobian):
            effects = [
                np.abs(orthogonal @ row[kinds.site_columns].reshape(-1, 3).T).max(initial=0)
                / self._UNIT["site"],
                np.abs(to_cart @ row[kinds.u_star_columns].reshape(-1, 6).T).max(initial=0)
                / self._UNIT["displacement"],
                np.abs(row[kinds.u_iso_columns]).max(initial=0) / self._UNIT["displacement"],
                np.abs(row[kinds.occupancy_columns]).max(initial=0) / self._UNIT["occupancy"],
            ]
            if max(effects) > 0:
                units[i] = 1 / max(effects)
        return units

    def evaluate(self, shifts: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Crystallographic parameters (q,) and their Jacobian (p, q) at scaled shifts (p,)."""
        self._restart()
        if len(shifts):
            self._reparametrisation.apply_shifts(flex.double(shifts * self._units))
        self._reparametrisation.linearise()
        self._reparametrisation.store()
        values = self._layout.read(self._structure)
        return torch.from_numpy(values), torch.from_numpy(self._jacobian() * self._units[:, None])

    def forward(self) -> AtomicParameters:
        """The atoms' parameters, differentiable with respect to ``shifts``."""
        return self._layout.atoms(_Reparametrised.apply(self.shifts, self))

    def origin_residuals(self) -> torch.Tensor:
        """Shape (k,): k origin shifts that the space group leaves free, in units of 0.001 Angstrom.

        Their squares, added to the loss, hold the centre of gravity of the sites in place.
        """
        start = self._layout.start_sites()
        sites: torch.Tensor = self().sites
        return self._origin_directions() @ (sites - start).mean(0) / _ORIGIN_TOLERANCE

    def origin_jacobian(self) -> torch.Tensor:
        """d origin residuals / d shifts, shape (k, p)."""
        jacobian = torch.from_numpy(self.jacobian())
        n_atoms = len(self._structure.scatterers())
        columns = self._layout.site_columns
        by_axis = jacobian[:, columns].reshape(len(jacobian), len(columns) // 3, 3).sum(1)
        return self._origin_directions() @ by_axis.T / (n_atoms * _ORIGIN_TOLERANCE)

    def _origin_directions(self) -> torch.Tensor:
        """Rows (k, 3) that take a fractional shift along a free direction to Angstrom."""
        cell = self._structure.unit_cell()
        seminvariants = self._structure.space_group_info().structure_seminvariants()
        rows = [
            np.array(v.v) / np.dot(v.v, v.v) * cell.length(tuple(float(x) for x in v.v))
            for v in seminvariants.vectors_and_moduli()
            if v.m == 0
        ]
        return torch.from_numpy(np.array(rows, dtype=float).reshape(-1, 3))

    def current_structure(self) -> xray.structure:
        """A copy of the structure with the current parameters."""
        self.evaluate(self.shifts.detach().numpy())
        return self._structure.deep_copy_scatterers()

    def jacobian(self) -> NDArray[np.float64]:
        """d(crystallographic) / d(shifts), shape (p, q); columns as ``structure.parameter_map``."""
        return self.evaluate(self.shifts.detach().numpy())[1].numpy()

    def derivatives(self, function: Callable[[AtomicParameters], torch.Tensor]) -> torch.Tensor:
        """d function (k,) / d shifts, shape (k, p), at the current parameters."""
        values, jacobian = self.evaluate(self.shifts.detach().numpy())
        with torch.enable_grad():
            values.requires_grad_()
            result = function(self._layout.atoms(values))
            rows = torch.eye(len(result), dtype=result.dtype)
            if not (len(result) and result.requires_grad):
                return rows.new_zeros(len(result), len(jacobian))
            (by_values,) = torch.autograd.grad(result, values, rows, is_grads_batched=True)
        return by_values @ jacobian.T

    def extra_repr(self) -> str:
        return f"{self.n_parameters} independent parameters"


def adptbx_matrix(cell: Any) -> NDArray[np.float64]:
    """The matrix (6, 6) that takes U* to U_cart, in order 11 22 33 12 13 23."""
    columns = [adptbx.u_star_as_u_cart(cell, [float(i == j) for j in range(6)]) for i in range(6)]
    return np.array(columns).T


#: how well the free origin of a polar space group is held, in Angstrom
_ORIGIN_TOLERANCE = 0.001


class _ParameterLayout:
    """Where the refined crystallographic parameters stand; fixed ones keep their values."""

    def __init__(self, structure: xray.structure) -> None:
        scatterers = structure.scatterers()
        self._n = len(scatterers)
        self._base = [
            np.array([s.site for s in scatterers]).reshape(-1, 3),
            np.array([self._u_star(structure, s) for s in scatterers]).reshape(-1, 6),
            np.array([s.occupancy for s in scatterers]),
        ]
        cell = structure.unit_cell()
        self._iso = torch.tensor(adptbx.u_iso_as_u_star(cell, 1.0), dtype=torch.float64)
        parameter_map = structure.parameter_map()
        columns: dict[str, list[tuple[int, int]]] = {
            "site": [],
            "u_iso": [],
            "u_aniso": [],
            "occupancy": [],
        }
        for i, indices in enumerate(parameter_map):
            for name, found in columns.items():
                position = getattr(indices, name)
                if position >= 0:
                    found.append((i, position))
        self.n_columns = parameter_map.n_parameters
        self._atoms = {name: [i for i, _ in found] for name, found in columns.items()}
        self.site_columns = self._spans(columns["site"], 3)
        self.u_iso_columns = self._spans(columns["u_iso"], 1)
        self.u_star_columns = self._spans(columns["u_aniso"], 6)
        self.occupancy_columns = self._spans(columns["occupancy"], 1)

    @staticmethod
    def _spans(found: list[tuple[int, int]], size: int) -> NDArray[np.int64]:
        return np.array([p + k for _, p in found for k in range(size)], dtype=np.int64)

    @staticmethod
    def _u_star(structure: xray.structure, scatterer: Any) -> Any:
        if scatterer.flags.use_u_aniso():
            return scatterer.u_star
        return adptbx.u_iso_as_u_star(structure.unit_cell(), scatterer.u_iso)

    def start_sites(self) -> torch.Tensor:
        """Sites (n, 3) of the structure the layout was made from."""
        return torch.from_numpy(self._base[0].copy())

    def read(self, structure: xray.structure) -> NDArray[np.float64]:
        """The refined crystallographic parameters, in the order of the parameter map."""
        values = np.zeros(self.n_columns)
        scatterers = structure.scatterers()
        values[self.site_columns] = np.array(
            [scatterers[i].site for i in self._atoms["site"]]
        ).ravel()
        values[self.u_iso_columns] = [scatterers[i].u_iso for i in self._atoms["u_iso"]]
        values[self.u_star_columns] = np.array(
            [scatterers[i].u_star for i in self._atoms["u_aniso"]]
        ).ravel()
        values[self.occupancy_columns] = [scatterers[i].occupancy for i in self._atoms["occupancy"]]
        return values

    def atoms(self, values: torch.Tensor) -> AtomicParameters:
        """Parameters of all atoms from the refined ones."""
        sites, u_star, occupancies = (torch.from_numpy(base.copy()) for base in self._base)
        index = {
            name: torch.tensor(atoms, dtype=torch.int64) for name, atoms in self._atoms.items()
        }
        sites = sites.index_copy(0, index["site"], values[self.site_columns].reshape(-1, 3))
        u_star = u_star.index_copy(0, index["u_aniso"], values[self.u_star_columns].reshape(-1, 6))
        u_star = u_star.index_copy(
            0, index["u_iso"], values[self.u_iso_columns][:, None] * self._iso
        )
        occupancies = occupancies.index_copy(0, index["occupancy"], values[self.occupancy_columns])
        return AtomicParameters(sites, u_star, occupancies)
