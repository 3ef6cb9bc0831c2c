"""The machine-readable summary of a refinement, with stable keys."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cctbx import adptbx
from dxtbx.model import Experiment

from dials_hybrid_refine import __version__
from dials_hybrid_refine.io.standard_uncertainties import standard_uncertainties
from dials_hybrid_refine.io.versions import versions
from dials_hybrid_refine.refinement.coverage import coverage
from dials_hybrid_refine.refinement.difference_map import DifferenceMap
from dials_hybrid_refine.refinement.frame_statistics import FrameStatistics
from dials_hybrid_refine.refinement.geometry import Geometry
from dials_hybrid_refine.refinement.result import CrystalRecord, ExcludedCrystal, Result
from dials_hybrid_refine.refinement.statistics import DEFINITIONS
from dials_hybrid_refine.refinement.whole_reflections import SliceAgreement


@dataclass(frozen=True)
class InputFiles:
    """Names of the files that were read, as given, and their SHA-256 at that time.

    The results may be written over them.
    """

    experiments: Sequence[str]
    reflections: Sequence[str]
    structure: str
    sha256: Mapping[str, str]

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each, by what the file is: those after the first of a kind are numbered."""
        kinds = {"experiments": self.experiments, "reflections": self.reflections}
        digests = {
            kind if k == 1 else f"{kind} {k}": self.sha256[name]
            for kind, names in kinds.items()
            for k, name in enumerate(names, start=1)
        }
        return {**digests, "structure": self.sha256[self.structure]}


def input_files(
    experiments: Sequence[str], reflections: Sequence[str], structure: str
) -> InputFiles:
    """The names and hashes of files that exist."""
    digests = {
        name: hashlib.sha256(Path(name).read_bytes()).hexdigest()
        for name in (*experiments, *reflections, structure)
    }
    return InputFiles(experiments, reflections, structure, digests)


def experiment_entry(experiment: Experiment, number: int = 0) -> dict[str, Any]:
    """What tells crystals and measurements apart: unit cell in Angstrom and degrees, wavelength in
    Angstrom, first and last angle of the scan in degrees."""
    return {
        "experiment": number,
        "unit_cell": list(experiment.crystal.get_unit_cell().parameters()),
        "wavelength": experiment.beam.get_wavelength(),
        "phi_range": list(experiment.scan.get_oscillation_range()),
    }


def failed_summary(reason: str) -> dict[str, Any]:
    """What there is to say of a run without a result.

    Args:
        reason: one sentence.
    """
    return {
        "program": "dials.hybrid_refine",
        "version": __version__,
        "status": "failed",
        "reason": reason,
        "versions": versions(),
    }


def summary(
    result: Result,
    files: InputFiles,
    n_excluded: Mapping[str, int],
    seed: int,
    geometry: Geometry | None = None,
    parameters: str = "",
    experiments: Sequence[Mapping[str, Any]] = (),
    crystals: Sequence[CrystalRecord] = (),
    excluded: Sequence[ExcludedCrystal] = (),
) -> dict[str, Any]:
    """The summary as plain numbers, strings, lists and dictionaries; never NaN.

    Args:
        parameters: PHIL of those that are not at their defaults.
        experiments: what is known of each (``experiment_entry``).
        crystals: in the order of the experiments; excluded: those left out.
    """
    statistics, profiles = result.statistics, result.profiles
    absorption, shifts = result.absorption, statistics.shifts
    content = {
        "program": "dials.hybrid_refine",
        "version": __version__,
        "status": result.status,
        "seed": seed,
        "versions": versions(),
        "parameters": parameters,
        "input": {
            "experiments": list(files.experiments),
            "reflections": list(files.reflections),
            "structure": files.structure,
            "sha256": dict(files.sha256),
        },
        "experiments": list(experiments),
        "statistics": {
            **asdict(statistics.used),
            **asdict(coverage(result.structure, result.observations.hkl)),
            "n_rejected": statistics.n_rejected,
            "n_excluded": dict(n_excluded),
            "n_parameters": statistics.n_parameters,
            "n_parameters_effective": statistics.n_parameters_effective,
            "mr_obs": statistics.merged.mr_obs,
            "mr_all": statistics.merged.mr_all,
            "mwr_all": statistics.merged.mwr_all,
            "r_obs_held_out": statistics.held_out.r_obs,
            "n_held_out": statistics.held_out.n_reflections,
            "held_out_by": statistics.held_out_by,
            "frames": _frame_means(statistics.frames),
            "slices": _slice_statistics(statistics.slices),
            "n_restraints": result.restraints.n_equations if result.restraints else 0,
            "restrained_s": result.restraints.restrained_s if result.restraints else None,
            "loss_start": statistics.loss_start,
            "loss_final": statistics.loss_final,
            "n_iterations": statistics.n_iterations,
            "shift_over_su_max": None if shifts is None else shifts.largest,
            "shift_over_su_mean": None if shifts is None else shifts.mean,
            "definitions": DEFINITIONS,
        },
        "structure": _structure(result),
        "geometry": None if geometry is None else _geometry(geometry),
        "thickness": [
            {"experiment": e, "phi": p, "mean": m, "std": s, "mean_su": m_su, "std_su": s_su}
            for e, p, m, s, m_su, s_su in zip(
                profiles.experiment,
                profiles.phi,
                profiles.thickness_mean,
                profiles.thickness_std,
                profiles.thickness_mean_su,
                profiles.thickness_std_su,
            )
        ],
        "orientation": [
            {"experiment": e, "phi": p, "correction": c, "correction_su": su}
            for e, p, c, su in zip(
                profiles.experiment, profiles.phi, profiles.orientation, profiles.orientation_su
            )
        ],
        "scale": [
            {"experiment": e, "phi": p, "scale": k}
            for e, p, k in zip(profiles.experiment, profiles.phi, profiles.scale)
        ],
        "frames": [
            {"experiment": e, "phi": p, **asdict(row)}
            for e, p, row in zip(
                statistics.frames.frames.experiment,
                statistics.frames.frames.phi,
                statistics.frames.rows,
            )
        ],
        "absorption": None if absorption is None else asdict(absorption),
        "absorption_ratio": (
            absorption.value if absorption and absorption.model == "proportional" else None
        ),
        "mosaicity": (
            None
            if result.mosaicity is None
            else {"value": result.mosaicity[0], "su": result.mosaicity[1]}
        ),
        "effects": _effects(result),
        "restraints": [asdict(row) for row in result.restraints.rows] if result.restraints else [],
        "convergence": [asdict(row) for row in result.convergence] or None,
        "difference_map": _difference_map(result.difference_map),
        "crystals": _crystals(result, crystals),
        "excluded_crystals": [asdict(one) for one in excluded],
        "warnings": [*result.warnings, *_data_warnings(result)],
        "data_checks": [asdict(finding) for finding in result.data_checks],
        "breakdown": result.breakdown,
        "absolute_structure": _absolute_structure(result),
        "timing": asdict(result.timing),
    }
    plain = _plain(content)
    assert isinstance(plain, dict)
    return plain


