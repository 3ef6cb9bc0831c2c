"""Whether the data are indexed in the setting of the structure.

A lattice may have more symmetry than the crystal's intensities: quartz has Laue group -3m1 in a
hexagonal lattice, a monoclinic cell with beta near 90 degrees is nearly orthorhombic. Indexing, which
sees the lattice alone, then chooses one of several settings. They are the cosets of the Laue
group in the point group of the lattice (Flack (1987), Acta Cryst. A43, 564-568), and the
intensities tell which is right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import crystal, sgtbx, xray
from cctbx.sgtbx import cosets, lattice_symmetry

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.settings import scan_nodes
from dials_hybrid_refine.refinement.thickness_start import scan_thickness
from dials_hybrid_refine.refinement.weights import loss_weights

logger = logging.getLogger("dials.hybrid_refine.reindexing")

#: degrees by which an operation may miss being one of the lattice: as ``mmtbx.scaling`` has it for
#: twin laws, and the largest difference of cell angles that is accepted at all
_LATTICE_TOLERANCE = 3.0

#: reflections that are enough to tell settings apart
_REFLECTIONS = 600

#: thickest crystals (Angstrom) of these scans, whose time grows with its square: the fit of thicker
#: ones need not be good to be better in the right setting
_LEAST_REACH, _MOST_REACH = 600.0, 1500.0

#: another setting is believed where its chi^2 is below this share of that of the given one
_CLEARLY_BETTER = 0.5


@dataclass(frozen=True)
class BetterSetting:
    """A change of basis of the data that fits the structure better.

    ``operator``: in the notation of cctbx and dials.reindex. ``share``: its chi^2 over that of the
    data as they are indexed.
    """

    operator: str
    share: float


def reindexing_operators(symmetry: crystal.symmetry) -> list[sgtbx.change_of_basis_op]:
    """Changes of basis of the data that the lattice allows and the Laue group does not undo.

    One for each setting but the present one, the simplest. Their handedness is right, as that of all
    indexing is.

    Args:
        symmetry: cell and space group of the structure.
    """
    to_minimum = symmetry.change_of_basis_op_to_minimum_cell()
    minimum = symmetry.change_basis(to_minimum)
    lattice = lattice_symmetry.group(minimum.unit_cell(), max_delta=_LATTICE_TOLERANCE)
    lattice.expand_smx("-x,-y,-z")
    laue = minimum.space_group().build_derived_point_group()
    laue.expand_smx("-x,-y,-z")
    settings = cosets.left_decomposition_point_groups_only(g=lattice, h=laue)
    representatives = settings.best_partition_representatives(
        cb_op=to_minimum.inverse(), omit_first_partition=True, omit_negative_determinants=True
    )
    # cosets g H hold the settings h -> h g; change_of_basis_op.apply multiplies by the inverse
    return [
        sgtbx.change_of_basis_op(
            sgtbx.rt_mx(g.r(), sgtbx.tr_vec((0, 0, 0))).new_denominators(12, 144)
        ).inverse()
        for g in representatives
    ]


def before_reindexing(
    structure: xray.structure, operator: sgtbx.change_of_basis_op
) -> xray.structure:
    """The structure that has at h the structure factor that ``structure`` has at operator.apply(h)."""
    return structure.change_basis(operator.inverse())


def better_setting(
    model: HybridModel,
    data: Dataset,
    structure: xray.structure,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    thickness: float,
) -> BetterSetting | None:
    """The setting in which the data fit clearly better than as they are indexed, or None.

    Each setting gets its own scan of thicknesses in the coarse calculation, without refinement.

    Args:
        model: what is known of the experiment.
        structure: starting structure.
        thickness: mean (Angstrom) found for the data as they are indexed.
    """
    operators = reindexing_operators(structure.crystal_symmetry())
    if not operators:
        return None
    names = [operator.as_abc() for operator in operators]
    logger.info("Settings of the data that the lattice allows too: %s", "; ".join(names))
    sample = data.sample(_REFLECTIONS)
    reach = float(np.clip(1.25 * thickness, _LEAST_REACH, _MOST_REACH))
    nodes = scan_nodes(reach, options.thickness.node_distance)
    selection = coarse(nodes[-1])
    used, fixed = ~sample.held_out, RefinedParameters(False, False, False)
    weights = loss_weights(sample.observations, used, options.weighting, 1.0)

    def chi_square(given: xray.structure) -> float:
        tried = model.with_structure(StructureModel(given, fixed))
        simulator = build_simulator(sample, tried, selection, options.propagation)
        scan = scan_thickness(simulator, tried, sample.observations, weights, nodes)
        return float(scan.chi_square.min())

    reference = chi_square(structure)
    shares = [chi_square(before_reindexing(structure, op)) / reference for op in operators]
    logger.info("chi^2 relative to the present setting: %s", _listed(names, shares))
    best = int(np.argmin(shares))
    if shares[best] > _CLEARLY_BETTER:
        return None
    return BetterSetting(names[best], shares[best])


def _listed(names: Sequence[str], shares: Sequence[float]) -> str:
    return "; ".join(f"{name} {share:.2f}" for name, share in zip(names, shares))


def check_setting(
    model: HybridModel,
    data: Dataset,
    structure: xray.structure,
    options: RefinementOptions,
    coarse: Callable[[float], BeamSelection],
    thickness: float,
) -> None:
    """Refuse data that are indexed in another setting than the structure; see ``better_setting``.

    Raises:
        ValueError: names the change of basis that brings them together.
    """
    better = better_setting(model, data, structure, options, coarse, thickness)
    if better is not None:
        raise ValueError(
            "the data are indexed in another setting than the structure: after the change of basis "
            f"{better.operator} chi^2 of the starting structure falls to {100 * better.share:.0f} %: reindex "
            f"them with dials.reindex change_of_basis_op={better.operator}, or give "
            "reindexing.test=False to refine them as they are"
        )
