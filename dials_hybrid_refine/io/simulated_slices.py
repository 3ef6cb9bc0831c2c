"""Simulated intensities image by image, as the pixels that DIALS would keep of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dials.algorithms.shoebox import MaskCode
from dials.array_family import flex
from dials.model.data import Shoebox
from dxtbx.model import Experiment

from dials_hybrid_refine.diffraction.observations import Observations


def on_whole_images(
    observations: Observations, experiment: Experiment
) -> tuple[Observations, Observations]:
    """Observations with their windows widened to whole images, and those of their single images.

    ``row`` of the second refers to the first.
    """
    start, width = experiment.scan.get_oscillation()
    edges = np.stack([observations.phi_start, observations.phi_end], axis=1)
    # a window that ends on the edge of an image but for round-off does not reach into the next
    z = (edges - start) / width
    first = np.floor(z.min(axis=1) + 1e-9).astype(int)
    last = np.ceil(z.max(axis=1) - 1e-9).astype(int)

    def with_windows(chosen: Observations, low: NDArray, high: NDArray) -> Observations:
        angles = start + width * np.stack([low, high], axis=1)
        return replace(chosen, phi_start=angles.min(axis=1), phi_end=angles.max(axis=1))

    owner = np.repeat(np.arange(len(observations)), last - first)
    image = np.concatenate([np.arange(a, b) for a, b in zip(first, last)])
    slices = replace(observations.select(owner), row=owner)
    return with_windows(observations, first, last), with_windows(slices, image, image + 1)


def add_shoeboxes(
    table: flex.reflection_table,
    slices: Observations,
    counts: NDArray[np.float64],
    background: NDArray[np.float64],
    experiment: Experiment,
) -> None:
    """Give a table the columns ``bbox`` and ``shoebox``: one pixel for each image.

    Args:
        slices: m, ordered by reflection and image, as ``on_whole_images`` makes them.
        counts: shape (m,), on each image, with the background. background: shape (m,), of each image.
    """
    start, width = experiment.scan.get_oscillation()
    first = experiment.scan.get_array_range()[0]
    middle = (slices.phi_start + slices.phi_end) / 2
    z = np.floor((middle - start) / width).astype(int) + first
    position = np.array(table["xyzcal.px"])[:, :2].astype(int)
    boxes, bounds = flex.shoebox(len(table)), flex.int6(len(table))
    for i in range(len(table)):
        own = np.flatnonzero(slices.row == i)
        x, y = map(int, position[i])
        bounds[i] = (x, x + 1, y, y + 1, int(z[own[0]]), int(z[own[-1]]) + 1)
        box = Shoebox(bounds[i])
        # assigned as a whole: the methods that allocate them differ between versions of DIALS
        box.data = _one_pixel(flex.float(counts[own].tolist()))
        box.background = _one_pixel(flex.float(background[own].tolist()))
        box.mask = _one_pixel(flex.int(len(own), MaskCode.Valid | MaskCode.Foreground))
        boxes[i] = box
    table["bbox"], table["shoebox"] = bounds, boxes


def _one_pixel(values: Any) -> Any:
    """A flex array as the only pixel of each image."""
    values.reshape(flex.grid(len(values), 1, 1))
    return values
