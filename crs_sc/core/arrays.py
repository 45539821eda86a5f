"""Kernels on plain arrays that several packages need: row chunks and sums over groups.

What passes over the counts takes row chunks and adds them up, so that one pass over a matrix, in
memory or on disk, can feed several of them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = [
    "FewColumns",
    "GroupSums",
    "RowTotals",
    "as_csr",
    "compiled",
    "group_sums",
    "is_on_disk",
    "jitted",
    "log_scaled",
    "row_chunks",
    "string_codes",
    "value_chunks",
    "whole_numbers",
    "within",
]


@cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop over plain arrays with numba; as plain Python it gives the same, slowly."""
    return jitted(kernel)


def jitted(kernel: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile with options of `numba.njit`; kept between runs where a folder can be written to."""
    import numba

    try:
        fast = numba.njit(nogil=True, cache=True, **options)(kernel)
    except RuntimeError:
        # No folder of the package or the user can be written to: it is compiled for this run.
        fast = numba.njit(nogil=True, **options)(kernel)
    found: Callable[..., Any] = fast
    return found


def string_codes(values: pd.Series) -> tuple[NDArray[np.intp], list[str]]:
    """Code of each value as a string, and the strings that occur, sorted; fast for categories.

    The code is -1 where a value is missing.
    """
    if not isinstance(values.dtype, pd.CategoricalDtype) or values.isna().any():
        codes, names = pd.factorize(values.astype(str), sort=True)
        return np.asarray(codes), [str(name) for name in names]
    levels = np.array([str(level) for level in values.cat.categories], dtype=object)
    stored = values.cat.codes.to_numpy()
    is_there = np.bincount(stored, minlength=len(levels)) > 0
    present = sorted(set(levels[is_there]))
    place = pd.Index(present, dtype=object).get_indexer(pd.Index(levels))
    return place[stored], present


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """Any 2-D matrix as CSR; a CSR matrix is returned as it is, one on disk is read whole."""
    if isinstance(matrix, sparse.csr_matrix):
        return matrix
    return sparse.csr_matrix(matrix.to_memory() if is_on_disk(matrix) else matrix)


def is_on_disk(matrix: Any) -> bool:
    """Whether a matrix is a sparse one of anndata that is read from its file when asked for."""
    from anndata.abc import CSCDataset, CSRDataset

    return isinstance(matrix, CSRDataset | CSCDataset)


def row_chunks(n_rows: int, *, size: int = 20_000) -> Iterator[slice]:
    """Consecutive slices that cover `range(n_rows)`."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def value_chunks(indptr: NDArray[np.integer], *, size: int) -> Iterator[slice]:
    """Consecutive slices of rows that cover a CSR matrix with these row pointers.

    None has more than `size` stored values; a row with more is a chunk by itself.
    """
    start, n_rows = 0, len(indptr) - 1
    while start < n_rows:
        stop = int(np.searchsorted(indptr, indptr[start] + size, side="right")) - 1
        stop = min(max(stop, start + 1), n_rows)
        yield slice(start, stop)
        start = stop


def log_scaled(
    counts: sparse.csr_matrix, factor: NDArray[np.float64], *, size: int = 4_000_000
) -> NDArray[np.float32]:
    """`log1p(count * factor of its row)` of the stored values of a CSR matrix.

    `factor` has shape `(n_rows,)`. `size` values at a time are in double precision: all at once
    would be twice the matrix.
    """
    data = np.empty(counts.nnz, dtype=np.float32)
    for rows in value_chunks(counts.indptr, size=size):
        values = slice(counts.indptr[rows.start], counts.indptr[rows.stop])
        n_values = np.diff(counts.indptr[rows.start : rows.stop + 1])
        data[values] = np.log1p(counts.data[values] * np.repeat(factor[rows], n_values))
    return data


class GroupSums:
    """Sums over groups of rows, and the sum of each row, from row chunks in any order.

    Sums of whole numbers below 2**53 are exact, so they do not depend on how the rows are cut.

    `codes` are the groups of the rows, shape `(n_rows,)`; rows with a negative code are left out of
    `sums`, shape `(n_groups, n_cols)`, in which each row counts by its `weights`, 1 if left out.
    `row_sums` has shape `(n_rows,)`.
    """

    def __init__(
        self,
        codes: NDArray[np.integer],
        n_groups: int,
        n_cols: int,
        *,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self._codes = codes
        self._weights = np.ones(len(codes)) if weights is None else weights
        self.sums = np.zeros((n_groups, n_cols))
        self.row_sums = np.zeros(len(codes))

    def add(self, rows: slice, chunk: sparse.csr_matrix) -> None:
        """Take in the rows of one chunk."""
        # Group by group, so that the sums of one group stay in the cache of the processor.
        order = np.argsort(self._codes[rows], kind="stable")
        compiled(_add_rows)(
            chunk.data, chunk.indices, chunk.indptr, order, self._codes[rows],
            self._weights[rows], self.sums, self.row_sums[rows],
        )  # fmt: skip


def _add_rows(
    data: NDArray[Any],
    indices: NDArray[np.integer],
    indptr: NDArray[np.integer],
    order: NDArray[np.integer],
    codes: NDArray[np.integer],
    weights: NDArray[np.float64],
    sums: NDArray[np.float64],
    row_sums: NDArray[np.float64],
) -> None:
    """Add the rows of a CSR matrix to those of `sums` that `codes` name, and each row up."""
    for i in order:
        weight, total = weights[i], 0.0
        # Unsigned, so that no index is asked whether it counts from the end.
        first, last = np.uint64(indptr[i]), np.uint64(indptr[i + 1])
        if codes[i] < 0:
            for value in data[first:last]:
                total += value
        else:
            of_group = sums[codes[i]]
            for j in range(first, last):
                total += data[j]
                of_group[np.uint64(indices[j])] += weight * data[j]
        row_sums[i] = total


class RowTotals:
    """Sum and number of the values of each row, and their sum over some columns, from row chunks.

    `total` is the sum over all columns, `masked` over those that the mask `columns` names,
    `n_above_zero` the values above zero; shape `(n_rows,)`.
    """

    def __init__(self, n_rows: int, columns: NDArray[np.bool_]) -> None:
        self._columns = columns
        self.total, self.masked = np.zeros(n_rows), np.zeros(n_rows)
        self.n_above_zero = np.zeros(n_rows, dtype=np.int64)

    def add(self, rows: slice, chunk: sparse.csr_matrix) -> None:
        """Take in the rows of one chunk."""
        self.total[rows] = chunk.sum(axis=1, dtype=np.float64).ravel()
        self.masked[rows] = chunk @ self._columns.astype(np.float64)
        above = np.concatenate([[0], np.cumsum(chunk.data > 0)])
        self.n_above_zero[rows] = np.diff(above[chunk.indptr])


class FewColumns:
    """A few columns of a matrix, and the sum of all others in each row, from row chunks in order.

    `columns` are positions without repeats, `n_rows` and `n_cols` the shape of the matrix.
    """

    def __init__(self, columns: NDArray[np.integer], n_rows: int, n_cols: int) -> None:
        self._columns = columns
        self._others = np.ones(n_cols)
        self._others[columns] = 0
        self._rest = np.zeros(n_rows)
        self._parts = [sparse.csr_matrix((0, len(columns)), dtype=np.float32)]

    def add(self, rows: slice, chunk: sparse.csr_matrix) -> None:
        """Take in the rows of one chunk."""
        self._parts.append(chunk[:, self._columns].astype(np.float32))
        self._rest[rows] = chunk @ self._others

    def result(self) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
        """Return the columns, CSR float32 with sorted indices, and the sums of the others."""
        matrix = sparse.csr_matrix(sparse.vstack(self._parts, format="csr"))
        matrix.sum_duplicates()
        return matrix, self._rest


def whole_numbers(values: NDArray[Any]) -> bool:
    """Whether all values are whole numbers from 0; NaN and infinity are none."""
    # NaN is not above or equal to anything.
    if values.size and not (values.min() >= 0 and values.max() < np.inf):
        return False
    return values.dtype.kind != "f" or bool((np.rint(values) == values).all())


def within(indices: NDArray[np.integer], n: int) -> bool:
    """Whether all indices are from 0 to `n - 1`."""
    return not indices.size or bool(indices.min() >= 0 and indices.max() < n)


def group_sums(
    matrix: sparse.csr_matrix, codes: NDArray[np.integer], n_groups: int
) -> NDArray[np.float64]:
    """Sum the rows of each group, float64; rows with a negative code are left out."""
    sums = GroupSums(codes, n_groups, matrix.shape[1])
    sums.add(slice(0, matrix.shape[0]), matrix)
    return sums.sums
