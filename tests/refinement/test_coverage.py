"""Completeness against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import crystal, xray

from dials_hybrid_refine.refinement.coverage import coverage


def structure(group):
    symmetry = crystal.symmetry((10, 10, 10, 90, 90, 90), space_group_symbol=group)
    return xray.structure(crystal.special_position_settings(symmetry))


def test_primitive_cubic_to_the_second_shell():
    """To d = 10/sqrt(2) P m -3 m has 100 and 110, P 2 2 2 has 3 + 3; mates count once."""
    hkl = np.array([[1, 0, 0], [0, -1, 0], [1, 1, 0]])
    found = coverage(structure("P m -3 m"), hkl)
    assert found.d_min == pytest.approx(10 / 2**0.5)
    assert found.completeness == pytest.approx(1.0)
    assert coverage(structure("P 2 2 2"), hkl).completeness == pytest.approx(3 / 6)


def test_absences_do_not_count():
    """I 2 2 2 to 110: of the three with h+k+l even one was measured; the forbidden 100 counts nothing."""
    hkl = np.array([[1, 0, 0], [1, 1, 0]])
    assert coverage(structure("I 2 2 2"), hkl).completeness == pytest.approx(1 / 3)
    assert coverage(structure("I 2 2 2"), hkl[:1]).completeness == 0
