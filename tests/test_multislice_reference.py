"""Two independent formulations of dynamical diffraction agree on signs, hand and geometry.

Real-space multislice (``reference.multislice``) against dense Bloch waves
(``reference.dense_bloch``), both test-only and both without any code of the package.

The measure is ``intensity_disagreement``: sum |I_1 - I_2| over the beams relative to the whole
diffracted intensity.  Per cent, |S| <= 0.3 1/Angstrom in the Bloch waves unless stated:

    case                      quartz 2.6  triclinic 3.2  quartz 18  triclinic 21 degrees
    thickness (Angstrom)      324         201            270        193
    I_000                     0.74        0.72           0.87       0.90
    slices (as in cases())    0.05        0.04           0.13       0.55
    Bloch, "on_shell"         0.7         1.4            0.9        1.6
      the same, |S| <= 0.6    0.17        0.35           0.4        0.5
    Bloch, "flux"             1.7         2.0            1.3        2.8
    inverted structure        55          54             24         25
    conjugate U               56          55             25         26
    repulsive potential       66          76             30         38
    tilted the other way      190         120            190        180
    projected crystal, "flux" 0.03        0.02           0.07       1.4 (hardly diffracts)
      the same, w_g = 1       0.03        0.43           0.07       4.4

What the tolerances are made of:

* Slices.  Second order in their thickness (triclinic 3.2: 4.1e-4 with 8 slices, 1.3e-4 with 16).
* Beams.  Multislice holds every l of a rod (h, k), Bloch waves only the l that are listed.
  Triclinic, g_max 0.8, |l| <= 0..5, "on_shell": 2.3, 1.4, 0.34, 0.06, 0.05, 0.03 per cent.
* The one-way equation d psi/dz = 2 pi i M psi ("flux", the package's) has M_gg =
  K S_g/(K_n + g_n), where the exact value is K_z - K_n - g_n ("on_shell").  Nothing near the Ewald
  sphere, but it turns the phase of the weak HOLZ beams with |S| of 0.2 1/Angstrom that are added
  to the strong ones in the exit wave; hence 1-3 per cent that no number of layers removes.  In
  the projected crystal, which has no such beams, only 2e-4 is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import crystals as cr
from reference import dense_bloch as db
from reference import multislice as ms

WAVELENGTH = cr.WAVELENGTH_200KV
CASES = cr.cases()
by_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
Potential = Callable[[NDArray[np.int64]], NDArray[np.complex128]]


def potential_of(crystal: cr.P1Crystal) -> Potential:
    return lambda hkl: cr.structure_potential(crystal, hkl, WAVELENGTH)


def by_multislice(
    case: cr.Case,
    crystal: cr.P1Crystal | None = None,
    direction: cr.FloatArray | None = None,
    absorption: float = 0.0,
    n_slices: int | None = None,
    l_max: int = 8,
    **options: str,
) -> ms.BeamAmplitudes:
    crystal = case.crystal if crystal is None else crystal
    factors: list[cr.ScatteringFactor] = [
        lambda s, f=f: (1 + 1j * absorption) * f(s) for f in crystal.factors
    ]
    return ms.multislice(
        crystal.basis,
        crystal.frac,
        factors,
        crystal.u_cart,
        WAVELENGTH,
        case.direction if direction is None else direction,
        case.n_cells,
        g_max=case.g_max,
        n_slices=case.n_slices if n_slices is None else n_slices,
        l_max=l_max,
        **options,
    )


def by_bloch(
    case: cr.Case,
    potential: Potential | None = None,
    s_max: float = 0.3,
    l_max: int = 8,
    coupling: db.Coupling = "flux",
) -> ms.BeamAmplitudes:
    crystal, direction = case.crystal, case.direction
    potential = potential_of(crystal) if potential is None else potential
    k = db.wave_vector(potential, WAVELENGTH, direction)
    hkl = db.select_beams(
        crystal.reciprocal, k, crystal.normal, g_max=case.g_max, s_max=s_max, l_max=l_max
    )
    psi = db.dense_bloch_amplitudes(
        hkl,
        crystal.reciprocal,
        potential,
        WAVELENGTH,
        direction,
        crystal.normal,
        case.thickness,
        coupling=coupling,
    )
    weights = db.flux_weights(hkl, crystal.reciprocal, k, crystal.normal, coupling=coupling)
    return db.rod_amplitudes(hkl, psi, weights)


@pytest.mark.parametrize(
    "crystal", [cr.quartz(), cr.triclinic(), cr.orthogonal()], ids=lambda c: c.name
)
def test_slices_hold_the_potential_with_atoms_where_they_are(crystal: cr.P1Crystal) -> None:
    """No Fourier transform, hence no sign, in the Gaussians that the slices are compared with."""
    crystal = replace(crystal, u_cart=crystal.u_cart + 0.03 * np.eye(3))
    shape, n_slices = (54, 60), 60
    slices = ms.slice_potentials(
        crystal.basis,
        crystal.frac,
        crystal.factors,
        crystal.u_cart,
        WAVELENGTH,
        shape=shape,
        n_slices=n_slices,
        l_max=24,
    )
    assert np.abs(slices.imag).max() < 1e-12
    rng = np.random.default_rng(1)
    index = np.stack([rng.integers(0, n, 60) for n in (n_slices, *shape)], axis=1)
    # add the grid points nearest to the atoms
    near = np.rint(crystal.frac[:, [2, 0, 1]] * [n_slices, *shape] - [0.5, 0, 0]).astype(int)
    index = np.concatenate([index, near % [n_slices, *shape]])
    frac = (index + [0.5, 0.0, 0.0]) / [n_slices, *shape]
    expected = cr.real_space_potential(crystal, frac[:, [1, 2, 0]] @ crystal.basis, WAVELENGTH, 3)
    mean = cr.structure_potential(crystal, [0, 0, 0], WAVELENGTH)[0].real
    found = slices.real[tuple(index.T)] / (crystal.repeat / n_slices) + mean
    np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())


def test_the_two_formulas_for_the_fourier_potential_agree() -> None:
    crystal = cr.triclinic()
    hkl = np.random.default_rng(0).integers(-6, 7, (200, 3))
    found = ms.fourier_potential(
        crystal.basis, crystal.frac, crystal.factors, crystal.u_cart, WAVELENGTH, hkl
    )
    expected = cr.structure_potential(crystal, hkl, WAVELENGTH)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@by_case
def test_multislice_and_bloch_waves_agree_and_no_other_hand_does(case: cr.Case) -> None:
    wave = by_multislice(case)
    on_shell = ms.intensity_disagreement(by_bloch(case, coupling="on_shell"), wave)
    flux = ms.intensity_disagreement(by_bloch(case), wave)
    assert on_shell < 0.021
    assert flux < 0.032

    wrong = {
        "inverted structure": by_multislice(case, case.crystal.inverted()),
        "conjugate U": by_bloch(case, lambda h: potential_of(case.crystal)(h).conj()),
        "repulsive": by_bloch(case, lambda h: -potential_of(case.crystal)(h)),
        "tilted the other way": by_multislice(
            case, direction=case.crystal.tilted(-case.tilt_deg, case.azimuth_deg)
        ),
    }
    for name, other in wrong.items():
        assert ms.intensity_disagreement(other, wave) > 10 * on_shell, name


@by_case
def test_multislice_converges_with_the_square_of_the_slice_thickness(case: cr.Case) -> None:
    n, case = case.n_slices, replace(case, n_cells=case.n_cells // 2)
    finest = by_multislice(case, n_slices=4 * n)
    coarse, fine = (
        ms.intensity_disagreement(by_multislice(case, n_slices=m), finest) for m in (n, 2 * n)
    )
    assert fine < 0.34 * coarse  # 1/5 for exactly second order, 3/7 for first order
    assert fine < 1.5e-3


def test_the_phase_grating_tends_to_the_same_wave() -> None:
    case = replace(CASES[1], g_max=1.0)
    exact = by_multislice(case, n_slices=32)
    errors = [
        ms.intensity_disagreement(
            by_multislice(case, n_slices=n, transmission="phase_grating"), exact
        )
        for n in (8, 16, 32, 64)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.006  # 0.004 is left: K_n in place of K_z(q) in the coupling


def test_bloch_waves_converge_to_multislice_with_the_number_of_layers() -> None:
    case = replace(CASES[1], g_max=0.8)
    wave = by_multislice(case, n_slices=32, l_max=10)
    errors = [
        ms.intensity_disagreement(by_bloch(case, s_max=np.inf, l_max=n, coupling="on_shell"), wave)
        for n in (0, 1, 2, 3, 4)
    ]
    assert errors[0] > 0.005
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("case", CASES[:2], ids=lambda c: c.name)
def test_projected_crystal_agrees_closely(case: cr.Case) -> None:
    """Without HOLZ the first-order equation with its weights w_g is multislice's equal."""
    everything = potential_of(case.crystal)

    def projected(hkl: NDArray[np.int64]) -> NDArray[np.complex128]:
        return np.asarray(np.where(hkl[:, 2] == 0, everything(hkl), 0.0))

    wave = by_multislice(case, l_max=0)
    waves = by_bloch(case, projected, s_max=np.inf, l_max=0)
    assert ms.intensity_disagreement(waves, wave) < 5e-4


