"""How the propagation is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dials_hybrid_refine.diffraction.ranks import Ranks


@dataclass(frozen=True)
class PropagationSettings:
    """Precision, threads, memory, device and processes.

    Attributes:
        dtype: torch.complex64 (error about 1e-6 of the incident beam) or torch.complex128.
        n_threads: batches computed at the same time.
        device: where to compute; the tensors that come in and go out are on the CPU.
        keep_bytes: Chebyshev vectors of batches are kept for the gradient up to this many
            bytes in all; those of the other batches are made again. No bit of the result depends on it.
        memory: GB that the process aims to stay within, to be told where it cannot; None: any.
        ranks: processes that the simulator shares its batches out to.
    """

    dtype: torch.dtype = torch.complex64
    n_threads: int = 1
    device: str = "cpu"
    keep_bytes: int = 1_000_000_000
    memory: float | None = None
    ranks: Ranks = Ranks()

    @property
    def real_dtype(self) -> torch.dtype:
        """The dtype of the arithmetic: float32 or float64."""
        return torch.float32 if self.dtype == torch.complex64 else torch.float64
