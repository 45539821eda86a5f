"""Kernels of the gene selection: scanpy's `seurat_v3`, in two passes over the cells.

The first pass adds up the counts and their squares by batch, from which a loess gives the variance
that a gene of its mean should have; the second what is lost by clipping the counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crs_sc.core.arrays import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["BatchMoments", "ClippedCounts", "most_variable", "standardised_variance"]


class BatchMoments:
    """Sums of the counts and of their squares by batch, from row chunks.

    Sums of whole numbers, so they do not depend on how the rows are cut.

    Parameters
    ----------
    codes
        Batch of each cell, shape `(n_cells,)`; cells with a negative code are left out.
    n_batches, n_genes
        Shape of the sums.

    Attributes
    ----------
    n_cells
        Of each batch, shape `(n_batches,)`.
    total, squares
        Shape `(n_batches, n_genes)`.
    n_stored
        Cells with a stored count of each gene, shape `(n_genes,)`.
    """

    def __init__(self, codes: NDArray[np.integer], n_batches: int, n_genes: int) -> None:
        self.codes = codes
        self.n_cells = np.bincount(codes[codes >= 0], minlength=n_batches)
        self.total = np.zeros((n_batches, n_genes))
        self.squares = np.zeros((n_batches, n_genes))
        self.n_stored = np.zeros(n_genes, dtype=np.int64)

    def add(self, rows: slice, chunk: sparse.csr_matrix) -> None:
        """Take in the cells of one chunk."""
        compiled(_add_moments)(
            chunk.data, chunk.indices, chunk.indptr, self.codes[rows], self.total, self.squares,
            self.n_stored,
        )  # fmt: skip

    def mean(self) -> NDArray[np.float64]:
        """Mean by batch and gene."""
        return np.asarray(self.total / self.n_cells[:, None])

    def limits(self, genes: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Spread that a gene of its mean should have, and the count above which it is clipped.

        Parameters
        ----------
        genes
            Columns of which the loess is made.

        Returns
        -------
        Two arrays of shape `(n_batches, n_genes)`; no limit for other genes.

        Raises
        ------
        ValueError
            If the loess of a batch is singular.
        """
        from skmisc.loess import loess

        spread = np.ones(self.total.shape)
        limit = np.full(self.total.shape, np.inf)
        n = self.n_cells[:, None]
        # Of whole numbers, so that what does not vary is exactly zero.
        variance = (n * self.squares - self.total**2) / (n * np.maximum(n - 1, 1))
        for i, mean in enumerate(self.mean()):
            varies = variance[i, genes] > 0
            expected = np.zeros(len(genes))
            # The loess crashes without any point.
            if varies.any():
                own = genes[varies]
                model = loess(np.log10(mean[own]), np.log10(variance[i, own]), span=0.3, degree=2)
                model.fit()
                expected[varies] = model.outputs.fitted_values
            spread[i, genes] = np.sqrt(10**expected)
            limit[i, genes] = spread[i, genes] * np.sqrt(self.n_cells[i]) + mean[genes]
        return spread, limit


class ClippedCounts:
    """What the counts and their squares lose if they are clipped, from row chunks in order.

    Parameters
    ----------
    codes
        As in `BatchMoments`.
    limit
        Highest count that stays as it is, shape `(n_batches, n_genes)`.

    Attributes
    ----------
    lost, lost_squares
        Shape `(n_batches, n_genes)`.
    """

    def __init__(self, codes: NDArray[np.integer], limit: NDArray[np.float64]) -> None:
        self._codes, self._limit = codes, limit
        self.lost, self.lost_squares = np.zeros(limit.shape), np.zeros(limit.shape)

    def add(self, rows: slice, chunk: sparse.csr_matrix) -> None:
        """Take in the cells of one chunk."""
        compiled(_add_lost)(
            chunk.data, chunk.indices, chunk.indptr, self._codes[rows], self._limit, self.lost,
            self.lost_squares,
        )  # fmt: skip


def _add_moments(
    data: NDArray[Any],
    indices: NDArray[np.integer],
    indptr: NDArray[np.integer],
    codes: NDArray[np.integer],
    total: NDArray[np.float64],
    squares: NDArray[np.float64],
    n_stored: NDArray[np.int64],
) -> None:
    """Add the rows of a CSR matrix, and their squares, to the sums of their batches."""
    for i in range(len(codes)):
        if codes[i] < 0:
            continue
        of_batch, squares_of_batch = total[codes[i]], squares[codes[i]]
        for j in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            value, gene = np.float64(data[j]), np.uint64(indices[j])
            of_batch[gene] += value
            squares_of_batch[gene] += value * value
            n_stored[gene] += 1


def _add_lost(
    data: NDArray[Any],
    indices: NDArray[np.integer],
    indptr: NDArray[np.integer],
    codes: NDArray[np.integer],
    limit: NDArray[np.float64],
    lost: NDArray[np.float64],
    lost_squares: NDArray[np.float64],
) -> None:
    """Add up what the values above the limit of their batch and column have above it."""
    for i in range(len(codes)):
        if codes[i] < 0:
            continue
        of_batch = limit[codes[i]]
        for j in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            value, highest = np.float64(data[j]), of_batch[np.uint64(indices[j])]
            # Few are.
            if value > highest:
                lost[codes[i], indices[j]] += value - highest
                lost_squares[codes[i], indices[j]] += value * value - highest * highest


def standardised_variance(
    moments: BatchMoments,
    clipped: ClippedCounts,
    spread: NDArray[np.float64],
    genes: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Variance of the clipped counts over that expected at the mean of the gene.

    Parameters
    ----------
    moments, clipped
        After their passes.
    spread
        From `BatchMoments.limits`.
    genes
        Columns.

    Returns
    -------
    Shape `(n_batches, len(genes))`.
    """
    n, mean = moments.n_cells[:, None], moments.mean()[:, genes]
    sums = n * mean**2 + (moments.squares[:, genes] - clipped.lost_squares[:, genes])
    sums -= 2 * (moments.total[:, genes] - clipped.lost[:, genes]) * mean
    return np.asarray(sums / (np.maximum(n - 1, 1) * spread[:, genes] ** 2))


def most_variable(
    variance: NDArray[np.float64], genes: NDArray[np.integer], n_top: int
) -> NDArray[np.integer]:
    """Choose the genes by the median of their ranks over the batches in which they are at the top.

    Parameters
    ----------
    variance
        From `standardised_variance`.
    genes
        Its columns.
    n_top
        How many to choose; a gene counts in the batches where it is among so many.

    Returns
    -------
    Columns, ascending. Ties go to the gene that is at the top in more batches, then to the first.

    References
    ----------
    Stuart et al. 2019, Cell 177:1888.
    """
    order = np.argsort(-variance, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable").astype(np.float64)
    ranks[ranks >= n_top] = np.nan
    at_top = np.isfinite(ranks).sum(axis=0)
    median = np.full(len(genes), np.inf)
    median[at_top > 0] = np.nanmedian(ranks[:, at_top > 0], axis=0)
    chosen: NDArray[np.integer] = np.sort(genes[np.lexsort((-at_top, median))[:n_top]])
    return chosen
