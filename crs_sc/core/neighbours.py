"""The neighbour graph: nearest neighbours by faiss, and UMAP's weights of the edges.

Neighbours are exact up to some 30,000 points, above by an index of known recall; the result does
not depend on the number of threads. The weights are those of `scanpy.pp.neighbors`, which a test
holds them against: scanpy's come with the import of umap and its compilation, 14 and 7 seconds in
every process, for half a second of work in 50,000 cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from crs_sc.core.threads import thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["distance_matrix", "fuzzy_graph", "nearest_neighbours", "neighbours_of"]

# Settings of faiss for the exact search, which change its speed only: distances that stay in the
# cache of the processor, and a reservoir instead of a heap from so many neighbours on.
_FAST = {"distance_compute_blas_query_bs": 1024, "distance_compute_min_k_reservoir": 50}
# As in umap-learn: accuracy of the bandwidth, most steps of its search, and its smallest value as
# a share of the mean distance.
_TOLERANCE, _STEPS, _MIN_SCALE = 1e-5, 64, 1e-3


def nearest_neighbours(
    points: NDArray[np.floating],
    *,
    k: int,
    max_exact: int = 30_000,
    min_recall: float = 0.98,
    n_checked: int = 1000,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest neighbours of each point, itself among them.

    Euclidean distance in float32; `points` are of shape `(n_points, n_dimensions)`, and `k` counts
    the point itself. Up to `max_exact` points all distances are computed. Above, an inverted file
    searches as many of its lists as it takes to give `min_recall` of the exact neighbours of
    `n_checked` points, evenly spread.

    Indices and distances, each `(n_points, k)`, nearest first.
    """
    import faiss
    from threadpoolctl import threadpool_limits

    data = np.ascontiguousarray(points, dtype=np.float32)
    before = faiss.omp_get_max_threads()
    settings = {name: getattr(faiss.cvar, name) for name in _FAST}
    # One thread of the linear algebra, so that each distance is the same with any number of them;
    # the points are shared out among the others.
    with threadpool_limits(limits=1, user_api="blas"):
        faiss.omp_set_num_threads(thread_count())
        _set(_FAST)
        try:
            exact = faiss.IndexFlatL2(data.shape[1])
            exact.add(data)
            index = exact
            if len(data) > max_exact:
                checked = np.linspace(0, len(data) - 1, n_checked).astype(np.int64)
                known = exact.search(data[checked], k)[1]
                index = _inverted_file(data, data[checked], known, min_recall=min_recall)
            squared, indices = index.search(data, k)
        finally:
            faiss.omp_set_num_threads(before)
            _set(settings)
    return indices, np.sqrt(np.maximum(squared, 0))


def _set(settings: dict[str, int]) -> None:
    """Change what faiss holds for the whole process."""
    import faiss

    for name, value in settings.items():
        setattr(faiss.cvar, name, value)


def _inverted_file(
    data: NDArray[np.float32],
    checked: NDArray[np.float32],
    known: NDArray[np.int64],
    *,
    min_recall: float,
) -> Any:
    """Cells of a k-means partition, of which a search looks at the `nprobe` nearest."""
    import faiss

    n_lists = round(2 * np.sqrt(len(data)))
    centres = faiss.IndexFlatL2(data.shape[1])
    index = faiss.IndexIVFFlat(centres, data.shape[1], n_lists)
    index.cp.niter = 10
    index.cp.max_points_per_centroid = 64
    index.train(data)
    index.add(data)
    index.nprobe = 8
    while index.nprobe < n_lists:
        if shared(index.search(checked, known.shape[1])[1], known) >= min_recall:
            break
        index.nprobe = min(round(1.5 * index.nprobe), n_lists)
    return index


def shared(given: NDArray[np.int64], known: NDArray[np.int64]) -> float:
    """Share of the known neighbours that are given, over all points (the recall)."""
    n_points = int(max(given.max(), known.max())) + 1
    row = np.arange(len(known))[:, None] * n_points
    return float(np.isin(known + row, given + row).mean())


def neighbours_of(
    points: NDArray[np.floating], n_neighbors: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest other points of each point and their distances, nearest first.

    Where copies of a point stand in its place, the farthest is left out instead of itself.
    Both are of shape `(n_points, n_neighbors)`; `n_neighbors` is below the number of points.
    """
    indices, distances = nearest_neighbours(points, k=n_neighbors + 1)
    is_self = indices == np.arange(len(indices))[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(indices), n_neighbors)
    return indices[~is_self].reshape(shape), distances[~is_self].reshape(shape)


def distance_matrix(
    indices: NDArray[np.int64], distances: NDArray[np.float32]
) -> sparse.csr_matrix:
    """Neighbours from `neighbours_of` as a matrix, `(n_cells, n_cells)`."""
    n_cells, k = indices.shape
    pointers = np.arange(0, n_cells * k + 1, k)
    return sparse.csr_matrix(
        (distances.ravel(), indices.ravel().astype(np.int32), pointers), shape=(n_cells, n_cells)
    )


def fuzzy_graph(
    indices: NDArray[np.int64], distances: NDArray[np.float32], *, size: int = 50_000
) -> sparse.csr_matrix:
    """Weights of the edges as in UMAP (`fuzzy_simplicial_set` with its defaults).

    The nearest neighbour has weight 1; the others fall off exponentially, at a rate by which the
    weights of a cell add up to `log2(k + 1)`. The two directions are joined by `a + b - a b`.
    McInnes et al. 2018, arXiv:1802.03426.

    `indices` and `distances` are those of `neighbours_of`, `(n_cells, k)`; `size` cells are worked
    on at a time. Symmetric CSR of float32, `(n_cells, n_cells)`.
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
    reference = np.where(nearest > 0, distances.sum(axis=1) / (k + 1), mean)
    scale = np.maximum(scale, _MIN_SCALE * reference)
    fall = np.divide(beyond, scale[:, None], out=np.zeros_like(beyond), where=scale[:, None] > 0)
    weights: NDArray[np.float64] = np.exp(-fall)
    return weights
