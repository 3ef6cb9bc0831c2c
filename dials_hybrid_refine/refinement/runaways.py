"""Sentences about a result in which something ran away, although every number is finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cctbx import adptbx, xray

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton
from dials_hybrid_refine.refinement.result import Profiles
from dials_hybrid_refine.refinement.settings import LARGEST_SCANNED

#: Angstrom that an atom may move: most of a bond, further than its peak in a map of 1 Angstrom
_FURTHEST = 1.0
#: U in Angstrom^2 with which an atom scatters a third of a per cent of its share at |g| = 1/Angstrom
_LARGEST_U = 0.3
#: degrees: with more, reflections at 1/Angstrom are further from the Ewald sphere than s_max
_LARGEST_CORRECTION = 1.0
#: factor between a scale and the median one; stages do not turn that unevenly
_LARGEST_SCALE_RATIO = 30.0
#: Angstrom; thinner than two atoms, and twice what is looked for
_THICKNESS_LIMITS = (5.0, 2 * LARGEST_SCANNED[-1])
#: share of the weight on the three thickest nodes, and of the scan, where they hold so much
_FULL_WEIGHT, _FULL_SHARE = 0.2, 0.1


def runaway_atoms(start: xray.structure, refined: xray.structure) -> list[str]:
    """Atoms that left their place or faded away.

    Args:
        start, refined: with the same atoms in the same order.
    """
    cell = refined.unit_cell()
    found = []
    for before, atom in zip(start.scatterers(), refined.scatterers()):
        moved = cell.distance(before.site, atom.site)
        if moved > _FURTHEST:
            found.append(
                f"{atom.label} moved {moved:.1f} Angstrom away from where it started: look for it in the "
                "difference map, or restrain it"
            )
        u = atom.u_iso
        if atom.flags.use_u_aniso():
            u = max(adptbx.eigenvalues(adptbx.u_star_as_u_cart(cell, atom.u_star)))
        if u > _LARGEST_U:
            found.append(
                f"U of {atom.label} grew to {u:.2f} Angstrom^2, with which it hardly scatters: it may not "
                "be there, or be another element"
            )
    return found


def runaway_profiles(model: HybridModel, profiles: Profiles) -> list[str]:
    """Thickness, orientation and scales that no experiment has; each crystal is judged by itself."""
    numbers = np.unique(profiles.experiment)
    if len(numbers) == 1:
        return _runaway_profiles(model, profiles)
    return [
        f"experiment {i}: {sentence}"
        for i in numbers
        for sentence in _runaway_profiles(model, profiles.of_crystal(i))
    ]


def _runaway_profiles(model: HybridModel, profiles: Profiles) -> list[str]:
    found = []
    mean, phi = profiles.thickness_mean, profiles.phi
    lowest, highest = _THICKNESS_LIMITS
    odd = ~((mean >= lowest) & (mean <= highest))
    if odd.any():
        found.append(
            f"the thickness ran away, to {mean[odd][0]:.3g} Angstrom at {phi[odd][0]:.1f} degrees: try "
            "thickness.model=constant, or give thickness.start"
        )
    if isinstance(model.thickness, NeuralThickness):
        full = profiles.thickness_weight[:, -3:].sum(1) > _FULL_WEIGHT
        if full.mean() > _FULL_SHARE:
            found.append(
                "the distribution of thickness has run into the thickest crystals considered, "
                f"{profiles.thickness_nodes.max():.0f} Angstrom: raise thickness.max"
            )
    turned = np.linalg.norm(profiles.orientation, axis=1)
    if turned.max() > _LARGEST_CORRECTION:
        found.append(
            f"the correction of the orientation reaches {turned.max():.1f} degrees at "
            f"{phi[turned.argmax()]:.1f} degrees: refine the orientation with dials.refine first, or lower "
            "orientation.expected_size"
        )
    scale = profiles.scale
    ratio = scale / np.median(scale)
    odd = ~((ratio > 1 / _LARGEST_SCALE_RATIO) & (ratio < _LARGEST_SCALE_RATIO))
    if odd.any():
        found.append(
            f"the scale at {phi[odd][0]:.1f} degrees is {ratio[odd][0]:.2g} times the median scale (so or "
            f"worse at {odd.sum()} of {len(odd)} places of the scan): exclude these images, or lower "
            "scale.variation"
        )
    return found


def undetermined_parameters(model: HybridModel, equations: GaussNewton) -> list[str]:
    """A sentence that names the atoms with parameters that neither data nor restraints determine."""
    directions = equations.undetermined()[:, : model.structure.n_parameters].numpy()
    # of a direction's squared length, the share that a parameter must have to be named
    involved = (directions**2 > 0.1).any(axis=0)
    if not involved.any():
        return []
    labels = _atoms_of(model, np.flatnonzero(involved).tolist())
    return [
        f"the normal matrix is singular: the data do not determine all parameters of {', '.join(labels)}, "
        "whose standard uncertainties mean nothing: constrain, restrain or fix them"
    ]


def _atoms_of(model: HybridModel, parameters: Sequence[int]) -> list[str]:
    """Labels of the atoms that some of the structure's refined numbers move, in their order."""
    structure = model.structure.current_structure()
    moves = (np.abs(model.structure.jacobian()[list(parameters)]) > 0).any(axis=0)
    labels = []
    for atom, place in zip(structure.scatterers(), structure.parameter_map()):
        starts = ((place.site, 3), (place.u_aniso, 6), (place.u_iso, 1), (place.occupancy, 1))
        columns = [i for first, n in starts if first >= 0 for i in range(first, first + n)]
        if moves[columns].any():
            labels.append(atom.label)
    return labels
