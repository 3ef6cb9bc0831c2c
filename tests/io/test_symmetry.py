"""Which cells and labels of an experiment go with a structure, and which reflections are one."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cctbx import crystal, sgtbx, xray

from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.io.symmetry import check_compatible, unique_indices

QUARTZ_CELL = (4.9226, 4.9226, 5.4003, 90, 90, 120)
CSPBBR3_CELL = (8.1189, 8.3590, 11.759, 90, 90, 90)


def make_structure(cell, group):
    structure = xray.structure(crystal_symmetry=crystal.symmetry(cell, group))
    structure.add_scatterer(xray.scatterer("C1", site=(0.1, 0.2, 0.3), u=0.02))
    return structure


@pytest.fixture
def quartz_structure():
    return make_structure(QUARTZ_CELL, "P 32 2 1")


@pytest.fixture
def cspbbr3_structure():
    return make_structure(CSPBBR3_CELL, "P b n m")


def label(cell, group):
    return crystal.symmetry(cell, group, assert_is_compatible_unit_cell=False)


def test_same_label(quartz_structure):
    assert check_compatible(quartz_structure, label(QUARTZ_CELL, "P 32 2 1")) == []


def test_other_enantiomorph(quartz_structure):
    """The quartz data of DIALS are labelled with the other hand."""
    (message,) = check_compatible(quartz_structure, label(QUARTZ_CELL, "P 31 2 1"))
    assert "the label of an enantiomorph is no evidence of hand" in message
    assert "P 31 2 1" in message and "P 32 2 1" in message


def test_quartz_data(quartz, shared):
    from dxtbx.model.experiment_list import ExperimentListFactory

    experiments = ExperimentListFactory.from_json_file(
        str(quartz / "integrated.expt"), check_format=False
    )
    structure = read_structure(shared / "paper" / "quartz" / "jana_dynamical.cif").structure
    messages = check_compatible(structure, experiments[0].crystal.get_crystal_symmetry())
    assert any("no evidence of hand" in message for message in messages)


@pytest.mark.parametrize("group", ["P 1", "P -1", "P 3", "P 31", "P 32", "C 1 2 1"])
def test_subgroups(quartz_structure, group):
    if group.startswith("C"):
        group = sgtbx.space_group_info("C 2").change_basis("b,1/2*a-1/2*b,-c")
        group = sgtbx.space_group_info(group=group.group())
    else:
        group = sgtbx.space_group_info(group)
    experiment = crystal.symmetry(QUARTZ_CELL, space_group_info=group)
    (message,) = check_compatible(quartz_structure, experiment)
    assert "the higher symmetry of the structure" in message


@pytest.mark.parametrize("group", ["P 3 2 1", "P -3 m 1"])
def test_other_group_of_the_same_laue_class(quartz_structure, group):
    (message,) = check_compatible(quartz_structure, label(QUARTZ_CELL, group))
    assert "Laue groups agree" in message


@pytest.mark.parametrize("group", ["P 62 2 2", "P 6 2 2", "P 6/m m m"])
def test_higher_laue_symmetry(quartz_structure, group):
    with pytest.raises(ValueError, match="higher than that of the structure.*P1") as raised:
        check_compatible(quartz_structure, label(QUARTZ_CELL, group))
    assert group in str(raised.value) and "P 6/m m m" in str(raised.value)


@pytest.mark.parametrize("group", ["P 3 1 2", "P 31 1 2", "P -3 1 m", "P 6", "P 61"])
def test_symmetry_the_structure_does_not_have(quartz_structure, group):
    with pytest.raises(ValueError, match="is not a part of that of the structure"):
        check_compatible(quartz_structure, label(QUARTZ_CELL, group))


def test_other_unique_axis():
    structure = make_structure((5, 6, 7, 90, 90, 90), "P 1 2 1")
    assert check_compatible(structure, label((5, 6, 7, 90, 90, 90), "P 1 21 1"))
    with pytest.raises(ValueError, match="not a part"):
        check_compatible(structure, label((5, 6, 7, 90, 90, 90), "P 1 1 2"))


@pytest.mark.parametrize("scale, outcome", [(1.009, 0), (1.011, 1), (1.049, 1), (0.951, 1)])
def test_cells_that_differ_a_little(cspbbr3_structure, scale, outcome):
    cell = [v * scale for v in CSPBBR3_CELL[:3]] + [90, 90, 90]
    messages = check_compatible(cspbbr3_structure, label(cell, "P b n m"))
    assert len(messages) == outcome
    assert all("differ by" in message for message in messages)


@pytest.mark.parametrize("scale", [0.949, 1.051, 2.0])
def test_cells_that_differ_too_much(cspbbr3_structure, scale):
    cell = [v * scale for v in CSPBBR3_CELL[:3]] + [90, 90, 90]
    with pytest.raises(ValueError, match="differ by .* %"):
        check_compatible(cspbbr3_structure, label(cell, "P b n m"))


@pytest.mark.parametrize("angle, outcome", [(90.5, 0), (91, 1), (92.9, 1), (93.5, None)])
def test_angles_that_differ(cspbbr3_structure, angle, outcome):
    cell = (*CSPBBR3_CELL[:3], 90, angle, 90)
    if outcome is None:
        with pytest.raises(ValueError, match="3.5 degrees"):
            check_compatible(cspbbr3_structure, label(cell, "P 1"))
    else:
        messages = check_compatible(cspbbr3_structure, label(cell, "P 1"))
        assert len([m for m in messages if "differ by" in m]) == outcome


@pytest.mark.parametrize("axes", list(itertools.permutations("abc"))[1:])
@pytest.mark.parametrize("scale", [1.0, 1.02])
def test_permuted_axes(axes, scale):
    """Axes that differ by 3 % from each other must not pass as a small difference of the cells."""
    lengths = dict(zip("abc", CSPBBR3_CELL))
    structure = make_structure(CSPBBR3_CELL, "P 2 2 2")
    permuted = label([lengths[x] * scale for x in axes] + [90, 90, 90], "P 2 2 2")
    with pytest.raises(ValueError, match="agree only after the change of basis") as raised:
        check_compatible(structure, permuted)
    operator = re.search(r"change_of_basis_op=(\S+)", str(raised.value)).group(1)
    mapped = permuted.change_basis(sgtbx.change_of_basis_op(operator))
    check_compatible(structure, mapped)


@pytest.mark.parametrize("operator", ["-b,a,c", "a,b,a+c", "a-c,b,a", "b,c,a", "-a,-b,a+b+c"])
def test_other_primitive_settings(operator):
    structure = make_structure((5.1, 6.3, 7.7, 81, 97, 104), "P -1")
    other = structure.crystal_symmetry().change_basis(sgtbx.change_of_basis_op(operator))
    with pytest.raises(ValueError, match="change of basis") as raised:
        check_compatible(structure, other)
    found = re.search(r"change_of_basis_op=(\S+)", str(raised.value)).group(1)
    assert check_compatible(structure, other.change_basis(sgtbx.change_of_basis_op(found))) == []


def test_centred_and_primitive_settings():
    structure = make_structure((10, 12, 14, 90, 100, 90), "C 1 2 1")
    primitive = structure.crystal_symmetry().primitive_setting()
    with pytest.raises(ValueError, match="change of basis") as raised:
        check_compatible(structure, primitive)
    found = re.search(r"change_of_basis_op=(\S+)", str(raised.value)).group(1)
    assert (
        check_compatible(structure, primitive.change_basis(sgtbx.change_of_basis_op(found))) == []
    )


def brute_force(hkl, group):
    """Classes of reflections from the rotations of a group and inversion, one by one."""
    operations = {tuple(op.r().num()) for op in group.all_ops()}
    matrices = [np.array(op).reshape(3, 3) for op in operations]
    classes = []
    for index in hkl:
        images = [tuple(sign * index @ m) for m in matrices for sign in (1, -1)]
        classes.append(max(images))
    return classes


@pytest.mark.parametrize(
    "cell, group",
    [
        (QUARTZ_CELL, "P 32 2 1"),
        (CSPBBR3_CELL, "P b n m"),
        ((5, 6, 7, 80, 95, 100), "P 1"),
        ((10, 12, 14, 90, 100, 90), "C 1 2 1"),
        ((9, 9, 9, 90, 90, 90), "I 21 3"),
        ((6, 6, 6, 80, 80, 80), "R 3 m :R"),
    ],
)
def test_unique_indices(cell, group):
    structure = make_structure(cell, group)
    hkl = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    found, expected = unique_indices(hkl, structure), brute_force(hkl, structure.space_group())
    assert found.shape == (len(hkl),) and found.dtype == np.int64
    pairs = set(zip(found.tolist(), expected))
    assert len(pairs) == len(set(found.tolist())) == len(set(expected))


def test_unique_indices_can_be_compared_between_calls(quartz_structure):
    hkl = np.array([[1, 2, 3], [-7, 30, -12], [0, 0, 3]])
    together = unique_indices(hkl, quartz_structure)
    assert_array_equal(together[1:2], unique_indices(hkl[1:2], quartz_structure))
    assert_array_equal(together, unique_indices(-hkl, quartz_structure))
    assert unique_indices(np.zeros((0, 3), dtype=int), quartz_structure).shape == (0,)


def test_unique_indices_are_bounded(quartz_structure):
    with pytest.raises(ValueError, match="Miller index"):
        unique_indices(np.array([[2**30, 0, 0]]), quartz_structure)
