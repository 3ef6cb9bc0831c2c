"""The comparison of a structure with its inverse, for the log."""

from __future__ import annotations

from dials.util import tabulate

from dials_hybrid_refine.refinement.absolute_structure import CLEAR_Z_SCORE, AbsoluteStructure


def absolute_structure_table(found: AbsoluteStructure) -> str:
    """Both hands side by side, and what follows."""

    def factor(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    rows = [
        ["space group", found.space_group, found.space_group_inverted],
        ["R_obs", factor(found.r_obs), factor(found.r_obs_inverted)],
        ["R_all", factor(found.r_all), factor(found.r_all_inverted)],
        ["R_obs held out", factor(found.r_obs_held_out), factor(found.r_obs_held_out_inverted)],
        ["loss", f"{found.loss:.1f}", f"{found.loss_inverted:.1f}"],
        ["closer to I > 3 sigma", found.n_closer, found.n_compared - found.n_closer],
    ]
    table = tabulate(rows, ["", "as given", "inverted"], disable_numparse=True)
    kind = "enantiomer" if found.is_chiral else "direction (the space group is not chiral)"
    if found.is_clear:
        verdict = f"the {kind} of the structure {found.preferred} is the right one"
    else:
        verdict = (
            f"the {kind} is not determined: |z| < {CLEAR_Z_SCORE:g}, or losses that hardly differ"
        )
    return (
        f"{table}\nz = {found.z_score:.2f} of the structure as given, probability {100 * found.probability:.2f} % "
        f"(Klar et al. 2023, Nat. Chem. 15, 848; reflections with I > 3 sigma, with weak ones z = {found.z_score_all:.2f}). "
        f"It follows: {verdict}. The test took {found.seconds:.0f} s."
    )
