"""Virtual frames of a PETS2 file to dxtbx models.

The axes of PETS2 are kept as those of the laboratory: the beam travels along -z, the crystal
turns about x with a right-handed sense. DIALS wants nothing more than right-handed axes in which
beam, rotation axis, crystal and detector are all given. The orientation in the middle of a frame
is M = Rz(omega) Rx(alpha) Ry(beta) UB, and over its range Rx(theta) M with theta from minus to
plus the semi-angle (checked on the data of doi 10.1038/s41467-026-71673-9 and against
``dials.export format=pets``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar
from scipy.spatial.transform import Rotation, Slerp

from cctbx import uctbx
from dxtbx.model import Beam, Crystal, Detector, Experiment, Goniometer, Scan

from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.pets import PetsFrames

BEAM_DIRECTION = np.array([0.0, 0.0, -1.0])

#: angles that differ by less count as equal: PETS2 writes three decimals
_ANGLE_TOLERANCE = 0.002
#: turns in degrees that tell the direction of their axis: orientations are good to 0.1 degrees
_SHORTEST_TURN = 5.0
#: images per distance of frames where frames are irregular. Between the scan points orientations
#: are linear, which misses the kink at a frame by a quarter of an image times the change of slope
#: (0.3 degrees per degree in bad data): 0.01 degrees
_IMAGES_PER_FRAME = 8


@dataclass(frozen=True)
class Sweep:
    """The rotation of the crystal, laid out as one scan.

    Attributes:
        axis: shape (3,), unit vector.
        start, width: angle at which the scan begins and width of an image in degrees.
        settings: shape (p, 3, 3), matrices A in 1/Angstrom at the borders of p - 1 images.
        centres: shape (m,), scan angle in the middle of each frame in degrees.
        frames_apart: whether each frame has a stretch of the scan to itself.
    """

    axis: NDArray[np.float64]
    start: float
    width: float
    settings: NDArray[np.float64]
    centres: NDArray[np.float64]
    frames_apart: bool

    def geometry(self, wavelength: float) -> ScanGeometry:
        """The same as ``experiments.scan_geometry`` reads from the models."""
        n_points = len(self.settings)
        return ScanGeometry(
            wavelength=wavelength,
            beam_direction=BEAM_DIRECTION,
            rotation_axis=self.axis,
            phi_points=self.start + self.width * np.arange(n_points),
            crystal_settings=self.settings,
            setting_rotations=np.broadcast_to(np.eye(3), (n_points, 3, 3)),
            image_width=self.width,
        )


def axis_at(azimuth: float) -> NDArray[np.float64]:
    """The rotation axis at an angle (degrees) from x towards y; shape (3,)."""
    angle = math.radians(azimuth)
    return np.array([math.cos(angle), math.sin(angle), 0.0])


@dataclass(frozen=True)
class Lattice:
    """UB as a pure rotation of a unit cell.

    Attributes:
        setting: shape (3, 3), U B with the rotation U nearest to (UB written) B^-1, B from the cell
            as stated.
        strain: largest relative change of a length by which UB as written differs from that.
    """

    setting: NDArray[np.float64]
    strain: float


def lattice_of_cell(setting: NDArray[np.float64], cell: Sequence[float]) -> Lattice:
    """The orientation of UB and the metric of a unit cell.

    By polar decomposition, which finds the nearest rotation (Higham (1988), Linear Algebra Appl.
    103, 103).

    Args:
        setting: shape (3, 3), UB as written, 1/Angstrom.
        cell: a, b, c in Angstrom, alpha, beta, gamma in degrees.
    """
    basis = np.array(uctbx.unit_cell(tuple(cell)).fractionalization_matrix()).reshape(3, 3).T
    rotation, stretch = polar(setting @ np.linalg.inv(basis))
    strain = float(np.abs(np.linalg.eigvalsh(stretch) - 1).max())
    return Lattice(rotation @ basis, strain)


def frame_rotations(frames: PetsFrames) -> Rotation:
    """m rotations from the axes of UB to the laboratory in the middle of each frame."""
    angles = np.stack([frames.omega, frames.alpha, frames.beta], axis=1)
    return Rotation.from_euler("ZXY", angles, degrees=True)


def frame_angles(frames: PetsFrames, axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the crystal has turned about an axis in the middle of each frame; (m,), degrees.

    The twist of Rz(omega) Rx(alpha) Ry(beta): alpha, to some 0.001 degrees, where the axis is x
    and beta and omega are small. It also serves files whose axis is elsewhere.
    """
    quaternions = frame_rotations(frames).as_quat()
    twist = np.degrees(2 * np.arctan2(quaternions[:, :3] @ axis, quaternions[:, 3]))
    return np.asarray(frames.alpha + (twist - frames.alpha + 180) % 360 - 180)


