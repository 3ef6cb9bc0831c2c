"""Which programs and libraries a result depends on."""

from __future__ import annotations

import platform

import numpy
import torch

from dials.util.version import dials_version

from dials_hybrid_refine import __version__


def versions() -> dict[str, str]:
    """Name and version of each.

    cctbx is that of DIALS: as Debian packages it, it does not know its version.
    """
    return {
        "dials_hybrid_refine": __version__,
        "dials": dials_version().removeprefix("DIALS "),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
