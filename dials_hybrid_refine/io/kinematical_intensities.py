"""Measured intensities as a kinematical program expects them, merged.

Dynamical intensities of one reflection differ from measurement to measurement with orientation and
thickness. Divided by what the model predicts for the same measurement and multiplied by |F|^2, all of
them estimate the same number: I_kin = |F_c|^2 I_o / I_c. Errors of the model's intensities remain, and
the phases are those of the model, as for any F_o.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cctbx import crystal, miller, xray
from cctbx.array_family import flex

from dials_hybrid_refine.diffraction.electron import relativistic_factor
from dials_hybrid_refine.diffraction.potential import CrystalPotential
from dials_hybrid_refine.models.structure import (
    RefinedParameters,
    StructureModel,
    composition_of,
)
from dials_hybrid_refine.refinement.result import Result


@dataclass(frozen=True)
class KinematicalIntensities:
    """One row for each unique reflection (Friedel mates merged), in the asymmetric unit.

    Attributes:
        symmetry: cell and space group of the structure.
        hkl: shape (n, 3).
        intensity, sigma: shape (n,), on the scale of |f_calc|^2, Angstrom^2.
        f_calc: shape (n,), structure factors in Angstrom, sum f exp(+2 pi i h.x) T.
        n_measured: shape (n,), measurements merged.
        held_out: shape (n,), whether these were held out (never only some of them); None where
            stretches of the scan were held out instead of reflections.
    """

    symmetry: crystal.symmetry
    hkl: NDArray[np.int64]
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    f_calc: NDArray[np.complex128]
    n_measured: NDArray[np.int64]
    held_out: NDArray[np.bool_] | None

    def miller_set(self) -> miller.set:
        """The indices, without distinction of Friedel mates."""
        indices = flex.miller_index([tuple(map(int, h)) for h in self.hkl])
        return miller.set(self.symmetry, indices, anomalous_flag=False)

    def intensities(self, factor: float = 1.0) -> miller.array:
        """Intensities and their s.u., times a factor."""
        array = miller.array(
            self.miller_set(),
            flex.double(factor * self.intensity),
            flex.double(factor * self.sigma),
        )
        return array.set_observation_type_xray_intensity()

    def structure_factors(self) -> miller.array:
        """The calculated ones, complex."""
        return miller.array(self.miller_set(), flex.complex_double(self.f_calc))


def structure_factors(
    structure: xray.structure, hkl: NDArray[np.int64], wavelength: float
) -> NDArray[np.complex128]:
    """F (n,) in Angstrom with the scattering factors of the simulation, of indices (n, 3).

    F = conj(U) pi Omega / gamma: cctbx and other programs take exp(+2 pi i h.x).
    """
    fixed = StructureModel(structure, RefinedParameters(False, False, False))
    potential = CrystalPotential(hkl, composition_of(structure), wavelength)
    values = potential(fixed()).detach().numpy().conj()
    factor = np.pi * structure.unit_cell().volume() / relativistic_factor(wavelength)
    return np.asarray(values * factor)


def kinematical_intensities(result: Result, wavelength: float) -> KinematicalIntensities:
    """Merge the measurements of a refinement, rejected ones left out, held-out ones not.

    With I_o = r I_c for all measurements of a reflection, r = sum w I_o I_c / sum w I_c^2 is the
    estimate of least squares, w the weights of the loss, and its variance 1 / sum w I_c^2.
    Systematic absences and reflections that the calculation does not reach are left out.
    """
    symmetry = result.structure.crystal_symmetry()
    members = ~result.rejected & (result.calculated > 0)
    rows = np.flatnonzero(members)
    indices = flex.miller_index(
        [tuple(map(int, h)) for h in result.observations.hkl[rows]],
    )
    asymmetric = miller.set(symmetry, indices, anomalous_flag=False).map_to_asu()
    absent = asymmetric.sys_absent_flags().data().as_numpy_array()
    hkl = np.array(list(asymmetric.indices()), dtype=np.int64).reshape(-1, 3)[~absent]
    rows = rows[~absent]
    unique, index = np.unique(hkl, axis=0, return_inverse=True)
    index = index.reshape(-1)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(index, weights=values, minlength=len(unique)).astype(float)

    observed, calculated = result.observations.intensity[rows], result.calculated[rows]
    weight = result.weight[rows]
    size = total(weight * calculated**2)
    ratio = total(weight * observed * calculated) / size
    f_calc = structure_factors(result.structure, unique, wavelength)
    power = np.abs(f_calc) ** 2
    by_reflection = result.statistics.held_out_by == "reflections"
    return KinematicalIntensities(
        symmetry=symmetry,
        hkl=unique,
        intensity=power * ratio,
        sigma=power / np.sqrt(size),
        f_calc=f_calc,
        n_measured=np.bincount(index, minlength=len(unique)),
        held_out=total(result.held_out[rows]) > 0 if by_reflection else None,
    )
