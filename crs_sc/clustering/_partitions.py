"""Clusters of a small set of cells from a choice of genes; plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from crs_sc._arrays import row_chunks
from crs_sc.clustering._graph import fuzzy_graph
from crs_sc.clustering._leiden import Graph
from crs_sc.clustering._mixing import neighbours_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["components_of", "element_agreement", "like_columns", "partitions_of"]


def partitions_of(
    expression: NDArray[np.float64],
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
    mean = expression.mean(axis=0)
    products = _cross_products(expression, mean)
    found = []
    for columns in choices:
        loadings = _leading(products[np.ix_(columns, columns)], n_comps)
        points = _projected(expression[:, columns], mean[columns], loadings)
        graph = Graph.of(fuzzy_graph(*neighbours_of(points, n_neighbors)))
        found.append(graph.leiden(resolution, random_state=random_state))
    return found


def components_of(
    expression: sparse.csr_matrix, *, n_comps: int, max_cells: int = 20_000
) -> NDArray[np.float32]:
    """Principal components of all cells, shape `(n_cells, n_comps)`; fewer with few genes.

    Parameters
    ----------
    expression
        Log-normalised, shape `(n_cells, n_genes)`, a few thousand genes at the most.
    n_comps
        How many.
    max_cells
        Cells, evenly spread, that the directions are found from at the most.
    """
    n_cells = expression.shape[0]
    rows = np.linspace(0, n_cells - 1, min(n_cells, max_cells)).astype(np.intp)
    some = expression[rows].astype(np.float64)
    mean = np.asarray(some.mean(axis=0)).ravel()
    products = _cross_products(some, mean)
    loadings = _leading(products, min(n_comps, *expression.shape))
    return _projected(expression, mean, loadings)


def _cross_products(
    expression: NDArray[np.floating] | sparse.csr_matrix, mean: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Cross products of the centred genes, shape `(n_genes, n_genes)`."""
    products = np.zeros((expression.shape[1], expression.shape[1]))
    # Dense chunks: selected genes are too often seen for a product of sparse matrices to be quick.
    for rows in row_chunks(expression.shape[0], size=4000):
        part: Any = expression[rows]
        some = np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)
        products += some.T @ some
    return np.asarray(products - expression.shape[0] * np.outer(mean, mean), dtype=np.float64)


def _projected(
    expression: NDArray[np.floating] | sparse.csr_matrix,
    mean: NDArray[np.floating],
    loadings: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Cells along the loadings, centred."""
    return np.asarray(expression @ loadings - mean @ loadings, dtype=np.float32)


def _leading(matrix: NDArray[np.float64], n_vectors: int) -> NDArray[np.float64]:
    """Eigenvectors of the largest eigenvalues of a symmetric matrix as columns, largest first."""
    from scipy.sparse.linalg import eigsh

    n = len(matrix)
    if n < 5 * n_vectors:
        return np.asarray(np.linalg.eigh(matrix)[1][:, ::-1][:, :n_vectors])
    # A fixed start: the default one is random.
    return np.asarray(eigsh(matrix, k=n_vectors, v0=np.ones(n))[1][:, ::-1])


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
