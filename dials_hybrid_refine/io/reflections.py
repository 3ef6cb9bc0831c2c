"""Integrated reflections of DIALS to observations.

Raw intensities are used: neither the Lorentz column nor the scales of ``dials.scale`` are
applied, because both are kinematical corrections of what the simulation computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dials.array_family import flex
from dxtbx.model import Experiment

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.frame_slices import read_slices
from dials_hybrid_refine.io.reflection_checks import check_types


@dataclass(frozen=True)
class ReflectionFilter:
    """Which reflections are refined against.

    Attributes:
        intensity: "profile", "sum" or "slices": sums of single images.
        min_zeta: reflections with |zeta| below pass the Ewald sphere too slowly.
        max_window: widest window of rotation in degrees.
        min_partiality: smallest recorded share of the reflection.
        d_min, d_max: resolution limits in Angstrom, or None.
    """

    intensity: str = "profile"
    min_zeta: float = 0.05
    max_window: float = 4.0
    min_partiality: float = 0.99
    d_min: float | None = None
    d_max: float | None = None


@dataclass(frozen=True)
class Exclusion:
    """Reflections left out before refinement: their rows in the table, by reason."""

    rows: dict[str, NDArray[np.int64]]

    @property
    def counts(self) -> dict[str, int]:
        """Number of reflections under each reason."""
        return {reason: len(rows) for reason, rows in self.rows.items()}


#: reasons that checks of the data ask for
OVERLOADED, REPEATED = "overloaded", "same measurement repeated"
#: intensities and their standard deviations beyond this are errors, whose squares would overflow
_LARGEST_INTENSITY = 1e30
#: narrower windows in degrees and smaller spacings in Angstrom are errors; so are reflections that are
#: farther than this from the Ewald sphere at their predicted angle, in 1/Angstrom
_NARROWEST_WINDOW, _SMALLEST_SPACING, _LARGEST_DISTANCE = 1e-3, 0.1, 0.05

#: largest median |S| in 1/Angstrom at the predicted angle; 1e-6 is usual
_MAX_MEDIAN_ERROR = 0.005

_COLUMNS = {
    "profile": ("intensity.prf.value", "intensity.prf.variance", "integrated_prf"),
    "sum": ("intensity.sum.value", "intensity.sum.variance", "integrated_sum"),
}
_COLUMNS["slices"] = _COLUMNS["sum"]


def _numpy(column: object) -> NDArray:
    """A flex array as a numpy array of its own."""
    if isinstance(column, flex.miller_index):
        return np.array(column.as_vec3_double()).round().astype(np.int64).reshape(-1, 3)
    if isinstance(column, flex.int6):
        return np.array(list(column), dtype=np.int64).reshape(-1, 6)
    if isinstance(column, flex.vec3_double):
        return np.array(column).reshape(-1, 3)
    return np.array(column.as_numpy_array())  # type: ignore[attr-defined]


def _has_intensity(table: flex.reflection_table) -> bool:
    return any(value in table for value, _, _ in _COLUMNS.values())


def check_columns(table: flex.reflection_table, intensity: str) -> None:
    """Whether a table holds integrated reflections with the wanted intensity.

    Raises:
        ValueError: names the missing or unsuitable column and the remedy.
    """
    if "flags" in table and not isinstance(table["flags"], flex.size_t):
        check_types(table)
    # spot finding writes a column intensity.sum.value, too: the flags tell
    integrated = "flags" in table and (
        len(table) == 0 or True in table.get_flags(table.flags.integrated, all=False)
    )
    if not integrated or "miller_index" not in table or not _has_intensity(table):
        raise ValueError(
            "the reflection file holds no integrated reflections: give the .refl file that "
            "dials.integrate or dials.scale has written"
        )
    value, variance, _ = _COLUMNS[intensity]
    if value not in table or variance not in table:
        other = "profile" if intensity == "sum" else "sum"
        raise ValueError(
            f"the reflection file has no column {value if value not in table else variance}: "
            f"use intensity={other} or integrate with the wanted kind of intensity"
        )
    check_types(table)
    windows = {"phi_start", "phi_end"} <= set(table.keys())
    if not windows and "xyzcal.mm" not in table:
        raise ValueError(
            "the reflection file has neither predicted positions (xyzcal.mm) nor windows of "
            "rotation (phi_start and phi_end): give the file that dials.integrate has written"
        )


def miller_indices(table: flex.reflection_table) -> NDArray[np.int64]:
    """Column miller_index as an array of shape (n, 3)."""
    return _numpy(table["miller_index"])


def zeta_of(table: flex.reflection_table, experiment: Experiment) -> NDArray[np.float64]:
    if "zeta" in table:
        return _numpy(table["zeta"])
    if "s1" not in table:
        return np.ones(len(table))
    s0, axis = (
        np.array(experiment.beam.get_s0()),
        np.array(experiment.goniometer.get_rotation_axis()),
    )
    normals = np.cross(_numpy(table["s1"]), s0)
    lengths = np.linalg.norm(normals, axis=1)
    return np.where(lengths > 0, normals @ axis / np.where(lengths > 0, lengths, 1), 0)


def _delta_m(experiment: Experiment, phi: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """n_sigma sigma_m of the profile model in degrees at angles phi, or None without one."""
    model = experiment.profile
    if model is None or "sigma_m" not in model.to_dict():
        return None
    values = model.to_dict()
    sigma_m = np.atleast_1d(np.array(values["sigma_m"], dtype=float))
    if len(sigma_m) == 1:
        return np.full(len(phi), values["n_sigma"] * sigma_m[0])
    start, width = experiment.scan.get_oscillation()
    image = np.clip(np.floor((phi - start) / width).astype(int), 0, len(sigma_m) - 1)
    return np.asarray(values["n_sigma"] * sigma_m[image])


def _angles(experiment: Experiment, z: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rotation angles in degrees of the edges of images, as in ``bbox``."""
    start, width = experiment.scan.get_oscillation()
    return np.asarray(start + width * (z - experiment.scan.get_array_range()[0]))


