"""PETS2 files (.cif_pets) to arrays.

Such a file lists virtual frames (ranges of rotation that overlap, as a rule) and, for each of
them, reflections with an integrated intensity. Beside PETS2 itself ``dials.export format=pets``
writes them; the dialects differ in spacing, in comments and in the items that nothing here needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cctbx import uctbx

from dials_hybrid_refine.io.cif_syntax import Items, parse_cif
from dials_hybrid_refine.io.experiment_checks import SHORTEST_WAVELENGTH
from dials_hybrid_refine.io.modulation import sign_of_modulation

#: shortest wavelength in Angstrom that is taken for X-rays; that of 15 kV electrons
SHORTEST_XRAY_WAVELENGTH = 0.1
#: largest semi-angle of a frame in degrees; those of overlapping frames are some degrees
_LARGEST_SEMI_ANGLE = 45.0
#: intensities and Miller indices beyond these are errors
_LARGEST_INTENSITY, _LARGEST_INDEX = 1e30, 1000

_EXPORT = "export the data from PETS2 (or dials.export format=pets) again"
_ZONE = "_diffrn_zone_axis_"
_REFLECTION = "_refln_"


@dataclass(frozen=True)
class PetsFrames:
    """m virtual frames, in the order of the file.

    A crystal vector h is at Rz(omega) Rx(alpha) Ry(beta) UB h in the middle of a frame, in a
    frame of axes with the beam along -z and the rotation axis close to x.

    Attributes:
        number: shape (m,), as written.
        semi_angle: shape (m,), half the range of rotation in degrees.
        alpha, beta, omega: shape (m,), in degrees.
        zone_axis: shape (m, 3), lattice coordinates of the direction against the beam; 0 where missing.
        scale: shape (m,). Not contained in the intensities: those that neighbouring frames repeat
            are equal to the last digit although the scales of the frames differ.
    """

    number: NDArray[np.int64]
    semi_angle: NDArray[np.float64]
    alpha: NDArray[np.float64]
    beta: NDArray[np.float64]
    omega: NDArray[np.float64]
    zone_axis: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True)
class PetsData:
    """What a PETS2 file says.

    Attributes:
        wavelength: in Angstrom.
        cell: a, b, c in Angstrom, alpha, beta, gamma in degrees, or None where not given.
        setting: shape (3, 3), UB in 1/Angstrom as written, with alpha = beta = omega = 0.
        frames: the virtual frames.
        hkl: shape (n, 3), Miller indices of the rows of the reflection list.
        intensity, sigma: shape (n,).
        frame: shape (n,), index (not number) of the row's frame.
        axis_position: the "rotation axis position" of the details in degrees, or None.
        warnings: what the user should know.
    """

    wavelength: float
    cell: tuple[float, ...] | None
    setting: NDArray[np.float64]
    frames: PetsFrames
    hkl: NDArray[np.int64]
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    frame: NDArray[np.int64]
    axis_position: float | None
    warnings: tuple[str, ...]


def read_pets(path: str) -> PetsData:
    """The contents of a .cif_pets file.

    Raises:
        ValueError: says what is wrong with it and what to do; does not name the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="strict")
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror}): check it") from error
    except UnicodeDecodeError:
        text = Path(path).read_text(encoding="latin-1")
    if "\0" in text or "data_" not in text.lower():
        raise ValueError("this is no PETS2 file: give the .cif_pets file that PETS2 has written")
    blocks = [b for b in parse_cif(text).values() if any(_is_pets(name) for name in b)]
    if not blocks:
        raise ValueError(
            "this is no PETS2 file, it has neither virtual frames (_diffrn_zone_axis_...) nor "
            f"reflections with a frame (_refln_zone_axis_id): {_EXPORT}"
        )
    if len(blocks) > 1:
        raise ValueError(
            f"{len(blocks)} data blocks hold virtual frames: give a file with one of them"
        )
    return _data(blocks[0], complete=text.endswith("\n"))


def _is_pets(name: str) -> bool:
    return name.startswith((_ZONE, "_diffrn_orient_matrix_ub")) or name == "_refln_zone_axis_id"


def _data(items: Items, complete: bool) -> PetsData:
    """Args: complete: whether the file ends with the end of a line.

    Raises:
        ValueError: see ``read_pets``.
    """
    sign = sign_of_modulation(items)
    if sign is not None:
        raise ValueError(
            f"the data are of a modulated or composite crystal ({sign}), which cannot be refined: "
            "export the main reflections alone, from a project without modulation vectors"
        )
    wavelength = _wavelength(items)
    setting = _setting(items)
    frames = _frames(items)
    hkl, intensity, sigma, frame = _reflections(items, frames)
    details = " ".join(items.get("_diffrn_measurement_details", []))
    _check_rotation(details)
    position = re.search(r"rotation axis position:\s*([-+]?\d+\.?\d*)", details)
    return PetsData(
        wavelength=wavelength,
        cell=_cell(items),
        setting=setting,
        frames=frames,
        hkl=hkl,
        intensity=intensity,
        sigma=sigma,
        frame=frame,
        axis_position=float(position[1]) if position else None,
        warnings=_warnings(frames, frame, complete),
    )


