"""Nearest neighbours by faiss: exact up to some 30,000 points, above by an index of known recall.

No part of it is compiled at run time, and the result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crs_sc.core.threads import thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["nearest_neighbours"]

# Settings of faiss for the exact search, which change its speed only: distances that stay in the
# cache of the processor, and a reservoir instead of a heap from so many neighbours on.
_FAST = {"distance_compute_blas_query_bs": 1024, "distance_compute_min_k_reservoir": 50}


def nearest_neighbours(
    points: NDArray[np.floating],
    *,
    k: int,
    max_exact: int = 30_000,
    min_recall: float = 0.98,
    n_checked: int = 1000,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest neighbours of each point, itself among them.

    Parameters
    ----------
    points
        Shape `(n_points, n_dimensions)`; euclidean distance in float32.
    k
        Neighbours, the point itself included; at most `n_points`.
    max_exact
        Up to this many points the search is exact: all distances are computed.
    min_recall
        Above it, an inverted file searches as many of its lists as it takes for this share of the
        exact neighbours of `n_checked` points to be found.
    n_checked
        Points for which the exact neighbours are computed, evenly spread.

    Returns
    -------
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
        found = index.search(checked, known.shape[1])[1]
        if shared(found, known) >= min_recall:
            break
        index.nprobe = min(round(1.5 * index.nprobe), n_lists)
    return index


def shared(found: NDArray[np.int64], known: NDArray[np.int64]) -> float:
    """Share of the known neighbours that were found, over all points (the recall)."""
    n_points = int(max(found.max(), known.max())) + 1
    row = np.arange(len(known))[:, None] * n_points
    return float(np.isin(known + row, found + row).mean())
