"""Intensities of single images: the two columns that hold them, against DIALS' own sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from dials.algorithms.shoebox import MaskCode
from dials.array_family import flex
from dials.model.data import Shoebox

from dials_hybrid_refine.io.frame_slices import read_slices, sliced_reflections, sliced_shoeboxes

FOREGROUND = MaskCode.Valid | MaskCode.Foreground
BACKGROUND = MaskCode.Valid | MaskCode.Background | MaskCode.BackgroundUsed


def make_box(data, background, mask, z0=10):
    """A shoebox from arrays (z, y, x)."""
    nz, ny, nx = np.shape(data)
    box = Shoebox(0, (0, nx, 0, ny, z0, z0 + nz))
    for name, kind, values in (
        ("data", flex.float, data), ("background", flex.float, background), ("mask", flex.int, mask),
    ):  # fmt: skip
        array = kind([kind is flex.int and int(v) or float(v) for v in np.ravel(values)])
        array.reshape(flex.grid(nz, ny, nx))
        setattr(box, name, array)
    return box


@pytest.fixture
def box():
    """Three images of 3 x 4 pixels with counts 1, 2, 3 and background 0.5; 2, 3 and no foreground pixels.

    The numbers are those of DIALS' test of its frame-sliced shoeboxes: on the last image the only
    foreground pixel is masked.
    """
    data = np.ones((3, 3, 4)) * np.array([1, 2, 3])[:, None, None]
    mask = np.full((3, 3, 4), int(MaskCode.Valid | MaskCode.Background))
    mask[:, 2, :] = int(BACKGROUND)
    for k, j, i in [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (1, 1, 2)]:
        mask[k, j, i] = int(FOREGROUND)
    mask[2, 2, 3] = int(MaskCode.Foreground)
    return make_box(data, np.full((3, 3, 4), 0.5), mask)


def test_shoebox_by_hand(box):
    """Five valid foreground pixels, eleven of the background: variances 2 + 1 * 5/11, 6 + 1.5 * 5/11."""
    ((z, intensity, variance, valid),) = sliced_shoeboxes([box])
    assert z.tolist() == [10, 11, 12]
    assert intensity.tolist() == [1.0, 4.5, 0.0]
    assert variance == pytest.approx([2 + 5 / 11, 6 + 1.5 * 5 / 11, 0])
    assert valid.tolist() == [True, True, False]


def test_slices_add_up_to_dials_summation(box):
    """Of the whole shoebox: intensity and variance."""
    ((_, intensity, variance, _),) = sliced_shoeboxes([box])
    whole = box.summed_intensity().observed
    assert intensity.sum() == pytest.approx(whole.value)
    assert variance.sum() == pytest.approx(whole.variance)


def test_overlapping_pixels_spoil_their_image_only():
    mask = np.full((2, 1, 2), int(FOREGROUND))
    mask[1, 0, 1] |= int(MaskCode.Overlapped)
    overlapped = make_box(np.full((2, 1, 2), 10.0), np.ones((2, 1, 2)), mask)
    ((_, intensity, _, valid),) = sliced_shoeboxes([overlapped])
    assert intensity.tolist() == [18, 9] and valid.tolist() == [True, False]


@dataclass(frozen=True)
class Sliced:
    """What an element of DIALS' column has, where DIALS has none."""

    frames: list
    summation_intensity: list
    summation_intensity_variance: list
    summation_intensity_valid: list


def test_column_of_newer_dials():
    """Images are counted from 1 there: image 11 is z from 10 to 11."""
    element = Sliced([11, 12, 13], [1.0, 4.5, 0.0], [2.0, 6.0, 0.0], [True, True, False])
    ((z, intensity, variance, valid),) = sliced_reflections([element])
    assert z.tolist() == [10, 11, 12]
    assert (intensity.tolist(), variance.tolist()) == ([1, 4.5, 0], [2, 6, 0])
    assert valid.tolist() == [True, True, False]


def table_of(*boxes):
    table = flex.reflection_table()
    table["shoebox"] = flex.shoebox(list(boxes))
    return table


def test_only_valid_images_are_read(box):
    """An image without a count stays, with the variance of one: leaving it out would be by intensity."""
    nothing = make_box(
        np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), np.full((1, 1, 1), int(FOREGROUND))
    )
    found = read_slices(table_of(box, nothing))
    assert found.reflection.tolist() == [0, 0, 1]
    assert found.z.tolist() == [10, 11, 10]
    assert (found.intensity[2], found.variance[2]) == (0, 1)


def test_tables_without_slices(box):
    empty = flex.reflection_table()
    emptied = table_of(box, Shoebox(0, (0, 1, 0, 1, 0, 1)))
    for table in (empty, emptied):
        with pytest.raises(ValueError, match="frame_slice_shoeboxes=True.*intensity=sum"):
            read_slices(table)
