"""Kernels of the neighbour graph: UMAP's weights of the edges, without its compilation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["distance_matrix", "fuzzy_graph", "without_self"]

# As in umap-learn: accuracy of the bandwidth, most steps of its search, and its smallest value as
# a share of the mean distance.
_TOLERANCE, _STEPS, _MIN_SCALE = 1e-5, 64, 1e-3


def distance_matrix(
    indices: NDArray[np.int64], distances: NDArray[np.float32]
) -> sparse.csr_matrix:
    """Neighbours as a matrix, `(n_cells, n_cells)`, each cell's own entry left out.

    Parameters
    ----------
    indices, distances
        From `without_self`, shape `(n_cells, k)`.
    """
    n_cells, k = indices.shape
    pointers = np.arange(0, n_cells * k + 1, k)
    return sparse.csr_matrix(
        (distances.ravel(), indices.ravel().astype(np.int32), pointers), shape=(n_cells, n_cells)
    )


def without_self(
    indices: NDArray[np.int64], distances: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Drop each cell from its own neighbours; the farthest where a copy stands in its place.

    Parameters
    ----------
    indices, distances
        Shape `(n_cells, k)`, nearest first.
    """
    n_cells, k = indices.shape
    is_self = indices == np.arange(n_cells)[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = (n_cells, k - 1)
    return indices[~is_self].reshape(shape), distances[~is_self].reshape(shape)


def fuzzy_graph(
    indices: NDArray[np.int64], distances: NDArray[np.float32], *, size: int = 50_000
) -> sparse.csr_matrix:
    """Weights of the edges as in UMAP (`fuzzy_simplicial_set` with its defaults).

    The nearest neighbour has weight 1; the others fall off exponentially, at a rate by which the
    weights of a cell add up to `log2(k + 1)`. The two directions are joined by `a + b - a b`.

    Parameters
    ----------
    indices, distances
        Shape `(n_cells, k)`, without the cell itself.
    size
        Cells at a time.

    Returns
    -------
    Symmetric CSR of float32, `(n_cells, n_cells)`.

    References
    ----------
    McInnes et al. 2018, arXiv:1802.03426.
    """
    mean = float(distances.mean(dtype=np.float64)) * distances.shape[1] / (distances.shape[1] + 1)
    weights = np.empty(distances.shape, dtype=np.float32)
    for start in range(0, len(distances), size):
        rows = slice(start, start + size)
        weights[rows] = _directed_weights(distances[rows].astype(np.float64), mean)
    directed = distance_matrix(indices, weights)
    directed.eliminate_zeros()
    reverse = directed.T.tocsr()
    graph = sparse.csr_matrix(directed + reverse - directed.multiply(reverse))
    graph.sort_indices()
    return graph


def _directed_weights(distances: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """Weights of the neighbours of each cell; `mean` is that of the distances of all cells."""
    n_cells, k = distances.shape
    target = np.log2(k + 1)
    nearest = np.where(distances > 0, distances, np.inf).min(axis=1)
    nearest[~np.isfinite(nearest)] = 0
    beyond = np.maximum(distances - nearest[:, None], 0)
    low, high, scale = np.zeros(n_cells), np.full(n_cells, np.inf), np.ones(n_cells)
    active = np.arange(n_cells)
    for _ in range(_STEPS):
        total = np.exp(-beyond[active] / scale[active, None]).sum(axis=1)
        active, total = active[far := np.abs(total - target) >= _TOLERANCE], total[far]
        if not len(active):
            break
        wide = total > target
        high[active[wide]] = scale[active[wide]]
        low[active[~wide]] = scale[active[~wide]]
        scale[active] = np.where(
            np.isinf(high[active]), 2 * scale[active], (low[active] + high[active]) / 2
        )
    # A cell whose neighbours are all copies of it is compared with the whole cohort.
    own = distances.sum(axis=1) / (k + 1)
    scale = np.maximum(scale, _MIN_SCALE * np.where(nearest > 0, own, mean))
    fall = np.divide(beyond, scale[:, None], out=np.zeros_like(beyond), where=scale[:, None] > 0)
    weights: NDArray[np.float64] = np.exp(-fall)
    return weights
