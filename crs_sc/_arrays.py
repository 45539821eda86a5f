"""Kernels on plain arrays that several packages need: row chunks and sums over groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["as_csr", "group_sums", "row_chunks"]


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """Any 2-D matrix as CSR; a CSR matrix is returned as it is.

    Parameters
    ----------
    matrix
        Dense or sparse, shape `(n_rows, n_cols)`.
    """
    if isinstance(matrix, sparse.csr_matrix):
        return matrix
    return sparse.csr_matrix(matrix)


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
