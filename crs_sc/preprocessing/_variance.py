"""Kernel of the gene selection: scanpy's `seurat_v3`, one pass over the cells of each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["most_variable", "standardised_variance"]


def most_variable(
    counts: sparse.csr_matrix,
    batch: NDArray[np.object_],
    genes: NDArray[np.integer],
    n_top: int,
) -> NDArray[np.integer]:
    """Choose the genes by the median of their ranks over the batches in which they are at the top.

    Parameters
    ----------
    counts
        Raw counts, shape `(n_cells, n_all_genes)`.
    batch
        Shape `(n_cells,)`.
    genes
        Columns to choose from.
    n_top
        How many to choose; a gene counts in the batches where it is among so many.

    Returns
    -------
    Columns, ascending. Ties go to the gene that is at the top in more batches, then to the first.

    Raises
    ------
    ValueError
        If the loess of a batch is singular.

    References
    ----------
    Stuart et al. 2019, Cell 177:1888.
    """
    names = np.unique(batch)
    ranks = np.empty((len(names), len(genes)))
    for i, name in enumerate(names):
        own = counts[np.flatnonzero(batch == name)]
        order = np.argsort(-standardised_variance(own, genes), kind="stable")
        ranks[i, order] = np.arange(len(genes))
    ranks[ranks >= n_top] = np.nan
    at_top = np.isfinite(ranks).sum(axis=0)
    median = np.full(len(genes), np.inf)
    median[at_top > 0] = np.nanmedian(ranks[:, at_top > 0], axis=0)
    chosen: NDArray[np.integer] = np.sort(genes[np.lexsort((-at_top, median))[:n_top]])
    return chosen


def standardised_variance(
    counts: sparse.csr_matrix, genes: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Variance of the counts over that expected by a loess on the mean, of clipped counts.

    Parameters
    ----------
    counts
        Raw counts of one batch, shape `(n_cells, n_all_genes)`.
    genes
        Columns whose variance is asked for.

    Returns
    -------
    Shape `(len(genes),)`.

    Raises
    ------
    ValueError
        If the loess is singular.
    """
    from skmisc.loess import loess

    n_cells, n_genes = counts.shape
    values = counts.data.astype(np.float64)
    total = np.bincount(counts.indices, values, n_genes)
    squares = np.bincount(counts.indices, values**2, n_genes)
    mean = total / n_cells
    # Of whole numbers, so that what does not vary is exactly zero.
    variance = (n_cells * squares - total**2) / (n_cells * max(n_cells - 1, 1))
    mean_of, variance_of = mean[genes], variance[genes]
    varies = variance_of > 0
    expected = np.zeros(len(genes))
    # The loess crashes without any point.
    if varies.any():
        model = loess(np.log10(mean_of[varies]), np.log10(variance_of[varies]), span=0.3, degree=2)
        model.fit()
        expected[varies] = model.outputs.fitted_values
    spread = np.sqrt(10**expected)
    limit = np.full(n_genes, np.inf)
    limit[genes] = spread * np.sqrt(n_cells) + mean_of
    # Few counts are above the limit: only what they lose is taken off the sums.
    above = np.flatnonzero(values > limit[counts.indices])
    column, cut = counts.indices[above], values[above]
    lost = np.bincount(column, cut - limit[column], n_genes)[genes]
    lost_squares = np.bincount(column, cut**2 - limit[column] ** 2, n_genes)[genes]
    sums = n_cells * mean_of**2 + (squares[genes] - lost_squares)
    sums -= 2 * (total[genes] - lost) * mean_of
    standardised: NDArray[np.float64] = sums / (max(n_cells - 1, 1) * spread**2)
    return standardised