def test_weights_for_beams_inclined_to_the_normal_matter(monkeypatch) -> None:
    """The agreement in the projected crystal is lost without w_g, or with its inverse."""
    case = CASES[1]
    everything, flux_weights = potential_of(case.crystal), db.flux_weights

    def projected(hkl: NDArray[np.int64]) -> NDArray[np.complex128]:
        return np.asarray(np.where(hkl[:, 2] == 0, everything(hkl), 0.0))

    wave = by_multislice(case, l_max=0)
    for power in (0, -1):
        monkeypatch.setattr(
            db, "flux_weights", lambda *args, **kwargs: flux_weights(*args, **kwargs) ** power
        )
        waves = by_bloch(case, projected, s_max=np.inf, l_max=0)
        assert ms.intensity_disagreement(waves, wave) > 3e-3


def test_absorption_has_the_same_sign_in_both() -> None:
    case, ratio = CASES[1], 0.08
    everything = potential_of(case.crystal)
    wave = by_multislice(case, absorption=ratio)
    waves = by_bloch(case, lambda h: (1 + 1j * ratio) * everything(h), coupling="on_shell")
    assert ms.intensity_disagreement(waves, wave) < 0.021
    total = sum(abs(v) ** 2 for v in wave.values())
    assert total < 0.9
    assert sum(abs(v) ** 2 for v in waves.values()) == pytest.approx(total, rel=0.01)


