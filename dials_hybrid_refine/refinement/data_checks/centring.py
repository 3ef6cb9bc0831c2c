"""Whether reflections are there that the lattice centring of the structure forbids.

Those of screw axes and glide planes are not judged: several beams together bring them up (Gjonnes &
Moodie (1965), Acta Cryst. 19, 65-67). What a centring forbids is forbidden dynamically, too: there is no
lattice point.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binom, norm

from cctbx import sgtbx

from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.refinement.data_checks.finding import CHANCE, Finding

#: I / sigma(I) of a reflection that is there
_CLEAR = 5.0
#: share of the forbidden reflections that may be there for other reasons, such as lattices that overlap
_SHARE = 0.1


def forbidden_by_centring(observations: Observations, group: sgtbx.space_group) -> Finding | None:
    """How many reflections that the centring forbids are clearly observed."""
    shifts = np.array([group(i, 0, 0).t().as_double() for i in range(group.n_ltr())])
    phases = observations.hkl @ shifts.T
    forbidden = (np.abs(phases - np.round(phases)) > 1e-3).any(axis=1)
    n = int(forbidden.sum())
    present = forbidden & (observations.intensity > _CLEAR * observations.sigma)
    found = int(present.sum())
    if found <= _SHARE * n or binom.sf(found - 1, n, norm.sf(_CLEAR)) > CHANCE:
        return None
    symbol = group.conventional_centring_type_symbol()
    return Finding(
        "forbidden_by_centring",
        "warning",
        f"{found} of {n} reflections that the {symbol} centring of the structure forbids, also in dynamical "
        f"diffraction, exceed {_CLEAR:g} sigma: the space group or the cell may be wrong, or another lattice "
        "overlaps; solve the structure in the primitive cell",
        {"n": found, "n_forbidden": n},
    )
