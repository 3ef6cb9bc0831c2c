"""Each fault of the data is found when it is there, and sound data are left in peace."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from examples import make_scan
from quartz_scan import MEAN, measured_quartz
from scipy.stats import norm

from cctbx import sgtbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid_refine.command_line import import_pets
from dials_hybrid_refine.diffraction.observations import Observations
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.reflections import ReflectionFilter, read_observations
from dials_hybrid_refine.io.structure import read_structure
from dials_hybrid_refine.io.symmetry import unique_indices
from dials_hybrid_refine.io.table_facts import table_facts
from dials_hybrid_refine.refinement.data_checks.at_start import TableFacts, findings_at_start
from dials_hybrid_refine.refinement.data_checks.beam_damage import progress, rise_of_b
from dials_hybrid_refine.refinement.data_checks.duplicates import repeated_passages
from dials_hybrid_refine.refinement.data_checks.finding import SIGMAS, Finding
from dials_hybrid_refine.refinement.data_checks.lorentz import lorentz_slope
from dials_hybrid_refine.refinement.data_checks.passages import passages
from dials_hybrid_refine.refinement.data_checks.slopes import indicator, slope
from dials_hybrid_refine.refinement.data_checks.weak_intensities import (
    HALF_NORMAL_MEDIAN,
    MEDIAN_ERROR,
)

NOTHING = TableFacts()
#: degrees, default of orientation.expected_size
EXPECTED = 0.05


def findings(
    observations: Observations,
    facts: TableFacts = NOTHING,
    g_max: float | None = None,
    symbol: str | None = None,
) -> dict[str, Finding]:
    """By name, of quartz; with another space group in the cell if its symbol is given."""
    data = measured_quartz()
    symmetry = data.structure.crystal_symmetry()
    if symbol is not None:
        symmetry = symmetry.customized_copy(
            space_group_info=sgtbx.space_group_info(symbol), unit_cell=(5, 6, 7, 90, 90, 90)
        )
    found = findings_at_start([data.scan], observations, symmetry, facts, g_max, EXPECTED)
    return {finding.name: finding for finding in found}


def joined(first: Observations, second: Observations) -> Observations:
    return Observations(
        **{
            f.name: np.concatenate([getattr(first, f.name), getattr(second, f.name)])
            for f in fields(Observations)
        }
    )


@pytest.mark.parametrize("seed", range(4))
def test_sound_data(seed):
    assert findings(measured_quartz().with_noise(seed=seed)) == {}


def test_speed_is_that_of_the_excitation_error():
    """e.(g x n) is dS/dphi, seen by turning the crystal; a turn across the axis shifts by ``lever``."""
    from scipy.spatial.transform import Rotation

    from dials_hybrid_refine.diffraction.beams import nominal_excitation_errors

    data = measured_quartz()
    scan, observations = data.scan, data.observations
    across = np.cross(scan.beam_direction, scan.rotation_axis)
    across /= np.linalg.norm(across)
    turn, rows = 1e-4, range(0, len(observations), 100)

    def excitation(i, phi, about):
        bases = Rotation.from_rotvec(about).as_matrix() @ scan.reciprocal_bases(np.array([phi]))
        hkl = observations.hkl[i : i + 1]
        return nominal_excitation_errors(bases, hkl, scan.beam_direction, 1 / scan.wavelength)[0, 0]

    for i in rows:
        phi, none = observations.phi[i], np.zeros(3)
        rate = excitation(i, phi + np.degrees(turn), none) - excitation(
            i, phi - np.degrees(turn), none
        )
        # S grows as g leaves the sphere in this sign convention or falls: the same for all
        assert abs(rate) / (2 * turn) == pytest.approx(1 / data.passing.lorentz[i], rel=2e-3)
        tilted = excitation(i, phi, turn * across) - excitation(i, phi, -turn * across)
        shift = -tilted / rate
        assert shift == pytest.approx(data.passing.lever[i], abs=2e-3 * max(1, abs(shift)))


def test_rows_that_occur_twice():
    found = findings(measured_quartz().observations, TableFacts(n_repeated=3))
    assert list(found) == ["repeated_rows"] and found["repeated_rows"].severity == "note"


@pytest.mark.parametrize("share, is_found", [(0.005, False), (0.1, True)])
def test_passages_that_were_integrated_twice(share, is_found):
    data = measured_quartz()
    again = data.with_noise(seed=5).select(np.random.default_rng(0).random(len(data.true)) < share)
    again = replace(again, phi=again.phi + 0.02, phi_start=again.phi_start + 0.02)
    found = findings(joined(data.observations, again))
    assert list(found) == (["repeated_passages"] if is_found else [])
    if is_found:
        assert found["repeated_passages"].values["n"] == len(again)


def test_the_two_passages_of_a_turn_are_no_repetition():
    """Near the axis they follow each other closely, their windows overlap: the sense tells them apart."""
    data = measured_quartz()
    both = joined(data.observations, data.observations)
    passing = passages([data.scan], both)
    assert repeated_passages(both, passing) is not None
    back = np.arange(len(both)) < len(data.observations)
    opposite = replace(passing, speed=np.where(back, -1, 1) * np.abs(passing.speed))
    assert repeated_passages(both, opposite) is None


def test_merged_data_given_back_to_equivalents():
    data = measured_quartz()
    _, first, place = np.unique(
        data.observations.unique_index, return_index=True, return_inverse=True
    )
    expanded = replace(
        data.observations,
        intensity=data.observations.intensity[first][place],
        sigma=data.observations.sigma[first][place],
    )
    assert "equal_intensities" in findings(expanded)


def test_rounded_intensities_are_no_copies():
    """Whole numbers, of which many agree, also between equivalents."""
    data = measured_quartz()
    true = np.round(data.true / 300)
    rounded = replace(data.observations, intensity=true, sigma=np.full(len(true), 0.09))
    assert "equal_intensities" not in findings(rounded)


def test_merged_equivalents():
    data = measured_quartz()
    _, first = np.unique(data.observations.unique_index, return_index=True)
    found = findings(data.observations.select(np.sort(first)))
    assert list(found) == ["merged_equivalents"]
    assert found["merged_equivalents"].values["n"] == 0


def test_data_with_gaps_are_not_taken_as_merged():
    """A third of the measurements beyond the first of each unique reflection."""
    data = measured_quartz()
    _, first = np.unique(data.observations.unique_index, return_index=True)
    kept = np.random.default_rng(0).random(len(data.true)) < 1 / 3
    kept[first] = True
    assert "merged_equivalents" not in findings(data.observations.select(kept))


def test_passages_are_counted_right():
    """What is expected of the scan is what it holds, but for wide windows and its ends."""
    data = measured_quartz()
    # of each unique reflection the first and few others: speaks, and says how many there should be
    _, first = np.unique(data.observations.unique_index, return_index=True)
    expected = findings(data.observations.select(first))["merged_equivalents"].values["n_expected"]
    held = len(data.observations) - len(first)
    assert 0.8 * held < expected < 1.5 * held


def test_lorentz_factor():
    data = measured_quartz()
    raw = lorentz_slope(data.observations, data.passing)
    assert raw.value == pytest.approx(1, abs=3 * raw.su) and raw.su < 0.1
    lorentz = data.passing.lorentz / data.passing.lorentz.mean()
    corrected = replace(
        data.observations,
        intensity=data.observations.intensity / lorentz,
        sigma=data.observations.sigma / lorentz,
    )
    found = findings(corrected)
    assert list(found) == ["lorentz"]
    assert found["lorentz"].values["exponent"] == pytest.approx(raw.value - 1, abs=0.05)


def test_sigmas_that_are_too_small():
    """By a factor of 3, where the weakest quarter of the reflections is zero."""
    data = measured_quartz()
    weak = data.with_noise(np.where(data.true < 800, 0.0, data.true))
    assert findings(weak) == {}
    found = findings(replace(weak, sigma=weak.sigma / 3))
    assert list(found) == ["negative_intensities"]
    values = found["negative_intensities"].values
    assert values["sigma_factor"] == pytest.approx(3, abs=3 * values["su"])


def test_background_that_is_too_high():
    data = measured_quartz()
    # faint reflections whose sigma is large enough to hide the size of what was taken away
    faint = replace(
        data.observations,
        intensity=np.random.default_rng(0).normal(-0.3, 0.6, len(data.true)),
        sigma=np.ones(len(data.true)),
    )
    found = findings(faint)["negative_intensities"]
    assert "more than half" in found.sentence


def test_half_normal_median():
    """The constants, and that the check's own uncertainty is that of samples of pure noise."""
    assert HALF_NORMAL_MEDIAN == pytest.approx(norm.ppf(0.75), abs=1e-4)
    medians = np.median(np.abs(np.random.default_rng(0).normal(size=(4000, 201))), axis=1)
    expected = MEDIAN_ERROR / 201**0.5
    assert (medians / HALF_NORMAL_MEDIAN).std() == pytest.approx(expected, rel=0.04)


