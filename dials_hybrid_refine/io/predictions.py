"""Which reflections an experiment would record, by DIALS' own prediction."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cctbx import sgtbx
from dials.algorithms.spot_prediction import ScanVaryingReflectionPredictor
from dials.array_family import flex
from dxtbx.model import Experiment, ExperimentList

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.io.reflections import miller_indices, zeta_of

#: n_sigma sigma_m of a good crystal in degrees, where the experiment has no profile model
_DEFAULT_DELTA_M = 0.5


def predict(experiment: Experiment, d_min: float) -> flex.reflection_table:
    """All reflections to d_min (Angstrom) that cross the Ewald sphere and hit the detector.

    Systematic absences are predicted too: many-beam diffraction makes them visible.

    Raises:
        ValueError: if nothing is predicted.
    """
    n_points = experiment.scan.get_num_images() + 1
    crystal, beam, goniometer = experiment.crystal, experiment.beam, experiment.goniometer
    settings = _at_scan_points(crystal, "get_A", n_points)
    s0 = _at_scan_points(beam, "get_s0", n_points)
    turns = _at_scan_points(goniometer, "get_setting_rotation", n_points)

    primitive = copy.deepcopy(experiment)
    centring = crystal.get_space_group().conventional_centring_type_symbol()
    primitive.crystal.set_space_group(sgtbx.space_group(f"{centring} 1"))
    # chosen here because reflection_table.from_predictions wants an image set as well
    predictor = ScanVaryingReflectionPredictor(primitive, dmin=d_min)
    table = predictor.for_varying_models(
        flex.mat3_double(settings), flex.vec3_double(s0), flex.mat3_double(turns)
    )
    if len(table) == 0:
        raise ValueError(
            f"no reflection to d_min={d_min:g} Angstrom crosses the Ewald sphere on the detector: choose a "
            "smaller d_min, or correct the detector"
        )
    table["id"] = flex.int(len(table), 0)
    if experiment.identifier:
        table.experiment_identifiers()[0] = experiment.identifier
    table["zeta"] = table.compute_zeta(experiment)
    table.compute_d(ExperimentList([experiment]))
    return table


def _at_scan_points(model: Any, getter: str, n_points: int) -> list[Any]:
    """What a dxtbx model's getter says at each scan point; its one value where static."""
    if model.num_scan_points == n_points:
        return [getattr(model, f"{getter}_at_scan_point")(i) for i in range(n_points)]
    return [getattr(model, getter)()] * n_points


def delta_m_of(experiment: Experiment) -> float:
    """n_sigma sigma_m of the profile model in degrees, or a default without one."""
    values = experiment.profile.to_dict() if experiment.profile is not None else {}
    if "sigma_m" not in values:
        return _DEFAULT_DELTA_M
    return float(values["n_sigma"] * np.mean(values["sigma_m"]))


def windows_of(
    table: flex.reflection_table, experiment: Experiment, delta_m: float, min_zeta: float
) -> tuple[flex.reflection_table, Observations]:
    """The predictions recorded as a whole, and the same as observations without intensities.

    Windows are phi +- delta_m / |zeta| (degrees); those that leave the scan and reflections with
    |zeta| below min_zeta are left out.

    Raises:
        ValueError: if none is left.
    """
    phi = np.degrees(np.array(table["xyzcal.mm"])[:, 2])
    zeta = np.abs(zeta_of(table, experiment))
    half = delta_m / np.maximum(zeta, 1e-6)
    first, last = sorted(experiment.scan.get_oscillation_range())
    whole = (zeta >= min_zeta) & (phi - half >= first) & (phi + half <= last)
    if not whole.any():
        raise ValueError(
            f"no predicted reflection is recorded as a whole (window.delta_m={delta_m:g} degrees, "
            f"window.min_zeta={min_zeta:g}): the scan is too short or the window too wide"
        )
    chosen = np.flatnonzero(whole)
    selected = table.select(flex.size_t(chosen.tolist()))
    zeros: NDArray[np.int64] = np.zeros(len(chosen), dtype=np.int64)
    observations = Observations(
        experiment=zeros,
        hkl=miller_indices(selected),
        phi_start=(phi - half)[chosen],
        phi_end=(phi + half)[chosen],
        phi=phi[chosen],
        intensity=np.zeros(len(chosen)),
        sigma=np.ones(len(chosen)),
        unique_index=zeros,
        row=np.arange(len(chosen)),
    )
    return selected, observations


def with_intensities(
    table: flex.reflection_table,
    observations: Observations,
    intensity: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> flex.reflection_table:
    """The predictions as integrated reflections, with windows and flags of both kinds."""
    for kind in ("prf", "sum"):
        table[f"intensity.{kind}.value"] = flex.double(intensity)
        table[f"intensity.{kind}.variance"] = flex.double(variance)
    table["phi_start"] = flex.double(observations.phi_start)
    table["phi_end"] = flex.double(observations.phi_end)
    table["partiality"] = flex.double(len(table), 1.0)
    everything = flex.bool(len(table), True)
    table.set_flags(everything, table.flags.integrated_prf)
    table.set_flags(everything, table.flags.integrated_sum)
    return table
