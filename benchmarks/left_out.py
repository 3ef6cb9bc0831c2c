"""Is an atom that was left out found in the difference map?

    OMP_NUM_THREADS=1 python -m benchmarks.left_out [NAME ...]

Data with noise are simulated from the whole crystal; the model without the atom is refined from
displaced atoms with all that the program refines; then the highest peak of the difference map is compared with
the atom. "ratio" is the same for coefficients (sqrt(I_o / I_c) - 1) F_c, F_c the structure factors of the
model, equivalents merged by least squares.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cctbx import miller, sgtbx, xray
from cctbx.array_family import flex

from benchmarks.crystals import Case, displaced, make_structure, quartz
from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.workers import one_torch_thread
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.simulate import simulate_intensities
from dials_hybrid_refine.models.structure import RefinedParameters, StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.models.thickness.given import GivenThickness
from dials_hybrid_refine.refinement.dataset import Dataset
from dials_hybrid_refine.refinement.difference_map import Peak, map_peaks, potential_map
from dials_hybrid_refine.refinement.frames import FrameFilter, choose_frames
from dials_hybrid_refine.refinement.refine import Refinement
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.schedule import Controls, Schedule
from dials_hybrid_refine.refinement.summarise import summarise
from dials_hybrid_refine.refinement.weights import Weighting


def urea() -> xray.structure:
    """Urea at 12 K, Swaminathan, Craven & McMullan (1984), Acta Cryst. B40, 300; U_iso rounded."""
    atoms = [
        ("C", (0.0, 0.5, 0.3260), 0.010),
        ("O", (0.0, 0.5, 0.5953), 0.012),
        ("N", (0.1459, 0.6459, 0.1766), 0.014),
        ("H", (0.2575, 0.7575, 0.2827), 0.030),
        ("H", (0.1441, 0.6441, -0.0380), 0.030),
    ]
    return make_structure((5.565, 5.565, 4.684, 90, 90, 90), "P -4 21 m", atoms)


def lead_titanate() -> xray.structure:
    """PbTiO3, Shirane, Pepinsky & Frazer (1956), Acta Cryst. 9, 131; U_iso made up."""
    atoms = [
        ("Pb", (0.0, 0.0, 0.0), 0.008),
        ("Ti", (0.5, 0.5, 0.541), 0.006),
        ("O", (0.5, 0.5, 0.112), 0.010),
        ("O", (0.5, 0.0, 0.612), 0.010),
    ]
    return make_structure((3.904, 3.904, 4.152, 90, 90, 90), "P 4 m m", atoms)


@dataclass(frozen=True)
class LeftOut:
    """A crystal, the atom to leave out, the scan (degrees), d_min and thickness (Angstrom)."""

    structure: xray.structure
    label: str
    width: float
    d_min: float
    thickness: float
    counts: float = 2000.0

    def case(self) -> Case:
        selection = BeamSelection(1.15 / self.d_min, 0.012, 0.1)
        return Case(self.label, self.structure, self.width, self.d_min, selection, 1000.0)

    def observations(self, settings: PropagationSettings) -> Observations:
        """Intensities of so many counts on average, background 20, with noise."""
        case = self.case()
        scan = case.scan()
        planned = case.measured(scan, self.thickness, 0.0)
        fractions = simulate_intensities(
            scan,
            planned,
            self.structure,
            GivenThickness([self.thickness], 0.0, scan.phi_range),
            None,
            case.selection,
            settings,
        )
        exact = self.counts / fractions.mean() * fractions
        sigma = np.sqrt(exact + 20)
        noise = sigma * np.random.default_rng(0).normal(size=len(sigma))
        return replace(planned, intensity=exact + noise, sigma=sigma)


def crystals() -> dict[str, LeftOut]:
    """The rows of the table."""
    return {
        "urea H4": LeftOut(urea(), "H4", 60.0, 0.8, 300.0),
        "urea H5": LeftOut(urea(), "H5", 60.0, 0.8, 300.0),
        "quartz O2": LeftOut(quartz(), "O2", 40.0, 0.8, 400.0),
        "PbTiO3 O3": LeftOut(lead_titanate(), "O3", 60.0, 0.8, 150.0),
        "PbTiO3 O4": LeftOut(lead_titanate(), "O4", 60.0, 0.8, 150.0),
    }


@one_torch_thread()
def refine_without(example: LeftOut) -> Result:
    """The model without the atom, refined."""
    settings = PropagationSettings(n_threads=1)
    scan, observations = example.case().scan(), example.observations(settings)
    kept = example.structure.select(
        example.structure.scatterers().extract_labels() != example.label
    )
    start = displaced(kept, 0.02, 0.015)
    model = HybridModel(
        StructureModel(start, RefinedParameters()),
        ConstantThickness(1.1 * example.thickness),
        SmoothOrientation([scan.phi_range]),
    )
    data = Dataset([scan], observations, np.zeros(len(observations), dtype=bool))
    selection, weighting = example.case().selection, Weighting()
    refinement = Refinement(
        data,
        model,
        settings,
        weighting,
        0.05,
        Schedule(cycles=3),
        Controls(),
        1.0,
        lambda thickness: selection,
    )
    refinement.fine_cycles(selection)
    frames = choose_frames(None, [scan.phi_range])
    return summarise(refinement, data, weighting, settings, 0.0, selection, frames, FrameFilter())


def ratio_coefficients(result: Result) -> miller.array:
    """(sqrt(I_o / I_c) - 1) F_c in Angstrom."""
    model = result.difference_map.model
    used = ~result.rejected
    indices = flex.miller_index([tuple(map(int, h)) for h in result.observations.hkl[used]])
    members = miller.set(model.crystal_symmetry(), indices, anomalous_flag=False).map_to_asu()
    sums: dict[tuple[int, ...], list[float]] = {}
    observed, calculated = result.observations.intensity[used], result.calculated[used]
    for h, i_o, i_c, w in zip(members.indices(), observed, calculated, result.weight[used]):
        entry = sums.setdefault(h, [0.0, 0.0])
        entry[0] += w * i_o * i_c
        entry[1] += w * i_c * i_c
    factors = [
        (max(0.0, sums[h][0] / sums[h][1]) ** 0.5 - 1 if h in sums and sums[h][1] else 0.0)
        for h in model.indices()
    ]
    return model.customized_copy(data=model.data() * flex.double(factors))


def distance_to(structure: xray.structure, label: str, site: Sequence[float]) -> float:
    """Angstrom between a site and an atom, over all symmetry."""
    atom = next(s for s in structure.scatterers() if s.label == label)
    symmetry = structure.special_position_settings().site_symmetry(atom.site)
    equivalents = sgtbx.sym_equiv_sites(symmetry)
    return float(sgtbx.min_sym_equiv_distance_info(equivalents, tuple(site)).dist())


def main() -> None:
    """Print a table of the rows that were named, or of all."""
    rows = crystals()
    for name in sys.argv[1:] or rows:
        example, started = rows[name], time.process_time()
        result = refine_without(example)
        seconds = time.process_time() - started
        r_all = result.statistics.used.r_all
        n = len(result.observations)
        print(f"{name}: {n} reflections, R_all {r_all:.3f}, {seconds:.0f} s", flush=True)
        ratio = potential_map(ratio_coefficients(result))
        found = result.difference_map
        for kind, peaks, rms in (
            ("least squares", found.peaks, found.rms),
            ("ratio", map_peaks(ratio, result.structure), ratio.statistics().sigma()),
        ):
            distances = [distance_to(example.structure, example.label, p.site) for p in peaks]
            print(f"  {kind}: {_described(peaks, distances, rms)}", flush=True)


def _described(peaks: Sequence[Peak], distances: Sequence[float], rms: float) -> str:
    heights = [f"{p.height:.3f} e/A at {d:.3f} A" for p, d in zip(peaks[:3], distances)]
    return f"{'; '.join(heights)} (r.m.s. {rms:.3f})"


if __name__ == "__main__":
    main()
