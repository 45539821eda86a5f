"""Kernels on plain arrays that several packages need: row chunks and sums over groups.

What passes over the counts takes row chunks and adds them up, so that one pass over a matrix, in
memory or on disk, can feed several of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["GroupSums", "as_csr", "group_sums", "row_chunks", "value_chunks"]


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """Any 2-D matrix as CSR; a CSR matrix is returned as it is.

    Parameters
    ----------
    matrix
        Dense or sparse, shape `(n_rows, n_cols)`. A sparse matrix of anndata that was left on disk
        is read whole.
    """
    if isinstance(matrix, sparse.csr_matrix):
        return matrix
    return sparse.csr_matrix(matrix.to_memory() if hasattr(matrix, "to_memory") else matrix)


def row_chunks(n_rows: int, *, size: int = 20_000) -> Iterator[slice]:
    """Consecutive slices that cover `range(n_rows)`.

    Parameters
    ----------
    n_rows
        Number of rows.
    size
        Rows a chunk.
    """
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def value_chunks(indptr: NDArray[np.integer], *, size: int) -> Iterator[slice]:
    """Consecutive slices of rows that cover a CSR matrix, each with about as many values.

    Parameters
    ----------
    indptr
        Row pointers, shape `(n_rows + 1,)`.
    size
        Largest number of stored values of a chunk; a row with more is a chunk of its own.
    """
    start, n_rows = 0, len(indptr) - 1
    while start < n_rows:
        stop = int(np.searchsorted(indptr, indptr[start] + size, side="right")) - 1
        stop = min(max(stop, start + 1), n_rows)
        yield slice(start, stop)
        start = stop


class GroupSums:
    """Sums over groups of rows, and the sum of each row, from row chunks in any order.

    Sums of whole numbers below 2**53 are exact, so they do not depend on how the rows are cut.

    Parameters
    ----------
    codes
        Group of each row, shape `(n_rows,)`; rows with a negative code are left out of `sums`.
    n_groups, n_cols
        Shape of `sums`.

    Attributes
    ----------
    sums
        Shape `(n_groups, n_cols)`.
    row_sums
        Shape `(n_rows,)`.
    """

    def __init__(self, codes: NDArray[np.integer], n_groups: int, n_cols: int) -> None:
        self._codes = codes
        self.sums = np.zeros((n_groups, n_cols))
        self.row_sums = np.zeros(len(codes))

    def add(self, rows: slice, chunk: sparse.csr_matrix) -> None:
        """Take in the rows of one chunk."""
        # Only the groups of this chunk: a chunk of sorted rows touches few of them.
        groups, local = np.unique(self._codes[rows], return_inverse=True)
        left_out = int((groups < 0).sum())
        groups = groups[left_out:]
        self.sums[groups] += group_sums(chunk, local - left_out, len(groups))
        self.row_sums[rows] = np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel()


def group_sums(matrix: sparse.csr_matrix, codes: NDArray[np.integer], n_groups: int) -> Any:
    """Sum the rows of each group.

    Parameters
    ----------
    matrix
        CSR, shape `(n_rows, n_cols)`.
    codes
        Group of each row, shape `(n_rows,)`; rows with a negative code are left out.
    n_groups
        Number of groups.

    Returns
    -------
    Dense float64 array, shape `(n_groups, n_cols)`.
    """
    rows = np.flatnonzero(codes >= 0)
    indicator = sparse.csr_matrix(
        (np.ones(len(rows)), (codes[rows], rows)), shape=(n_groups, matrix.shape[0])
    )
    return np.asarray((indicator @ matrix).todense(), dtype=np.float64)
