"""What a batch shows beyond its single runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dials_hybrid_refine.collection.agreement import JointHand, high_outliers, joint_hands
from dials_hybrid_refine.collection.cells import CellCluster, cell_clusters
from dials_hybrid_refine.collection.failures import FailureGroup, failure_groups
from dials_hybrid_refine.collection.run import FAILED, Collection


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    clusters: by unit cell; members are indices of ``Collection.finished``.
    outliers: those whose R factor is far above that of others of their cluster, likewise.
    hands: the tests of the hand, for each starting structure.
    failures: by reason.
    """

    clusters: Sequence[CellCluster]
    outliers: frozenset[int]
    hands: Sequence[JointHand]
    failures: Sequence[FailureGroup]

    def cluster_of(self, index: int) -> int:
        """The cluster, counted from 1, of a run with results."""
        return next(n for n, c in enumerate(self.clusters, 1) if index in c.members)


def compare(collection: Collection, tolerance: float) -> Comparison:
    """Compare runs; ``tolerance``: of ``cell_clusters``."""
    results = [result for _, result in collection.finished]
    clusters = cell_clusters(
        [result.unit_cell for result in results],
        [result.space_group for result in results],
        tolerance,
    )
    outliers = set()
    for cluster in clusters:
        factors = [
            results[i].r_obs if results[i].r_obs_held_out is None else results[i].r_obs_held_out
            for i in cluster.members
        ]
        outliers |= {cluster.members[k] for k in high_outliers(factors)}
    return Comparison(
        clusters,
        frozenset(outliers),
        joint_hands([(result.model, result.hand) for result in results]),
        failure_groups(collection.with_status(FAILED)),
    )
