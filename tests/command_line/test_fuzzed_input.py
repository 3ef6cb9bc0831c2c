"""Files and parameters changed at random are read, or refused with a sentence."""

from __future__ import annotations

import pytest
from model_files import PDB, SHELX
from pets_files import PetsFile

pytest.importorskip("hypothesis", reason="this test needs the package hypothesis")
from benchmarks.fuzz_inputs import explore, targets  # noqa: E402

KINDS = ["CIF", "SHELX", "PDB", "cif_pets", "expt", "refl", "columns", "checkpoint"]
PARAMETERS = [
    f"parameters of {name}" for name in ("hybrid_refine", "hybrid_simulate", "import_pets")
]


@pytest.fixture(scope="module")
def fuzzed(refined, tmp_path_factory):
    return targets(refined, tmp_path_factory.mktemp("fuzzed"), PetsFile().text(), SHELX, PDB)


@pytest.mark.parametrize("kind", [*KINDS, *PARAMETERS])
def test_fuzzed(fuzzed, kind, run_in_tmp_path):
    """Half a hundred examples, always the same; ``benchmarks.fuzz_inputs`` tries more."""
    counts = explore(fuzzed[kind], 50)
    assert counts["refused"] > 5 and counts.total() >= 50
