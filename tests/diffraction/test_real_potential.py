"""Centrosymmetric crystals are calculated with real matrices: the result is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation import assert_same, evaluate
from examples import (
    Example,
    inverted,
    make_structure,
    off_centre,
    perovskite_structure,
    quartz_structure,
    small_example,
    triclinic_structure,
)

from cctbx import xray

from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.models.structure import composition_of

STRUCTURES = {
    "centre at the origin": perovskite_structure(),
    "centre elsewhere": off_centre(triclinic_structure("P -1")),
    "perovskite, centre elsewhere": off_centre(perovskite_structure()),
    # origin choice 1: at 222, centres of symmetry at 1/4 1/4 1/4
    "centre elsewhere in a tabulated setting": make_structure(
        (5.2, 6.1, 4.7, 90, 90, 90),
        "P n n n :1",
        [("Si", (0.11, 0.23, 0.37), 0.012, 1.0), ("Ca", (0.0, 0.0, 0.31), 0.01, 0.8)],
    ),
}


@pytest.fixture(scope="module", params=STRUCTURES)
def example(request: pytest.FixtureRequest) -> Example:
    return small_example(STRUCTURES[request.param])


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.complex128, 1e-12), (torch.complex64, 1e-5)], ids=str
)
def test_real_and_complex_matrices_give_the_same(
    example: Example, dtype: torch.dtype, tolerance: float
) -> None:
    """Values and all gradients, to round-off. Single precision: against double."""
    real, other = example.simulator(PropagationSettings(dtype)), example.simulator()
    assert real._is_centric
    other._is_centric = False
    assert_same(evaluate(real, example.structure), evaluate(other, example.structure), tolerance)


def test_the_origin_does_not_matter(example: Example) -> None:
    """Without the shift of the origin, where complex matrices are needed (or not)."""
    other = example.simulator()
    other._is_centric = False
    other._phase = torch.ones_like(other._phase)
    assert_same(
        evaluate(example.simulator(), example.structure), evaluate(other, example.structure), 1e-12
    )


@pytest.mark.parametrize("absorption", [None, 0.06])
def test_a_shifted_setting_is_the_same_crystal(absorption: float | None) -> None:
    """Intensities of each reflection, absorbing or not."""
    structure = triclinic_structure("P -1")
    one, other = (
        evaluate(small_example(s).simulator(), s, absorption)
        for s in (structure, off_centre(structure))
    )
    torch.testing.assert_close(one["value"], other["value"], rtol=1e-10, atol=1e-14)
    for name in ("occupancies", "thickness", "weight", "rotation"):
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-12)


def test_absorption_needs_complex_matrices(example: Example) -> None:
    """It is not lost: the same as without knowing of the centre, and not as without absorption."""
    centric, other = example.simulator(), example.simulator()
    other._is_centric = False
    found = evaluate(centric, example.structure, 0.06)
    assert_same(found, evaluate(other, example.structure, 0.06), 1e-12)
    without = evaluate(centric, example.structure)["value"]
    assert (found["value"] - without).abs().max() > 1e-2 * without.max()


@pytest.mark.parametrize("name", STRUCTURES)
def test_seen_from_the_centre_the_structure_is_its_own_inverse(name: str) -> None:
    """Each atom has a partner of its kind on the other side, in whatever setting."""
    structure = STRUCTURES[name]
    centre = composition_of(structure).inversion_centre()
    assert centre is not None
    filled = structure.expand_to_p1(sites_mod_positive=True)
    sites = np.array([s.site for s in filled.scatterers()])
    kinds = np.array([s.scattering_type for s in filled.scatterers()])
    for site, kind in zip(sites, kinds):
        distance = np.abs((2 * centre - site - sites + 0.5) % 1 - 0.5).max(axis=1)
        assert distance[kinds == kind].min() < 1e-9


@pytest.mark.parametrize(
    "structure", [quartz_structure(), inverted(quartz_structure()), triclinic_structure()]
)
def test_crystals_without_centre_are_not_taken_for_centrosymmetric(
    structure: xray.structure,
) -> None:
    assert composition_of(structure).inversion_centre() is None
    assert not small_example(structure).simulator()._is_centric
