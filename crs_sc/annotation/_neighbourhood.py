"""What the neighbours of a cell say about it, on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fine_groups", "shares", "spread", "with_neighbours"]


def with_neighbours(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Matrix that takes the mean over each cell and its neighbours, shape `(n_cells, n_cells)`.

    Parameters
    ----------
    graph
        Neighbour graph; only where it is above zero counts.
    """
    around = (graph > 0).astype(np.float32) + sparse.eye(graph.shape[0], dtype=np.float32)
    around = sparse.csr_matrix(around)
    around.data[:] = 1.0
    return sparse.csr_matrix(sparse.diags(1 / around.getnnz(axis=1)) @ around)


def shares(scores: NDArray[np.float64], *, temperature: float) -> NDArray[np.float64]:
    """Share of each type in the belief about a cell: softmax of its scores, same shape."""
    belief = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(belief / belief.sum(axis=1, keepdims=True))


def spread(
    around: sparse.csr_matrix,
    belief: NDArray[np.float64],
    *,
    weight: float,
    n_steps: int = 10,
) -> NDArray[np.float64]:
    """Let each cell hear its neighbours.

    Label spreading (Zhou et al. 2003, Learning with local and global consistency): in each step
    the belief is `weight` of that of the neighbours and `1 - weight` of the cell's own.

    Parameters
    ----------
    around
        Result of :func:`with_neighbours`, or rows and columns of it.
    belief
        Shares, shape `(n_cells, n_types)`.
    weight
        Inside [0, 1).
    n_steps
        What is left after n steps is of the order of `weight ** n_steps`.

    Returns
    -------
    Same shape, rows add up to 1.
    """
    heard = belief
    for _ in range(n_steps):
        heard = (1 - weight) * belief + weight * (around @ heard)
        heard = heard / heard.sum(axis=1, keepdims=True)
    return np.asarray(heard)


def fine_groups(
    components: NDArray[np.floating], *, cells_per_group: int = 30, random_state: int = 0
) -> NDArray[np.int64]:
    """Cut the cells into many small groups of like cells (k-means), shape `(n_cells,)`.

    They are fine enough that a population of few cells has a group of its own, which a cluster
    of the cohort may not give it.

    Parameters
    ----------
    components
        Embedding, shape `(n_cells, n_components)`.
    cells_per_group
        Mean size of a group; there are at most 100.
    random_state
        Seed.
    """
    from sklearn.cluster import MiniBatchKMeans

    n_groups = int(np.clip(len(components) // cells_per_group, 1, 100))
    model = MiniBatchKMeans(
        n_groups, n_init=3, batch_size=4096, random_state=random_state, reassignment_ratio=0.0
    )
    return np.asarray(model.fit_predict(np.asarray(components, dtype=np.float64)), dtype=np.int64)
