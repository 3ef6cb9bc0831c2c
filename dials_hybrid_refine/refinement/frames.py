"""Virtual frames: short stretches of a scan, in terms of which other programs give statistics.

Those programs integrate the calculated intensities over such frames and give each its scale. Here
frames only say which reflections are compared together. What belongs to a frame is decided as by
Klar et al. (2023), Nat. Chem. 15, 848-855, whose RSg and DSg are ``rsg`` and ``dsg``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import nominal_excitation_errors
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry

#: degrees; usual for virtual frames of PETS2
_SEMI_ANGLE, _STEP = 1.0, 1.0

#: degrees within which a window of rotation and the range of a frame are the same
_SAME_ANGLE = 1e-6


@dataclass(frozen=True)
class Frames:
    """m virtual frames.

    Attributes:
        experiment: shape (m,), index of the experiment.
        phi: shape (m,), scan angle in the middle in degrees.
        semi_angle: shape (m,), half the range of rotation in degrees.
        apart: shape (m,), whether intensities were integrated over the range of the frame, each
            over one (``io.pets_geometry.separate_frames``), and belong to that frame alone.
    """

    experiment: NDArray[np.int64]
    phi: NDArray[np.float64]
    semi_angle: NDArray[np.float64]
    apart: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.phi)

    @property
    def typical_semi_angle(self) -> float:
        """Median semi-angle in degrees."""
        return float(np.median(self.semi_angle))

    @property
    def typical_step(self) -> float | None:
        """Median distance of neighbouring frames in degrees; None without neighbours."""
        order = np.lexsort([self.phi, self.experiment])
        distance = np.diff(self.phi[order])[np.diff(self.experiment[order]) == 0]
        return float(np.median(distance)) if len(distance) else None


@dataclass(frozen=True)
class FrameFilter:
    """Which reflections count in a frame.

    With the excitation error S in the middle of the frame and dS, by which S changes at most
    until its end: |S| / dS < rsg and dS - |S| > dsg.

    Attributes:
        rsg: without unit.
        dsg: in 1/Angstrom.
    """

    rsg: float = 0.66
    dsg: float = 0.0015

    def keeps(self, errors: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which reflections count, shape (n,), given |S| and dS, shape (n,), in 1/Angstrom."""
        return (errors < self.rsg * reach) & (reach - errors > self.dsg)


def regular_frames(
    phi_ranges: Sequence[tuple[float, float]], semi_angle: float, step: float
) -> Frames:
    """Frames at equal distances, as many as lie within each scan and at least one.

    Args:
        phi_ranges: first and last angle of each experiment in degrees.
        semi_angle, step: in degrees.
    """
    experiments, centres = [], []
    for i, (first, last) in enumerate(phi_ranges):
        n = max(0, int(np.floor((last - first - 2 * semi_angle) / step + 1e-9))) + 1
        centres.append((first + last) / 2 + step * (np.arange(n) - (n - 1) / 2))
        experiments.append(np.full(n, i))
    phi = np.concatenate(centres)
    return Frames(
        experiment=np.concatenate(experiments),
        phi=phi,
        semi_angle=np.full(len(phi), semi_angle),
        apart=np.zeros(len(phi), dtype=bool),
    )


def choose_frames(
    given: Frames | None,
    phi_ranges: Sequence[tuple[float, float]],
    semi_angle: float | None = None,
    step: float | None = None,
) -> Frames:
    """The frames that the data came with, or regular ones.

    Args:
        given: frames of the data, or None.
        phi_ranges: first and last angle of each experiment in degrees.
        semi_angle, step: in degrees; None: those of the data, 1 where there are none. A step that
            is given makes the frames regular.

    Raises:
        ValueError: if an angle is given though each intensity is that of a frame's own range.
    """
    if given is None:
        return regular_frames(phi_ranges, semi_angle or _SEMI_ANGLE, step or _STEP)
    if given.apart.any() and (semi_angle or step):
        raise ValueError(
            f"{'frames.semi_angle' if semi_angle else 'frames.step'} cannot be chosen, because each "
            "intensity of these data was integrated over the range of its frame: leave it at Auto"
        )
    if step:
        return regular_frames(phi_ranges, semi_angle or given.typical_semi_angle, step)
    if semi_angle:
        return Frames(
            given.experiment, given.phi, np.full(len(given), semi_angle), apart=given.apart
        )
    return given


def joined_frames(parts: Sequence[Frames]) -> Frames:
    """The frames of several experiments, the k-th part becoming those of experiment k."""
    return Frames(
        experiment=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        phi=np.concatenate([part.phi for part in parts]),
        semi_angle=np.concatenate([part.semi_angle for part in parts]),
        apart=np.concatenate([part.apart for part in parts]),
    )


def frame_members(
    frames: Frames,
    scans: Sequence[ScanGeometry],
    observations: Observations,
    limits: FrameFilter,
) -> list[NDArray[np.int64]]:
    """Which observations belong to each frame: m arrays of indices, with repeats between frames.

    S is that of the orientation as integrated. dS = |axis x g| times the semi-angle in radians:
    the lever arm is the distance from the rotation axis, which S cannot outrun. A reflection
    passes the Ewald sphere twice in a turn, inwards and outwards; a frame lists the passage whose
    sense it sees. An intensity of a frame's own range belongs to that frame alone.
    """
    members: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * len(frames)
    for i, scan in enumerate(scans):
        index = np.flatnonzero(observations.experiment == i)
        hkl, phi = observations.hkl[index], observations.phi[index]
        own = np.einsum("nij,nj->ni", scan.reciprocal_bases(phi), hkl)
        sense = np.sign(np.cross(scan.rotation_axes(phi), own) @ scan.beam_direction)
        starts, ends = observations.phi_start[index], observations.phi_end[index]
        for k in np.flatnonzero(frames.experiment == i):
            middle, half = frames.phi[k], frames.semi_angle[k]
            basis = scan.reciprocal_bases(np.array([middle]))
            errors = np.abs(
                nominal_excitation_errors(basis, hkl, scan.beam_direction, 1 / scan.wavelength)
            )[:, 0]
            motion = np.cross(scan.rotation_axes(np.array([middle])), hkl @ basis[0].T)
            reach = np.linalg.norm(motion, axis=1) * np.radians(half)
            inside = limits.keeps(errors, reach)
            if frames.apart[k]:
                inside &= np.abs(starts - (middle - half)) < _SAME_ANGLE
                inside &= np.abs(ends - (middle + half)) < _SAME_ANGLE
            else:
                inside &= np.sign(motion @ scan.beam_direction) == sense
            members[k] = index[inside]
    return members