def axis_azimuth(frames: PetsFrames) -> float:
    """Azimuth in degrees of the axis about which the crystal turns from frame to frame.

    Of turns over ten frames, to which the error of each single orientation matters little; 0
    where the frames are too few to tell.
    """
    distance = min(10, len(frames) - 1)
    if distance < 1:
        return 0.0
    rotations = frame_rotations(frames)
    turns = (rotations[distance:] * rotations[:-distance].inv()).as_rotvec()
    turn = (turns * np.sign(turns[:, :1])).mean(axis=0)
    if np.linalg.norm(turn) < math.radians(_SHORTEST_TURN):
        return 0.0
    return math.degrees(math.atan2(turn[1], turn[0]))


def zone_axis_error(frames: PetsFrames, setting: NDArray[np.float64]) -> float:
    """Median angle in degrees between the zone axes as written and as calculated; 0 without any.

    It tells whether the order and signs of alpha, beta and omega are understood.
    """
    given = np.linalg.norm(frames.zone_axis, axis=1) > 0
    if not given.any():
        return 0.0
    direct = np.linalg.inv(setting).T @ frames.zone_axis[given].T  # (3, m), before rotation
    turned = frame_rotations(frames)[given].apply(direct.T)
    along = -turned @ BEAM_DIRECTION / np.linalg.norm(turned, axis=1)
    return float(np.degrees(np.median(np.arccos(np.clip(np.abs(along), 0, 1)))))


def missettings(
    frames: PetsFrames, axis: NDArray[np.float64], centres: NDArray[np.float64]
) -> Rotation:
    """R(-centre) Rz(omega) Rx(alpha) Ry(beta): what is left beside the turn about the axis."""
    turns = Rotation.from_rotvec(-np.radians(centres)[:, None] * axis)
    return turns * frame_rotations(frames)


def continuous_sweep(
    frames: PetsFrames, setting: NDArray[np.float64], axis: NDArray[np.float64]
) -> Sweep:
    """One scan with ``frame_angles`` and the orientation interpolated between frames.

    The missetting is interpolated on great circles and kept constant before the first and after
    the last frame. Regular frames have their middles and borders on the borders of images, others
    get narrow images.

    Raises:
        ValueError: if the frames do not turn in one direction.
    """
    angles = frame_angles(frames, axis)
    direction = 1.0 if angles[-1] >= angles[0] else -1.0
    back = np.flatnonzero(direction * np.diff(angles) <= _ANGLE_TOLERANCE)
    if len(back):
        raise ValueError(
            f"the frames stop or turn back at frame {frames.number[back[0] + 1]}: the file holds several "
            "sweeps, so split it into one file for each"
        )
    order = np.argsort(angles)
    centres, semi_angle = angles[order], frames.semi_angle[order]
    first, last = float((centres - semi_angle).min()), float((centres + semi_angle).max())
    n_images = _n_images(centres, semi_angle, first, last)
    points = np.linspace(first, last, n_images + 1)
    misset = missettings(frames, axis, angles)[order]
    if len(frames) > 1:
        inside = np.clip(points, centres[0], centres[-1])
        matrices = Slerp(centres, misset)(inside).as_matrix()
    else:
        matrices = np.repeat(misset.as_matrix(), len(points), axis=0)
    return Sweep(
        axis=axis,
        start=first,
        width=(last - first) / n_images,
        settings=matrices @ setting,
        centres=angles,
        frames_apart=False,
    )


def _n_images(
    centres: NDArray[np.float64], semi_angle: NDArray[np.float64], first: float, last: float
) -> int:
    if len(centres) == 1:
        return 2
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    regular = (
        np.abs(centres - (centres[0] + step * np.arange(len(centres)))).max() < _ANGLE_TOLERANCE
    )
    if regular and np.ptp(semi_angle) < _ANGLE_TOLERANCE:
        for divisor in range(1, _IMAGES_PER_FRAME + 1):
            images = semi_angle[0] * divisor / step
            if abs(images - round(images)) * step < _ANGLE_TOLERANCE and round(images) > 0:
                return (len(centres) - 1) * divisor + 2 * round(images)
    return max(2, math.ceil((last - first) / step * _IMAGES_PER_FRAME))


