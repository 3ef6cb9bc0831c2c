"""Whether an experiment's cell and symmetry go with the structure's, and equivalent reflections."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cctbx import crystal, miller, sgtbx, xray
from cctbx.array_family import flex

#: largest differences between the cells: lengths as a fraction, angles in degrees. An angle
#: counts as much as a length, since 0.05 and 0.01 radians are about 3 and 0.6 degrees.
REFUSED_LENGTH, REFUSED_ANGLE = 0.05, 3.0
NOTABLE_LENGTH, NOTABLE_ANGLE = 0.01, 0.6

#: Miller indices are packed into one number, each shifted by half of this base
_BASE = 2**20


def check_compatible(structure: xray.structure, experiment: crystal.symmetry) -> list[str]:
    """Check that reflections indexed in an experiment's cell and symmetry suit a structure.

    The structure's space group rules. The label of the experiment may have lower symmetry, other
    screw axes or the other hand, as long as every operation of its Laue group is one of the
    structure's.

    Args:
        structure: the model.
        experiment: unit cell and space group of the experiment's crystal.

    Returns:
        Sentences for the log, none of which is a reason to stop.

    Raises:
        ValueError: if the cells differ by more than 5 % or 3 degrees, if they agree only after a
            change of basis, or if the experiment has symmetry that the structure lacks.
    """
    return _check_cells(structure, experiment) + _check_groups(
        structure.space_group_info(), experiment.space_group_info()
    )


def setting_operator(structure: xray.structure, experiment: crystal.symmetry) -> str | None:
    """The change of basis after which the cell of an experiment agrees with the structure's.

    None where the cells agree as they are, or after none. In the notation of cctbx.
    """
    length, angle = _mismatch(experiment.unit_cell(), structure.unit_cell())
    if length <= NOTABLE_LENGTH and angle <= NOTABLE_ANGLE:
        return None
    return _change_of_basis(experiment, structure)


def unique_indices(hkl: NDArray[np.int64], structure: xray.structure) -> NDArray[np.int64]:
    """A number that equivalent reflections share, Friedel mates included.

    The number depends on the reflection and the Laue group alone, so that it can be compared
    between experiments.

    Args:
        hkl: shape (n, 3), Miller indices in the setting of the structure.
        structure: its space group decides what is equivalent.

    Returns:
        Shape (n,), not negative and not consecutive.

    Raises:
        ValueError: for an index beyond half a million, which is no reflection.
    """
    if len(hkl) == 0:
        return np.zeros(0, dtype=np.int64)
    if np.abs(hkl).max() >= _BASE // 4:
        raise ValueError(
            f"the Miller index {np.abs(hkl).max()} is impossible: check the reflections"
        )
    columns = [flex.int(np.ascontiguousarray(hkl[:, i], dtype=np.int32)) for i in range(3)]
    laue_symmetry = crystal.symmetry(
        unit_cell=structure.unit_cell(),
        space_group=structure.space_group().build_derived_laue_group(),
        assert_is_compatible_unit_cell=False,
    )
    reflections = miller.set(laue_symmetry, flex.miller_index(*columns), anomalous_flag=False)
    representatives = reflections.map_to_asu().indices().as_vec3_double()
    asymmetric = np.array(representatives).round().astype(np.int64).reshape(-1, 3) + _BASE // 2
    return np.asarray((asymmetric[:, 0] * _BASE + asymmetric[:, 1]) * _BASE + asymmetric[:, 2])


def _mismatch(cell: Any, reference: Any) -> tuple[float, float]:
    """Largest relative difference of lengths and largest difference of angles in degrees."""
    lengths, angles = np.split(np.array(cell.parameters()), 2)
    other_lengths, other_angles = np.split(np.array(reference.parameters()), 2)
    return (
        float(np.abs(lengths / other_lengths - 1).max()),
        float(np.abs(angles - other_angles).max()),
    )


def _strain(cell: Any, reference: Any) -> float:
    length, angle = _mismatch(cell, reference)
    return max(length, float(np.radians(angle)))


def _check_cells(structure: xray.structure, experiment: crystal.symmetry) -> list[str]:
    cell, reference = experiment.unit_cell(), structure.unit_cell()
    length, angle = _mismatch(cell, reference)
    if length <= NOTABLE_LENGTH and angle <= NOTABLE_ANGLE:
        return []
    cells = (
        f"the unit cells of the experiment {_text(cell)} and of the structure {_text(reference)}"
    )
    operator = _change_of_basis(experiment, structure)
    if operator is not None:
        raise ValueError(
            f"{cells} agree only after the change of basis {operator} of the experiment: reindex "
            f"the data with dials.reindex change_of_basis_op={operator} or give the structure in "
            "the setting of the data"
        )
    differ = f"{cells} differ by {100 * length:.1f} % in length and {angle:.1f} degrees"
    if length > REFUSED_LENGTH or angle > REFUSED_ANGLE:
        raise ValueError(
            f"{differ}: give the structure of this crystal, in the setting of the data"
        )
    return [f"{differ}: the cell of the structure is used for the structure factors"]


def _text(cell: Any) -> str:
    return "(" + " ".join(f"{value:.5g}" for value in cell.parameters()) + ")"


@lru_cache(maxsize=1)
def _unimodular_matrices() -> NDArray[np.int64]:
    """All matrices of -1, 0 and 1 with determinant 1, the simplest ones first; shape (m, 3, 3)."""
    matrices = np.array(list(product((0, 1, -1), repeat=9))).reshape(-1, 3, 3)
    matrices = matrices[np.rint(np.linalg.det(matrices)) == 1]
    order = np.lexsort([(matrices < 0).sum(axis=(1, 2)), np.abs(matrices).sum(axis=(1, 2))])
    return matrices[order]


def _change_of_basis(experiment: crystal.symmetry, structure: xray.structure) -> str | None:
    """The operator that brings the experiment's cell onto the structure's much better than none.

    Returns:
        In the notation of cctbx (a, b, c of the new basis in terms of the old), or None.
    """
    cell, reference = experiment.unit_cell(), structure.unit_cell()
    to_primitive = experiment.change_of_basis_op_to_primitive_setting()
    from_primitive = structure.change_of_basis_op_to_primitive_setting().inverse()
    identity = sgtbx.change_of_basis_op()
    routes = [(identity, identity)]
    if not (to_primitive.is_identity_op() and from_primitive.is_identity_op()):
        routes.append((to_primitive, from_primitive))
    best, best_strain = None, 0.5 * _strain(cell, reference)  # a distorted cell is not a setting
    for before, after in routes:
        metric = np.array(before.apply(cell).metrical_matrix())
        wanted = np.array(after.inverse().apply(reference).metrical_matrix())
        for matrix in _closest(_full(metric), _full(wanted)):
            middle = sgtbx.change_of_basis_op(_operator(matrix)).inverse()
            operator = after * middle * before
            strain = _strain(operator.apply(cell), reference)
            if strain < best_strain - 1e-6 and strain < REFUSED_LENGTH:
                best, best_strain = operator.as_abc(), strain
    return best


def _full(metric: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c, ab, ac, bc = metric
    return np.array([[a, ab, ac], [ab, b, bc], [ac, bc, c]])


def _closest(
    metric: NDArray[np.float64], wanted: NDArray[np.float64], n: int = 20
) -> NDArray[np.int64]:
    """The unimodular matrices P whose P^T G P is nearest to a wanted metric; shape (n, 3, 3)."""
    matrices = _unimodular_matrices()
    changed = np.einsum("mji,jk,mkl->mil", matrices, metric, matrices)
    lengths = np.sqrt(np.diagonal(wanted))
    difference = np.abs(changed - wanted) / np.outer(lengths, lengths)
    return matrices[np.argsort(difference.max(axis=(1, 2)).round(6), kind="stable")[:n]]


def _operator(matrix: NDArray[np.int64]) -> sgtbx.rt_mx:
    """Columns of a matrix, the new axes in terms of the old, as an operator for cctbx."""
    return sgtbx.rt_mx(sgtbx.rot_mx([int(v) for v in matrix.ravel()], 1)).new_denominators(12, 144)


def _rotations(group: Any) -> set[tuple[int, ...]]:
    return {tuple(operation.r().num()) for operation in group.build_derived_laue_group().all_ops()}


def _check_groups(structure: Any, experiment: Any) -> list[str]:
    """Compare space groups (cctbx space_group_info)."""
    ours, theirs = _rotations(structure.group()), _rotations(experiment.group())
    if not theirs <= ours:
        kind = "higher than" if ours < theirs else "not a part of"
        raise ValueError(
            f"the Laue symmetry {_laue(experiment)} of the experiment ({experiment}) is {kind} "
            f"that of the structure, {_laue(structure)} ({structure}): integrate the data in {structure}, "
            "a subgroup of it or P1"
        )
    number, other = structure.type().number(), experiment.type().number()
    if number == other and ours == theirs:
        return []
    start = f"the experiment is labelled {experiment}, the structure {structure}"
    if structure.type().is_enantiomorphic() and structure.change_hand().type().number() == other:
        return [
            f"{start}: the label of an enantiomorph is no evidence of hand, the structure is used "
            "as given"
        ]
    if theirs < ours:
        return [
            f"{start}: reflections are taken as equivalent by the higher symmetry of the structure"
        ]
    return [f"{start}: the Laue groups agree, the space group of the structure is used"]


def _laue(info: Any) -> str:
    return str(info.group().build_derived_laue_group().info())