def test_slope_and_its_uncertainty():
    """Over 200 samples with clustered errors of unequal size: unbiased, s.u. as large as the scatter."""
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 4)
    x = random.normal(size=240) + 0.7 * random.normal(size=60)[clusters]
    found = []
    for _ in range(200):
        errors = random.normal(size=60)[clusters] * np.abs(x) + 0.5 * random.normal(size=240)
        groups = np.tile([0, 1, 2, 3], 60)
        found.append(slope(0.3 * x + groups + errors, x, [indicator(groups)], clusters))
    values, su = np.array([f.value for f in found]), np.array([f.su for f in found])
    assert values.mean() == pytest.approx(0.3, abs=4 * values.std() / 14)
    assert np.sqrt((su**2).mean()) == pytest.approx(values.std(), rel=0.2)


def test_reflections_that_the_centring_forbids():
    data = measured_quartz()
    found = findings(data.observations, symbol="C 2 2 2")["forbidden_by_centring"]
    assert found.values["n_forbidden"] == (data.observations.hkl[:, :2].sum(1) % 2 == 1).sum()
    odd = data.observations.hkl[:, :2].sum(1) % 2 == 1
    centred = data.with_noise(np.where(odd, 0.0, data.true))
    assert "forbidden_by_centring" not in findings(centred, symbol="C 2 2 2")


