"""Signs of modulated and composite crystals in a CIF, which are refused.

Items: IUCr dictionary of modulated and composite structures, cif_ms.dic. Jana writes them, and PETS2
for data with satellites.
"""

from __future__ import annotations

import re

from dials_hybrid_refine.io.cif_syntax import Items

#: items that only such crystals have, by the beginnings of their names
_ITEMS = re.compile(
    r"_(space_group_s(ymop_s)?sg|cell_wave_vector|cell_subsystem|cell_modulation_dimension"
    r"|atom_site_(fourier|displace|occ|rot|u_fourier|phason)_|atom_sites_modulation"
    r"|refln_index_m|exptl_crystal_type_of_structure|diffrn_reflns_satellite)"
)
#: wave vector and the signs that follow it, as in P n m a(0 b 0)s00
_SUPERSPACE_SYMBOL = re.compile(
    r"\([-\s\d/abg]*([abg][-\s\d/abg]|[-\s\d/abg][abg])[-\s\d/abg]*\)\s*[0sqth]*$", re.I
)
_SYMBOLS = (
    "_space_group_name_h-m_alt",
    "_space_group_name_h-m_full",
    "_symmetry_space_group_name_h-m",
)
_NOTHING = ("", ".", "?", "0", "cryst")


def sign_of_modulation(items: Items) -> str | None:
    """The item that tells that a crystal is modulated or a composite; None for others.

    Args:
        items: of a data block. An item that states nothing, or no wave vectors, does not count.
    """
    for name, values in items.items():
        if _ITEMS.match(name) and any(v.strip().lower() not in _NOTHING for v in values):
            return name
    for name in _SYMBOLS:
        if any(_SUPERSPACE_SYMBOL.search(value) for value in items.get(name, [])):
            return name
    return None
