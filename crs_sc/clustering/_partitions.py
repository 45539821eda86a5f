"""Clusters of a small set of cells from a choice of genes; plain arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from crs_sc.clustering._components import cross_products, leading, projected
from crs_sc.clustering._graph import fuzzy_graph
from crs_sc.clustering._leiden import Graph
from crs_sc.clustering._mixing import neighbours_of
from crs_sc.core.threads import thread_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["element_agreement", "like_columns", "partitions_of"]


def partitions_of(
    expression: sparse.csr_matrix,
    choices: Sequence[NDArray[np.intp]],
    *,
    n_comps: int,
    n_neighbors: int,
    resolution: float,
    random_state: int,
) -> list[NDArray[np.int64]]:
    """Leiden clusters of the same cells from several choices of the genes.

    One matrix of cross products serves all choices, so a choice costs its eigenvectors, the
    neighbours and one run of Leiden.

    Parameters
    ----------
    expression
        Log-normalised, shape `(n_cells, n_genes)`.
    choices
        Columns of each choice.
    n_comps, n_neighbors
        Principal components and neighbours.
    resolution
        Of Leiden.
    random_state
        Seed.

    Returns
    -------
    Clusters of each choice, shape `(n_cells,)` each.
    """
    products, mean = cross_products(expression)

    def points_of(columns: NDArray[np.intp]) -> NDArray[np.float32]:
        _, loadings = leading(products[np.ix_(columns, columns)], n_comps)
        return projected(expression[:, columns], mean[columns], loadings)

    # Only these: the random numbers of igraph are those of the whole process.
    with ThreadPoolExecutor(thread_count()) as workers:
        points = list(workers.map(points_of, choices))
    graphs = [Graph.of(fuzzy_graph(*neighbours_of(own, n_neighbors))) for own in points]
    return [graph.leiden(resolution, random_state=random_state) for graph in graphs]


def like_columns(
    means: NDArray[np.floating],
    wanted: NDArray[np.integer],
    free: NDArray[np.bool_],
    *,
    n_sets: int,
) -> list[NDArray[np.intp]]:
    """Choose sets of other columns whose means are as near as can be to those of some columns.

    Parameters
    ----------
    means
        Mean of each column.
    wanted
        Columns that the sets are to be like.
    free
        Whether a column may be in a set. None is in two.
    n_sets
        How many; fewer if there are not enough columns.

    Returns
    -------
    Columns of each set, in the order of `wanted`.
    """
    left = free.copy()
    left[wanted] = False
    sets: list[NDArray[np.intp]] = []
    for _ in range(n_sets):
        if left.sum() < len(wanted):
            break
        chosen = []
        for column in wanted:
            distance = np.where(left, np.abs(means - means[column]), np.inf)
            chosen.append(int(distance.argmin()))
            left[chosen[-1]] = False
        sets.append(np.array(chosen, dtype=np.intp))
    return sets


def element_agreement(one: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.float64]:
    """How much the company of each cell is the same in two partitions, 0 to 1.

    Element-centric similarity (Gates et al. 2019, doi:10.1038/s41598-019-44892-y), which for
    partitions is the size of what both clusters of the cell share over that of the larger.

    Parameters
    ----------
    one, other
        Cluster of each cell, from 0, shape `(n_cells,)`.

    Returns
    -------
    Shape `(n_cells,)`.
    """
    both = np.zeros((int(one.max()) + 1, int(other.max()) + 1))
    np.add.at(both, (one, other), 1)
    larger = np.maximum(both.sum(axis=1)[one], both.sum(axis=0)[other])
    return np.asarray(both[one, other] / larger)
