"""Intensities image by image, from what DIALS keeps of the pixels.

Two columns hold them:

* ``frame_sliced_shoebox`` of dials.integrate with integration.frame_slice_shoeboxes=True (DIALS pull request
  3259, August 2026): for each reflection the images (counted from 1) and on each the summed
  intensity, its variance, and whether all pixels of the foreground were valid.
* ``shoebox``, the pixels themselves, which any DIALS keeps with debug.output=True
  debug.separate_files=False. The same is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dials.algorithms.shoebox import MaskCode
from dials.array_family import flex

#: smallest variance: an image without a count is not known to be without electrons
_LEAST_VARIANCE = 1.0


class FrameSlicedReflection(Protocol):
    """An element of the column ``frame_sliced_shoebox``."""

    @property
    def frames(self) -> Sequence[int]: ...
    @property
    def summation_intensity(self) -> Sequence[float]: ...
    @property
    def summation_intensity_variance(self) -> Sequence[float]: ...
    @property
    def summation_intensity_valid(self) -> Sequence[bool]: ...


@dataclass(frozen=True)
class FrameSlices:
    """m intensities, each of one reflection on one image.

    Attributes:
        reflection: shape (m,), index of the reflection.
        z: shape (m,), the image covers z to z + 1 in the units of ``bbox`` (image number - 1).
        intensity, variance: shape (m,), in counts, background subtracted.
    """

    reflection: NDArray[np.int64]
    z: NDArray[np.int64]
    intensity: NDArray[np.float64]
    variance: NDArray[np.float64]


#: of one reflection: z, intensity, variance, validity of each image
_Images = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def sliced_reflections(column: Iterable[FrameSlicedReflection]) -> Iterator[_Images]:
    """The images of each element of a column ``frame_sliced_shoebox``."""
    for element in column:
        yield (
            np.array(list(element.frames), dtype=np.int64) - 1,
            np.array(list(element.summation_intensity), dtype=float),
            np.array(list(element.summation_intensity_variance), dtype=float),
            np.array(list(element.summation_intensity_valid), dtype=bool),
        )


def sliced_shoeboxes(shoeboxes: flex.shoebox) -> Iterator[_Images]:
    """The images of each shoebox, by DIALS' summation.

    An image's intensity is the sum over its foreground pixels of counts - background; pixels that are
    masked or overlap another reflection make it invalid. Its variance is the sum of the counts plus that
    of the background times m/n, m the foreground pixels of the whole shoebox and n the pixels that its
    background was determined from, so that variances of images add up to that of the reflection.
    """
    for box in shoeboxes:
        data, background = (
            array.as_numpy_array().astype(float) for array in (box.data, box.background)
        )
        mask = box.mask.as_numpy_array()
        foreground = (mask & MaskCode.Foreground) != 0
        good = ((mask & MaskCode.Valid) != 0) & ((mask & MaskCode.Overlapped) == 0)
        summed = foreground & good
        n_background = int(((mask & MaskCode.BackgroundUsed) != 0).sum())
        ratio = summed.sum() / n_background if n_background else 0.0
        counts, under = ((values * summed).sum(axis=(1, 2)) for values in (data, background))
        valid = foreground.any(axis=(1, 2)) & ~(foreground & ~good).any(axis=(1, 2))
        z = box.bbox[4] + np.arange(len(data))
        yield z, counts - under, np.abs(counts) + np.abs(under) * ratio, valid


def read_slices(table: flex.reflection_table) -> FrameSlices:
    """The valid slices of each reflection of a table.

    Raises:
        ValueError: if the table holds neither column.
    """
    if "frame_sliced_shoebox" in table:
        images = sliced_reflections(table["frame_sliced_shoebox"])
    elif "shoebox" in table and all(len(box.data) for box in table["shoebox"]):
        images = sliced_shoeboxes(table["shoebox"])
    else:
        raise ValueError(
            "the reflection file has no intensities image by image (column frame_sliced_shoebox, or "
            "shoebox with pixels): integrate with integration.frame_slice_shoeboxes=True where DIALS has "
            "that parameter, elsewhere with debug.output=True debug.separate_files=False, or use "
            "intensity=sum"
        )
    parts = []
    for number, (z, intensity, variance, valid) in enumerate(images):
        usable = valid & np.isfinite(intensity) & np.isfinite(variance)
        parts.append(
            (np.full(int(usable.sum()), number), z[usable], intensity[usable], variance[usable])
        )
    empty = np.zeros(0)
    columns = [np.concatenate(column) for column in zip(*parts)] if parts else [empty] * 4
    return FrameSlices(
        columns[0].astype(np.int64),
        columns[1].astype(np.int64),
        columns[2].astype(float),
        np.maximum(columns[3], _LEAST_VARIANCE).astype(float),
    )