def _crystals(result: Result, records: Sequence[CrystalRecord]) -> list[dict[str, Any]]:
    return [
        {
            "experiment": i,
            **asdict(record),
            **asdict(fit.used),
            "r_obs_held_out": fit.held_out.r_obs,
            "n_held_out": fit.held_out.n_reflections,
            "n_rejected": fit.n_rejected,
            "thickness": fit.thickness,
            "thickness_std": fit.thickness_std,
            "scale": fit.scale,
            "orientation": fit.orientation,
            "absorption": None if fit.absorption is None else asdict(fit.absorption),
            "mosaicity": (
                None
                if fit.mosaicity is None
                else {"value": fit.mosaicity[0], "su": fit.mosaicity[1]}
            ),
        }
        for i, (record, fit) in enumerate(zip(records, result.crystals))
    ]


def _absolute_structure(result: Result) -> dict[str, Any] | None:
    found = result.absolute_structure
    if found is None:
        return None
    return {**asdict(found), "preferred": found.preferred, "clear": found.is_clear}


def _data_warnings(result: Result) -> list[str]:
    return [f.sentence for f in result.data_checks if f.severity == "warning"]


def _effects(result: Result) -> list[dict[str, Any]]:
    return [
        {
            "name": effect.name,
            "package": effect.package,
            "version": effect.version,
            "parameters": {
                name: {"value": value, "su": effect.su[name]}
                for name, value in effect.values.items()
            },
        }
        for effect in result.effects
    ]


def _slice_statistics(slices: SliceAgreement | None) -> dict[str, Any] | None:
    if slices is None:
        return None
    of_used = asdict(slices.used)
    return {
        "n_slices": of_used.pop("n_reflections"),
        **of_used,
        "n_rejected": slices.n_rejected,
        "r_obs_held_out": slices.held_out.r_obs,
        "n_held_out": slices.held_out.n_reflections,
    }


def _frame_means(statistics: FrameStatistics) -> dict[str, Any]:
    frames, used, held_out = statistics.frames, statistics.used, statistics.held_out
    return {
        **asdict(statistics.all),
        "r_obs_mean_used": used.r_obs_mean,
        "wr2_mean_used": used.wr2_mean,
        "r_obs_mean_held_out": held_out.r_obs_mean,
        "wr2_mean_held_out": held_out.wr2_mean,
        "n_observed_held_out": held_out.n_observed,
        **asdict(statistics.limits),
        "semi_angle": frames.typical_semi_angle,
        "step": frames.typical_step,
    }


def _structure(result: Result) -> dict[str, Any]:
    structure = result.structure
    cell = structure.unit_cell()
    atoms = []
    for scatterer, uncertainty in zip(structure.scatterers(), standard_uncertainties(result)):
        atom = {
            "label": scatterer.label,
            "element": scatterer.element_symbol(),
            "site": list(scatterer.site),
            "site_su": uncertainty.site,
            "occupancy": scatterer.occupancy,
            "occupancy_su": uncertainty.occupancy,
        }
        if scatterer.flags.use_u_aniso():
            atom["u_cif"] = list(adptbx.u_star_as_u_cif(cell, scatterer.u_star))
        else:
            atom["u_iso"] = scatterer.u_iso
        atom["u_su"] = uncertainty.u
        atoms.append(atom)
    return {
        "space_group": str(structure.space_group_info()),
        "unit_cell": list(cell.parameters()),
        "atoms": atoms,
    }


def _geometry(geometry: Geometry) -> dict[str, Any]:
    """Bonds in Angstrom, angles and torsion angles in degrees, with CIF symmetry codes."""
    return {
        name: [
            {"atoms": e.labels, "symmetry": e.symmetry, "value": e.value, "su": e.su}
            for e in entries
        ]
        for name, entries in vars(geometry).items()
    }


def _difference_map(difference: DifferenceMap | None) -> dict[str, Any] | None:
    """Heights in e/Angstrom, distances in Angstrom."""
    if difference is None:
        return None
    return {
        "max": difference.maximum,
        "min": difference.minimum,
        "rms": difference.rms,
        "peaks": [asdict(peak) for peak in difference.peaks],
    }


def _plain(value: Any) -> Any:
    """Numbers, strings, None, lists and dictionaries only; not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_text(content: Mapping[str, Any]) -> str:
    """The summary as JSON text."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
