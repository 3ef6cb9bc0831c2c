"""Dense Bloch-wave reference (test-only): the structure matrix and scipy.linalg.expm.

    d psi/dz = 2 pi i M psi,  psi(0) = delta_(g,0),  z along the unit normal n,
    M_gg = w_g^2 (K S_g + i U'_0/2) / K_n,  M_gh = w_g w_h U_(g-h) / (2 K_n),
    K S_g = (K^2 - |K+g|^2)/2,  K_n = K.n,  w_g = (1 + g.n/K_n)^(-1/2),  K^2 = 1/lambda^2 + Re U_0.

The potential may be complex in the sense U_g + i U'_g (absorption), M is then not Hermitian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Union

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]
Potential = Union[Callable[[IntArray], ComplexArray], Mapping[tuple[int, int, int], complex]]
Coupling = Literal["flux", "on_shell"]


def _evaluate(potential: Potential, hkl: IntArray) -> ComplexArray:
    if isinstance(potential, Mapping):
        return np.array([potential[h, k, m] for h, k, m in hkl.tolist()], dtype=complex)
    return np.asarray(potential(hkl), dtype=complex)


def _unit(vector: ArrayLike) -> FloatArray:
    v = np.asarray(vector, dtype=float)
    return np.asarray(v / np.linalg.norm(v))


def wave_vector(potential: Potential, wavelength: float, direction: ArrayLike) -> FloatArray:
    """K inside the crystal: along ``direction``, K^2 = 1/lambda^2 + Re U_0."""
    mean = _evaluate(potential, np.zeros((1, 3), dtype=np.int64))[0].real
    return np.asarray(np.sqrt(1.0 / wavelength**2 + mean) * _unit(direction))


def flux_weights(
    hkl: ArrayLike,
    reciprocal_basis: FloatArray,
    k_vector: FloatArray,
    normal: ArrayLike,
    *,
    coupling: Coupling = "flux",
) -> FloatArray:
    """w_g: the plain-wave amplitude of beam g is w_g psi_g."""
    n = _unit(normal)
    k_n = float(k_vector @ n)
    beam = k_vector + np.asarray(hkl) @ reciprocal_basis.T
    k_z = beam @ n
    if coupling == "on_shell":
        lateral = np.sum((beam - np.outer(k_z, n)) ** 2, axis=1)
        k_z = np.sqrt(k_vector @ k_vector - lateral)
    return np.asarray(np.sqrt(k_n / k_z))


def excitation_errors(
    hkl: ArrayLike, reciprocal_basis: FloatArray, k_vector: FloatArray
) -> FloatArray:
    """S_g = (K^2 - |K+g|^2)/(2 K)."""
    g = np.asarray(hkl) @ reciprocal_basis.T
    return np.asarray(-(2 * g @ k_vector + np.sum(g * g, axis=-1)) / (2 * np.linalg.norm(k_vector)))


def structure_matrix(
    hkl: ArrayLike,
    reciprocal_basis: FloatArray,
    potential: Potential,
    wavelength: float,
    direction: ArrayLike,
    normal: ArrayLike,
    *,
    coupling: Coupling = "flux",
) -> ComplexArray:
    """M (N, N) in 1/Angstrom.

    ``coupling="on_shell"`` is what a multislice with the exact propagator converges to:
    M_gg = K_z - K_n - g.n with K_z = sqrt(K^2 - |K_t + g_t|^2), and K_z in place of K_n + g.n in
    w.  The two forms agree to order S^2/K in M_gg.  That difference is nothing for beams near the
    Ewald sphere, but turns the phase of beams far from it (HOLZ with S about 0.2: by about
    pi t S^2/K), which matters where such beams are summed with the strong ones at the exit face.
    """
    index = np.asarray(hkl, dtype=np.int64)
    n = _unit(normal)
    k = wave_vector(potential, wavelength, direction)
    k_n = float(k @ n)
    difference = index[:, None, :] - index[None, :, :]
    u = _evaluate(potential, difference.reshape(-1, 3)).reshape(len(index), len(index))
    matrix = u / (2.0 * k_n)
    absorbing = 1j * np.diagonal(u).imag / (2.0 * k_n)
    w = flux_weights(index, reciprocal_basis, k, n, coupling=coupling)
    if coupling == "on_shell":
        g = index @ reciprocal_basis.T
        np.fill_diagonal(matrix, (k_n / w**2 - k_n - g @ n) / w**2 + absorbing)
        return np.asarray(w[:, None] * matrix * w[None, :])
    k_s = np.linalg.norm(k) * excitation_errors(index, reciprocal_basis, k)
    np.fill_diagonal(matrix, k_s / k_n + absorbing)
    return np.asarray(w[:, None] * matrix * w[None, :])


def dense_bloch_amplitudes(
    hkl: ArrayLike,
    reciprocal_basis: FloatArray,
    potential: Potential,
    wavelength: float,
    direction: ArrayLike,
    normal: ArrayLike,
    thickness: float,
    *,
    coupling: Coupling = "flux",
) -> ComplexArray:
    """psi_g at the exit face, depth ``thickness`` along ``normal``; |psi_g|^2 is the flux.

    ``hkl`` (N, 3) must hold (0, 0, 0), the incident beam.  ``reciprocal_basis`` has columns
    a*, b*, c* in the Cartesian frame of ``direction`` (along K) and ``normal`` (into the crystal).
    ``potential`` maps an integer array (M, 3) to U, or is a dict (h, k, l) -> U that holds every
    difference of two beams.
    """
    index = np.asarray(hkl, dtype=np.int64)
    (origin,) = np.nonzero(~index.any(axis=1))
    if len(origin) != 1:
        raise ValueError("the list of beams must hold (0, 0, 0) once")
    matrix = structure_matrix(
        index, reciprocal_basis, potential, wavelength, direction, normal, coupling=coupling
    )
    column = scipy.linalg.expm(2j * np.pi * thickness * matrix)[:, origin[0]]
    return np.asarray(column)


def select_beams(
    reciprocal_basis: FloatArray,
    k_vector: FloatArray,
    normal: ArrayLike,
    *,
    g_max: float,
    s_max: float,
    l_max: int,
) -> IntArray:
    """All hkl with |l| <= l_max, in-surface component of g up to g_max and |S_g| <= s_max."""
    n = _unit(normal)
    basis = np.linalg.inv(reciprocal_basis)
    reach = [int(np.ceil(g_max * np.linalg.norm(row))) for row in basis[:2]]
    ranges = [np.arange(-r, r + 1) for r in (*reach, l_max)]
    hkl = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ reciprocal_basis.T
    lateral = np.linalg.norm(g - np.outer(g @ n, n), axis=1)
    s = excitation_errors(hkl, reciprocal_basis, k_vector)
    return np.asarray(hkl[(lateral <= g_max) & (np.abs(s) <= s_max)], dtype=np.int64)


def rod_amplitudes(
    hkl: ArrayLike, psi: ComplexArray, weights: FloatArray | None = None
) -> dict[tuple[int, int], complex]:
    """{(h, k): sum_l w psi_hkl}: the Fourier components of the exit wave after whole cells."""
    amplitude = psi if weights is None else psi * weights
    rods: dict[tuple[int, int], complex] = {}
    for (h, k, _), value in zip(np.asarray(hkl).tolist(), amplitude.tolist()):
        rods[h, k] = rods.get((h, k), 0.0) + value
    return rods
