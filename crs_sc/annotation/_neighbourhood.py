"""What the neighbours of a cell say about it, on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from crs_sc.core import parallel
from crs_sc.core.arrays import compiled, row_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fine_groups", "mean_around", "shares", "spread", "with_neighbours"]


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


def mean_around(
    around: sparse.csr_matrix, values: sparse.csr_matrix, rows: slice
) -> NDArray[np.float64]:
    """Take some rows of `around @ values`, dense, where the product as sparse would be nearly full.

    Parameters
    ----------
    around
        Result of :func:`with_neighbours`.
    values
        CSR, shape `(n_cells, n_genes)`.
    rows
        Which rows.

    Returns
    -------
    Shape `(n_rows, n_genes)`.
    """
    found = np.zeros((rows.stop - rows.start, values.shape[1]))
    compiled(_add_rows)(
        found, around.indptr[rows.start : rows.stop + 1], around.indices, around.data,
        values.indptr, values.indices, values.data,
    )  # fmt: skip
    return found


def _add_rows(
    found: NDArray[np.float64],
    indptr: NDArray[np.integer],
    indices: NDArray[np.integer],
    weight: NDArray[np.floating],
    value_indptr: NDArray[np.integer],
    value_indices: NDArray[np.integer],
    values: NDArray[np.floating],
) -> None:
    """Add to each row the weighted rows of its neighbours."""
    for row in range(len(found)):
        for place in range(indptr[row], indptr[row + 1]):
            other = indices[place]
            for i in range(value_indptr[other], value_indptr[other + 1]):
                found[row, value_indices[i]] += weight[place] * values[i]


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
    components: NDArray[np.floating],
    *,
    cells_per_group: int = 30,
    n_rounds: int = 5,
    max_cells: int = 20_000,
    random_state: int = 0,
    n_jobs: int = 1,
) -> list[NDArray[np.int64]]:
    """Cut the cells into many small groups of like cells (k-means), several times.

    They are fine enough that a population of few cells has a group of its own, which a cluster
    of the cohort may not give it. Where the cuts run is chance; what most rounds show is not.

    Parameters
    ----------
    components
        Embedding, shape `(n_cells, n_components)`.
    cells_per_group
        Mean size of a group; there are at most 100.
    n_rounds
        Number of groupings.
    max_cells
        Of more cells, the groups of a round are found in a random sample of so many; each other
        cell joins the nearest.
    random_state
        Seed.
    n_jobs
        Processes.

    Returns
    -------
    Group of each cell from 0 in each round, shape `(n_cells,)`.
    """
    n_groups = int(np.clip(len(components) // cells_per_group, 1, 100))
    rng = np.random.default_rng(random_state)
    rounds: list[tuple[Any, ...]] = []
    for _ in range(n_rounds):
        seed, sample = int(rng.integers(2**31 - 1)), None
        if len(components) > max_cells:
            sample = np.sort(rng.choice(len(components), max_cells, replace=False))
        rounds.append((components, sample, n_groups, seed))
    return parallel.parallel_map(_groups_of, rounds, n_jobs=n_jobs)


def _groups_of(
    components: NDArray[np.floating],
    sample: NDArray[np.integer] | None,
    n_groups: int,
    random_state: int,
) -> NDArray[np.int64]:
    """Group of each cell in one round."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(
        n_groups, n_init=3, batch_size=4096, random_state=random_state, reassignment_ratio=0.0
    )
    model.fit(np.asarray(components if sample is None else components[sample], dtype=np.float64))
    parts = [
        model.predict(np.asarray(components[rows], dtype=np.float64))
        for rows in row_chunks(len(components))
    ]
    return np.concatenate(parts).astype(np.int64)
