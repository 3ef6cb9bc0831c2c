"""One slope with its standard uncertainty, after other terms are taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from scipy.sparse.linalg import lsqr

_Array = NDArray[np.float64]

#: fewest data beyond the number of fitted terms
_LEAST_FREEDOM = 30

#: fewest clusters from which their scatter is known
_LEAST_CLUSTERS = 20

#: degrees of rotation that share one scale
STRETCH = 5.0

#: tolerance of the sparse least squares, far below any standard uncertainty
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Slope:
    """A slope of n data and its standard uncertainty."""

    value: float
    su: float
    n: int


def indicator(labels: NDArray[np.int64]) -> csr_matrix:
    """Columns that are 1 for each label (n,) in turn."""
    _, column = np.unique(labels, return_inverse=True)
    n = len(labels)
    return csr_matrix((np.ones(n), (np.arange(n), column)))


def stretches(experiment: NDArray[np.int64], phi: _Array) -> NDArray[np.int64]:
    """A number (n,) that observations within the same few degrees of a scan share."""
    number = np.floor(phi / STRETCH).astype(np.int64)
    return experiment * 1_000_000 + number - (number.min() if len(number) else 0)


def slope(
    y: _Array, x: _Array, others: list[csr_matrix], clusters: NDArray[np.int64]
) -> Slope | None:
    """The slope of y on x by least squares with the columns of ``others``; None for too few data.

    By the theorem of Frisch & Waugh (1933), Econometrica 1, 387-401: both are freed of the other terms
    first. The uncertainty allows for residuals that differ in size and that are related within a
    cluster (Liang & Zeger (1986), Biometrika 73, 13-22).

    Args:
        y, x: shape (n,).
        others: matrices with n rows.
        clusters: shape (n,), labels.
    """
    columns = hstack(others).tocsr()
    _, cluster = np.unique(clusters, return_inverse=True)
    if len(y) - columns.shape[1] < _LEAST_FREEDOM or cluster.max() + 1 < _LEAST_CLUSTERS:
        return None

    def freed(values: _Array) -> _Array:
        fit = lsqr(columns, values, atol=_TOLERANCE, btol=_TOLERANCE, iter_lim=2000)[0]
        return np.asarray(values - columns @ fit)

    x_free, y_free = freed(x), freed(y)
    normal = float(x_free @ x_free)
    if normal <= 1e-9 * float(x @ x):
        return None
    value = float(x_free @ y_free) / normal
    share = x_free * (y_free - value * x_free)
    # the residuals are smaller than the errors for the terms that were fitted
    freedom = len(y) / (len(y) - columns.shape[1])
    meat = float((np.bincount(cluster, share) ** 2).sum()) * freedom
    return Slope(value, float(np.sqrt(meat)) / normal, len(y))