def _sliced(
    observations: Observations, table: flex.reflection_table, experiment: Experiment
) -> Observations:
    """An observation for each image of each reflection, with the window of that image.

    Raises:
        ValueError: if the table has no slices, or none that is valid.
    """
    slices = read_slices(table.select(flex.size_t(observations.row.tolist())))
    if len(slices.z) == 0:
        raise ValueError(
            "no image of any reflection has a valid intensity: integrate again, or use intensity=sum"
        )
    edges = _angles(experiment, np.stack([slices.z, slices.z + 1], axis=1))
    return replace(
        observations.select(slices.reflection),
        phi_start=edges.min(axis=1),
        phi_end=edges.max(axis=1),
        intensity=slices.intensity,
        sigma=np.sqrt(slices.variance),
    )


def _windows(
    table: flex.reflection_table, experiment: Experiment, intensity: str, zeta: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """phi, phi_start, phi_end in degrees (physics: the window differs with the intensity)."""
    if {"phi_start", "phi_end"} <= set(table.keys()):
        start, end = _numpy(table["phi_start"]), _numpy(table["phi_end"])
        phi = (
            np.degrees(_numpy(table["xyzcal.mm"])[:, 2])
            if "xyzcal.mm" in table
            else (start + end) / 2
        )
        return phi, start, end
    phi = np.degrees(_numpy(table["xyzcal.mm"])[:, 2])
    if intensity in ("sum", "slices") and "bbox" in table:
        edges = _angles(experiment, _numpy(table["bbox"])[:, 4:6])
        return phi, edges.min(axis=1), edges.max(axis=1)
    delta = _delta_m(experiment, phi)
    if delta is None:
        raise ValueError(
            "the experiments have no profile model and the reflections no phi_start and phi_end "
            "columns, so the range of rotation of each intensity is unknown: give the .expt "
            "file that dials.integrate has written"
        )
    half = delta / np.maximum(np.abs(zeta), 1e-6)
    return phi, phi - half, phi + half


def read_observations(
    table: flex.reflection_table,
    experiment: Experiment,
    scan: ScanGeometry,
    selection: ReflectionFilter,
    index: int = 0,
) -> tuple[Observations, Exclusion]:
    """Observations of one experiment and what was left out, by reason.

    Exclusion rests on geometry and flags only, never on intensity. ``unique_index`` is left at
    zero: it needs the structure's symmetry (``symmetry.unique_indices``).

    Raises:
        ValueError: if columns are missing or no reflection is left.
    """
    check_columns(table, selection.intensity)
    value_name, variance_name, flag = _COLUMNS[selection.intensity]
    value, variance = _numpy(table[value_name]), _numpy(table[variance_name])
    hkl = miller_indices(table)
    zeta = zeta_of(table, experiment)
    phi, start, end = _windows(table, experiment, selection.intensity, zeta)
    d = 1 / np.maximum(
        np.linalg.norm(hkl @ np.array(experiment.crystal.get_B()).reshape(3, 3).T, axis=1), 1e-9
    )
    first, last = scan.phi_range

    tests: dict[str, NDArray[np.bool_]] = {}
    tests["not integrated"] = ~_numpy(table.get_flags(getattr(table.flags, flag)))
    # not excluded_for_scaling: dials.scale sets it where I/sigma(I) < -5, too
    for name, reason in (
        ("bad_for_refinement", "flagged bad by DIALS"),
        ("overloaded", OVERLOADED),
        ("user_excluded_in_scaling", "excluded by the user"),
    ):
        tests[reason] = _numpy(table.get_flags(getattr(table.flags, name)))
    tests["Miller index 0 0 0"] = (hkl == 0).all(axis=1)
    tests["intensity or variance not usable"] = ~(
        (np.abs(value) < _LARGEST_INTENSITY)
        & (variance > _LARGEST_INTENSITY**-2)
        & (variance < _LARGEST_INTENSITY**2)
    )
    tests["spacing below 0.1 Angstrom"] = d < _SMALLEST_SPACING
    tests["window of rotation not usable"] = ~(
        np.isfinite(phi) & (end - start > _NARROWEST_WINDOW) & np.isfinite(end - start)
    )
    tests["near the rotation axis"] = ~(np.abs(zeta) >= selection.min_zeta)
    tests["window leaves the scan"] = (start < first - 1e-6) | (end > last + 1e-6)
    tests["window too wide"] = end - start > selection.max_window
    if "partiality" in table:
        tests["partially recorded"] = ~(_numpy(table["partiality"]) >= selection.min_partiality)
    tests["position outside the window"] = np.abs(2 * phi - start - end) > 2 * (end - start)
    if selection.d_min is not None:
        tests["beyond d_min"] = d < selection.d_min
    if selection.d_max is not None:
        tests["below d_max"] = d > selection.d_max

    left = np.ones(len(table), dtype=bool)
    rows: dict[str, NDArray[np.int64]] = {}
    for reason, failed in tests.items():
        if (left & failed).any():
            rows[reason] = np.flatnonzero(left & failed)
        left &= ~failed
    errors = np.zeros(len(table))
    if left.any():
        errors[left] = position_errors(scan, hkl[left], phi[left])
    # where it is true of many, the files do not belong together: see check_positions
    far = left & ~(np.abs(errors) < _LARGEST_DISTANCE)
    if far.any() and np.median(np.abs(errors[left])) < _MAX_MEDIAN_ERROR:
        rows["far from the Ewald sphere"] = np.flatnonzero(far)
        left &= ~far
    chosen = np.flatnonzero(left)
    angle = np.round(phi[chosen] * 1e4).astype(np.int64)
    key = np.concatenate([hkl[chosen], angle[:, None]], axis=1)
    _, once = np.unique(key, axis=0, return_index=True)
    if len(once) < len(chosen):
        rows[REPEATED] = np.delete(chosen, once)
        chosen = chosen[np.sort(once)]
    if len(chosen) == 0:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Exclusion(rows).counts.items())
        raise ValueError(
            f"no reflection is left after filtering ({reasons or 'the file is empty'}): give other data, or "
            "change what d_min, d_max and reflections.* leave out"
        )
    observations = Observations(
        experiment=np.full(len(chosen), index),
        hkl=hkl[chosen],
        phi_start=start[chosen],
        phi_end=end[chosen],
        phi=phi[chosen],
        intensity=value[chosen],
        sigma=np.sqrt(variance[chosen]),
        unique_index=np.zeros(len(chosen), dtype=np.int64),
        row=chosen,
    )
    if selection.intensity == "slices":
        observations = _sliced(observations, table, experiment)
        without = np.setdiff1d(chosen, observations.row)
        if len(without):
            rows["no valid image"] = without
    return observations, Exclusion(rows)


def position_errors(
    scan: ScanGeometry, hkl: NDArray[np.int64], phi: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Excitation errors S (n,) in 1/Angstrom of reflections (n, 3) at angles phi (n,) in degrees."""
    g = np.einsum("nij,nj->ni", scan.reciprocal_bases(phi), hkl)
    return np.asarray(-(g @ scan.beam_direction + 0.5 * scan.wavelength * (g**2).sum(axis=1)))


def check_positions(observations: Observations, scan: ScanGeometry, experiments: str) -> None:
    """Whether reflections meet the Ewald sphere where the experiment says they do.

    Args:
        experiments: name of the experiments file, for the message.

    Raises:
        ValueError: if they do not, which means that the two files do not belong together.
    """
    errors = position_errors(scan, observations.hkl, observations.phi)
    median = float(np.median(np.abs(errors)))
    if not median < _MAX_MEDIAN_ERROR:
        raise ValueError(
            f"the reflections do not belong to {experiments}: at their predicted angles they are "
            f"{median:.3f} 1/Angstrom from the Ewald sphere; give the two files that one DIALS "
            "program has written"
        )
