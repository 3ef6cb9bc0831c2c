"""What a CIF says of the absolute structure."""

from __future__ import annotations

from dials_hybrid_refine.io.cif_text import fold
from dials_hybrid_refine.refinement.result import Result


def absolute_structure_items(result: Result) -> dict[str, str]:
    """Items of the core dictionary by name; none where nothing was tested.

    The z-score is from the view of the structure in the CIF. The configuration is called determined
    ('dyn') for chiral structures where it is.
    """
    if result.structure.space_group().is_centric():
        return {"_refine_ls.abs_structure_z-score": "."}
    found = result.absolute_structure
    if found is None:
        return {}
    score = found.z_score_of_result
    probability = 1 - found.probability if found.applied else found.probability
    closer = found.n_compared - found.n_closer if found.applied else found.n_closer
    values = (found.r_obs, found.r_obs_inverted)
    r_obs, r_inverse = (
        "?" if r is None else f"{r:.4f}" for r in (values[::-1] if found.applied else values)
    )
    of_all = -found.z_score_all if found.applied else found.z_score_all
    details = (
        f"Raw z-score of Klar et al. (2023), Nature Chem. 15, 848-855: {closer} of {found.n_compared} "
        "measured intensities I>3\\s(I) are closer to those calculated for this structure than to those "
        "of its inverse, refined alike on the same reflections; with the weak ones z is "
        f"{of_all:.2f}. Probability {probability:.4f}. R_obs {r_obs}, of the inverse {r_inverse}."
    )
    items = {
        "_refine_ls.abs_structure_z-score": f"{score:.2f}",
        "_refine_ls_abs_structure_details": fold(details),
    }
    if found.is_chiral and found.is_clear and score > 0:
        items["_chemical_absolute_configuration"] = "dyn"
    return items
