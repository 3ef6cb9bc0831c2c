"""Whether the columns of a reflection table hold what they should."""

from __future__ import annotations

import numpy as np

from dials.array_family import flex

from dials_hybrid_refine.diffraction.observations import Observations

_NUMBERS = (flex.double, flex.float, flex.int, flex.size_t)
_TYPES = {
    "miller_index": (flex.miller_index,),
    "flags": (flex.size_t,),
    "xyzcal.mm": (flex.vec3_double,),
    "s1": (flex.vec3_double,),
    "bbox": (flex.int6,),
    **dict.fromkeys(
        (
            *(
                f"intensity.{kind}.{what}"
                for kind in ("prf", "sum")
                for what in ("value", "variance")
            ),
            *("phi_start", "phi_end", "zeta", "partiality"),
        ),
        _NUMBERS,
    ),
}
#: of ``dials.import_pets``: the largest numbers that are meant
_PETS = {
    "pets_frame": 1e8,
    "pets_n_frames": 1e5,
    "pets_frame_phi": 1e6,
    "pets_semi_angle": 180.0,
}
#: intensities above this many standard deviations are observed
_OBSERVED = 3.0


def check_types(table: flex.reflection_table) -> None:
    """Whether the columns that are read are of the types that DIALS gives them.

    Raises:
        ValueError: names the column.
    """
    for name, types in {**_TYPES, **dict.fromkeys(_PETS, _NUMBERS)}.items():
        if name in table and not isinstance(table[name], types):
            raise ValueError(
                f"the column {name} of the reflection file holds {type(table[name]).__name__} instead of "
                f"{types[0].__name__}: give the .refl file that a DIALS program has written"
            )
    for name, largest in _PETS.items():
        if name in table:
            values = np.abs(np.array(table[name].as_numpy_array(), dtype=float))
            if not (values <= largest).all():
                raise ValueError(
                    f"the column {name} of the reflection file holds numbers that are not usable: import "
                    "the data again with dials.import_pets"
                )


def check_signal(observations: Observations) -> None:
    """Whether the intensities say anything.

    Raises:
        ValueError: if none is observed, or all are the same.
    """
    intensity, sigma = observations.intensity, observations.sigma
    if not (intensity > _OBSERVED * sigma).any():
        raise ValueError(
            f"none of the {len(intensity)} intensities is above {_OBSERVED:g} sigma: check the columns of "
            "intensities and variances, and which of intensity=profile and sum is meant"
        )
    if len(intensity) > 1 and np.ptp(intensity) == 0:
        raise ValueError(
            f"all {len(intensity)} intensities are {intensity[0]:g}, which is no measurement: check the "
            "column of intensities"
        )
