"""Kernel of the principal components: cross products of sparse genes, and their eigenvectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crs_sc.core.arrays import compiled
from crs_sc.core.threads import thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["Components", "components_of", "cross_products", "leading", "projected"]

# Sums of so many parts of the cells: with any number of threads the same digits.
_PARTS = 4


@dataclass(frozen=True)
class Components:
    """Principal components.

    Attributes
    ----------
    points
        Cells along the components, single precision, shape `(n_cells, n_comps)`.
    loadings
        Shape `(n_genes, n_comps)`.
    variance
        Of each component, shape `(n_comps,)`.
    total_variance
        Of all genes.
    """

    points: NDArray[np.float32]
    loadings: NDArray[np.float64]
    variance: NDArray[np.float64]
    total_variance: float


def components_of(expression: sparse.csr_matrix, *, n_comps: int) -> Components:
    """Principal components of sparse genes, centred without a dense matrix of the cells.

    Parameters
    ----------
    expression
        Log-normalised, shape `(n_cells, n_genes)`, a few thousand genes at the most.
    n_comps
        How many; fewer with few cells or genes.
    """
    n_cells = expression.shape[0]
    products, mean = cross_products(expression)
    values, loadings = leading(products, min(n_comps, *expression.shape))
    freedom = max(n_cells - 1, 1)
    return Components(
        points=projected(expression, mean, loadings),
        loadings=loadings,
        variance=np.maximum(values, 0) / freedom,
        total_variance=float(np.trace(products)) / freedom,
    )


def cross_products(
    expression: sparse.csr_matrix,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cross products of the centred genes, and the mean of each gene.

    Parameters
    ----------
    expression
        Shape `(n_cells, n_genes)`.

    Returns
    -------
    Shapes `(n_genes, n_genes)` and `(n_genes,)`.
    """
    n_cells, n_genes = expression.shape
    expression.sum_duplicates()
    cuts = np.linspace(0, n_cells, _PARTS + 1).astype(np.int64)

    def part(first: int, last: int) -> NDArray[np.float64]:
        sums = np.zeros((n_genes, n_genes))
        compiled(_add_products)(
            expression.data, expression.indices, expression.indptr[first : last + 1], sums
        )
        return sums

    lower = np.zeros((n_genes, n_genes))
    with ThreadPoolExecutor(min(thread_count(), _PARTS)) as workers:
        for found in workers.map(part, cuts[:-1].tolist(), cuts[1:].tolist()):
            lower += found
    mean = np.asarray(expression.sum(axis=0, dtype=np.float64)).ravel() / n_cells
    lower += np.tril(lower, -1).T
    lower -= n_cells * np.outer(mean, mean)
    return lower, mean


def _add_products(
    data: NDArray[Any],
    indices: NDArray[np.integer],
    indptr: NDArray[np.integer],
    sums: NDArray[np.float64],
) -> None:
    """Add the products of the values of each row, sorted by column, below the diagonal."""
    for i in range(len(indptr) - 1):
        first = np.uint64(indptr[i])
        for j in range(first, np.uint64(indptr[i + 1])):
            value, of_gene = np.float64(data[j]), sums[np.uint64(indices[j])]
            for k in range(first, j + np.uint64(1)):
                of_gene[np.uint64(indices[k])] += value * data[k]


def projected(
    expression: NDArray[np.floating] | sparse.csr_matrix,
    mean: NDArray[np.floating],
    loadings: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Cells along the loadings, centred."""
    return np.asarray(expression @ loadings - mean @ loadings, dtype=np.float32)


def leading(
    matrix: NDArray[np.float64], n_vectors: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest eigenvalues of a symmetric matrix, and their vectors as columns, largest first.

    The largest entry of a vector is positive.
    """
    from scipy.sparse.linalg import eigsh

    n = len(matrix)
    if n < 5 * n_vectors:
        values, vectors = np.linalg.eigh(matrix)
    else:
        # A fixed start: the default one is random.
        values, vectors = eigsh(matrix, k=n_vectors, v0=np.ones(n))
    values, vectors = values[::-1][:n_vectors], vectors[:, ::-1][:, :n_vectors]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return values, vectors * np.where(largest < 0, -1.0, 1.0)
