"""What a user asks for: restraints by the atoms' names, before a structure gives them a meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cctbx import sgtbx

#: atoms that stand for all but hydrogen
ALL_ATOMS = "all"


@dataclass(frozen=True)
class AtomName:
    """An atom by its label, or its image under a symmetry operation (``-x,y,1/2-z``)."""

    label: str
    operation: str = "x,y,z"

    def __str__(self) -> str:
        return self.label if self.operation == "x,y,z" else f"{self.label} ({self.operation})"


@dataclass(frozen=True)
class RestraintRequest:
    """One restraint, or several of a kind with the same target and standard deviation.

    Attributes:
        kind: a key of ``build.KINDS``.
        source: the instruction or parameter that asked for it, as messages name it.
        atoms: two for each distance, three for each angle (its apex in the middle), four for each
            chiral volume (the centre first); all of a plane; those among which pairs are looked for.
            Empty: all but hydrogen, where that makes sense.
        sigma: standard deviation, in Angstrom, degrees, Angstrom^3 or Angstrom^2 as the kind has it.
        target: of distances, angles and volumes, in the same units.
        sigma_far: of 1,3-distances (rigid bonds) or terminal atoms (displacement parameters).
        max_distance: between atoms of similar displacement parameters, in Angstrom.
    """

    kind: str
    source: str
    atoms: tuple[AtomName, ...]
    sigma: float
    target: float | None = None
    sigma_far: float | None = None
    max_distance: float | None = None


def inverted_request(
    request: RestraintRequest, change_of_hand: sgtbx.change_of_basis_op
) -> RestraintRequest:
    """What a request becomes when the structure is inverted: chiral volumes change their sign."""
    atoms = tuple(
        replace(atom, operation=change_of_hand.apply(sgtbx.rt_mx(atom.operation)).as_xyz())
        for atom in request.atoms
    )
    target = request.target
    if target is not None and request.kind in ("chiral_volume", "chiral_centre"):
        target = -target
    return replace(request, atoms=atoms, target=target)