def test_absences_of_screw_axes_are_not_judged():
    """00l of P 63, which multiple scattering brings up."""
    assert "forbidden_by_centring" not in findings(
        measured_quartz().observations, symbol="P 21 21 21"
    )


def test_reflections_beyond_the_beams():
    data = measured_quartz()
    found = findings(data.observations, g_max=1.5)
    assert list(found) == ["beyond_beams"]
    assert found["beyond_beams"].values["n"] == (data.passing.inverse_d > 1.5).sum()
    assert findings(data.observations, g_max=1.75) == {}


def test_shells_without_signal():
    data = measured_quartz()
    faded = data.with_noise(np.where(data.passing.inverse_d > 1.4, 0.0, data.true))
    found = findings(faded)
    assert list(found) == ["empty_shells"]
    assert found["empty_shells"].values["d_min"] == pytest.approx(1 / 1.4, rel=0.03)


@pytest.mark.parametrize("n, severity", [(3, "note"), (100, "warning")])
def test_overloaded_reflections(n, severity):
    found = findings(measured_quartz().observations, TableFacts(n_overloaded=n))
    assert found["overloaded"].severity == severity


def test_completeness():
    data = measured_quartz()
    narrow = data.observations.select(data.observations.phi < -40)
    found = findings(narrow)["low_completeness"]
    assert 0.1 < found.values["completeness"] < 0.5


@pytest.mark.parametrize(
    "turn, noise, is_found", [(0.0, 0.15, False), (0.06, 0.03, False), (0.4, 0.15, True)]
)
@pytest.mark.parametrize("across", [False, True])
def test_orientation_that_jumps(turn, noise, across, is_found):
    """In a stretch of five degrees; a clear turn that the smooth correction can follow is left to it."""
    data = measured_quartz()
    phi = data.observations.phi
    per_turn = data.passing.lever if across else -1.0
    scatter = noise * np.random.default_rng(0).normal(size=len(phi))
    seen = phi + scatter + np.where((phi > 10) & (phi < 15), turn, 0.0) * per_turn
    seen[::7] = np.nan
    found = findings(data.observations, TableFacts(observed_phi=seen))
    assert list(found) == (["drifting_orientation"] if is_found else [])
    if is_found:
        values = found["drifting_orientation"].values
        assert values["phi"] == pytest.approx(12.5, abs=2)
        assert values["turn"] == pytest.approx(turn, abs=4 * values["su"])


