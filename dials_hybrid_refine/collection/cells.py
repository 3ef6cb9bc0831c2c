"""Which crystals have the same unit cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import crystal, sgtbx, uctbx
from dials.algorithms.clustering.unit_cell import cluster_unit_cells


@dataclass(frozen=True)
class CellCluster:
    """Attributes:
    members: indices of the crystals.
    median, spread: of the cell parameters as given (Angstrom, degrees), and their standard deviations.
    """

    members: tuple[int, ...]
    median: tuple[float, ...]
    spread: tuple[float, ...]


def cell_clusters(
    cells: Sequence[Sequence[float]], space_groups: Sequence[str], tolerance: float
) -> list[CellCluster]:
    """Clusters by the distance of Andrews & Bernstein (2014), J. Appl. Cryst. 47, 346, of reduced
    cells, as in dials.cluster_unit_cell, the largest first.

    Its distance is that of squared lengths (Angstrom^2), so that a limit that suits a protein joins all
    small cells. Here the limit is that of cells whose lengths all differ by a share: d(a^2) = 2 a da.

    Args:
        cells: n cells in Angstrom and degrees. space_groups: their Hermann-Mauguin symbols.
        tolerance: lengths that differ by less than this share belong together (single linkage).
    """
    if not cells:
        return []
    reduced = [_reduced(cell, group) for cell, group in zip(cells, space_groups)]
    groups: list[list[int]] = [[0]]
    if len(cells) > 1:
        squares = [np.array(one.unit_cell().parameters()[:3]) ** 2 for one in reduced]
        limit = 2 * tolerance * float(np.linalg.norm(np.median(squares, axis=0)))
        found = cluster_unit_cells(reduced, list(range(len(cells))), threshold=limit)
        groups = [sorted(cluster.lattice_ids) for cluster in found.clusters]
    result = []
    for members in sorted(groups, key=lambda group: (-len(group), group)):
        values = np.array([cells[i] for i in members])
        result.append(
            CellCluster(tuple(members), tuple(np.median(values, 0)), tuple(np.std(values, 0)))
        )
    return result


def _reduced(cell: Sequence[float], group: str) -> crystal.symmetry:
    """The reduced cell. Only the centring counts: the cell need not have the symmetry exactly."""
    centring = sgtbx.space_group_info(group).group().conventional_centring_type_symbol()
    lattice = sgtbx.space_group(f"{centring} 1" if centring in "ABCFIR" else "P 1")
    return crystal.symmetry(uctbx.unit_cell(tuple(cell)), space_group=lattice).niggli_cell()
