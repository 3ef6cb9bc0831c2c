"""Agreement of observed and calculated intensities against angle, resolution and intensity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.statistics import Agreement, agreement

#: degrees of rotation in a bin along the scan, at least: with the usual few hundred reflections in ten
#: degrees a bin holds tens of them
_BIN_WIDTH = 2.0
#: shells of equal numbers of reflections, at most, and fewest reflections in one
_SHELLS, _FEWEST = 10, 20

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class AgreementBin:
    """Agreement of the reflections in a range of some quantity.

    Attributes:
        experiment: index, or -1 for all experiments together.
        lower, upper: the range.
        used, held_out: R factors, as everywhere else.
    """

    experiment: int
    lower: float
    upper: float
    used: Agreement
    held_out: Agreement


@dataclass(frozen=True)
class BinnedAgreement:
    """Agreement against rotation angle (degrees), d* = 1/d (1/Angstrom) and I/sigma(I)."""

    by_angle: tuple[AgreementBin, ...]
    by_resolution: tuple[AgreementBin, ...]
    by_significance: tuple[AgreementBin, ...]


def binned_agreement(
    observations: Observations,
    calculated: _Array,
    used: NDArray[np.bool_],
    held_out: NDArray[np.bool_],
    d_star: _Array,
    image_width: float,
) -> BinnedAgreement:
    """The R factors of used and held-out reflections in bins.

    Args:
        calculated: shape (n,), intensities. used, held_out: masks (n,).
        d_star: shape (n,), 1/d in 1/Angstrom.
        image_width: degrees per image; bins along the scan are whole images.
    """

    def row(experiment: int, lower: float, upper: float, inside: NDArray[np.bool_]) -> AgreementBin:
        parts = [
            agreement(observations.intensity[m], observations.sigma[m], calculated[m])
            for m in (inside & used, inside & held_out)
        ]
        return AgreementBin(experiment, lower, upper, *parts)

    width = image_width * max(1, round(_BIN_WIDTH / image_width))
    by_angle = []
    for experiment in np.unique(observations.experiment):
        mine = observations.experiment == experiment
        number = np.floor(observations.phi / width)
        by_angle += [
            row(int(experiment), k * width, (k + 1) * width, mine & (number == k))
            for k in np.unique(number[mine])
        ]

    def shells(values: _Array) -> tuple[AgreementBin, ...]:
        fitted = values[used]
        n = int(np.clip(len(fitted) // _FEWEST, 1, _SHELLS))
        if not len(fitted):
            return ()
        edges = np.unique(np.quantile(fitted, np.linspace(0, 1, n + 1)))
        number = np.searchsorted(edges[1:-1], values, side="right")
        return tuple(
            row(-1, float(low), float(high), number == k)
            for k, (low, high) in enumerate(zip(edges[:-1], edges[1:]))
        )

    return BinnedAgreement(
        tuple(by_angle), shells(d_star), shells(observations.intensity / observations.sigma)
    )
