"""The refined structure as a CIF, with the electron-diffraction items of the core dictionary."""

from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass

import iotbx.cif
import iotbx.cif.model
from cctbx import xray
from cctbx.array_family import flex

from dials_hybrid_refine import __version__
from dials_hybrid_refine.diffraction.electron import accelerating_voltage
from dials_hybrid_refine.io.geometry_loops import geometry_loops
from dials_hybrid_refine.refinement.geometry import Geometry
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.statistics import DEFINITIONS

_SCATTERING_SOURCE = "Lobato & Van Dyck (2014), Acta Cryst. A70, 636-649"
_CELL = [f"_cell_length_{axis}" for axis in "abc"] + [
    f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")
]


@dataclass(frozen=True)
class CifContext:
    """What a CIF states beyond the result.

    Attributes:
        wavelength: in Angstrom.
        instability: u of the weighting scheme.
        geometry: bonds and angles, or None to leave them out.
        data_name: name of the data block.
    """

    wavelength: float
    instability: float
    geometry: Geometry | None = None
    data_name: str = "hybrid_refined"


def refined_cif(result: Result, context: CifContext) -> iotbx.cif.model.cif:
    """A CIF model of the refined structure, its uncertainties and statistics."""
    structure = result.structure.deep_copy_scatterers()
    structure.scattering_type_registry(table="electron")
    covariance = None
    if result.covariance is not None and len(result.covariance):
        covariance = flex.double(result.covariance).matrix_symmetric_as_packed_u(
            relative_epsilon=1e-6
        )
    block = structure.as_cif_block(covariance_matrix=covariance, format="coreCIF")
    _shorten_numbers(block)
    # cctbx rounds the cell, too much for a file that may be refined again
    for name, value in zip(_CELL, structure.unit_cell().parameters()):
        block[name] = f"{value:.5f}" if "length" in name else f"{value:.4f}"
    if "_atom_type_scat_source" in block:
        n_types = len(block["_atom_type_scat_source"])
        block["_atom_type_scat_source"] = flex.std_string([_SCATTERING_SOURCE] * n_types)
    for name, value in _items(result, structure, context).items():
        block[name] = value
    for loop in geometry_loops(context.geometry) if context.geometry else ():
        block.add_loop(loop)
    cif = iotbx.cif.model.cif()
    cif[context.data_name] = block
    return cif


def _shorten_numbers(block: iotbx.cif.model.block) -> None:
    """cctbx writes numbers without uncertainty to all digits: round them to seven."""
    long_number = re.compile(r"^-?\d+\.\d{8,}$")

    def short(text: str) -> str:
        return f"{float(text):.7f}" if long_number.match(text) else text

    for name in list(block.keys()):
        value = block[name]
        if isinstance(value, flex.std_string):
            block[name] = flex.std_string([short(text) for text in value])
        else:
            block[name] = short(value)


def _number(value: float | None, digits: int = 4) -> str:
    return "?" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _items(result: Result, structure: xray.structure, context: CifContext) -> dict[str, str]:
    statistics, used = result.statistics, result.statistics.used
    profiles = result.profiles
    items = {
        "_audit_creation_method": f"dials.hybrid_refine {__version__}",
        "_computing_structure_refinement": f"dials.hybrid_refine {__version__}",
        "_chemical_formula_sum": _formula(structure),
        "_diffrn_radiation_probe": "electron",
        "_diffrn_radiation_wavelength": f"{context.wavelength:.6f}",
        "_diffrn_source_voltage": f"{accelerating_voltage(context.wavelength) / 1000:.1f}",
        "_diffrn_measurement.rotation_mode": "rotation",
        "_refine.diffraction_theory": "dynamical",
        "_refine.diffraction_theory_details": _fold(
            "Many-beam (Bloch wave) calculation by Chebyshev expansion of the scattering matrix, "
            "integrated over the rotation of each reflection; distribution of crystal thickness "
            f"modelled as a function of angle; {result.timing.n_beams_mean:.0f} beams on average."
        ),
        "_refine_ls_sample_thickness": f"{profiles.thickness_mean.mean() / 10:.1f}",
        "_refine_ls_structure_factor_coef": "Inet",
        "_refine_ls_matrix_type": "full",
        "_refine_ls_weighting_scheme": "calc",
        "_refine_ls_weighting_details": (
            f"w = 1/[E^2^(\\s^2^(I)+({context.instability:g}I)^2^)], E the robust spread of the residuals"
        ),
        "_refine_ls_hydrogen_treatment": "undef",
        "_refine_ls_number_reflns": str(used.n_reflections),
        "_refine_ls_number_reflns_gt": str(used.n_observed),
        "_refine_ls_number_parameters": str(statistics.n_parameters),
        "_refine_ls_R_factor_gt": _number(used.r_obs),
        "_refine_ls_R_factor_all": _number(used.r_all),
        "_refine_ls_wR_factor_ref": _number(used.wr_all),
        "_refine_ls_goodness_of_fit_ref": _number(used.gof, 2),
        "_reflns_threshold_expression": "I>3\\s(I)",
        "_refine_special_details": _fold(_details(result)),
    }
    # the dictionary has no old-style alias for these: written with the dot
    items["_refine_ls.sample_thickness"] = items.pop("_refine_ls_sample_thickness")
    return items


def _formula(structure: xray.structure) -> str:
    """Sum formula of one formula unit: C and H first, the others by name."""
    contents: dict[str, float] = {}
    for scatterer in structure.scatterers():
        element = scatterer.element_symbol()
        share = scatterer.occupancy * scatterer.multiplicity()
        contents[element] = contents.get(element, 0.0) + share
    order = sorted(contents, key=lambda e: (e not in ("C", "H") or "C" not in contents, e))
    whole = all(abs(n - round(n)) < 1e-3 for n in contents.values())
    divisor = math.gcd(*(round(n) for n in contents.values())) if whole else 1

    def count(n: float) -> str:
        n /= max(1, divisor)
        return "" if abs(n - 1) < 1e-3 else f"{round(n, 2):g}"

    return " ".join(f"{element}{count(contents[element])}" for element in order)


def _details(result: Result) -> str:
    statistics, frames = result.statistics, result.statistics.frames
    lines = [
        f"Refined against unmerged integrated intensities; status {result.status}.",
        f"{statistics.n_rejected} reflections rejected as outliers.",
        f"Effective number of parameters under the priors: {statistics.n_parameters_effective:.1f}.",
        f"Held out: {statistics.held_out.n_reflections} reflections, by {statistics.held_out_by}, "
        f"R_obs {_number(statistics.held_out.r_obs)}.",
        f"Merged: MR_obs {_number(statistics.merged.mr_obs)}, MR_all {_number(statistics.merged.mr_all)}, "
        f"MwR_all {_number(statistics.merged.mwr_all)}.",
        f"Means of {frames.all.n_frames} virtual frames: R_obs {_number(frames.all.r_obs_mean)}, "
        f"wR2 {_number(frames.all.wr2_mean)} ({frames.all.n_observed} observed of "
        f"{frames.all.n_reflections}; semi-angle {frames.frames.typical_semi_angle:g} degrees, "
        f"rsg {frames.limits.rsg:g}, dsg {frames.limits.dsg:g} 1/Angstrom).",
    ]
    lines += [f"Warning: {warning}." for warning in result.warnings]
    return "\n".join([*lines, "Definitions:", *(f"{text}." for text in DEFINITIONS.values())])


def _fold(text: str) -> str:
    """Lines of at most 78 characters, as a CIF text field."""
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, 78)]
    return "\n" + "\n".join(lines) + "\n"
