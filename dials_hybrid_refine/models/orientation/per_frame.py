"""A free orientation for each frame, as programs that work frame by frame have it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dials_hybrid_refine.models.orientation.base import OrientationModel


class PerFrameOrientation(OrientationModel):
    """One rotation vector for each stretch of a scan, whatever that of its neighbours.

    It is for comparison: three parameters for each frame always lower the R factor of the
    reflections that are fitted. The prior only keeps what the data do not determine from running
    away, say the rotation of a frame about the beam.
    """

    starts: torch.Tensor
    widths: torch.Tensor
    counts: torch.Tensor

    def __init__(
        self,
        phi_ranges: Sequence[tuple[float, float]],
        frame_width: float = 1.0,
        expected_size: float = 0.5,
    ) -> None:
        """
        Args:
            phi_ranges: first and last angle of each experiment in degrees.
            frame_width: degrees of rotation with one orientation; changed a little so that frames
                fill the scan.
            expected_size: prior standard deviation of a correction in degrees.
        """
        super().__init__()
        lengths = [last - first for first, last in phi_ranges]
        counts = [max(1, round(length / frame_width)) for length in lengths]
        starts = torch.tensor([first for first, _ in phi_ranges], dtype=torch.float64)
        widths = [length / count for length, count in zip(lengths, counts)]
        self.register_buffer("starts", starts)
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float64))
        self.register_buffer("counts", torch.tensor(counts))
        self._expected_size = expected_size / self._UNIT
        self.frames = torch.nn.Parameter(
            torch.zeros(len(counts), max(counts), 3, dtype=torch.float64)
        )

    def forward(self, experiment: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        experiment = experiment[:, None]
        index = torch.floor((phi - self.starts[experiment]) / self.widths[experiment]).long()
        index = torch.minimum(index.clamp_min(0), self.counts[experiment] - 1)
        return self.frames[experiment, index] * (self._UNIT * torch.pi / 180)

    def places(self) -> tuple[torch.nn.Parameter, torch.Tensor]:
        numbers = torch.arange(self.frames.shape[1], dtype=torch.float64)
        return self.frames, self.starts[:, None] + self.widths[:, None] * (numbers + 0.5)

    def prior_residuals(self) -> torch.Tensor:
        return (self.frames / self._expected_size).reshape(-1)
