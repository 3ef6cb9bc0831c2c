"""The crystal structure as a torch module, constrained by smtbx.

smtbx's reparametrisation holds the independent parameters: site symmetry of coordinates and
displacement parameters, and any constraint it knows, are obeyed by construction. Its Jacobian
carries gradients of the crystallographic parameters back to the independent ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cctbx import adptbx, xray
from cctbx.array_family import flex
from cctbx.eltbx import tiny_pse
from smtbx.refinement import constraints

from dials_hybrid_refine.diffraction.potential import AtomicParameters, CrystalComposition
from dials_hybrid_refine.models.connectivity import Disorder, connectivity
from dials_hybrid_refine.models.refined_flags import RefinedParameters, in_effect, set_refined


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
        disorder: Disorder = Disorder(),  # noqa: B008  immutable
    ) -> None:
        """
        Args:
            shelx_constraints: of ``smtbx.refinement.constraints``, in the order in which smtbx needs
                them: shared sites, U and occupancies first.
            disorder: which atoms are alternatives; the geometry of hydrogen atoms depends on it.

        Raises:
            smtbx.refinement.constraints.InvalidConstraint: if a constraint does not suit its atoms.
        """
        super().__init__()
        self._start = structure.deep_copy_scatterers()
        set_refined(self._start, refined, shelx_constraints)
        self._constraints = in_effect(self._start, shelx_constraints)
        self._refined, self._disorder = refined, disorder
        self._connectivity = connectivity(self._start, disorder)
        #: the last shifts that were evaluated, which ``_structure`` has, with values and Jacobian
        self._evaluated: tuple[NDArray[np.float64], torch.Tensor, torch.Tensor] | None = None
        self._restart()
        self._annotations = list(self._reparametrisation.component_annotations)
        self._units = self._parameter_units()
        self._layout = _ParameterLayout(self._structure)
        self._free_origin = self._find_free_origin()
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
        if self._evaluated is not None and np.array_equal(self._evaluated[0], shifts):
            return self._evaluated[1:]
        self._restart()
        if len(shifts):
            self._reparametrisation.apply_shifts(flex.double(shifts * self._units))
        self._reparametrisation.linearise()
        self._reparametrisation.store()
        values = torch.from_numpy(self._layout.read(self._structure))
        jacobian = torch.from_numpy(self._jacobian() * self._units[:, None])
        self._evaluated = shifts.copy(), values, jacobian
        return values, jacobian

    def forward(self) -> AtomicParameters:
        """The atoms' parameters, differentiable with respect to ``shifts``."""
        return self._layout.atoms(_Reparametrised.apply(self.shifts, self))

    def prior_residuals(self) -> torch.Tensor:
        """What is added to the loss as a sum of squares: the hold of the origin and of small U."""
        return torch.cat([self.origin_residuals(), self.displacement_residuals()])

    def prior_jacobian(self) -> torch.Tensor:
        """d prior residuals / d shifts, shape (r, p)."""
        return torch.cat([self.origin_jacobian(), self._displacement_jacobian()])

    def origin_residuals(self) -> torch.Tensor:
        """Shape (k,): k origin shifts that space group and constraints leave free, in units of 0.001
        Angstrom.

        Their squares, added to the loss, hold the centre of gravity of the sites in place: no atom is
        privileged.
        """
        start = self._layout.start_sites()
        sites: torch.Tensor = self().sites
        return self._free_origin @ (sites - start).mean(0) / _ORIGIN_TOLERANCE

    def origin_jacobian(self) -> torch.Tensor:
        """d origin residuals / d shifts, shape (k, p)."""
        jacobian = torch.from_numpy(self.jacobian())
        n_atoms = len(self._structure.scatterers())
        columns = self._layout.site_columns
        by_axis = jacobian[:, columns].reshape(len(jacobian), len(columns) // 3, 3).sum(1)
        return self._free_origin @ by_axis.T / (n_atoms * _ORIGIN_TOLERANCE)

    def with_fixed_origin(self, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
        """A covariance (p, p) of the shifts under the condition that the origin does not move.

        The hold of the origin is a choice, not a measurement: its tolerance must not enter s.u.
        (Flack & Schwarzenbach (1988), Acta Cryst. A44, 499-506).
        """
        across = covariance @ self.origin_jacobian().numpy().T
        if not across.size:
            return covariance
        among = self.origin_jacobian().numpy() @ across
        return np.asarray(covariance - across @ np.linalg.solve(among, across.T))

    def _find_free_origin(self) -> torch.Tensor:
        """Rows (k, 3) that take a fractional shift along a free direction to Angstrom.

        A direction is not free where an atom's coordinates are fixed.
        """
        cell = self._structure.unit_cell()
        columns = self._layout.site_columns
        n_atoms = len(self._structure.scatterers())
        moves = self._jacobian()[:, columns]
        rows = []
        for direction in (
            self._structure.space_group_info().structure_seminvariants().vectors_and_moduli()
        ):
            if direction.m != 0 or len(columns) < 3 * n_atoms:
                continue
            v = np.array(direction.v, dtype=float)
            shift = np.tile(v, n_atoms)
            combination = np.linalg.lstsq(moves.T, shift, rcond=None)[0]
            if np.abs(moves.T @ combination - shift).max() < 1e-6:
                rows.append(v / (v @ v) * cell.length(tuple(v)))
        return torch.from_numpy(np.array(rows, dtype=float).reshape(-1, 3))

    def displacement_residuals(self) -> torch.Tensor:
        """Shape (3 a,): how far below a floor the principal U of the a anisotropic atoms are.

        Zero for all that are above. As SHELXL's XNPD, it keeps U positive definite unless the data
        insist; ``unphysical_parameters`` reports those that are not.
        """
        u_star = self().u_star[self._layout.anisotropic]
        u_cart = (u_star @ self._layout.u_to_cart.T)[:, _TENSOR].reshape(-1, 3, 3)
        principal = torch.linalg.eigvalsh(u_cart).reshape(-1)
        return (_SMALLEST_U - principal).clamp_min(0) / _U_TOLERANCE

    def _displacement_jacobian(self) -> torch.Tensor:
        """d displacement residuals / d shifts, (m, p), of those that are not zero."""
        with torch.enable_grad():
            residuals = self.displacement_residuals()
            rows = [
                torch.autograd.grad(residual, self.shifts, retain_graph=True)[0]
                for residual in residuals[residuals > 0]
            ]
        return torch.stack(rows) if rows else torch.zeros(0, len(self.shifts), dtype=torch.float64)

    def starting_structure(self) -> xray.structure:
        """A copy of the structure with which the model began."""
        return self._start.deep_copy_scatterers()

    def current_structure(self) -> xray.structure:
        """A copy of the structure with the current parameters."""
        self.evaluate(self.shifts.detach().numpy())
        return self._structure.deep_copy_scatterers()

    def jacobian(self) -> NDArray[np.float64]:
        """d(crystallographic) / d(shifts), shape (p, q); columns as ``structure.parameter_map``."""
        return self.evaluate(self.shifts.detach().numpy())[1].numpy()

    def inverted(self) -> StructureModel:
        """The inverse of the structure as it is now, described alike.

        Coordinates change by cctbx's operation for the space group: inversion in the origin, or where that
        does not lead to a standard setting (I 41, F d d 2 ...) in another point; P 31 2 1 becomes P 32 2 1.
        """
        structure = self.current_structure().change_hand()
        return StructureModel(structure, self._refined, self._constraints, self._disorder)

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
#: principal U in Angstrom^2 that are held up (zero-point motion alone makes them larger), and how firmly
_SMALLEST_U, _U_TOLERANCE = 5e-4, 2e-4
#: places of 11 12 13 21 22 ... in 11 22 33 12 13 23
_TENSOR = [0, 3, 4, 3, 1, 5, 4, 5, 2]


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
        self.anisotropic = torch.tensor(self._atoms["u_aniso"], dtype=torch.int64)
        self.u_to_cart = torch.from_numpy(adptbx_matrix(cell))

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
