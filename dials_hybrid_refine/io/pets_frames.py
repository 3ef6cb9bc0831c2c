"""The virtual frames of a PETS2 file, from the columns that ``dials.import_pets`` writes."""

from __future__ import annotations

import numpy as np

from dials.array_family import flex

from dials_hybrid_refine.refinement.frames import Frames

_COLUMNS = (
    "pets_frame",
    "pets_n_frames",
    "pets_frame_phi",
    "pets_semi_angle",
    "phi_start",
    "phi_end",
)


def pets_frames(table: flex.reflection_table) -> Frames | None:
    """The frames of a table of one experiment, or None if it is not of ``dials.import_pets``.

    A row tells number and angle of the first frame that lists it. Frames between and after these
    get angles that are linear in the number.
    """
    if len(table) == 0 or not set(_COLUMNS) <= set(table.keys()):
        return None
    number, n_frames, phi, semi_angle, start, end = (
        np.array(table[name].as_numpy_array()) for name in _COLUMNS
    )
    known, row = np.unique(number, return_index=True)
    numbers = np.arange(known[0], (number + n_frames).max())
    centres = np.interp(numbers, known, phi[row])
    beyond = numbers > known[-1]
    if len(known) > 1:
        step = (phi[row[-1]] - phi[row[0]]) / (known[-1] - known[0])
        centres[beyond] += step * (numbers[beyond] - known[-1])
    own_range = np.abs(np.stack([start - (phi - semi_angle), end - (phi + semi_angle)])) < 1e-6
    return Frames(
        experiment=np.zeros(len(numbers), dtype=np.int64),
        phi=centres,
        semi_angle=np.interp(numbers, known, semi_angle[row]),
        apart=np.full(len(numbers), bool(own_range.all())),
    )
