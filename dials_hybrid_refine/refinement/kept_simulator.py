"""A simulator that goes on to serve while the crystals hardly turn."""

from __future__ import annotations

import torch

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.dataset import Dataset, build_simulator

#: share of s_max by which excitation errors may change before the lists of beams are made anew. Whether a
#: beam at the limit takes part matters little, but it does: made anew before the third cycle of a refinement
#: of CsPbBr3 they changed amplitudes by 0.2 %.
_HARDLY = 0.05


class KeptSimulator:
    """The last simulator, and the orientation that its lists of beams were made for."""

    def __init__(self, data: Dataset, settings: PropagationSettings) -> None:
        self._data = data
        self._settings = settings
        self._last: tuple[BeamSelection, torch.Tensor, Simulator] | None = None

    def serves(self, model: HybridModel, selection: BeamSelection) -> bool:
        """Whether the last one is what ``get`` returns."""
        if self._last is None:
            return False
        limits, before, _ = self._last
        turn = float(torch.linalg.vector_norm(self._corrections(model) - before, dim=-1).max())
        return limits == selection and turn * selection.g_max <= _HARDLY * selection.s_max

    def get(self, model: HybridModel, selection: BeamSelection) -> Simulator:
        """The last one, or a new one for other limits or where the crystals have turned.

        Raises:
            ValueError, MemoryError: as ``build_simulator``.
        """
        if self._last is None or not self.serves(model, selection):
            simulator = build_simulator(self._data, model, selection, self._settings)
            self._last = selection, self._corrections(model), simulator
        return self._last[2]

    def _corrections(self, model: HybridModel) -> torch.Tensor:
        """Rotation vectors (n, 3) in radians at all scan points."""
        with torch.no_grad():
            parts = [
                model.orientation(torch.tensor([i]), torch.from_numpy(scan.phi_points)[None])[0]
                for i, scan in enumerate(self._data.scans)
            ]
        return torch.cat(parts)
