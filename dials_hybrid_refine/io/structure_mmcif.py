"""Macromolecular mmCIF in the terms of core CIF."""

from __future__ import annotations

from dials_hybrid_refine.io.cif_syntax import Items
from dials_hybrid_refine.io.structure_atoms import ModelError


def is_macromolecular(items: Items) -> bool:
    """Whether a data block describes its atoms as mmCIF does."""
    return "_atom_site_fract_x" not in items and "_atom_site_label_atom_id" in items


def as_core_items(items: Items) -> Items:
    """A copy of the items with labels as core CIF has them; U_ij, Cartesian, as kind "ucart".

    Raises:
        ModelError: for several models.
    """
    n = len(items["_atom_site_label_atom_id"])
    if len(set(items.get("_atom_site_pdbx_pdb_model_num", ["1"]))) > 1:
        raise ModelError("several models were found: give a file with only the one to be used")

    def column(*names: str) -> list[str]:
        values = next((items[f"_atom_site_{x}"] for x in names if f"_atom_site_{x}" in items), None)
        return [""] * n if values is None else ["" if v in (".", "?") else v for v in values]

    parts = zip(
        column("auth_atom_id", "label_atom_id"),
        column("auth_asym_id", "label_asym_id"),
        column("auth_seq_id", "label_seq_id"),
        column("pdbx_pdb_ins_code"),
        column("label_alt_id"),
    )
    core = dict(items)
    core["_atom_site_label"] = [f"{name}_{''.join(place)}" for name, *place in parts]
    if "_atom_site_anisotrop_id" in items and "_atom_site_id" in items:
        labels = dict(zip(items["_atom_site_id"], core["_atom_site_label"]))
        core["_atom_site_aniso_label"] = [
            labels.get(i, "") for i in items["_atom_site_anisotrop_id"]
        ]
        for i, j in ("11", "22", "33", "12", "13", "23"):
            tensor = items.get(f"_atom_site_anisotrop_u[{i}][{j}]")
            if tensor is not None:
                core[f"_atom_site_aniso_ucart_{i}{j}"] = tensor
    return core
