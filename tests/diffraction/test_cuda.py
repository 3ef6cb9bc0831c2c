"""The same numbers on a CUDA device as on the processor."""

from __future__ import annotations

import pytest
import torch
from evaluation import assert_same, evaluate
from examples import perovskite_structure, quartz_structure, small_example

from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.complex128, 1e-11), (torch.complex64, 2e-5)], ids=str
)
@pytest.mark.parametrize("keep_bytes", [0, 10**9])
@pytest.mark.parametrize("absorption", [None, 0.06])
@pytest.mark.parametrize("structure", [quartz_structure(), perovskite_structure()], ids=["P", "c"])
def test_values_and_gradients_agree(
    structure: object, dtype: torch.dtype, tolerance: float, keep_bytes: int, absorption: float
) -> None:
    """Within the precision; single precision is compared with double on the processor."""
    example = small_example(structure)
    expected = evaluate(
        example.simulator(PropagationSettings(torch.complex128)), structure, absorption
    )
    settings = PropagationSettings(dtype, device="cuda", keep_bytes=keep_bytes)
    assert_same(evaluate(example.simulator(settings), structure, absorption), expected, tolerance)
