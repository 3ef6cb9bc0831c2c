"""The reflection list of a PETS2 file to observations with windows of rotation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials.array_family import flex
from dxtbx.model import Experiment, ExperimentList

from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.pets import PetsData
from dials_hybrid_refine.io.pets_geometry import (
    BEAM_DIRECTION,
    Sweep,
    frame_angles,
    frame_rotations,
    passage_turns,
)
from dials_hybrid_refine.refinement.frames import FrameFilter

#: half a window in degrees that is not exceeded as long as half the excitation error fits in;
#: dials.hybrid_refine leaves out windows longer than 4 degrees
_LONG_HALF_WINDOW = 1.99


@dataclass(frozen=True)
class NeighbouringRows:
    """Pairs of rows with the same hkl in neighbouring frames.

    Attributes:
        first, second: shape (p,), rows of the reflection list.
        repeated: shape (p,), whether both state the same intensity and sigma.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    repeated: NDArray[np.bool_]

    @property
    def n_repeated(self) -> int:
        return int(self.repeated.sum())

    @property
    def n_different(self) -> int:
        return len(self.repeated) - self.n_repeated

    @property
    def whole_passages(self) -> bool:
        """Whether intensities are of whole passages, which frames only repeat."""
        return self.n_repeated > self.n_different


def neighbouring_rows(data: PetsData) -> NeighbouringRows:
    order = np.lexsort([data.frame, *data.hkl.T])
    first, second = order[:-1], order[1:]
    neighbours = (data.hkl[first] == data.hkl[second]).all(axis=1)
    neighbours &= data.frame[second] - data.frame[first] == 1
    first, second = first[neighbours], second[neighbours]
    repeated = (data.intensity[first] == data.intensity[second]) & (
        data.sigma[first] == data.sigma[second]
    )
    return NeighbouringRows(first, second, repeated)


