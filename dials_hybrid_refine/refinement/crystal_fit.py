"""How each of several crystals fits, and which do not fit beside the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.result import AbsorptionStrength, CrystalFit, Profiles
from dials_hybrid_refine.refinement.statistics import Agreement, agreement

_Array = NDArray[np.float64]

#: R_obs above this share of that of intensities in another order: the crystal may have little to do with
#: the model. Free scales along the scan lower it: simulated crystals of another compound in the cell of quartz
#: had 0.66 (45 reflections) and 0.86 (180), quartz whose oxygen was displaced by 0.08 Angstrom 0.07 to 0.14
_UNRELATED = 0.5
#: and it must be this many times that of the best crystal: where none fits well the model is wrong
_LESS_RELATED = 3.0
#: R_obs above this, where a fit deserves a question (``diagnosis``), and this many times the median of the
#: other crystals: the crystal is of another kind, or its data are bad
_POOR, _WORSE = 0.15, 2.0


def crystal_fits(
    observations: Observations,
    calculated: _Array,
    held_out: NDArray[np.bool_],
    rejected: NDArray[np.bool_],
    profiles: Profiles,
    absorption: Sequence[AbsorptionStrength] = (),
    mosaicity: Sequence[tuple[float, float | None]] = (),
) -> tuple[CrystalFit, ...]:
    """The fit of each crystal.

    Args:
        calculated: shape (n,), on the scale of the observed intensities.
        held_out, rejected: masks (n,).
        absorption, mosaicity: of each crystal; empty without.
    """

    def figures(mask: NDArray[np.bool_]) -> Agreement:
        return agreement(observations.intensity[mask], observations.sigma[mask], calculated[mask])

    fits = []
    for i in np.unique(profiles.experiment):
        mine, along = observations.experiment == i, profiles.experiment == i
        turned = np.linalg.norm(profiles.orientation[along], axis=1)
        fits.append(
            CrystalFit(
                used=figures(mine & ~held_out & ~rejected),
                held_out=figures(mine & held_out),
                n_rejected=int((mine & rejected).sum()),
                thickness=float(profiles.thickness_mean[along].mean()),
                thickness_std=float(profiles.thickness_std[along].mean()),
                scale=float(profiles.scale[along].mean()),
                orientation=float(np.sqrt((turned**2).mean())),
                absorption=absorption[i] if absorption else None,
                mosaicity=mosaicity[i] if mosaicity else None,
            )
        )
    return tuple(fits)


@dataclass(frozen=True)
class Misfit:
    """How badly a crystal fits: R_obs, and its ratio to that of intensities in another order."""

    r_obs: float
    share: float


def misfit(observed: _Array, sigma: _Array, calculated: _Array) -> Misfit:
    """That of intensities (n,) of one crystal; the calculated ones on their scale."""
    r_obs = agreement(observed, sigma, calculated).r_obs
    expected = agreement(observed, sigma, shuffled(calculated, observed)).r_obs
    if r_obs is None or not expected:
        return Misfit(1.0, 1.0)
    return Misfit(r_obs, r_obs / expected)


def shuffled(calculated: _Array, observed: _Array) -> _Array:
    """Calculated intensities (n,) in another order, on the scale that suits best."""
    mixed = np.random.default_rng(0).permutation(np.clip(calculated, 0, None))
    f_o, f_c = np.sqrt(np.clip(observed, 0, None)), np.sqrt(mixed)
    factor = (f_o @ f_c) / (f_c @ f_c) if (f_c @ f_c) > 0 else 1.0
    return np.asarray(factor**2 * mixed)


def bad_crystals(misfits: Sequence[Misfit], are_refined: bool) -> dict[int, str]:
    """Which crystals do not fit though others do, and why; none where all fit alike or none fits.

    Args:
        are_refined: whether the structure is; a starting structure may fit thick crystals much worse
            than thin ones, so that before only what is far from it is judged.
    """
    found: dict[int, str] = {}
    best = min(one.share for one in misfits)
    for i, one in enumerate(misfits):
        others = [other.r_obs for k, other in enumerate(misfits) if k != i]
        usual = float(np.median(others)) if others else one.r_obs
        if one.share > max(_UNRELATED, _LESS_RELATED * best):
            found[i] = (
                f"its intensities have little in common with those of the model: R_obs is {one.r_obs:.2f}, "
                f"{100 * one.share:.0f} % of that of intensities in another order"
            )
        elif are_refined and one.r_obs > max(_POOR, _WORSE * usual):
            found[i] = (
                f"it fits much worse than the others: R_obs is {one.r_obs:.3f}, and {usual:.3f} for those"
            )
    return found if len(found) < len(misfits) else {}


class CrystalsDoNotFit(Exception):
    """Some of several crystals do not fit and were to be left out.

    ``reasons``: by the index of their experiments.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


def exclude_bad(data: Dataset, calculated: _Array) -> None:
    """Stop a refinement whose crystals do not all fit.

    Args:
        calculated: shape (n,), on the scale of the observed intensities.

    Raises:
        CrystalsDoNotFit: names them.
    """
    misfits = _misfits(data.observations, data.held_out, calculated)
    found = bad_crystals(misfits, are_refined=True)
    if found:
        raise CrystalsDoNotFit(found)


def crystal_warnings(
    observations: Observations, held_out: NDArray[np.bool_], calculated: _Array
) -> tuple[str, ...]:
    """Sentences on crystals that fit much worse than others; arguments: as ``crystal_fits``."""
    misfits = _misfits(observations, held_out, calculated)
    return tuple(
        f"experiment {i} may not belong to the others: {reason}: look at its data, or refine without it "
        "(crystals.exclude_bad=True)"
        for i, reason in bad_crystals(misfits, are_refined=True).items()
    )


def _misfits(
    observations: Observations, held_out: NDArray[np.bool_], calculated: _Array
) -> list[Misfit]:
    n_experiments = int(observations.experiment.max(initial=-1)) + 1
    members = [~held_out & (observations.experiment == i) for i in range(n_experiments)]
    return [
        misfit(observations.intensity[m], observations.sigma[m], calculated[m]) for m in members
    ]
