"""Which model describes each unknown: the one place where models are chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dials_hybrid_refine.models.effects import Absorption, ProportionalAbsorption
from dials_hybrid_refine.models.orientation.base import OrientationModel
from dials_hybrid_refine.models.orientation.per_frame import PerFrameOrientation
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.tabulated_absorption import TabulatedAbsorption
from dials_hybrid_refine.models.thickness.base import ThicknessModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.geometric import SHAPES, GeometricThickness
from dials_hybrid_refine.models.thickness.neural import NeuralThickness
from dials_hybrid_refine.models.thickness.neural_mean import NeuralMeanThickness
from dials_hybrid_refine.models.thickness.per_image import PerImageThickness
from dials_hybrid_refine.models.thickness.plate import TiltedPlate, mean_path

#: models of a crystal that does not change while it turns
_RIGID = ("constant", *SHAPES)

#: fewest nodes of a geometric model
_FEWEST_NODES = 12


@dataclass(frozen=True)
class ThicknessOptions:
    """How thickness is modelled.

    Attributes:
        model: "neural", "neural_mean", "constant", "per_image", "wedge", "cylinder" or "lens".
        largest: thickest node of the neural distribution in Angstrom; None: found from the data.
        node_distance: between nodes, in Angstrom, at most; less for thin crystals.
        resolution: degrees over which the neural models can change.
        smoothness, shape_smoothness: weights of its prior along the angle and along the thickness.
        frame_width: degrees with one thickness of the per-image model; None: an image.
        relative_change: prior of the per-image model on changes between images or frames.
        tilt_correction: whether the crystal is a plate whose thickness grows as it is tilted
            (``TiltedPlate``).

    Raises:
        ValueError: for a tilt correction of a model that follows the angle by itself.
    """

    model: str = "neural"
    largest: float | None = None
    node_distance: float = 50.0
    resolution: float = 10.0
    smoothness: float = 3.0
    shape_smoothness: float = 1e4
    frame_width: float | None = None
    relative_change: float = 0.2
    tilt_correction: bool = False

    def __post_init__(self) -> None:
        if self.tilt_correction and self.model not in _RIGID:
            raise ValueError(
                f"thickness.tilt_correction=True does not go with thickness.model={self.model}, "
                f"which follows the angle by itself: choose {', '.join(_RIGID[:-1])} or {_RIGID[-1]}"
            )


@dataclass(frozen=True)
class OrientationOptions:
    """How the correction of the orientation is modelled; all numbers in degrees.

    Attributes:
        model: "smooth" or "per_frame".
        refine: whether it is refined; else it stays zero.
        scan: whether it starts where a search finds it, instead of at zero.
        knot_distance: between the knots of the smooth model.
        expected_size, expected_change: standard deviations of the smooth model's prior: of a
            correction, and of its second difference between knots.
        frame_width: stretch of the scan with one orientation of its own, per_frame model.
        expected_frame_size: standard deviation of the per_frame model's prior.
    """

    model: str = "smooth"
    refine: bool = True
    scan: bool = True
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
    image_width: ArrayLike,
    seed: int,
) -> ThicknessModel:
    """A thickness model at its starting point.

    Args:
        nodes: shape (m,), thicknesses in Angstrom.
        start: shape (m,) or (n_experiments, m), starting distribution on the nodes.
        phi_ranges: first and last angle of each experiment in degrees.
        image_width: rotation per image in degrees, one or one for each experiment.
        seed: of random starting weights.

    Raises:
        ValueError: for an unknown model.
    """
    mean = np.array([float(one @ nodes / one.sum()) for one in np.atleast_2d(start)])
    if options.model == "neural":
        return NeuralThickness(
            nodes,
            start,
            phi_ranges,
            resolution=options.resolution,
            smoothness=options.smoothness,
            shape_smoothness=options.shape_smoothness,
            seed=seed,
        )
    if options.model == "neural_mean":
        return NeuralMeanThickness(
            mean,
            phi_ranges,
            resolution=options.resolution,
            smoothness=options.smoothness,
            seed=seed,
        )
    if options.model == "per_image":
        widths = image_width if options.frame_width is None else options.frame_width
        return PerImageThickness(mean, phi_ranges, widths, options.relative_change)
    if options.model not in _RIGID:
        raise ValueError(f"there is no thickness model {options.model!r}")
    if not options.tilt_correction:
        return _rigid_model(options, mean, len(phi_ranges))
    paths = np.array([mean_path([phi_range]) for phi_range in phi_ranges])
    flat = _rigid_model(options, mean / paths, len(phi_ranges))
    return TiltedPlate(flat, len(phi_ranges))


def _rigid_model(
    options: ThicknessOptions, mean: NDArray[np.float64], n_experiments: int
) -> ThicknessModel:
    if options.model == "constant":
        return ConstantThickness(mean, n_experiments)
    thickest = mean.max() / SHAPES[options.model].mean
    n_nodes = max(_FEWEST_NODES, round(thickest / options.node_distance))
    return GeometricThickness(options.model, mean, n_nodes, n_experiments)


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


def absorption_model(options: AbsorptionOptions, n_experiments: int = 1) -> Absorption | None:
    """The absorption model of the options, each crystal with a strength of its own, or None.

    Raises:
        ValueError: for an unknown model.
    """
    if options.model == "none":
        return None
    if options.model == "proportional":
        return ProportionalAbsorption(options.ratio, options.refine, n_experiments)
    if options.model == "tabulated":
        return TabulatedAbsorption(options.factor, options.refine, n_experiments)
    raise ValueError(f"there is no absorption model {options.model!r}")