def row_passages(data: PetsData, axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn from the middle of its frame to the passage of each row; shape (n,), degrees or NaN."""
    bases = frame_rotations(data.frames).as_matrix() @ data.setting
    g = np.einsum("nij,nj->ni", bases[data.frame], data.hkl)
    return passage_turns(g, data.wavelength, axis)


def passage_spread(
    data: PetsData, pairs: NeighbouringRows, axis: NDArray[np.float64], sense: int = 1
) -> float:
    """How well neighbouring frames agree on the angle at which reflections pass.

    Args:
        data: a file.
        pairs: its rows with neighbours.
        axis: the rotation axis to be tried; shape (3,).
        sense: -1 tries what a rotation in the other sense would give.

    Returns:
        Median of the difference in degrees; NaN without pairs.
    """
    phi = frame_angles(data.frames, axis)[data.frame] + sense * row_passages(data, axis)
    differences = np.abs(phi[pairs.second] - phi[pairs.first])
    differences = differences[np.isfinite(differences)]
    return float(np.median(differences)) if len(differences) else float("nan")


@dataclass(frozen=True)
class PetsObservations:
    """n measurements.

    Attributes:
        hkl: shape (n, 3).
        intensity, sigma: shape (n,), as written.
        phi: shape (n,), scan angle in degrees at which the Ewald sphere is crossed.
        phi_start, phi_end: shape (n,), the window over which the intensity was integrated.
        first_frame, n_frames: shape (n,), number of the first frame that lists the measurement,
            and how many do.
        frame_phi, frame_semi_angle: shape (n,), of that frame: scan angle of the middle and
            semi-angle in degrees.
        no_passage: number of measurements left out because the reflection crosses the Ewald
            sphere nowhere near.
    """

    hkl: NDArray[np.int64]
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    phi: NDArray[np.float64]
    phi_start: NDArray[np.float64]
    phi_end: NDArray[np.float64]
    first_frame: NDArray[np.int64]
    n_frames: NDArray[np.int64]
    frame_phi: NDArray[np.float64]
    frame_semi_angle: NDArray[np.float64]
    no_passage: int

    def __len__(self) -> int:
        return len(self.phi)


def _group_starts(data: PetsData, pairs: NeighbouringRows) -> NDArray[np.int64]:
    """Which measurement each row belongs to; shape (n,), numbered by their first rows."""
    previous = np.arange(len(data.hkl))
    previous[pairs.second[pairs.repeated]] = pairs.first[pairs.repeated]
    for row in np.argsort(data.frame, kind="stable"):
        previous[row] = previous[previous[row]]  # frames before are resolved already
    return previous


def whole_passages(
    data: PetsData, pairs: NeighbouringRows, sweep: Sweep, excitation_error: float
) -> PetsObservations:
    """One observation for each measurement, over the whole passage through the Ewald sphere.

    The frames that list a reflection reach far beyond its rocking curve (3.5 degrees to both sides
    in the quartz data of doi 10.1038/s41467-026-71673-9) and not evenly, but the intensity is that
    of the curve. So the window is centred on the passage and ends where the excitation error,
    growing with the rotation, reaches ``excitation_error`` (1/Angstrom); for slow reflections
    where it reaches half as much, at the most, to be shorter than 4 degrees. 0.01 1/Angstrom
    leaves 2 % of the curve of a crystal of 500 Angstrom outside (1 / (pi^2 t s)). In a
    calculation with one thickness R_obs fell from 0.105 to 0.094 (quartz) and from 0.078 to 0.053
    (CsPbBr3) as half windows grew from 0.002 to 0.01, and by 0.001 at the most beyond.
    """
    head = _group_starts(data, pairs)
    first, inverse, n_frames = np.unique(head, return_inverse=True, return_counts=True)
    turns = row_passages(data, sweep.axis)
    chosen = np.full(len(first), -1)  # the row in the middle of whose frame the passage is
    for row in np.argsort(-np.abs(turns)):  # the smallest turn comes last, before NaN
        if np.isfinite(turns[row]):
            chosen[inverse[row]] = row
    known = chosen >= 0
    phi = np.full(len(first), np.nan)
    scan = sweep.geometry(data.wavelength)
    estimates = (sweep.centres[data.frame] + turns)[chosen[known]]
    phi[known] = _passages(scan, data.hkl[first[known]], estimates)
    found = np.isfinite(phi)
    lever = _lever_arms(scan, data.hkl[first[found]], phi[found])
    reach = np.degrees(excitation_error / np.maximum(lever, 1e-9))
    half = np.clip(_LONG_HALF_WINDOW, 0.5 * reach, reach)
    half = np.minimum(half, 90.0)
    return PetsObservations(
        hkl=data.hkl[first[found]],
        intensity=data.intensity[first[found]],
        sigma=data.sigma[first[found]],
        phi=phi[found],
        phi_start=phi[found] - half,
        phi_end=phi[found] + half,
        first_frame=data.frames.number[data.frame[first[found]]],
        n_frames=n_frames[found],
        frame_phi=sweep.centres[data.frame[first[found]]],
        frame_semi_angle=data.frames.semi_angle[data.frame[first[found]]],
        no_passage=int((~found).sum()),
    )


def _passages(
    scan: ScanGeometry, hkl: NDArray[np.int64], phi: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Angles in degrees near the given ones at which S = 0, with interpolated orientations.

    NaN where there is none.
    """
    for _ in range(20):
        g = np.einsum("nij,nj->ni", scan.reciprocal_bases(np.nan_to_num(phi)), hkl)
        turn = passage_turns(g, scan.wavelength, scan.rotation_axis)
        phi = phi + turn
        if not (np.abs(turn[np.isfinite(turn)]) > 1e-8).any():
            break
    return np.where(np.abs(turn) < 1e-5, phi, np.nan)


def _lever_arms(
    scan: ScanGeometry, hkl: NDArray[np.int64], phi: NDArray[np.float64]
) -> NDArray[np.float64]:
    """|dS/dphi| in 1/Angstrom per radian: |(axis x g).k|, shape (n,)."""
    g = np.einsum("nij,nj->ni", scan.reciprocal_bases(phi), hkl)
    return np.abs(np.cross(scan.rotation_axis, g) @ scan.beam_direction)


def rows_inside_frames(
    data: PetsData, axis: NDArray[np.float64], limits: FrameFilter
) -> NDArray[np.bool_]:
    """Rows of the list that count in their frames, shape (n,); see ``FrameFilter``."""
    bases = frame_rotations(data.frames).as_matrix() @ data.setting
    g = np.einsum("nij,nj->ni", bases[data.frame], data.hkl)
    # as ``diffraction.beams.nominal_excitation_errors``
    errors = np.abs(g @ BEAM_DIRECTION + 0.5 * data.wavelength * (g**2).sum(axis=1))
    reach = np.linalg.norm(np.cross(axis, g), axis=1) * np.radians(
        data.frames.semi_angle[data.frame]
    )
    return limits.keeps(errors, reach)


def ranges_of_frames(
    data: PetsData, sweep: Sweep, limits: FrameFilter | None = None
) -> PetsObservations:
    """One observation for each row, over the range of rotation of its frame.

    Where a reflection passes outside its frame's range, ``phi`` is the end of the range.

    Args:
        limits: which rows are taken; None: all.
    """
    turns = row_passages(data, sweep.axis)
    found = np.isfinite(turns)
    no_passage = int((~found).sum())
    if limits is not None:
        found &= rows_inside_frames(data, sweep.axis, limits)
    frame = data.frame[found]
    centre, half = sweep.centres[frame], data.frames.semi_angle[frame]
    return PetsObservations(
        hkl=data.hkl[found],
        intensity=data.intensity[found],
        sigma=data.sigma[found],
        phi=centre + np.clip(turns[found], -half, half),
        phi_start=centre - half,
        phi_end=centre + half,
        first_frame=data.frames.number[frame],
        n_frames=np.ones(len(frame), dtype=np.int64),
        frame_phi=centre,
        frame_semi_angle=half,
        no_passage=no_passage,
    )


def reflection_table(
    observations: PetsObservations, experiment: Experiment
) -> flex.reflection_table:
    """Integrated reflections as DIALS and ``reflections.read_observations`` want them.

    Profile-fitted and summed intensities are the same; a PETS2 file states one. There are no
    observed positions in it either: those in the table are the predicted ones.
    """
    n = len(observations)
    table = flex.reflection_table()
    table["id"] = flex.int(n, 0)
    table["panel"] = flex.size_t(n, 0)
    if experiment.identifier:
        table.experiment_identifiers()[0] = experiment.identifier
    table["miller_index"] = flex.miller_index(
        *(flex.int(np.ascontiguousarray(column, dtype=np.int32)) for column in observations.hkl.T)
    )
    _add_positions(table, observations, experiment)
    table["zeta"] = table.compute_zeta(experiment)
    table.compute_d(ExperimentList([experiment]))
    for kind in ("prf", "sum"):
        table[f"intensity.{kind}.value"] = flex.double(observations.intensity)
        table[f"intensity.{kind}.variance"] = flex.double(observations.sigma**2)
    table["phi_start"] = flex.double(observations.phi_start)
    table["phi_end"] = flex.double(observations.phi_end)
    table["partiality"] = flex.double(n, 1.0)
    table["pets_frame"] = flex.int(observations.first_frame.astype(np.int32))
    table["pets_n_frames"] = flex.int(observations.n_frames.astype(np.int32))
    table["pets_frame_phi"] = flex.double(np.ascontiguousarray(observations.frame_phi))
    table["pets_semi_angle"] = flex.double(np.ascontiguousarray(observations.frame_semi_angle))
    everything = flex.bool(n, True)
    for flag in ("predicted", "integrated_prf", "integrated_sum"):
        table.set_flags(everything, getattr(table.flags, flag))
    return table


def _add_positions(
    table: flex.reflection_table, observations: PetsObservations, experiment: Experiment
) -> None:
    sequence, scan = experiment.scan, scan_geometry(experiment)
    start, width = sequence.get_oscillation()
    beam = np.array(experiment.beam.get_s0())
    g = np.einsum("nij,nj->ni", scan.reciprocal_bases(observations.phi), observations.hkl)
    s1 = g + beam
    s1 *= np.linalg.norm(beam) / np.linalg.norm(s1, axis=1, keepdims=True)
    panel = experiment.detector[0]
    on_panel = [panel.get_ray_intersection(tuple(direction)) for direction in s1]
    x, y = np.array(on_panel).reshape(-1, 2).T
    size = panel.get_pixel_size()
    phi = observations.phi
    z = (phi - start) / width + sequence.get_array_range()[0]
    columns = tuple(flex.double(np.ascontiguousarray(c)) for c in (x, y, np.radians(phi)))
    pixels = tuple(flex.double(c) for c in (x / size[0], y / size[1], z))
    for origin in ("xyzcal", "xyzobs"):
        suffix = ".value" if origin == "xyzobs" else ""
        table[f"{origin}.mm{suffix}"] = flex.vec3_double(*columns)
        table[f"{origin}.px{suffix}"] = flex.vec3_double(*pixels)
    table["s1"] = flex.vec3_double(np.ascontiguousarray(s1))