def separate_frames(
    frames: PetsFrames, setting: NDArray[np.float64], axis: NDArray[np.float64]
) -> Sweep:
    """One scan in which each frame has two images to itself, followed by one without data.

    Where frames overlap and state intensities of their own, one angle would stand for two
    orientations, those of two frames, which differ by tenths of a degree. So the frames are put
    side by side: the scan angle equals the turn of the crystal for the first frame only. In the
    images between them the orientation runs from that of one frame to that of the next.
    """
    width = float(frames.semi_angle.max())
    angles = frame_angles(frames, axis)
    order = np.argsort(angles, kind="stable")
    rank = np.argsort(order)
    start = float(angles[order[0]]) - width
    centres = start + width * (1 + 3 * rank)
    matrices = missettings(frames, axis, centres).as_matrix()[order]
    return Sweep(
        axis=axis,
        start=start,
        width=width,
        settings=np.repeat(matrices, 3, axis=0) @ setting,
        centres=centres,
        frames_apart=True,
    )


def passage_turns(
    g: NDArray[np.float64], wavelength: float, axis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The smallest turn about the axis that brings reciprocal vectors onto the Ewald sphere.

    With the axis at right angles to the beam k, (R(t) g).k = g.k cos t + (axis x g).k sin t, and
    on the sphere (R(t) g).k = -g^2 lambda / 2.

    Args:
        g: shape (n, 3), 1/Angstrom.
        wavelength: in Angstrom.
        axis: shape (3,), unit vector.

    Returns:
        Shape (n,), degrees; NaN where no turn does.
    """
    along = g @ BEAM_DIRECTION
    across = np.cross(axis, g) @ BEAM_DIRECTION
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = -0.5 * wavelength * (g**2).sum(axis=1) / np.hypot(along, across)
        half = np.arccos(cosine)
    middle = np.arctan2(across, along)
    both = np.degrees(np.stack([middle + half, middle - half]))
    both = (both + 180) % 360 - 180
    return np.asarray(np.where(np.abs(both[0]) < np.abs(both[1]), both[0], both[1]))


def make_experiment(sweep: Sweep, wavelength: float, g_max: float, identifier: str) -> Experiment:
    """The dxtbx models of a sweep.

    Args:
        sweep: the scan.
        wavelength: in Angstrom.
        g_max: largest |g| in 1/Angstrom that the detector is to hold.
        identifier: of the experiment.
    """
    n_images = len(sweep.settings) - 1
    middle = sweep.settings[n_images // 2]
    crystal = Crystal(*(tuple(row) for row in np.linalg.inv(middle)), "P 1")
    crystal.set_A(tuple(middle.ravel()))
    crystal.set_A_at_scan_points([tuple(a.ravel()) for a in sweep.settings])
    scan = Scan((1, n_images), (sweep.start, sweep.width))
    return Experiment(
        beam=Beam(tuple(BEAM_DIRECTION / wavelength)),
        detector=_detector(wavelength, g_max),
        goniometer=Goniometer(tuple(sweep.axis)),
        scan=scan,
        crystal=crystal,
        identifier=identifier,
    )


def _detector(wavelength: float, g_max: float) -> Detector:
    """A flat square detector that holds all reflections. PETS2 files describe none.

    Nothing but the predicted positions on it depends on its distance and pixel size.
    """
    distance, n_pixels = 1000.0, 2048
    two_theta = 2 * math.asin(min(0.7, 0.5 * wavelength * g_max))
    pixel = 2.2 * distance * math.tan(two_theta) / n_pixels
    edge = 0.5 * n_pixels * pixel
    detector = Detector()
    panel = detector.add_panel()
    panel.set_name("virtual")
    panel.set_type("SENSOR_UNKNOWN")
    panel.set_local_frame((1, 0, 0), (0, -1, 0), (-edge, edge, -distance))
    panel.set_pixel_size((pixel, pixel))
    panel.set_image_size((n_pixels, n_pixels))
    panel.set_trusted_range((-1.0, 1e9))
    return detector
