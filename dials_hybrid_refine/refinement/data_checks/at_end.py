"""The checks that compare the data with a model that fits them."""

from __future__ import annotations

from collections.abc import Sequence

from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.refinement.data_checks.beam_damage import beam_damage, residual_rise_of_b
from dials_hybrid_refine.refinement.data_checks.error_model import large_instability, wrong_sigmas
from dials_hybrid_refine.refinement.data_checks.extra_intensity import extra_intensity
from dials_hybrid_refine.refinement.data_checks.finding import Finding
from dials_hybrid_refine.refinement.data_checks.lorentz import lorentz_by_residuals
from dials_hybrid_refine.refinement.data_checks.orientation_correction import large_correction
from dials_hybrid_refine.refinement.data_checks.passages import passages
from dials_hybrid_refine.refinement.diagnosis import is_poor
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.statistics import OBSERVED_LIMIT


def findings_at_end(
    result: Result,
    scans: Sequence[ScanGeometry],
    instability: float,
    expected_size: float | None,
) -> tuple[Finding, ...]:
    """What the residuals say about the data; nothing where the model does not fit them.

    A poor fit is ``diagnosis``'s: its residuals are those of the model. What a check at the start has
    found is not said again.

    Args:
        instability: u of the weights.
        expected_size: of the orientation's smooth correction, degrees; None for one of each frame, which
            takes up noise.
    """
    data, calculated = result.observations, result.calculated
    used = ~result.held_out & ~result.rejected
    observed = used & (data.intensity > OBSERVED_LIMIT * data.sigma)
    poor = is_poor(result.statistics.used.r_obs, data.intensity[observed], data.sigma[observed])
    if result.status == "interrupted" or poor:
        return ()
    passing = passages(scans, data)
    rise = residual_rise_of_b(scans, data, calculated, used, passing, instability)
    profiles = result.profiles
    found = (
        wrong_sigmas(data, calculated, used, instability),
        large_instability(data, calculated, used, instability),
        lorentz_by_residuals(data, calculated, used, passing, instability),
        beam_damage(rise, "observed and calculated intensities"),
        extra_intensity(result.residual[~result.held_out]),
        large_correction(profiles.phi, profiles.orientation, expected_size)
        if expected_size is not None
        else None,
    )
    known = {finding.name for finding in result.data_checks}
    return tuple(f for f in found if f is not None and f.name not in known)
