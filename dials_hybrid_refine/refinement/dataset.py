"""The data of a refinement, and the calculation planned for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.blocks import plan_blocks
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation import PropagationSettings
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.diffraction.simulator import Simulator
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.structure import composition_of
from dials_hybrid_refine.refinement.held_out import with_own_scales
from dials_hybrid_refine.refinement.weights import variances

#: degrees of a stretch of the scan in a sample of the data
_STRETCH = 3.0


@dataclass(frozen=True)
class Dataset:
    """The data of a refinement: the geometry of each experiment and all observations.

    Attributes:
        held_out: shape (n,), observations that are set aside.
        held_out_stretch: shape (n,), number of the stretch of the scan an observation is set
            aside with, -1 for others; None: unique reflections are set aside.
    """

    scans: Sequence[ScanGeometry]
    observations: Observations
    held_out: NDArray[np.bool_]
    held_out_stretch: NDArray[np.int64] | None = None

    def select(self, chosen: NDArray[np.bool_]) -> Dataset:
        """The observations of a mask (n,)."""
        stretch = self.held_out_stretch
        return Dataset(
            self.scans,
            self.observations.select(chosen),
            self.held_out[chosen],
            None if stretch is None else stretch[chosen],
        )

    def sample(self, most: int) -> Dataset:
        """Stretches of the scans, evenly spread, with about so many observations; all if there are
        not clearly more."""
        spacing = len(self.observations) // most
        if spacing < 2:
            return self
        starts = np.array([scan.phi_range[0] for scan in self.scans])
        experiment = self.observations.experiment
        stretch = ((self.observations.phi - starts[experiment]) // _STRETCH).astype(int)
        chosen = stretch % spacing == spacing // 2
        for i in np.setdiff1d(experiment, experiment[chosen]):
            # short scans: their middle
            own = np.unique(stretch[experiment == i])
            chosen |= (experiment == i) & (stretch == own[len(own) // 2])
        return self.select(chosen)

    def comparable(
        self, calculated: NDArray[np.float64], instability: float
    ) -> NDArray[np.float64]:
        """Calculated intensities (n,), stretches that are held out each on a scale of its own.

        ``instability``: of ``weights.Weighting``.
        """
        if self.held_out_stretch is None:
            return calculated
        data = self.observations
        weight = 1 / variances(data.intensity, data.sigma, instability)
        return with_own_scales(calculated, data.intensity, weight, self.held_out_stretch)


def build_simulator(
    data: Dataset, model: HybridModel, selection: BeamSelection, settings: PropagationSettings
) -> Simulator:
    """Blocks of rotation for the current orientation, ready to compute.

    Raises:
        ValueError: if no observed reflection crosses the Ewald sphere inside its window.
    """
    composition = composition_of(model.structure.current_structure())
    plans = []
    for i, scan in enumerate(data.scans):

        def correction(phi: NDArray[np.float64], experiment: int = i) -> NDArray[np.float64]:
            with torch.no_grad():
                vectors = model.orientation(torch.tensor([experiment]), torch.from_numpy(phi)[None])
            return np.asarray(Rotation.from_rotvec(vectors[0].numpy()).as_matrix())

        plan = plan_blocks(
            i, scan, data.observations, composition, selection, 1 / scan.wavelength, correction
        )
        plans.append(plan)
    return Simulator(data.scans, plans, composition, settings)
