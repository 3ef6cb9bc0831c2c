"""Finished refinements of several crystals."""

from __future__ import annotations

import pytest
from examples import quartz_structure, triclinic_structure
from finished_results import caesium_lead_bromide, finished, polar_structure
from molecules import oxamide

from benchmarks.left_out import lead_titanate
from dials_hybrid_refine.refinement.result import Result

CRYSTALS = {
    "triclinic": triclinic_structure,
    "polar": polar_structure,
    "quartz": quartz_structure,
    "CsPbBr3": caesium_lead_bromide,
    "oxamide": oxamide,
    "PbTiO3": lead_titanate,
}


@pytest.fixture(scope="session")
def results() -> dict[str, Result]:
    """By name of the crystal, everything refined."""
    return {name: finished(make()) for name, make in CRYSTALS.items()}


@pytest.fixture(params=CRYSTALS)
def result(request, results) -> Result:
    """Each of the results."""
    return results[request.param]
