"""The experiment in a CIF: cell, radiation, measurement, reflections, crystal, software."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

import iotbx.cif.model
from cctbx import miller, sgtbx, xray
from cctbx.array_family import flex
from dxtbx.model import Crystal

from dials_hybrid_refine import __version__
from dials_hybrid_refine.diffraction.electron import POTENTIAL_VOLT, accelerating_voltage
from dials_hybrid_refine.diffraction.scattering_factors import electron_scattering_factors
from dials_hybrid_refine.io.cif_text import fold, measured, number
from dials_hybrid_refine.io.formula import formula_of
from dials_hybrid_refine.models.structure import composition_of
from dials_hybrid_refine.refinement.geometry import cell_covariance
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.statistics import OBSERVED_LIMIT

_CELL = [f"length_{axis}" for axis in "abc"] + [f"angle_{a}" for a in ("alpha", "beta", "gamma")]
#: mass of one unit per cubic Angstrom in g/cm^3
_DENSITY = 1.66053907
#: the cell of a model and that of the experiment are the same if they agree as well as this
_SAME_LENGTH, _SAME_ANGLE = 2e-5, 2e-3
DIALS = "DIALS (Winter et al. (2018), Acta Cryst. D74, 85-97)"
PETS2 = "a PETS2 file (Palatinus et al. (2019), Acta Cryst. B75, 512-522) read by dials.import_pets"
#: what the author has to say; "?" reminds of it
_UNKNOWN = (
    "_chemical_name_systematic _chemical_formula_moiety _cell_measurement_temperature "
    "_diffrn_ambient_temperature _diffrn_source_type _diffrn_detector_type "
    "_diffrn_measurement_device_type _exptl_crystal_description _exptl_crystal_colour "
    "_diffrn_source.ed_diffracting_area_selection _exptl_crystal_size_max _exptl_crystal_size_mid _exptl_crystal_size_min "
    "_computing_data_collection _computing_structure_solution"
).split()


@dataclass(frozen=True)
class MeasuredCell:
    """A cell with s.u.: parameters in Angstrom and degrees. That which DIALS has refined, or ``of_model``."""

    parameters: tuple[float, ...]
    su: tuple[float, ...]
    volume_su: float
    of_model: bool = False


def measured_cell(crystal: Crystal) -> MeasuredCell | None:
    """The cell of an experiment; None if DIALS has not estimated its s.u."""
    su = crystal.get_cell_parameter_sd()
    if len(su) != 6 or not np.isfinite(su).all() or not any(value > 0 for value in su):
        return None
    cell = crystal.get_unit_cell()
    return MeasuredCell(tuple(cell.parameters()), tuple(su), float(crystal.get_cell_volume_sd()))


def stated_cell(structure: xray.structure, su: tuple[float, ...] | None) -> MeasuredCell | None:
    """The cell of a model with the s.u. that its file states, if any."""
    if su is None:
        return None
    cell = structure.unit_cell()
    parameters = np.array(cell.parameters())
    steps = 1e-5 * parameters * np.eye(6)
    slopes = [
        (type(cell)(tuple(parameters + step)).volume() - cell.volume()) / step.sum()
        for step in steps
    ]
    variance = slopes @ cell_covariance(structure, np.array(su)) @ slopes
    return MeasuredCell(tuple(parameters), su, float(variance) ** 0.5, of_model=True)


@dataclass(frozen=True)
class MeasuredScan:
    """One scan: wavelength in Angstrom, first and last angle and width of an image in degrees."""

    wavelength: float
    phi_range: tuple[float, float]
    image_width: float


@dataclass(frozen=True)
class Measurement:
    """What is known of the experiment.

    Attributes:
        scans: at least one; each is of a crystal of its own.
        cell: as DIALS refined it (of the first crystal) or, where it has no s.u. of it, as the model's
            file states it; or None.
        intensity: "profile", "sum" or "slices".
        n_excluded: reflections left out before the refinement, by reason.
        steps: orientations in each intensity of data recorded in steps; None: continuous rotation.
        reduction: the program that has integrated the data.
        origin: what is needed to repeat the refinement (``versions.described_origin``).
    """

    scans: tuple[MeasuredScan, ...]
    cell: MeasuredCell | None
    intensity: str
    n_excluded: Mapping[str, int]
    steps: int | None = None
    reduction: str = DIALS
    origin: str = ""

    @property
    def wavelength(self) -> float:
        """That of the first scan in Angstrom."""
        return self.scans[0].wavelength

    @property
    def wavelengths(self) -> tuple[float, ...]:
        """The different ones of all scans in Angstrom, in their order."""
        return tuple(dict.fromkeys(scan.wavelength for scan in self.scans))


def cell_su(structure: xray.structure, cell: MeasuredCell | None) -> tuple[float, ...] | None:
    """s.u. of the structure's cell: those of the experiment's where the cells are the same.

    The s.u. of angles that symmetry fixes are rounding errors, written as 0.
    """
    if cell is None:
        return None
    given = structure.unit_cell().parameters()
    lengths = [abs(p / q - 1) < _SAME_LENGTH for p, q in zip(given[:3], cell.parameters[:3])]
    angles = [abs(p - q) < _SAME_ANGLE for p, q in zip(given[3:], cell.parameters[3:])]
    if not all(lengths + angles):
        return None
    return tuple(su if su > 1e-8 else 0.0 for su in cell.su)


def hall_symbol(group: sgtbx.space_group) -> str:
    """That of International Tables B, table A1.4.2.7, in whose settings cctbx writes a change of basis."""
    tabulated = group.match_tabulated_settings()
    symbol = tabulated.hall() if tabulated.number() else group.type().hall_symbol()
    return str(symbol).strip()


def cell_items(structure: xray.structure, measurement: Measurement) -> dict[str, str]:
    """Cell and volume, with s.u. where they are known."""
    cell, own = structure.unit_cell(), measurement.cell
    su = cell_su(structure, own)
    items = {}
    for name, value, value_su in zip(_CELL, cell.parameters(), su or [None] * 6):
        # more digits than cctbx writes: the file may be refined again
        digits = 5 if "length" in name else 4
        items[f"_cell_{name}"] = measured(value, value_su, digits)
    volume_su = own.volume_su if su is not None and own is not None else None
    items["_cell_volume"] = measured(cell.volume(), volume_su, 3)
    items["_cell_formula_units_Z"] = str(formula_of(structure).z)
    if su is not None and own is not None and own.of_model:
        items["_cell_special_details"] = fold(
            "The cell and its s.u. are those of the starting model, kept fixed."
        )
    if su is None:
        text = "The cell is that of the starting model, kept fixed."
        if own is not None:
            written = ", ".join(
                measured(value, value_su, 5) for value, value_su in zip(own.parameters, own.su)
            )
            text += (
                " The diffraction geometry is that of the cell refined from the data (in the setting of "
                f"the experiment): {written} (Angstrom, degrees)."
            )
        items["_cell_special_details"] = fold(text)
    return items


def crystal_items(structure: xray.structure) -> dict[str, str]:
    """Formula, weight, density, F(000) and absorption correction.

    F_000 is in volts, as the dictionary asks for electrons: the mean inner potential of a crystal of
    neutral free atoms.
    """
    formula = formula_of(structure)
    volume = structure.unit_cell().volume()
    density = _DENSITY * formula.weight * formula.z / volume
    composition = composition_of(structure)
    factors = electron_scattering_factors(composition.atomic_numbers, np.zeros(1))[:, 0]
    content = [s.occupancy * s.multiplicity() for s in structure.scatterers()]
    return {
        "_chemical_formula_sum": str(formula),
        "_chemical_formula_weight": number(formula.weight, 3),
        "_exptl_crystal_density_diffrn": number(density, 3),
        "_exptl_crystal_F_000": number(POTENTIAL_VOLT * float(factors @ content) / volume, 3),
        "_exptl_absorpt_correction_type": "none",
    }


def measurement_items(result: Result, measurement: Measurement) -> dict[str, str]:
    """Radiation, rotation, and what was measured; "?" for what only the author knows."""
    intensity = {
        "profile": "profile-fitted",
        "sum": "summed",
        "slices": "summed image by image",
    }[measurement.intensity]
    kind = "continuous rotation" if measurement.steps is None else "rotation in steps"
    method = f"{kind} {_rotations(measurement.scans)}; {intensity} intensities"
    if measurement.steps is not None:
        method += f", each the sum over {measurement.steps} orientations"
    return {
        **dict.fromkeys(_UNKNOWN, "?"),
        "_diffrn_radiation_probe": "electron",
        **_wavelength_items(measurement),
        "_diffrn_measurement_method": fold(method),
        "_diffrn_measurement.rotation_mode": (
            "rotation" if measurement.steps is None else "stepwise"
        ),
        "_diffrn_measurement.method_precession": "no",
        **_reflection_items(result, measurement),
    }


def _wavelength_items(measurement: Measurement) -> dict[str, str]:
    """One wavelength and its voltage; several have a loop (``wavelength_loops``)."""
    if len(measurement.wavelengths) > 1:
        return {}
    return {
        "_diffrn_radiation_wavelength": f"{measurement.wavelength:.6f}",
        "_diffrn_source_voltage": f"{accelerating_voltage(measurement.wavelength) / 1000:.1f}",
    }


def wavelength_loops(measurement: Measurement) -> list[iotbx.cif.model.loop]:
    """A loop of the wavelengths where there are several."""
    wavelengths = measurement.wavelengths
    if len(wavelengths) < 2:
        return []
    columns = {
        "_diffrn_radiation_wavelength_id": [str(i + 1) for i in range(len(wavelengths))],
        "_diffrn_radiation_wavelength": [f"{value:.6f}" for value in wavelengths],
    }
    return [
        iotbx.cif.model.loop(
            data={name: flex.std_string(values) for name, values in columns.items()}
        )
    ]


def _rotations(scans: Sequence[MeasuredScan]) -> str:
    texts = [
        f"from {scan.phi_range[0]:g} to {scan.phi_range[1]:g} degrees in images of "
        f"{scan.image_width:g} degrees"
        for scan in scans
    ]
    if len(scans) == 1:
        return texts[0]
    differ = len({scan.wavelength for scan in scans}) > 1
    lines = [
        f"crystal {i}: {text}" + (f" at {scan.wavelength:.6f} Angstrom" if differ else "")
        for i, (scan, text) in enumerate(zip(scans, texts), start=1)
    ]
    return f"of {len(scans)} crystals; " + "; ".join(lines)


def _reflection_items(result: Result, measurement: Measurement) -> dict[str, str]:
    """Numbers and limits of the reflections; only used ones count in ``_refine_ls``."""
    observations = result.observations
    structure = result.structure
    indices = flex.miller_index([tuple(map(int, h)) for h in observations.hkl])
    d = np.array(structure.unit_cell().d(indices).as_numpy_array())
    used = ~(result.held_out | result.rejected)

    def theta(spacing: float, wavelength: float) -> str:
        return number(math.degrees(math.asin(wavelength / (2 * spacing))), 3)

    items = {
        "_diffrn_reflns_number": str(len(observations) + sum(measurement.n_excluded.values())),
        "_diffrn_reflns_av_unetI/netI": number(
            float(observations.sigma.sum() / np.abs(observations.intensity).sum())
        ),
        "_diffrn_reflns_theta_full": theta(d.min(), max(measurement.wavelengths)),
        **dict.fromkeys(
            ("_diffrn_measured_fraction_theta_full", "_diffrn_measured_fraction_theta_max"),
            number(_completeness(structure, indices, d.min()), 3),
        ),
        "_diffrn_reflns_theta_min": theta(d.max(), min(measurement.wavelengths)),
        "_diffrn_reflns_theta_max": theta(d.min(), max(measurement.wavelengths)),
        "_reflns_number_total": str(len(observations)),
        "_reflns_number_gt": str(
            int((observations.intensity > OBSERVED_LIMIT * observations.sigma).sum())
        ),
        "_reflns_threshold_expression": f"I>{OBSERVED_LIMIT:g}\\s(I)",
        "_reflns_d_resolution_high": number(d.min()),
        "_reflns_d_resolution_low": number(d.max()),
        "_refine_ls_d_res_high": number(d[used].min()),
        "_refine_ls_d_res_low": number(d[used].max()),
        "_reflns_special_details": fold(_reflection_details(result, measurement)),
    }
    for axis, column in zip("hkl", observations.hkl.T):
        items[f"_diffrn_reflns_limit_{axis}_min"] = str(int(column.min()))
        items[f"_diffrn_reflns_limit_{axis}_max"] = str(int(column.max()))
    return items


def _completeness(
    structure: xray.structure, indices: flex.miller_index, d_min: float
) -> float | None:
    """Share of the reflections, unique in the Laue group and not absent, that were measured to d_min."""
    symmetry = structure.crystal_symmetry()
    # a little less: the limit is itself the spacing of a reflection
    possible = symmetry.build_miller_set(anomalous_flag=False, d_min=d_min * (1 - 1e-6))
    found = miller.set(symmetry, indices, anomalous_flag=False).map_to_asu().unique_under_symmetry()
    if not possible.size():
        return None
    return float(found.remove_systematic_absences().size() / possible.size())


def _reflection_details(result: Result, measurement: Measurement) -> str:
    unique = len(np.unique(result.observations.unique_index))
    lines = [
        "Reflections are counted as measured, symmetry equivalents separately: they differ in a "
        f"dynamical calculation. {unique} of them are unique in the Laue group. Limits of the indices and "
        "of theta are those of the reflections that were not excluded before the refinement, and so are "
        "the measured fractions of all reflections that are unique in the Laue group. Without averages "
        "over equivalents there is no R of equivalents."
    ]
    reasons = [f"{n} {reason}" for reason, n in measurement.n_excluded.items() if n]
    if reasons:
        lines.append(f"Excluded before the refinement: {'; '.join(reasons)}.")
    return "\n".join(lines)


def software_items(measurement: Measurement) -> dict[str, str]:
    """Programs and the date."""
    program = f"dials.hybrid_refine {__version__}"
    return {
        "_audit_creation_method": fold(f"{program}\n{measurement.origin}".strip()),
        "_audit_creation_date": date.today().isoformat(),
        "_computing_cell_refinement": measurement.reduction,
        "_computing_data_reduction": measurement.reduction,
        "_computing_structure_refinement": program,
    }
