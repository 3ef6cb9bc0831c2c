"""What a refinement can be told, beside its data."""

from __future__ import annotations

from dataclasses import dataclass, field

from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.models.choose import (
    AbsorptionOptions,
    OrientationOptions,
    ThicknessOptions,
)
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.refinement.absolute_structure import AbsoluteStructureOptions
from dials_hybrid_refine.refinement.frames import FrameFilter
from dials_hybrid_refine.refinement.schedule import Schedule
from dials_hybrid_refine.refinement.weights import Weighting


@dataclass(frozen=True)
class BeamOptions:
    """Limits of the many-beam calculation; None: chosen from the data (``convergence``).

    ``accuracy`` is the largest change of amplitudes that raising a chosen limit may cause.
    ``tilts_per_window``: steps in which each window was recorded; None: continuous rotation.
    """

    g_max: float | None = None
    s_max: float | None = None
    tilt_step: float | None = None
    accuracy: float = 0.02
    tilts_per_window: int | None = None


@dataclass(frozen=True)
class RefinementOptions:
    """Everything a refinement can be told, beside its data.

    ``thickness_start`` (Angstrom) stands for the first scan for the basin. ``mosaicity`` is where its
    standard deviation starts, in degrees; None: a perfect crystal. ``scale_variation`` is the prior on
    the relative change of scale over one degree. ``held_out_by``: "reflections" (unique ones) or
    "frames" (stretches of the scan, ``held_out_width`` degrees wide). ``test_setting``: whether other
    settings that the lattice allows are tried first. ``exclude_bad``: whether crystals that do not fit
    beside the others stop the refinement, so that it can begin without them.
    """

    thickness: ThicknessOptions = field(default_factory=ThicknessOptions)
    thickness_start: float | None = None
    beams: BeamOptions = field(default_factory=BeamOptions)
    orientation: OrientationOptions = field(default_factory=OrientationOptions)
    structure: RefinedParameters = field(default_factory=RefinedParameters)
    absorption: AbsorptionOptions = field(default_factory=AbsorptionOptions)
    mosaicity: float | None = None
    scale_variation: float = 0.05
    weighting: Weighting = field(default_factory=Weighting)
    held_out_fraction: float = 0.05
    held_out_by: str = "reflections"
    held_out_width: float = 2.0
    frame_filter: FrameFilter = field(default_factory=FrameFilter)
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    propagation: PropagationSettings = field(default_factory=PropagationSettings)
    convergence: bool = False
    test_setting: bool = True
    absolute_structure: AbsoluteStructureOptions = field(default_factory=AbsoluteStructureOptions)
    difference_map: bool = True
    exclude_bad: bool = False
