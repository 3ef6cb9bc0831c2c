"""Real-space multislice of a crystal on its own, possibly triclinic, lattice (test-only).

An independent check of signs and handedness.  It shares no formula with a Bloch-wave program
beyond the wave equation, and takes plain arrays.

Conventions
-----------
The wave obeys  nabla^2 Psi + 4 pi^2 (1/lambda^2 + U(r)) Psi = 0  with U > 0 at the atoms, U in
1/Angstrom^2, and the incident wave is exp(+2 pi i K.r) with K into the crystal,
K^2 = 1/lambda^2 + U_0 (U_0 is then left out of U(r), which hence has zero mean; an imaginary
U_0 stays).  U(r) = sum_g U_g exp(+2 pi i g.r), so

    U_g = gamma/(pi Omega) sum_j occ_j f_j(|g|/2) exp(-2 pi^2 g.u_j.g) exp(-2 pi i g.r_j).

*Propagator.*  Without U, Psi = exp(2 pi i [(K_t + q).r_t + K_z(q) z]) with z along the surface
normal n and K_z(q) = sqrt(K^2 - |K_t + q|^2), for the tangential wave vector K_t + q of the beam
with two-dimensional reciprocal vector q.  The envelope psi = Psi exp(-2 pi i K.r) therefore gets
exp(+2 pi i dz (K_z(q) - K_z(0))).  For small q this is exp(-i pi dz (q^2 + 2 K_t.q)/K_z): a minus
sign, which belongs together with the plus sign of the transmission function.  No small-angle
approximation is made; the tilt of the beam is K_t.

*Transmission.*  Putting Psi = psi exp(2 pi i K.r) with slowly varying psi into the wave equation,
4 pi i K_n d(psi)/dz + 4 pi^2 U psi = 0 for a thin slice, so psi gets exp(+i pi/K_n int U dz).
This is ``transmission="phase_grating"``, the textbook multislice.  It has two small defects.  The
beam q should have K_z(q) in place of K_n, a relative error (K_z(q) - K_n)/K_n of the coupling
(1-2 % where the surface is inclined by 20 degrees).  And because the wave is cut at ``g_max`` in
every slice, scattering twice inside one slice by way of a beam outside the cut is lost: an error
of first order in the slice thickness.  ``transmission="flux"`` has neither: with
v_q = (K_n/K_z(q))^(1/2) (0 outside the cut) and F the Fourier transform, the wave gets
exp(i pi/K_n v F (int U dz) F^-1 v), summed as a power series of multiplications in real space.

*Oblique lattice.*  n is along c*, a and b span the surface.  r = x a + y b + zeta c, so the grid
(x, y) slides with the in-plane part c_t of c as depth z = zeta (c.n) grows.  In that grid a beam
q = h a2 + k b2 (a2, b2 dual to a, b in the plane) gets the additional phase
exp(2 pi i zeta q.c_t), put into the propagator of each slice: nothing is interpolated.

*Slices.*  U is integrated analytically over zeta in each slice (at constant x, y) from its
three-dimensional Fourier coefficients, l up to ``l_max``: no projected-potential approximation,
HOLZ included.  The slices are applied symmetrically (half propagation, transmission, half
propagation), the error of which is second order in the slice thickness.

*Exit wave.*  After a whole number of cells every exp(2 pi i l zeta) is 1 and the amplitude of
(h, k) is sum_l phi_hkl of the Bloch-wave amplitudes phi (of exp(2 pi i (K + g).r); they are
w_g psi_g where the Bloch program works with flux-normalised psi_g).

Checked against another program
-------------------------------
torch-scattering 0.6.0 (PyPI, BSD; itself not used by the tests): crystal ``orthogonal()`` on axis,
200 kV, voxels of 0.15 Angstrom (32 x 40 x 28), float64, 48 cells (201.6 Angstrom, I_000 = 0.21),
``transmission="phase_grating", propagator="fresnel", g_max=inf``; all beams below 1.3 1/Angstrom.
Rel. is ``intensity_disagreement``, abs. the largest difference of an intensity.

    their potential                            abs.     rel.
    these slices, -V, result conjugated        3.5e-6   2.1e-5
    Gaussians sampled in real space, the same  3.4e-5   2.7e-4
    these slices, +V as documented             0.46     1.2
    (here: the inverted structure)             0.11     1.05

It must be given -V because its transmission exp(+i sigma V dz) is combined with a propagator
exp(+i pi lambda dz k^2): the two signs do not belong to the same wave (see *Propagator* above; a
Fresnel propagator for exp(+2 pi i K.r) has the minus sign), so that it simulates the complex
conjugate of a wave in the potential -V.  Both signs taken from the program as they are, it fits
neither hand of the crystal.  Its check of the machinery (potential, units, FFT, slices) holds;
the sign rests on the derivation above and on the agreement with the Bloch waves.
With the exact propagator the difference to theirs is 1.3e-4.

Reached against dense Bloch waves: see ``tests/test_multislice_reference.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BeamAmplitudes = dict[tuple[int, int], complex]

_COMPTON = 0.02426310239  # h/(mc), Angstrom


def _indices(n: int) -> NDArray[np.int64]:
    """Indices -n/2..n/2 in the order of an FFT of length n."""
    return np.asarray(np.rint(np.fft.fftfreq(n, 1.0 / n)), dtype=np.int64)


def fourier_potential(
    basis: FloatArray,
    frac: FloatArray,
    factors: Sequence[Callable[[FloatArray], NDArray[np.generic]]],
    u_cart: FloatArray,
    wavelength: float,
    hkl: ArrayLike,
    occupancies: ArrayLike | None = None,
) -> ComplexArray:
    """U_g (1/Angstrom^2) for integer ``hkl`` (..., 3), from Cartesian positions.

    A factor f(s) may be complex (f + i f' with f' > 0 absorbs); it is never conjugated.
    """
    a, b, c = np.asarray(basis, dtype=float)
    volume = float(a @ np.cross(b, c))
    index = np.asarray(hkl, dtype=float)
    g = (
        index[..., 0:1] * np.cross(b, c)
        + index[..., 1:2] * np.cross(c, a)
        + index[..., 2:3] * np.cross(a, b)
    ) / volume
    s = 0.5 * np.sqrt(np.sum(g**2, axis=-1))
    occ = np.ones(len(frac)) if occupancies is None else np.asarray(occupancies, dtype=float)
    total = np.zeros(s.shape, dtype=complex)
    for x, f, u, o in zip(frac, factors, u_cart, occ):
        position = x[0] * a + x[1] * b + x[2] * c
        debye = np.exp(-2 * np.pi**2 * np.sum((g @ u) * g, axis=-1))
        total += o * np.asarray(f(s)) * debye * np.exp(-2j * np.pi * (g @ position))
    gamma = float(np.sqrt(1.0 + (_COMPTON / wavelength) ** 2))
    return np.asarray(total * gamma / (np.pi * abs(volume)), dtype=np.complex128)


def slice_potentials(
    basis: FloatArray,
    frac: FloatArray,
    factors: Sequence[Callable[[FloatArray], NDArray[np.generic]]],
    u_cart: FloatArray,
    wavelength: float,
    *,
    shape: tuple[int, int],
    n_slices: int,
    l_max: int,
    q_max: float = np.inf,
    occupancies: ArrayLike | None = None,
) -> ComplexArray:
    """int U dz of every slice of one cell, (n_slices, nx, ny), 1/Angstrom, without Re U_0.

    Grid point (i, j) lies at x = i/nx, y = j/ny; slice m holds m <= n_slices zeta < m + 1.
    Coefficients with a two-dimensional |q| > ``q_max`` are left out.
    """
    h, k = _indices(shape[0]), _indices(shape[1])
    levels = np.arange(-l_max, l_max + 1)
    hkl = np.stack(np.meshgrid(h, k, levels, indexing="ij"), axis=-1)
    u = fourier_potential(basis, frac, factors, u_cart, wavelength, hkl, occupancies)
    u[0, 0, l_max] -= u[0, 0, l_max].real
    q = h[:, None, None] * _surface_dual(basis)[0] + k[None, :, None] * _surface_dual(basis)[1]
    u[np.linalg.norm(q, axis=-1) > q_max] = 0.0
    for axis, n in enumerate(shape):  # an unpaired Nyquist row would make U(r) complex
        if n % 2 == 0:
            np.moveaxis(u, axis, 0)[n // 2] = 0.0
    repeat = _normal(basis) @ basis[2]
    middle = (np.arange(n_slices) + 0.5) / n_slices
    weights = np.exp(2j * np.pi * np.outer(levels, middle))
    weights *= (np.sinc(levels / n_slices) * repeat / n_slices)[:, None]
    coefficients = np.moveaxis(u @ weights, -1, 0)
    return np.asarray(np.fft.ifft2(coefficients, norm="forward"))


def multislice(
    basis: FloatArray,
    frac: FloatArray,
    factors: Sequence[Callable[[FloatArray], NDArray[np.generic]]],
    u_cart: FloatArray,
    wavelength: float,
    direction: ArrayLike,
    n_cells: int,
    *,
    g_max: float,
    n_slices: int,
    l_max: int,
    shape: tuple[int, int] | None = None,
    occupancies: ArrayLike | None = None,
    transmission: Literal["phase_grating", "flux"] = "flux",
    propagator: Literal["exact", "fresnel"] = "exact",
) -> BeamAmplitudes:
    """Exit amplitudes {(h, k): sum_l phi_hkl} after ``n_cells`` repeats along c.

    ``basis`` has rows a, b, c (right-handed, Cartesian, Angstrom); ``direction`` is along K in the
    same frame, with a positive component along n = c*/|c*|; ``n_slices`` slices per cell.  Beams
    have |q| <= ``g_max`` (q: component of g in the surface).  ``shape`` defaults to a grid on which
    products of potential and wave do not alias into these beams; a given shape is not checked
    (``g_max=inf`` then keeps every beam of the grid).  ``propagator="fresnel"`` is the small-angle
    form, for comparison with other programs only.
    """
    basis = np.asarray(basis, dtype=float)
    normal, dual = _normal(basis), _surface_dual(basis)
    if shape is None:
        reach = [g_max * np.linalg.norm(v) for v in basis[:2]]
        shape = (_fast_length(4 * int(reach[0]) + 2), _fast_length(4 * int(reach[1]) + 2))

    atoms = (basis, frac, factors, u_cart, wavelength)
    mean = fourier_potential(*atoms, np.zeros((1, 3)), occupancies)[0].real
    wave_number = np.sqrt(1.0 / wavelength**2 + mean)
    unit = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    wave_vector = wave_number * unit
    k_n = float(wave_vector @ normal)
    if k_n <= 0:
        raise ValueError("the beam must enter through the face: direction.n > 0")

    h, k = _indices(shape[0]), _indices(shape[1])
    q = h[:, None, None] * dual[0] + k[None, :, None] * dual[1]
    open_beams = np.linalg.norm(q, axis=-1) <= g_max
    tangential = wave_vector - k_n * normal
    lateral = np.sum((tangential + q) ** 2, axis=-1) - tangential @ tangential
    if propagator == "exact":
        shift = np.sqrt(np.maximum(k_n**2 - lateral, 0.0)) - k_n
    else:
        shift = -lateral / (2.0 * k_n)
    c_n = float(basis[2] @ normal)
    c_t = basis[2] - c_n * normal
    half = np.exp(1j * np.pi / n_slices * (c_n * shift + q @ c_t)) * open_beams

    projected = slice_potentials(
        *atoms,
        shape=shape,
        n_slices=n_slices,
        l_max=l_max,
        q_max=2.0 * g_max,
        occupancies=occupancies,
    )
    weight = np.sqrt(k_n / (k_n + shift)) * open_beams
    grating = np.exp(1j * np.pi / k_n * projected)

    def transmit(wave: ComplexArray, index: int) -> ComplexArray:
        if transmission == "phase_grating":
            return np.asarray(np.fft.fft2(np.fft.ifft2(wave) * grating[index]))
        factor = 1j * np.pi / k_n * projected[index]
        result, term, order = wave.copy(), wave, 0
        while np.max(np.abs(term)) > 1e-13:
            order += 1
            term = weight * np.fft.fft2(np.fft.ifft2(weight * term) * factor) / order
            result += term
        return result

    wave = np.zeros(shape, dtype=complex)
    wave[0, 0] = 1.0
    full = half * half
    wave *= half
    for step in range(n_cells * n_slices):
        if step:
            wave *= full
        wave = transmit(wave, step % n_slices)
    wave *= half
    if transmission == "flux":
        wave *= weight
    rows, columns = np.nonzero(open_beams)
    return {(int(h[i]), int(k[j])): complex(wave[i, j]) for i, j in zip(rows, columns)}


def intensity_disagreement(first: BeamAmplitudes, second: BeamAmplitudes) -> float:
    """sum |I_1 - I_2| over all (h, k), relative to the sum of I_2 without the direct beam."""
    total = 0.0
    for beam in first.keys() | second.keys():
        total += abs(abs(first.get(beam, 0.0)) ** 2 - abs(second.get(beam, 0.0)) ** 2)
    return total / sum(abs(v) ** 2 for beam, v in second.items() if beam != (0, 0))


def _normal(basis: FloatArray) -> FloatArray:
    n = np.cross(basis[0], basis[1])
    return np.asarray(n / np.linalg.norm(n))


def _surface_dual(basis: FloatArray) -> FloatArray:
    """Rows a2, b2: in the plane of a and b, a2.a = b2.b = 1, a2.b = b2.a = 0."""
    n = _normal(basis)
    area = float(np.linalg.norm(np.cross(basis[0], basis[1])))
    return np.stack([np.cross(basis[1], n), np.cross(n, basis[0])]) / area


def _fast_length(n: int) -> int:
    """The next length that has no prime factor above 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
