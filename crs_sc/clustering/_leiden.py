"""Leiden on a neighbour graph, and what subsamples say of its clusters; plain arrays."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc.core.parallel import parallel_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Graph", "Trials", "agreement", "best_matches", "by_size", "run_subsamples"]


@dataclass(frozen=True)
class Graph:
    """An undirected weighted graph, built once for all resolutions.

    Attributes
    ----------
    graph
        Of igraph.
    weights
        One an edge.
    """

    graph: Any
    weights: list[float]

    @classmethod
    def of(cls, adjacency: sparse.csr_matrix) -> Graph:
        """Build it from a symmetric matrix, shape `(n_cells, n_cells)`."""
        import igraph

        upper = sparse.triu(adjacency, k=1).tocoo()
        edges = np.stack([upper.row, upper.col], axis=1)
        return cls(igraph.Graph(n=adjacency.shape[0], edges=edges), upper.data.tolist())

    def leiden(self, resolution: float, *, random_state: int) -> NDArray[np.int64]:
        """Cluster of each cell: two iterations of Leiden on the modularity.

        Parameters
        ----------
        resolution
            Larger gives more clusters.
        random_state
            Seed.

        Returns
        -------
        Shape `(n_cells,)`, numbered by decreasing size.
        """
        import igraph

        if not self.weights:
            # Without an edge there is no modularity; every cell is its own cluster.
            return np.arange(self.graph.vcount(), dtype=np.int64)
        igraph.set_random_number_generator(random.Random(random_state))
        try:
            found = self.graph.community_leiden(
                "modularity", weights=self.weights, resolution=resolution, n_iterations=2
            )
        finally:
            igraph.set_random_number_generator(random)
        return by_size(np.asarray(found.membership, dtype=np.int64))


def by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber by decreasing size; equal sizes keep their order."""
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[labels]


@dataclass(frozen=True)
class Trials:
    """Partitions of some cells, and of random subsamples of them, at several resolutions.

    Attributes
    ----------
    labels
        Clusters of all these cells by resolution.
    subsamples
        For each subsample its cells, sorted, and their clusters by resolution.
    """

    labels: dict[float, NDArray[np.int64]]
    subsamples: list[tuple[NDArray[np.intp], dict[float, NDArray[np.int64]]]]

    def table(self) -> pd.DataFrame:
        """One row a resolution: how many clusters, and how well the subsamples agree with them."""
        rows = []
        for resolution, labels in self.labels.items():
            found = [agreement(labels[cells], own[resolution]) for cells, own in self.subsamples]
            rows.append((resolution, labels.max() + 1, np.mean(found), min(found), len(labels)))
        columns = ["resolution", "n_clusters", "stability", "stability_low", "n_cells"]
        return pd.DataFrame(rows, columns=columns).assign(stability_whole=np.nan)


def run_subsamples(
    adjacency: sparse.csr_matrix,
    *,
    resolutions: Sequence[float],
    share: float,
    n_subsamples: int,
    random_state: int,
    n_jobs: int,
) -> Trials:
    """Leiden at every resolution, in all cells and in random subsamples, each with another seed.

    The graph is restricted to the drawn cells, not made anew: the modularity of a partition is, in
    expectation, that of all cells (every weight and every product of degrees over the total
    shrinks by the same factor), so a resolution means the same, and no neighbour search is needed.

    Parameters
    ----------
    adjacency
        Symmetric, shape `(n_cells, n_cells)`.
    resolutions
        Each > 0.
    share
        Share of the cells that a subsample has.
    n_subsamples
        How many.
    random_state
        Seed of the partition of all cells.
    n_jobs
        Processes.
    """
    n_cells = adjacency.shape[0]
    rng = np.random.default_rng(random_state)
    size = max(1, round(share * n_cells))
    drawn = [
        np.sort(rng.choice(n_cells, size, replace=False)).astype(np.intp)
        for _ in range(n_subsamples)
    ]
    parts = [adjacency, *(sparse.csr_matrix(adjacency[cells][:, cells]) for cells in drawn)]
    calls = [(part, tuple(resolutions), random_state + i) for i, part in enumerate(parts)]
    labels, *found = parallel_map(_at_resolutions, calls, n_jobs=n_jobs)
    return Trials(labels, list(zip(drawn, found, strict=True)))


def _at_resolutions(
    adjacency: sparse.csr_matrix, resolutions: Sequence[float], seed: int
) -> dict[float, NDArray[np.int64]]:
    """Leiden clusters at each resolution."""
    graph = Graph.of(adjacency)
    return {r: graph.leiden(r, random_state=seed) for r in resolutions}


def agreement(one: NDArray[np.integer], other: NDArray[np.integer]) -> float:
    """Return the adjusted Rand index of two partitions of the same cells."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one, other))


def best_matches(
    labels: NDArray[np.integer], found: NDArray[np.integer], n_clusters: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hold the clusters against another partition of the same cells.

    The Jaccard coefficient is that of Hennig 2007 (doi:10.1016/j.csda.2006.11.025).

    Parameters
    ----------
    labels
        Cluster of each cell, from 0, shape `(n_cells,)`.
    found
        The other partition, shape `(n_cells,)`.
    n_clusters
        Number of clusters; those without a cell here have no match.

    Returns
    -------
    Largest Jaccard coefficient of each cluster with one of `found`, NaN without a cell, shape
    `(n_clusters,)`; and the share that each other cluster has of that match, shape
    `(n_clusters, n_clusters)`.
    """
    both = np.zeros((n_clusters, int(found.max()) + 1))
    np.add.at(both, (labels, found), 1)
    size, size_found = both.sum(axis=1, keepdims=True), both.sum(axis=0, keepdims=True)
    jaccard = both / (size + size_found - both)
    match = jaccard.argmax(axis=1)
    best = jaccard[np.arange(n_clusters), match]
    best[size.ravel() == 0] = np.nan
    return best, (both / size_found)[:, match].T