def test_dense_bloch_conserves_flux_and_decays_with_the_mean_absorption() -> None:
    case = replace(CASES[3], g_max=0.7)
    crystal, direction, n = case.crystal, case.direction, case.crystal.normal
    everything, u_prime = potential_of(crystal), 0.01
    k = db.wave_vector(everything, WAVELENGTH, direction)
    hkl = db.select_beams(crystal.reciprocal, k, n, g_max=0.7, s_max=0.1, l_max=5)

    def absorbing(index: NDArray[np.int64]) -> NDArray[np.complex128]:
        return everything(index) + 1j * u_prime * ~index.any(axis=1)

    arguments = (WAVELENGTH, direction, n, case.thickness)
    kept = db.dense_bloch_amplitudes(hkl, crystal.reciprocal, everything, *arguments)
    assert np.sum(np.abs(kept) ** 2) == pytest.approx(1.0, abs=1e-10)
    lost = db.dense_bloch_amplitudes(hkl, crystal.reciprocal, absorbing, *arguments)
    decay = np.exp(-2 * np.pi * u_prime * case.thickness / (k @ n))
    # w_g^2 on the diagonal makes the decay of each beam depend slightly on g.n
    assert np.sum(np.abs(lost) ** 2) == pytest.approx(decay, rel=5e-3)


def test_dense_bloch_two_beam_closed_form() -> None:
    crystal = cr.triclinic()
    direction, g, t = crystal.tilted(1.1, 200.0), (2, -1, 0), 150.0
    everything = potential_of(crystal)
    k = db.wave_vector(everything, WAVELENGTH, direction)
    # the closed form belongs to a surface on which both beams have the same normal component
    vector = crystal.reciprocal @ np.array(g)
    n = k - (k @ vector) / (vector @ vector) * vector
    n /= np.linalg.norm(n)
    hkl = np.array([(0, 0, 0), g])
    psi = db.dense_bloch_amplitudes(
        hkl, crystal.reciprocal, everything, WAVELENGTH, direction, n, t
    )
    s = db.excitation_errors(hkl, crystal.reciprocal, k)[1] * np.linalg.norm(k) / (k @ n)
    xi = (k @ n) / abs(everything(hkl[1:])[0])
    expected = np.sin(np.pi * t * np.hypot(s, 1 / xi)) ** 2 / (1 + (s * xi) ** 2)
    assert np.abs(psi[1]) ** 2 == pytest.approx(expected, rel=1e-9)
