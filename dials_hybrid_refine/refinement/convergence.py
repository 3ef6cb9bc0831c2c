"""How much the calculated intensities depend on the limits of the calculation.

The change of a setting is judged by the amplitudes: sum |F' - F| / sum F' with F = sqrt(I), where I'
is calculated with the setting raised. It compares with an R factor.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator
from dials_hybrid_refine.refinement.statistics import amplitude_change

logger = logging.getLogger("dials.hybrid_refine.convergence")

#: by what the settings are raised to see what changes
RAISED = {"g_max": 1.15, "s_max": 1.5, "tilt_step": 0.7}
#: share of the accuracy asked for that each setting may use up. What a raise changes on average is less than what R
#: factors see: quartz from DIALS (R_obs 0.0768) changed by 1.0 % towards 1.15 times the g_max of the data and by 0.6 %
#: towards closer tilts, and R_obs fell to 0.0736 and then 0.0717, as if by errors of 2.2 and 1.7 % in quadrature.
#: The share of the tilts lies between that change and the one of the synthetic CsPbBr3, of a poor fit (0.9 %, R_obs
#: 0.13), which would take 1.4 times as long: nothing else speaks for just this number.
_SHARE = {"g_max": 0.4, "s_max": 1.0, "tilt_step": 0.23}

#: how often a setting is raised before it is taken as it is
_MOST_RAISES = 4


@dataclass(frozen=True)
class ConvergenceRow:
    """What raising one setting does.

    Attributes:
        setting: its name in ``BeamSelection``, or "precision".
        value, raised: before and after (1/Angstrom or degrees; for the precision the bytes of a
            complex number).
        change: sum |F' - F| / sum F'.
        largest: largest |I' - I| in units of the mean I'.
    """

    setting: str
    value: float
    raised: float
    change: float
    largest: float


def integrated_intensities(
    data: Dataset, model: HybridModel, selection: BeamSelection, settings: PropagationSettings
) -> NDArray[np.float64]:
    """Integrated fractions of the incident beam, degrees, shape (n,), at the current parameters."""
    simulator = build_simulator(data, model, selection, settings)
    with torch.no_grad():
        parts = simulator(model.atoms(), model.physical_models())
    total = torch.zeros(len(data.observations), dtype=torch.float64)
    return total.index_add_(0, parts.observation, parts.value).numpy()


def _raise(selection: BeamSelection, setting: str) -> BeamSelection:
    return replace(selection, **{setting: getattr(selection, setting) * RAISED[setting]})


def _row(
    setting: str, value: float, raised: float, now: NDArray[np.float64], then: NDArray[np.float64]
) -> ConvergenceRow:
    largest = float(np.abs(then - now).max() / max(float(then.mean()), 1e-300))
    return ConvergenceRow(setting, value, raised, amplitude_change(now, then), largest)


def convergence_rows(
    data: Dataset, model: HybridModel, selection: BeamSelection, settings: PropagationSettings
) -> list[ConvergenceRow]:
    """Raise each setting in turn, and the precision, and see how much the intensities move."""
    base = integrated_intensities(data, model, selection, settings)
    rows = []
    for setting in RAISED:
        raised = _raise(selection, setting)
        other = integrated_intensities(data, model, raised, settings)
        value, after = getattr(selection, setting), getattr(raised, setting)
        rows.append(_row(setting, value, after, base, other))
    if settings.dtype == torch.complex64:
        double = replace(settings, dtype=torch.complex128)
        other = integrated_intensities(data, model, selection, double)
        rows.append(_row("precision", 8, 16, base, other))
    return rows


def converged_selection(
    data: Dataset,
    model: HybridModel,
    selection: BeamSelection,
    free: Sequence[str],
    accuracy: float,
    settings: PropagationSettings,
) -> BeamSelection:
    """Raise settings until raising them further changes amplitudes by less than ``accuracy``.

    Judged on a few parts of the scan, which cost a fraction of one evaluation of all.

    Args:
        selection: where to start.
        free: names of the settings that may be raised.
        accuracy: limit of sum |F' - F| / sum F'.
    """
    part = data.representative_part()
    now = integrated_intensities(part, model, selection, settings)
    for setting in free:
        for _ in range(_MOST_RAISES):
            raised = _raise(selection, setting)
            then = integrated_intensities(part, model, raised, settings)
            change = amplitude_change(now, then)
            logger.info(
                "%s = %.3f: calculated amplitudes change by %.2f %% towards %.3f",
                setting,
                getattr(selection, setting),
                100 * change,
                getattr(raised, setting),
            )
            if change < _SHARE[setting] * accuracy:
                break
            selection, now = raised, then
        else:
            logger.warning(
                "beams.%s does not converge to beams.accuracy=%g: set it by hand", setting, accuracy
            )
    return selection
