"""The final tables and warnings of the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dials_hybrid_refine.refinement.geometry import Geometry
from dials_hybrid_refine.refinement.result import CrystalRecord, Result
from dials_hybrid_refine.report import log_tables
from dials_hybrid_refine.report.absolute_structure_table import absolute_structure_table
from dials_hybrid_refine.report.restraint_table import restraint_table

logger = logging.getLogger("dials.hybrid_refine")


def log_result(result: Result, geometry: Geometry, crystals: Sequence[CrystalRecord] = ()) -> None:
    """The final tables and warnings.

    Args:
        crystals: what the files say of each experiment.
    """
    for warning in result.warnings:
        logger.warning("Warning: %s", warning)
    if result.rejected.any():
        logger.info("\nRejected as outliers (worst first):\n%s", log_tables.outlier_table(result))
    logger.info("\nExperiment along the scan:\n%s", log_tables.profile_table(result))
    if result.convergence:
        logger.info("\nLimits of the calculation:\n%s", log_tables.convergence_table(result))
    if result.absorption is not None:
        logger.info("%s", log_tables.absorption_line(result.absorption))
    if result.mosaicity is not None:
        logger.info("Mosaicity: %.4f degrees, s.u. %.4f", *result.mosaicity)
    if result.effects:
        logger.info("\nEffects of other packages:\n%s", log_tables.effects_table(result))
    if result.restraints is not None:
        table = restraint_table(result.restraints)
        logger.info("\nRestraints (worst first):\n%s", table)
    logger.info("\nRefined structure:\n%s", log_tables.structure_table(result))
    if result.absolute_structure is not None:
        table = absolute_structure_table(result.absolute_structure)
        logger.info("\nAbsolute structure:\n%s", table)
    if geometry.bonds:
        logger.info("\nBonds:\n%s", log_tables.bond_table(geometry))
    if result.difference_map is not None:
        logger.info(
            "\nDifference map of the electrostatic potential:\n%s",
            log_tables.difference_map_table(result.difference_map),
        )
    if len(crystals) > 1:
        logger.info("\nCrystals:\n%s", log_tables.crystal_table(result, crystals))
    logger.info("\nStatus: %s\n%s", result.status, log_tables.statistics_table(result))
    logger.info("%s", log_tables.definitions())
