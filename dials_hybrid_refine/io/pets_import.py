"""A PETS2 file as an experiment and a reflection table of DIALS, and what was decided for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cctbx import uctbx
from dials.array_family import flex
from dxtbx.model import Experiment

from dials_hybrid_refine.io.pets import PetsData
from dials_hybrid_refine.io.pets_geometry import (
    Sweep,
    axis_at,
    axis_azimuth,
    continuous_sweep,
    lattice_of_cell,
    make_experiment,
    separate_frames,
    zone_axis_error,
)
from dials_hybrid_refine.io.pets_reflections import (
    NeighbouringRows,
    PetsObservations,
    neighbouring_rows,
    passage_spread,
    ranges_of_frames,
    reflection_table,
    row_passages,
    whole_passages,
)
from dials_hybrid_refine.refinement.frames import FrameFilter

#: largest median angle in degrees between zone axes as written and as calculated; 0.003 is usual
_MAX_ZONE_AXIS_ERROR = 1.0
#: largest median turn in degrees, and in semi-angles, from the middle of a frame to the passages
#: of the reflections it lists: PETS2 lists them to about 1 semi-angle, dials.export to 3 (1.3 degrees)
_MAX_TURN, _MAX_TURN_IN_SEMI_ANGLES = 5.0, 4.0
#: relative differences of the cell and of UB that are not worth a word, and that show that the two
#: are not of one setting
_SMALL_STRAIN, _LARGEST_STRAIN = 0.001, 0.05
#: ratio of the volumes of the two that other units explain, not another setting or centring
_CONTRADICTION = 10.0
#: another rotation axis than x, or sense, must make neighbouring frames agree that much better
_CLEARLY_BETTER = 0.5


@dataclass(frozen=True)
class ImportedPets:
    """The models, the reflections, and sentences for the log."""

    experiment: Experiment
    reflections: flex.reflection_table
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


def import_pets(
    data: PetsData,
    excitation_error: float,
    identifier: str,
    metric: str = "cell",
    intensities: str = "auto",
    limits: FrameFilter | None = None,
) -> ImportedPets:
    """Convert the contents of a PETS2 file.

    Args:
        data: what was read.
        excitation_error: half the window of whole passages, 1/Angstrom.
        identifier: of the experiment.
        metric: "cell": the unit cell is the one stated, which has the symmetry of the crystal;
            "UB": that of the orientation matrix.
        intensities: "whole_passages", "frames" (of the range of rotation of the frame that lists
            them), or "auto": what neighbouring frames say.
        limits: which rows are taken where intensities are those of frames; None: all, or, where frames
            repeat intensities, those of the usual limits.

    Raises:
        ValueError: if the file contradicts itself, no reflection can be used, or limits are given for whole
            passages.
    """
    messages, warnings = [_describe(data)], list(data.warnings)
    data, said = _with_metric(data, metric)
    warnings += said
    _check_zone_axes(data)
    _check_lists(data)
    pairs = neighbouring_rows(data)
    azimuth, said = _choose_azimuth(data, pairs)
    messages += said
    is_whole = pairs.whole_passages if intensities == "auto" else intensities != "frames"
    axis = axis_at(azimuth)
    if is_whole:
        if limits is not None:
            raise ValueError(
                "frames.rsg and frames.dsg are for intensities of frames, but these are taken as those of "
                "whole passages: leave them out or give intensities=frames"
            )
        sweep, observations, said = _passages(data, pairs, axis, excitation_error)
    else:
        if pairs.whole_passages and limits is None:
            # frames list reflections that pass far outside of their range
            limits = FrameFilter()
        sweep, observations, said = _frames(data, pairs, axis, limits)
    messages += said
    if observations.no_passage:
        messages.append(
            f"Left out: {observations.no_passage} measurements of reflections that do not cross "
            "the Ewald sphere, near the rotation axis"
        )
    if is_whole and pairs.n_different:
        warnings.append(
            f"{pairs.n_different} pairs of neighbouring frames state different intensities for "
            f"one reflection, though {pairs.n_repeated} repeat them: each counts as a measurement"
        )
    if not is_whole and pairs.n_repeated > pairs.n_different:
        warnings.append(
            "most intensities are repeated by neighbouring frames and count in each of them, for comparison "
            "with programs that work frame by frame: standard uncertainties will be too small"
        )
    n_without = int((observations.sigma == 0).sum())
    if n_without:
        warnings.append(
            f"{n_without} intensities have a sigma of zero: dials.hybrid_refine will leave them out"
        )
    g_max = float(np.linalg.norm(data.hkl @ data.setting.T, axis=1).max())
    experiment = make_experiment(sweep, data.wavelength, g_max, identifier)
    return ImportedPets(
        experiment=experiment,
        reflections=reflection_table(observations, experiment),
        messages=tuple(messages),
        warnings=tuple(warnings),
    )


def _with_metric(data: PetsData, metric: str) -> tuple[PetsData, list[str]]:
    """The data with the unit cell chosen, and what to say of it.

    Raises:
        ValueError: if the two cells have nothing in common.
    """
    if data.cell is None:
        return data, []
    lattice = lattice_of_cell(data.setting, data.cell)
    differ = (
        f"the unit cell of the file differs by {100 * lattice.strain:.1f} % from that of its "
        "orientation matrix UB"
    )
    said = [differ] if lattice.strain > _SMALL_STRAIN else []
    volumes = float(np.linalg.det(data.setting) * uctbx.unit_cell(data.cell).volume())
    if metric == "cell" and not 1 / _CONTRADICTION < volumes < _CONTRADICTION:
        raise ValueError(
            f"{differ}: correct one of them, in Angstrom and 1/Angstrom, or give unit_cell=UB"
        )
    if metric == "UB" or lattice.strain > _LARGEST_STRAIN:
        return data, [f"{text}, which is used as written" for text in said]
    return replace(data, setting=lattice.setting), [
        f"{text}: the cell is used, in the orientation of UB (unit_cell=UB takes that of UB)"
        for text in said
    ]


def _describe(data: PetsData) -> str:
    alpha, scale = data.frames.alpha, data.frames.scale
    return (
        f"{len(data.frames)} virtual frames from alpha {alpha[0]:.3f} to {alpha[-1]:.3f} degrees, "
        f"semi-angles {data.frames.semi_angle.min():g} to {data.frames.semi_angle.max():g} "
        f"degrees, {len(data.hkl)} rows of reflections, wavelength {data.wavelength:g} Angstrom. "
        f"The scales of the frames ({scale.min():g} to {scale.max():g}) are not applied: "
        "dials.hybrid_refine refines scales of its own"
    )


def _check_zone_axes(data: PetsData) -> None:
    error = zone_axis_error(data.frames, data.setting)
    if error > _MAX_ZONE_AXIS_ERROR:
        raise ValueError(
            f"its zone axes are {error:.1f} degrees from where alpha, beta, omega and the "
            "orientation matrix put them, so that the file does not follow the conventions of "
            "PETS2: export the data again"
        )


def _check_lists(data: PetsData) -> None:
    turns = np.abs(np.nan_to_num(row_passages(data, axis_at(0.0)), nan=180.0))
    median = float(np.median(turns))
    if median > max(_MAX_TURN, _MAX_TURN_IN_SEMI_ANGLES * float(data.frames.semi_angle.max())):
        raise ValueError(
            f"its reflections cross the Ewald sphere {median:.0f} degrees (median) from the frames "
            "that list them: the orientation matrix, the signs of alpha, beta and omega or the "
            "wavelength do not belong to these reflections; export the data again"
        )


def _choose_azimuth(data: PetsData, pairs: NeighbouringRows) -> tuple[float, list[str]]:
    """Where the rotation axis is in the plane at right angles to the beam, degrees from x.

    A reflection in two frames passes at one angle, wherever it is calculated from: the right axis
    makes neighbouring frames agree.

    Raises:
        ValueError: if they agree better for the other sense of rotation.
    """
    spread = passage_spread(data, pairs, axis_at(0.0))
    if not math.isfinite(spread):
        return 0.0, ["No reflection is listed by neighbouring frames: the rotation axis is x"]
    mirrored = passage_spread(data, pairs, axis_at(0.0), sense=-1)
    if mirrored < _CLEARLY_BETTER * spread:
        raise ValueError(
            "its frames and reflections agree better if the crystal turns in the other sense "
            f"(angles of passage differ by {mirrored:.2g} instead of {spread:.2g} degrees between "
            "neighbouring frames), so that the hand would come out wrong: export the data again "
            "and do not change the signs of alpha, beta and omega"
        )
    candidates = {"the turn between frames": axis_azimuth(data.frames)}
    if data.axis_position:
        candidates["the rotation axis position"] = data.axis_position
        candidates["minus the rotation axis position"] = -data.axis_position
    spreads = {
        name: passage_spread(data, pairs, axis_at(value)) for name, value in candidates.items()
    }
    best = min(spreads, key=lambda name: spreads[name])
    chosen = candidates[best] if spreads[best] < _CLEARLY_BETTER * spread else 0.0
    tried = "".join(
        f", {spreads[name]:.4f} at {value:.3f} degrees ({name})"
        for name, value in candidates.items()
    )
    return chosen, [
        "Angles of passage calculated from neighbouring frames differ by (median, degrees) "
        f"{spread:.4f} with the rotation axis along x{tried}, {mirrored:.3f} with the other sense "
        f"of rotation: the axis is taken at {chosen:.3f} degrees from x"
    ]


def _passages(
    data: PetsData, pairs: NeighbouringRows, axis: NDArray[np.float64], excitation_error: float
) -> tuple[Sweep, PetsObservations, list[str]]:
    sweep = continuous_sweep(data.frames, data.setting, axis)
    observations = whole_passages(data, pairs, sweep, excitation_error)
    return sweep, observations, [
        f"{_of_neighbours(pairs)}: an intensity is that of the whole passage and counts once, "
        f"{len(observations) + observations.no_passage} measurements. Windows end at an "
        f"excitation error of {excitation_error:g} 1/Angstrom"
    ]  # fmt: skip


def _frames(
    data: PetsData, pairs: NeighbouringRows, axis: NDArray[np.float64], limits: FrameFilter | None
) -> tuple[Sweep, PetsObservations, list[str]]:
    sweep = separate_frames(data.frames, data.setting, axis)
    observations = ranges_of_frames(data, sweep, limits)
    if limits is not None and not len(observations):
        raise ValueError(
            "no reflection is within frames.rsg and frames.dsg: raise frames.rsg or lower frames.dsg"
        )
    left_out = ""
    if limits is not None:
        n = len(data.hkl) - len(observations) - observations.no_passage
        left_out = (
            f" {n} rows are left out, which do not have |S| / dS < {limits.rsg:g} and dS - |S| > "
            f"{limits.dsg:g} 1/Angstrom"
        )
    return sweep, observations, [
        f"{_of_neighbours(pairs)}: an intensity is that of its frame's range of rotation, "
        f"{len(observations)} measurements. The frames are laid side by side along the scan, whose angle "
        f"is therefore not that of the goniometer.{left_out}"
    ]  # fmt: skip


def _of_neighbours(pairs: NeighbouringRows) -> str:
    return (
        f"Neighbouring frames repeat {pairs.n_repeated} intensities and state different ones for "
        f"{pairs.n_different} reflections"
    )
