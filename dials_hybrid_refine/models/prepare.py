"""From a model as a file has it to one as it shall be refined: hydrogen atoms, shared sites, ADPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cctbx import xray
from smtbx.refinement.constraints.geometrical import hydrogens as geometries

from dials_hybrid_refine.models.connectivity import Disorder
from dials_hybrid_refine.models.generated_hydrogens import generate
from dials_hybrid_refine.models.hydrogen_occupancies import follow_parents
from dials_hybrid_refine.models.hydrogens import hydrogen_atoms, place, ride
from dials_hybrid_refine.models.restraints.request import RestraintRequest
from dials_hybrid_refine.models.shared_sites import share, shared_sites
from dials_hybrid_refine.models.xh_distances import set_distances


@dataclass(frozen=True)
class ModelChoices:
    """How the atoms of a model are to be described.

    Attributes:
        adp: "auto" (as in the file), "isotropic" or "anisotropic" (hydrogen atoms stay isotropic).
        hydrogens: "auto" (riding where the file says so), "riding" (all that are bound to one
            atom), "free" (none rides) or "generate" (those missing are added; all ride).
        distances: of riding hydrogen atoms, "neutron", "xray" or "input"; a distance that the file
            prescribes (AFIX) is kept.
    """

    adp: str = "auto"
    hydrogens: str = "auto"
    distances: str = "neutron"


@dataclass(frozen=True)
class Model:
    """A structure and what binds its atoms.

    Attributes:
        constraints: of ``smtbx.refinement.constraints``, in the order in which smtbx needs them.
        disorder: which atoms are alternatives.
        riding: indices of hydrogen atoms that the file says ride, without saying how (CIF).
        restraints: that the file asks for.
        cell_su: s.u. of a, b, c (Angstrom) and the angles (degrees) that the file states, or None.
    """

    structure: xray.structure
    constraints: list[Any] = field(default_factory=list)
    disorder: Disorder = Disorder()
    riding: tuple[int, ...] = ()
    restraints: tuple[RestraintRequest, ...] = ()
    cell_su: tuple[float, ...] | None = None


def prepare(model: Model, choices: ModelChoices) -> tuple[Model, list[str]]:
    """The model to refine, and sentences for the user. Indices of atoms do not change; hydrogen
    atoms that are generated follow at the end.

    Raises:
        ValueError: if the surroundings of an atom do not suit the geometry that the file gives its
            hydrogen atoms.
    """
    structure, disorder = model.structure.deep_copy_scatterers(), model.disorder
    constraints, notes = list(model.constraints), []
    known = set(hydrogen_atoms(structure))
    added: list[int] = []
    if choices.hydrogens == "free":
        constraints = [c for c in constraints if not _concerns(c, known)]
    if choices.hydrogens == "generate":
        generated = generate(structure, disorder)
        structure, disorder = generated.structure, generated.disorder
        added = generated.added
        labels = [structure.scatterers()[i].label for i in added]
        notes.append(f"{len(labels)} hydrogen atoms were added: {', '.join(labels) or 'none'}")
        notes += generated.notes
    _check_geometries(structure, constraints, disorder)
    set_distances(structure, constraints, choices.distances)
    _set_displacements(structure, choices.adp, constraints)
    bound = {i for c in constraints for i, kind in c.constrained_parameters if kind == "site"}
    chosen = {
        "auto": [i for i in model.riding if i in known],
        "free": [],
    }.get(choices.hydrogens, hydrogen_atoms(structure))
    riding = ride(structure, [i for i in chosen if i not in bound], disorder, choices.distances)
    if riding.left_free:
        labels = [structure.scatterers()[i].label for i in riding.left_free]
        notes.append(
            f"these hydrogen atoms are not bound to exactly one atom and are refined freely: "
            f"{', '.join(labels)}"
        )
    groups = [group for group in shared_sites(structure) if not _already(group, constraints)]
    told = {i for c in constraints for i in getattr(c, "scatterer_indices", ())}
    common, changed = share(structure, groups, told)
    structure.apply_symmetry_u_stars()
    if groups:
        named = ["/".join(structure.scatterers()[i].label for i in group) for group in groups]
        notes.append(f"atoms on common sites share coordinates and U: {', '.join(named)}")
    every = [*common, *constraints, *riding.constraints]
    every, dropped = _without_conflicts(
        structure, [*every, *follow_parents(structure, every, added)]
    )
    prepared = replace(model, structure=structure, constraints=every, disorder=disorder)
    return prepared, notes + changed + dropped


def _check_geometries(
    structure: xray.structure, constraints: Sequence[Any], disorder: Disorder
) -> None:
    for constraint in constraints:
        if isinstance(constraint, geometries.hydrogens) and not place(
            structure.deep_copy_scatterers(), constraint, disorder
        ):
            scatterers = structure.scatterers()
            named = [scatterers[i].label for i in constraint.constrained_site_indices]
            raise ValueError(
                f"the bonds of {scatterers[constraint.pivot].label} do not suit the geometry that AFIX "
                f"prescribes for {', '.join(named)}: correct its AFIX instruction or remove it"
            )


def _concerns(constraint: Any, atoms: set[int]) -> bool:
    """Whether a constraint binds coordinates or U of any of these atoms."""
    return any(i in atoms and kind != "occupancy" for i, kind in constraint.constrained_parameters)


def _already(group: Sequence[int], constraints: Sequence[Any]) -> bool:
    """Whether the file has constrained the coordinates of all but one of a group."""
    bound = {i for c in constraints for i, kind in c.constrained_parameters if kind == "site"}
    return len(bound & set(group)) >= len(group) - 1


def _set_displacements(structure: xray.structure, kind: str, constraints: Sequence[Any]) -> None:
    """Make atoms isotropic or anisotropic; those with U bound to another's stay isotropic."""
    if kind == "auto":
        return
    bound = {getattr(c, "u_iso_scatterer_idx", None) for c in constraints}
    for i, scatterer in enumerate(structure.scatterers()):
        flags = scatterer.flags
        refined = flags.grad_u_iso() or flags.grad_u_aniso()
        if kind == "isotropic" or scatterer.element_symbol() in ("H", "D") or i in bound:
            if flags.use_u_aniso():
                scatterer.convert_to_isotropic(structure.unit_cell())
        elif flags.use_u_iso():
            scatterer.convert_to_anisotropic(structure.unit_cell())
        flags.set_grad_u_iso(refined and flags.use_u_iso())
        flags.set_grad_u_aniso(refined and flags.use_u_aniso())


def _without_conflicts(
    structure: xray.structure, constraints: Sequence[Any]
) -> tuple[list[Any], list[str]]:
    """Constraints of which none binds a parameter that an earlier one binds, and sentences on the
    others; smtbx would leave those out as well."""
    bound: set[tuple[int, str]] = set()
    kept, notes = [], []
    for constraint in constraints:
        parameters = list(constraint.constrained_parameters)
        clash = bound.intersection(parameters)
        if clash or len(set(parameters)) < len(parameters):
            named = sorted({structure.scatterers()[i].label for i, _ in parameters})
            notes.append(
                f"a constraint on {', '.join(named)} contradicts another one and is left out"
            )
            continue
        bound.update(parameters)
        kept.append(constraint)
    return kept, notes
