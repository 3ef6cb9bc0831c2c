"""Which model describes each unknown: the one place where models are chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.models.effects import Absorption, ProportionalAbsorption
from dials_hybrid_refine.models.orientation.base import OrientationModel
from dials_hybrid_refine.models.orientation.per_frame import PerFrameOrientation
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.tabulated_absorption import TabulatedAbsorption
from dials_hybrid_refine.models.thickness.base import ThicknessModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.models.thickness.per_image import PerImageThickness


@dataclass(frozen=True)
class ThicknessOptions:
    """How thickness is modelled.

    Attributes:
        model: "neural", "constant" or "per_image".
        largest: thickest node of the neural distribution in Angstrom; None: found from the data.
        node_distance: between nodes, in Angstrom.
        resolution: degrees over which the neural distribution can change.
        smoothness: weight of its prior.
        relative_change: prior of the per-image model on changes between images.
    """

    model: str = "neural"
    largest: float | None = None
    node_distance: float = 50.0
    resolution: float = 10.0
    smoothness: float = 30.0
    relative_change: float = 0.2


@dataclass(frozen=True)
class OrientationOptions:
    """How the correction of the orientation is modelled; all numbers in degrees.

    Attributes:
        model: "smooth" or "per_frame".
        refine: whether it is refined; else it stays zero.
        knot_distance: between the knots of the smooth model.
        expected_size, expected_change: standard deviations of the smooth model's prior: of a
            correction, and of its second difference between knots.
        frame_width: stretch of the scan with one orientation of its own, per_frame model.
        expected_frame_size: standard deviation of the per_frame model's prior.
    """

    model: str = "smooth"
    refine: bool = True
    knot_distance: float = 4.0
    expected_size: float = 0.05
    expected_change: float = 0.01
    frame_width: float = 1.0
    expected_frame_size: float = 0.5


def orientation_model(
    options: OrientationOptions, phi_ranges: Sequence[tuple[float, float]]
) -> OrientationModel:
    """A model of the orientation correction that starts at zero.

    Args:
        options: see there.
        phi_ranges: first and last angle of each experiment in degrees.

    Raises:
        ValueError: for an unknown model.
    """
    model: OrientationModel
    if options.model == "smooth":
        model = SmoothOrientation(
            phi_ranges, options.knot_distance, options.expected_size, options.expected_change
        )
    elif options.model == "per_frame":
        model = PerFrameOrientation(phi_ranges, options.frame_width, options.expected_frame_size)
    else:
        raise ValueError(f"there is no orientation model {options.model!r}")
    return model.requires_grad_(options.refine)


def thickness_model(
    options: ThicknessOptions,
    nodes: NDArray[np.float64],
    start: NDArray[np.float64],
    phi_ranges: Sequence[tuple[float, float]],
    image_width: float,
    seed: int,
) -> ThicknessModel:
    """A thickness model at its starting point.

    Args:
        nodes: shape (m,), thicknesses in Angstrom.
        start: shape (m,), starting distribution on the nodes.
        phi_ranges: first and last angle of each experiment in degrees.
        image_width: rotation per image in degrees.
        seed: of random starting weights.

    Raises:
        ValueError: for an unknown model.
    """
    mean = float(start @ nodes / start.sum())
    if options.model == "neural":
        # no node may start without any weight: the network could never give it some
        mixed = start / start.sum() + 1e-3 / len(start)
        return NeuralThickness(
            nodes,
            mixed,
            phi_ranges,
            resolution=options.resolution,
            smoothness=options.smoothness,
            seed=seed,
        )
    if options.model == "constant":
        return ConstantThickness(mean, len(phi_ranges))
    if options.model == "per_image":
        return PerImageThickness(mean, phi_ranges, image_width, options.relative_change)
    raise ValueError(f"there is no thickness model {options.model!r}")


@dataclass(frozen=True)
class AbsorptionOptions:
    """How absorption is modelled.

    Attributes:
        model: "none", "proportional" or "tabulated".
        ratio: U'/U to start from, of the proportional model.
        factor: factor on the tabulated U' to start from, of the tabulated model.
        refine: whether the ratio or factor is refined.
    """

    model: str = "none"
    ratio: float = 0.05
    factor: float = 1.0
    refine: bool = True


def absorption_model(options: AbsorptionOptions) -> Absorption | None:
    """The absorption model of the options, or None.

    Raises:
        ValueError: for an unknown model.
    """
    if options.model == "none":
        return None
    if options.model == "proportional":
        return ProportionalAbsorption(options.ratio, options.refine)
    if options.model == "tabulated":
        return TabulatedAbsorption(options.factor, options.refine)
    raise ValueError(f"there is no absorption model {options.model!r}")