def _check_rotation(details: str) -> None:
    """Whether the frames cover a rotation: a cone of precession has a semi-angle, too.

    Raises:
        ValueError: if the file says something else.
    """
    stated = re.search(r"data collection geometry:\s*(\S[^\n]*?)\s*(\n|$)", details)
    if stated and "rotation" not in stated[1].lower():
        raise ValueError(
            f"the data collection geometry is {stated[1]!r}: only data of continuous rotation can "
            "be imported"
        )


def _warnings(frames: PetsFrames, frame: NDArray[np.int64], complete: bool) -> tuple[str, ...]:
    """Signs of truncation.

    Raises:
        ValueError: if there is no doubt about it.
    """
    missing = len(frames) - 1 - int(frame.max())
    if missing and not complete:
        raise ValueError(
            f"the file is truncated: its last line is incomplete and the last {missing} of "
            f"{len(frames)} frames have no reflections: {_EXPORT}"
        )
    if missing:
        return (
            f"the last {missing} of {len(frames)} frames have no reflections: the file may be "
            "truncated",
        )
    if not complete:
        return ("the last line of the file has no end: the file may be truncated",)
    return ()


def _columns(items: Items, prefix: str, names: str, what: str) -> dict[str, list[str]]:
    """The columns of a loop by their short names.

    Raises:
        ValueError: names the missing ones.
    """
    missing = [prefix + name for name in names.split() if prefix + name not in items]
    if missing:
        raise ValueError(f"{what} lack {', '.join(missing)}: {_EXPORT}, for dynamical refinement")
    columns = {name: items[prefix + name] for name in names.split()}
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError(f"the columns of {what} differ in length: {_EXPORT}")
    return columns


def _numbers(values: list[str], name: str) -> NDArray[np.float64]:
    """Values as numbers, without their standard uncertainties.

    Raises:
        ValueError: names the value.
    """
    try:
        numbers = np.array(values, dtype=float)
    except ValueError:
        numbers = np.array([_number(value, name) for value in values])
    if not np.isfinite(numbers).all():
        bad = values[int(np.flatnonzero(~np.isfinite(numbers))[0])]
        raise ValueError(f"{name} holds {bad}, which is not a finite number: {_EXPORT}")
    return numbers


def _number(value: str, name: str) -> float:
    try:
        return float(re.sub(r"\(\d+\)$", "", value))
    except ValueError:
        raise ValueError(f"{name} holds {value[:20]!r}, which is not a number: {_EXPORT}") from None


def _integers(values: list[str], name: str) -> NDArray[np.int64]:
    numbers = _numbers(values, name)
    whole = np.rint(numbers)
    if (numbers != whole).any() or np.abs(whole).max() > 10**8:
        bad = values[int(np.flatnonzero((numbers != whole) | (np.abs(whole) > 10**8))[0])]
        raise ValueError(f"{name} holds {bad}, which is not an index: {_EXPORT}")
    return whole.astype(np.int64)


def _wavelength(items: Items) -> float:
    name = "_diffrn_radiation_wavelength"
    if name not in items:
        raise ValueError(f"the wavelength ({name}) is missing: add it to the file, in Angstrom")
    value = float(_numbers(items[name][:1], name)[0])
    if value < SHORTEST_WAVELENGTH:
        raise ValueError(
            f"the wavelength is {value:.5g} Angstrom, which is not that of electrons of 10 kV to 2 MV: "
            f"correct {name} in the file, in Angstrom"
        )
    if value >= SHORTEST_XRAY_WAVELENGTH:
        raise ValueError(
            f"the wavelength is {value:.5g} Angstrom, which is that of X-rays: electron "
            "diffraction data are needed (0.0197-0.0370 Angstrom at 300-100 kV)"
        )
    return value


def _cell(items: Items) -> tuple[float, ...] | None:
    names = [f"_cell_length_{i}" for i in "abc"]
    names += [f"_cell_angle_{i}" for i in ("alpha", "beta", "gamma")]
    if any(name not in items for name in names):
        return None
    cell = tuple(float(_numbers(items[name][:1], name)[0]) for name in names)
    try:
        uctbx.unit_cell(cell)
    except (RuntimeError, ValueError) as error:
        shown = " ".join(f"{value:g}" for value in cell)
        raise ValueError(
            f"the unit cell {shown} is impossible: correct it, or remove it to take that of UB"
        ) from error
    return cell


