"""Which programs and libraries a result depends on."""

from __future__ import annotations

import platform
from collections.abc import Mapping

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


def described_origin(sha256: Mapping[str, str], parameters: Mapping[str, str], seed: int) -> str:
    """What is needed to repeat a refinement, as ASCII text for a CIF.

    Args:
        sha256: of the input files, by what they are.
        parameters: those that are not at their defaults, by their names.
        seed: of all that is chosen at random.
    """
    lines = [
        ", ".join(f"{name} {version}" for name, version in versions().items()),
        f"seed {seed}",
        *(f"{name}: SHA-256 {digest}" for name, digest in sha256.items()),
        *(f"{name} = {value}" for name, value in parameters.items()),
    ]
    return "\n".join(lines).encode("ascii", "backslashreplace").decode()