@pytest.mark.parametrize("rise, is_found", [(-3.0, False), (0.2, False), (3.0, True)])
def test_beam_damage(rise, is_found):
    """B that rises by so many Angstrom^2; the scale falls at the same time by itself."""
    data = measured_quartz()
    time = progress([data.scan], data.observations)
    fading = np.exp(-2 * rise * time * data.passing.inverse_d**2 / 4 - 0.5 * time)
    observations = data.with_noise(data.true * fading)
    found = findings(observations)
    assert list(found) == (["beam_damage"] if is_found else [])
    estimate = rise_of_b([data.scan], observations, data.passing)
    assert estimate.value == pytest.approx(rise, abs=SIGMAS * estimate.su)


def test_few_reflections_say_nothing():
    few = measured_quartz().observations.select(np.arange(12))
    assert set(findings(few)) <= {"low_completeness"}


def test_no_scan_is_too_short():
    data = measured_quartz()
    scan = make_scan(data.structure, 0, 2)
    inside = (data.observations.phi_start > 0) & (data.observations.phi_end < 2)
    found = findings_at_start(
        [scan],
        data.observations.select(inside),
        data.structure.crystal_symmetry(),
        NOTHING,
        None,
        EXPECTED,
    )
    assert {finding.name for finding in found} <= {"low_completeness"}


def _read(folder, name, structure, intensity="profile"):
    experiment = ExperimentListFactory.from_json_file(
        str(folder / f"{name}.expt"), check_format=False
    )[0]
    table = flex.reflection_table.from_file(str(folder / f"{name}.refl"))
    scan = scan_geometry(experiment)
    observations, exclusion = read_observations(
        table, experiment, scan, ReflectionFilter(intensity=intensity)
    )
    observations = replace(observations, unique_index=unique_indices(observations.hkl, structure))
    facts = table_facts(table, observations, exclusion)
    symmetry = structure.crystal_symmetry()
    return findings_at_start([scan], observations, symmetry, facts, None, EXPECTED), facts


@pytest.mark.parametrize("name", ["integrated", "scaled"])
def test_real_quartz_of_dials(quartz, shared, name):
    structure = read_structure(str(shared / "paper/quartz/kinematical.cif")).structure
    found, facts = _read(quartz, name, structure)
    assert found == ()
    # the drift of the orientation was looked for
    assert facts.observed_phi is not None and np.isfinite(facts.observed_phi).mean() > 0.5


def test_real_summed_intensities_of_dials(quartz, shared):
    """True: 6 % of them lie below -3 sigma; the background of these images varies within spots."""
    structure = read_structure(str(shared / "paper/quartz/kinematical.cif")).structure
    (finding,), _ = _read(quartz, "integrated", structure, "sum")
    assert finding.name == "negative_intensities"
    assert finding.values["sigma_factor"] == pytest.approx(3.6, abs=0.05)


@pytest.mark.parametrize("crystal, model", [("quartz", "kinematical"), ("cspbbr3", "reference")])
def test_real_data_of_pets(shared, run_in_tmp_path, crystal, model):
    folder = shared / "paper" / crystal
    import_pets.run([str(folder / "experimental.cif_pets")])
    structure = read_structure(str(folder / f"{model}.cif")).structure
    assert _read(run_in_tmp_path, "imported_pets", structure)[0] == ()


def test_mean_intensity():
    """That the faults above are put into data as described."""
    data = measured_quartz()
    assert data.true.mean() == pytest.approx(MEAN)
    assert 0.03 < (data.observations.intensity < 0).mean() < 0.3
    assert passages([data.scan], data.observations).speed.min() < 0