def _setting(items: Items) -> NDArray[np.float64]:
    names = [f"_diffrn_orient_matrix_ub_{i}{j}" for i in "123" for j in "123"]
    missing = [name for name in names if name not in items]
    if missing:
        lacking = "the orientation matrix (_diffrn_orient_matrix_UB_11 to _33) is "
        lacking += "missing" if len(missing) == 9 else f"incomplete ({len(missing)} of 9 missing)"
        raise ValueError(f"{lacking}: {_EXPORT}, with an indexed and refined lattice")
    matrix = np.array([_numbers(items[name][:1], name)[0] for name in names]).reshape(3, 3)
    volume = np.linalg.det(matrix)
    if abs(volume) < 1e-9:
        raise ValueError(f"the orientation matrix UB is singular: {_EXPORT}")
    if volume < 0:
        raise ValueError(
            "the orientation matrix UB is left-handed (its determinant is negative), so the hand "
            f"of the crystal would come out wrong: {_EXPORT}, with a right-handed cell"
        )
    return matrix


def _frames(items: Items) -> PetsFrames:
    angles = "precession_angle alpha beta omega"
    columns = _columns(items, _ZONE, f"id {angles}", "the virtual frames")
    n = len(columns["id"])
    number = _integers(columns["id"], _ZONE + "id")
    if len(set(number.tolist())) < n:
        raise ValueError(f"two virtual frames have the same {_ZONE}id: {_EXPORT}")
    scale = _numbers(items.get(_ZONE + "scale", ["1"] * n), _ZONE + "scale")
    zone_axis = np.zeros((n, 3))
    if all(_ZONE + name in items for name in "uvw"):
        columns |= _columns(items, _ZONE, "u v w id", "the virtual frames")
        zone_axis = np.stack([_numbers(columns[name], _ZONE + name) for name in "uvw"], axis=1)
    semi_angle, alpha, beta, omega = (
        _numbers(columns[name], _ZONE + name) for name in angles.split()
    )
    if not (semi_angle > 0).all():
        raise ValueError(
            f"{_ZONE}precession_angle of frame {number[np.argmin(semi_angle)]} is not positive: "
            "only frames that cover a range of rotation can be imported"
        )
    if not (semi_angle <= _LARGEST_SEMI_ANGLE).all():
        raise ValueError(
            f"{_ZONE}precession_angle of frame {number[np.argmax(semi_angle)]} is {semi_angle.max():g} "
            f"degrees: {_EXPORT}, semi-angles are some degrees"
        )
    return PetsFrames(
        number=number,
        semi_angle=semi_angle,
        alpha=alpha,
        beta=beta,
        omega=omega,
        zone_axis=zone_axis,
        scale=scale,
    )


def _reflections(
    items: Items, frames: PetsFrames
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Miller indices (n, 3), intensities (n,), their sigma (n,) and indices of frames (n,)."""
    names = "index_h index_k index_l intensity_meas intensity_sigma zone_axis_id"
    columns = _columns(items, _REFLECTION, names, "the reflections")
    numbers = _integers(columns["zone_axis_id"], _REFLECTION + "zone_axis_id")
    index = {number: i for i, number in enumerate(frames.number.tolist())}
    unknown = sorted(set(numbers.tolist()) - set(index))
    if unknown:
        raise ValueError(
            f"reflections name frame {unknown[0]}, which is not among the {len(frames)} virtual "
            f"frames: the file is truncated or was edited; {_EXPORT}"
        )
    hkl = [_integers(columns[f"index_{i}"], f"{_REFLECTION}index_{i}") for i in "hkl"]
    intensity, sigma = (
        _numbers(columns[f"intensity_{i}"], f"{_REFLECTION}intensity_{i}")
        for i in ("meas", "sigma")
    )
    if (sigma < 0).any():
        raise ValueError(
            f"{_REFLECTION}intensity_sigma is negative in row {np.argmin(sigma) + 1}: {_EXPORT}"
        )
    if not ((np.abs(intensity) < _LARGEST_INTENSITY) & (sigma < _LARGEST_INTENSITY)).all():
        raise ValueError(
            f"{_REFLECTION}intensity_meas and intensity_sigma reach {np.abs([intensity, sigma]).max():g}: "
            f"{_EXPORT}"
        )
    if np.abs(hkl).max() > _LARGEST_INDEX:
        raise ValueError(
            f"the Miller index {np.abs(hkl).max()} is impossible: correct {_REFLECTION}index_h, k or l, or "
            f"{_EXPORT}"
        )
    frame = np.array([index[number] for number in numbers.tolist()], dtype=np.int64)
    return np.stack(hkl, axis=1), intensity, sigma, frame
