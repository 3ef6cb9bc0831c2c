"""Restraints in a CIF, with the items of the restraints dictionary (cif_rstr.dic 3.1, COMCIFS).

Differences are target minus refined value, as iotbx writes them; those of angles have no sign in the
dictionary. What it has no items for, chiral volumes and enhanced rigid bonds, stands in
``_restr_special_details`` as it asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import iotbx.cif.model
from cctbx import sgtbx, xray

from dials_hybrid_refine.refinement.restraint_summary import RestraintRow, RestraintSummary

_Rows = Sequence[RestraintRow]


def add_restraints(
    block: iotbx.cif.model.block, structure: xray.structure, restraints: RestraintSummary
) -> None:
    """Add the restraints of a structure and what they add to the statistics to a CIF block."""
    writer = _Writer(block, structure.space_group_info())
    block["_refine_ls_number_restraints"] = str(restraints.n_equations)
    block["_refine_ls_restrained_S_all"] = f"{restraints.restrained_s:.2f}"
    kinds: dict[str, list[RestraintRow]] = {}
    for row in restraints.rows:
        kinds.setdefault(row.kind, []).append(row)
    writer.targets("distance", kinds.get("distance", []), 2, with_sign=True)
    writer.targets("angle", kinds.get("angle", []), 3, with_sign=False)
    writer.equal_distances(kinds.get("equal_distance", []))
    writer.planes(kinds.get("plane", []))
    writer.rigid_bonds(kinds.get("rigid_bond", []))
    writer.similar(kinds.get("similar_displacements", []))
    isotropic = kinds.get("isotropic_displacements", [])
    names = ["_restr_U_iso_atom_site_label", "_restr_U_iso_weight_param"]
    writer.loop(names, [[row.labels[0], f"{row.sigma:.4f}"] for row in isotropic])
    others = ("chiral_volume", "chiral_centre", "enhanced_rigid_bond")
    details = [_sentence(row) for kind in others for row in kinds.get(kind, [])]
    if details:
        block["_restr_special_details"] = "\n" + "\n".join(details) + "\n"


def _sentence(row: RestraintRow) -> str:
    atoms = ", ".join(
        label if operation == "x,y,z" else f"{label} ({operation})"
        for label, operation in zip(row.labels, row.operations)
    )
    if row.kind == "enhanced_rigid_bond":
        return (
            f"RIGU {atoms}: length of the difference of the displacements along the line\n"
            f"  {row.value:.5f}, s.d. {row.sigma:.5f} A^2^"
        )
    return f"Chiral volume {atoms}:\n  {row.value:.4f}, target {row.target:.4f}, s.d. {row.sigma:.4f} A^3^"


class _Writer:
    """Adds loops to a block; empty ones are left out."""

    def __init__(self, block: iotbx.cif.model.block, group: sgtbx.space_group_info) -> None:
        self._block = block
        self._group = group

    def loop(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if rows:
            loop = iotbx.cif.model.loop(header=names)
            for row in rows:
                loop.add_row(list(row))
            self._block.add_loop(loop)

    def _atoms(self, row: RestraintRow) -> list[str]:
        """Label and symmetry code of each atom in turn."""
        codes = [self._group.cif_symmetry_code(sgtbx.rt_mx(o)) for o in row.operations]
        return [text for pair in zip(row.labels, codes) for text in pair]

    @staticmethod
    def _atom_names(category: str, n: int) -> list[str]:
        return [
            f"_restr_{category}_{item}_{i}"
            for i in range(1, n + 1)
            for item in ("atom_site_label", "site_symmetry")
        ]

    def targets(self, category: str, rows: _Rows, n: int, with_sign: bool) -> None:
        names = [f"_restr_{category}_{item}" for item in ("target", "target_weight_param", "diff")]
        self.loop(
            self._atom_names(category, n) + names,
            [
                [
                    *self._atoms(row),
                    f"{row.target:.4f}",
                    f"{row.sigma:.4f}",
                    f"{-row.deviation if with_sign else abs(row.deviation):.4f}",
                ]
                for row in rows
            ],
        )

    def equal_distances(self, rows: _Rows) -> None:
        prefix = "_restr_equal_distance_class_"
        items = ("class_id", "target_weight_param", "average", "esd", "diff_max")
        classes = [
            [
                str(number),
                f"{members[0].sigma:.4f}",
                f"{members[0].target:.4f}",
                f"{_root_mean_square(members):.4f}",
                f"{_largest(members):.4f}",
            ]
            for number, members in _groups(rows).items()
        ]
        self.loop([prefix + item for item in items], classes)
        self.loop(
            [*self._atom_names("equal_distance", 2), "_restr_equal_distance_class_id"],
            [[*self._atoms(row), str(row.group)] for row in rows],
        )

    def planes(self, rows: _Rows) -> None:
        items = ("class_id", "displacement_max", "displacement_max_atom_site_label")
        classes = []
        for number, members in _groups(rows).items():
            farthest = max(members, key=lambda row: abs(row.deviation))
            classes.append([str(number), f"{_largest(members):.4f}", farthest.labels[0]])
        self.loop([f"_restr_plane_class_{item}" for item in items], classes)
        columns = (
            "id",
            "atom_site_label",
            "site_symmetry",
            "class_id",
            "displacement",
            "target_weight_param",
        )
        self.loop(
            [f"_restr_plane_{item}" for item in columns],
            [
                [
                    str(i),
                    *self._atoms(row),
                    str(row.group),
                    f"{abs(row.deviation):.4f}",
                    f"{row.sigma:.4f}",
                ]
                for i, row in enumerate(rows, start=1)
            ],
        )

    def rigid_bonds(self, rows: _Rows) -> None:
        names = ["_restr_U_rigid_target_weight_param", "_restr_U_rigid_diff"]
        self.loop(
            self._atom_names("U_rigid", 2) + names,
            [[*self._atoms(row), f"{row.sigma:.4f}", f"{-row.deviation:.4f}"] for row in rows],
        )

    def similar(self, rows: _Rows) -> None:
        self.loop(
            [*self._atom_names("U_similar", 2), "_restr_U_similar_weight_param"],
            [[*self._atoms(row), f"{row.sigma:.4f}"] for row in rows],
        )


def _groups(rows: _Rows) -> dict[int, list[RestraintRow]]:
    groups: dict[int, list[RestraintRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def _largest(rows: _Rows) -> float:
    return max(abs(row.deviation) for row in rows)


def _root_mean_square(rows: _Rows) -> float:
    return math.sqrt(sum(row.deviation**2 for row in rows) / len(rows))
