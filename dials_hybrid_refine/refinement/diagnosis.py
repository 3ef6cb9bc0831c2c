"""Why a fit may be bad, from what the data say of alternatives.

Where R_obs is high, a few changes of the model are tried in the coarse calculation, nothing of them
refined: the other hand, other settings of the lattice, another thickness, another cell, absorption. A change
is named where it fits clearly better. Two fits are compared reflection by reflection, as for models
that are not nested (Vuong (1989), Econometrica 57, 307-333).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cctbx import crystal, sgtbx, xray
from cctbx.sgtbx import cosets, lattice_symmetry

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.choose import AbsorptionOptions, absorption_model
from dials_hybrid_refine.models.effects import Effect
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.refinement.crystal_fit import shuffled
from dials_hybrid_refine.refinement.data_checks.extra_intensity import extra_intensity
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.objective import Objective
from dials_hybrid_refine.refinement.options import RefinementOptions
from dials_hybrid_refine.refinement.statistics import agreement, amplitudes
from dials_hybrid_refine.refinement.thickness_course import (
    StartingThickness,
    scan_crystals,
    set_thickness,
)
from dials_hybrid_refine.refinement.weights import loss_weights, residual_spread, residuals

logger = logging.getLogger("dials.hybrid_refine.diagnosis")

_Array = NDArray[np.float64]

#: fits are looked into where R_obs exceeds this: published dynamical refinements reach 0.05 to 0.15
POOR_R_OBS = 0.15
#: and this many times what the counting statistics alone would give
_NOISE_FACTOR = 2.0
#: a change is named if its fit is better by so many standard deviations: with about ten changes tried,
#: one in 3000 data sets shows such a one by chance
_CLEAR = 4.0
#: and if it takes this share off R_obs: less explains little of what is wrong
_SHARE = 0.1
#: squared residuals, in units of their spread, count up to this, so that no single one decides
_LARGEST_SQUARE = 9.0
#: R_obs above this share of that of shuffled intensities: model and data have little to do with each
#: other. Wrong structures give 0.83 or 0.59 (Wilson (1950), Acta Cryst. 3, 397), refined ones less
_UNRELATED = 0.8
#: as many more large positive residuals than negative ones as are said come by chance with this
#: probability at most
_CHANCE = 1e-3
#: relative changes of the cell that are tried
_STRAINS = (-0.02, -0.01, -0.005, 0.005, 0.01, 0.02)
#: ratios U'/U that are tried; those of light and heavy elements
_RATIOS = (0.05, 0.15)
#: mean thicknesses further apart than this factor are different basins, as in ``thickness_course``
_OTHER_BASIN = 1.5
#: tolerance in degrees for symmetry of the lattice that the structure has not
_LATTICE_TOLERANCE = 2.0


@dataclass(frozen=True)
class Fit:
    """How a model fits: R_obs, and what each used reflection adds to its misfit."""

    r_obs: float
    cost: _Array
    residual: _Array
    calculated: _Array


def clearly_better(fit: Fit, other: Fit) -> float | None:
    """By how many standard deviations another fit is better; None if it is not clearly so."""
    difference = fit.cost - other.cost
    spread = float(difference.std())
    z = float(difference.sum() / (spread * len(difference) ** 0.5)) if spread > 0 else 0.0
    is_clear = z > _CLEAR and other.r_obs < (1 - _SHARE) * fit.r_obs
    return z if is_clear else None


def is_poor(r_obs: float | None, intensity: _Array, sigma: _Array) -> bool:
    """Whether a fit deserves a question; arrays (n,) of the observed reflections."""
    return r_obs is not None and r_obs > max(POOR_R_OBS, _NOISE_FACTOR * noise(intensity, sigma))


def noise(intensity: _Array, sigma: _Array) -> float:
    """The R_obs that sigmas alone would give; arrays (n,) of the observed reflections."""
    f, sigma_f = amplitudes(intensity, sigma)
    # mean deviation of a normal distribution: sqrt(2/pi) sigma
    return float((2 / np.pi) ** 0.5 * sigma_f.sum() / f.sum()) if f.sum() > 0 else 0.0


def poor_fit(r_obs: float, intensity: _Array, sigma: _Array) -> str:
    """A sentence about a fit that ``is_poor``."""
    return (
        f"the fit is poor: R_obs is {r_obs:.3f}, and noise would give {noise(intensity, sigma):.3f}. Atoms, "
        "thickness or orientation may be in a false minimum, or the model lacks something; the standard "
        "uncertainties know nothing of that"
    )


class Diagnosis:
    """Tries changes of a model against the data it was refined with."""

    def __init__(
        self,
        data: Dataset,
        model: HybridModel,
        start: xray.structure,
        options: RefinementOptions,
        coarse: Callable[[float], BeamSelection],
        thickness: float,
        rejected: NDArray[np.bool_],
    ) -> None:
        """
        Args:
            start: the structure before refinement, whose hand and setting are tried.
            coarse: the coarse calculation for crystals of a thickness (Angstrom).
            thickness: refined mean, Angstrom.
            rejected: mask (n,); rejected reflections count too.
        """
        self._data, self._model, self._start = data, model, start
        self._options, self._coarse, self._thickness = options, coarse, thickness
        self._rejected = rejected
        self._spread = 1.0

    def sentences(self) -> list[str]:
        """One for each cause that the evidence speaks for, the clearest first."""
        fit = self.fit(self._model, self._data, self._thickness)
        found = list(self._experiment_causes(fit))
        if self._start.scatterers().size():
            found += self._structure_causes()
        found.sort(key=lambda cause: -cause[0])
        named = [sentence for _, sentence in found[:2]]
        extra = extra_intensity(fit.residual, _CHANCE)
        if extra is not None:
            named.append(extra.sentence)
        if not found:
            unrelated = self._unrelated(fit)
            if unrelated:
                named.append(unrelated)
        return named

    def fit(self, model: HybridModel, data: Dataset, thickness: float) -> Fit:
        """A model as it is against data; thickness (Angstrom) decides the fineness."""
        used = ~data.held_out
        observations, weighting = data.observations, self._options.weighting
        objective = Objective(
            model,
            build_simulator(data, model, self._coarse(thickness), self._options.propagation),
            observations,
            loss_weights(observations, used & ~self._rejected, weighting, self._spread),
            self._options.scale_variation,
        )
        calculated = objective.evaluate().calculated.numpy()[used]
        intensity, sigma = observations.intensity[used], observations.sigma[used]
        residual = residuals(intensity, sigma, calculated, weighting.instability)
        if self._spread == 1.0:
            # the first fit sets the unit for all
            self._spread = residual_spread(residual, np.ones(len(residual), dtype=bool))
        residual = residual / self._spread
        cost = np.minimum(residual**2, _LARGEST_SQUARE)
        r_obs = agreement(intensity, sigma, calculated).r_obs
        return Fit(1.0 if r_obs is None else r_obs, cost, residual, calculated)

    def _with(
        self, structure: xray.structure | None = None, ratio: float | None = None
    ) -> HybridModel:
        """The model with another structure or with absorption; it shares the rest."""
        model = self._model
        fixed = RefinedParameters(False, False, False)
        absorption = model.absorption
        if ratio is not None:
            given = AbsorptionOptions("proportional", ratio, refine=False)
            absorption = absorption_model(given, len(self._data.scans))
        return HybridModel(
            model.structure if structure is None else StructureModel(structure, fixed),
            model.thickness,
            model.orientation,
            absorption,
            [effect for effect in model.effects if isinstance(effect, Effect)],
            model.mosaicity,
        )  # fmt: skip

    def _scanned(self, structure: xray.structure | None = None) -> tuple[Fit, float]:
        """The fit with the thickness that suits best, and its mean."""
        model = self._with(structure)
        options = replace(self._options, thickness_start=None)
        options = replace(options, thickness=replace(options.thickness, largest=None))
        scans = scan_crystals(model, self._data, options, self._coarse)
        start = StartingThickness.of([scan.best for scan in scans])
        set_thickness(model, self._data, options, start)
        return self.fit(model, self._data, start.largest), float(start.mean.mean())

    def _experiment_causes(self, fit: Fit) -> Iterator[tuple[float, str]]:
        other, thickness = self._scanned()
        factor = max(thickness, self._thickness) / max(1.0, min(thickness, self._thickness))
        z = clearly_better(fit, other)
        if z is not None and factor > _OTHER_BASIN:
            yield (
                z,
                (
                    f"the thickness may be in a wrong basin: {thickness:.0f} Angstrom fits better than "
                    f"{self._thickness:.0f} (by {z:.0f} sigma): try thickness.start={thickness:.0f} and a "
                    "larger thickness.max"
                ),
            )
        strained = [
            (e, self.fit(self._model, self._strained(e), self._thickness)) for e in _STRAINS
        ]
        strain, best = min(strained, key=lambda pair: pair[1].cost.sum())
        z = clearly_better(fit, best)
        if z is not None:
            yield (
                z,
                (
                    f"the unit cell of the experiment may be wrong: one that is {100 * abs(strain):g} % "
                    f"{'larger' if strain > 0 else 'smaller'} fits better (by {z:.0f} sigma): check the "
                    "distance of the detector and refine the cell with dials.refine"
                ),
            )
        if self._model.absorption is None:
            fits = [self.fit(self._with(ratio=r), self._data, self._thickness) for r in _RATIOS]
            z = clearly_better(fit, min(fits, key=lambda f: f.cost.sum()))
            if z is not None:
                yield (
                    z,
                    (
                        f"absorption may be missing: with it the fit is better (by {z:.0f} sigma): try "
                        "absorption.model=tabulated or proportional"
                    ),
                )

    def _strained(self, strain: float) -> Dataset:
        """The data with a cell that is larger by a share."""
        scans = [
            replace(scan, crystal_settings=scan.crystal_settings / (1 + strain))
            for scan in self._data.scans
        ]
        return replace(self._data, scans=scans)

    def _structure_causes(self) -> list[tuple[float, str]]:
        """Hand and setting: the starting structure against its images, all treated alike."""
        images = dict(_images(self._start))
        if not images:
            return []
        given, _ = self._scanned(self._start)
        fits = {what: self._scanned(image)[0] for what, image in images.items()}
        what, best = min(fits.items(), key=lambda item: item[1].cost.sum())
        z = clearly_better(given, best)
        if z is None:
            return []
        return [
            (
                z,
                f"the structure may be given in the wrong hand or setting: {what} fits better (by "
                f"{z:.0f} sigma, R_obs {best.r_obs:.3f} instead of {given.r_obs:.3f} before refinement)",
            )
        ]

    def _unrelated(self, fit: Fit) -> str | None:
        observations, used = self._data.observations, ~self._data.held_out
        intensity, sigma = observations.intensity[used], observations.sigma[used]
        expected = agreement(intensity, sigma, shuffled(fit.calculated, intensity)).r_obs
        if expected is None or fit.r_obs < _UNRELATED * expected:
            return None
        return (
            f"model and data have little in common: R_obs is {fit.r_obs:.2f}, and {expected:.2f} with the "
            "calculated intensities in another order; check that the structure is that of the crystal, "
            "and the indexing"
        )


def _images(structure: xray.structure) -> Iterator[tuple[str, xray.structure]]:
    """The structure in its other hand, and in the other settings of its lattice in both."""
    hands = [("", structure)]
    if not structure.space_group().is_centric():
        hands.append(("the other hand", structure.change_hand()))
    for operator in _setting_operators(structure):
        for hand, image in hands:
            words = [
                f"the setting {operator.as_hkl()}" if not operator.is_identity_op() else "",
                hand,
            ]
            name = " in ".join(word for word in words if word)
            if name:
                yield name, image.change_basis(operator)


def _setting_operators(structure: xray.structure) -> list[sgtbx.change_of_basis_op]:
    """Rotations that map the lattice, but not the structure's Laue group, onto itself; and none."""
    to_primitive = structure.change_of_basis_op_to_niggli_cell()
    primitive: crystal.symmetry = structure.crystal_symmetry().change_basis(to_primitive)
    lattice = lattice_symmetry.group(primitive.unit_cell(), max_delta=_LATTICE_TOLERANCE)
    laue = primitive.space_group().build_derived_laue_group().build_derived_acentric_group()
    rotations = cosets.left_decomposition(g=lattice, h=laue).partitions
    found = []
    for equivalent in rotations:
        rotation = sgtbx.change_of_basis_op(equivalent[0]).new_denominators(to_primitive)
        found.append(to_primitive.inverse() * rotation * to_primitive)
    return found
