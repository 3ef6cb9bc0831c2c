"""Lists of reflections in a CIF."""

from __future__ import annotations

import numpy as np

import iotbx.cif.model
from cctbx.array_family import flex

from dials_hybrid_refine.diffraction.electron import POTENTIAL_VOLT
from dials_hybrid_refine.io.kinematical_intensities import KinematicalIntensities
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.statistics import OBSERVED_LIMIT


def _column(values: np.ndarray, digits: int) -> flex.std_string:
    return flex.std_string([f"{value:.{digits}f}" for value in values])


def _loop(hkl: np.ndarray, columns: dict[str, flex.std_string]) -> iotbx.cif.model.loop:
    """All columns of a loop: an identifier, indices and the others."""
    names = {f"_refln_index_{axis}": column for axis, column in zip("hkl", hkl.T)}
    data = {name: flex.std_string([str(int(i)) for i in column]) for name, column in names.items()}
    identifiers = flex.std_string([str(i + 1) for i in range(len(hkl))])
    return iotbx.cif.model.loop(data={**data, **columns, "_refln.id": identifiers})


def _status(observed: np.ndarray, sigma: np.ndarray) -> list[str]:
    return ["o" if i > OBSERVED_LIMIT * s else "<" for i, s in zip(observed, sigma)]


def measured_reflections(result: Result) -> iotbx.cif.model.loop:
    """One row for each measurement: the data of the refinement, intensities in counts.

    ``_refln_include_status`` is "x" for rejected outliers, ``_refln_refinement_status`` "excl" for
    these and for held-out reflections.
    """
    observations = result.observations
    status = _status(observations.intensity, observations.sigma)
    excluded = result.held_out | result.rejected
    return _loop(
        observations.hkl,
        {
            "_refln_intensity_meas": _column(observations.intensity, 2),
            "_refln_intensity_sigma": _column(observations.sigma, 2),
            "_refln_intensity_calc": _column(result.calculated, 2),
            "_refln_include_status": flex.std_string(
                ["x" if out else code for code, out in zip(status, result.rejected)]
            ),
            "_refln_refinement_status": flex.std_string(
                ["excl" if out else "incl" for out in excluded]
            ),
        },
    )


def merged_reflections(data: KinematicalIntensities, volume: float) -> iotbx.cif.model.loop:
    """One row for each unique reflection, freed of dynamical effects (``kinematical_intensities``).

    F in volts, as the dictionary asks for electrons: 47.878 V Angstrom^2 F / Omega.
    """
    volt = POTENTIAL_VOLT / volume
    # rounded first: 359.999 is 0, not 360
    phases = np.degrees(np.angle(data.f_calc)).round(2) % 360
    return _loop(
        data.hkl,
        {
            "_refln_F_squared_meas": _column(data.intensity * volt**2, 5),
            "_refln_F_squared_sigma": _column(data.sigma * volt**2, 5),
            "_refln_F_squared_calc": _column(np.abs(data.f_calc * volt) ** 2, 5),
            "_refln_F_calc": _column(np.abs(data.f_calc) * volt, 5),
            "_refln_phase_calc": _column(phases, 2),
            "_refln_include_status": flex.std_string(_status(data.intensity, data.sigma)),
        },
    )
