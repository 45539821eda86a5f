"""Matrices of an HDF5 file as CSR float32, checked before scipy is given them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from crs_sc.errors import InputError
from crs_sc.io._state import ValueSummary, slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "StoredMatrix",
    "read_compressed",
    "read_dense",
    "read_node",
    "read_rows",
    "settle",
]


# Values at the beginning of a matrix that say what it holds; values between two rows that are
# read with them; and values that are read in one go.
_HEAD = 1 << 18
_GAP = 1 << 14
_SPAN = 1 << 22
# Totals that spread less than this (relative) were made equal by a normalisation.
_SAME_TOTAL = 1e-3


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix as found in a file.

    Attributes
    ----------
    csr
        Float32 CSR of whole numbers, or None where only the summary was asked for or the values are
        no counts.
    shape
        Rows and columns.
    summary
        Of all values, in the type in which they were stored.
    first_bad
        Row and column of the first value that is no count, or None.
    n_stored
        Values stored in the file, those of a dense matrix that are zero included.
    """

    csr: sparse.csr_matrix | None
    shape: tuple[int, int]
    summary: ValueSummary
    first_bad: tuple[int, int] | None
    n_stored: int


def _index_dtype(*sizes: int) -> type[np.signedinteger[Any]]:
    return np.int32 if max(sizes, default=0) < np.iinfo(np.int32).max else np.int64


def _checked_indptr(stored: Any, *, n_major: int, n_stored: int) -> NDArray[np.int64]:
    indptr = np.asarray(stored[...], dtype=np.int64)
    good = (
        len(indptr) == n_major + 1
        and indptr[0] == 0
        and indptr[-1] == n_stored
        and not (np.diff(indptr) < 0).any()
    )
    if not good:
        msg = (
            f"its sparse row pointers are damaged ({len(indptr)} for {n_major} rows, "
            f"{n_stored} values)"
        )
        raise InputError(msg)
    return indptr


def _checked_indices(stored: Any, *, n_minor: int) -> NDArray[Any]:
    kind = np.dtype(_index_dtype(n_minor))
    is_ready = isinstance(stored, np.ndarray) and stored.dtype == kind
    indices = stored if is_ready else np.empty(stored.shape[0], dtype=kind)
    for part in slices(len(indices)):
        chunk = np.asarray(stored[part])
        if len(chunk) and (chunk.min() < 0 or chunk.max() >= n_minor):
            wrong = chunk[(chunk < 0) | (chunk >= n_minor)]
            msg = (
                f"its sparse indices are damaged (index {int(wrong[0])} where they must be from 0 "
                f"to {n_minor - 1})"
            )
            raise InputError(msg)
        if not is_ready:
            indices[part] = chunk
    return indices


def read_compressed(
    data: Any,
    indices: Any,
    indptr: Any,
    *,
    shape: tuple[int, int],
    by_column: bool,
    keep: bool,
    corrected: bool = False,
) -> StoredMatrix:
    """Read a compressed sparse matrix; wrong indices would crash scipy, so they are checked first.

    Parameters
    ----------
    data, indices, indptr
        HDF5 datasets or arrays.
    shape
        Rows and columns.
    by_column
        True for CSC.
    keep
        Build the CSR matrix; else only the summary.
    corrected
        Counts with fractions, as a correction leaves them, are rounded and kept too.

    Raises
    ------
    InputError
        If pointers or indices are damaged (the message has no file name).
    """
    n_major, n_minor = shape[::-1] if by_column else shape
    n_stored = data.shape[0]
    if indices.shape[0] != n_stored:
        msg = f"it has {n_stored} sparse values and {indices.shape[0]} indices"
        raise InputError(msg)
    pointers = _checked_indptr(indptr, n_major=n_major, n_stored=n_stored)
    minor = _checked_indices(indices, n_minor=n_minor)
    summary = ValueSummary(n_entries=shape[0] * shape[1], dtype=data.dtype)
    numeric = data.dtype.kind in "biuf"
    values = np.empty(n_stored if keep and numeric else 0, dtype=np.float32)
    for part in slices(n_stored):
        chunk = np.asarray(data[part])
        summary.add(chunk)
        if len(values):
            with np.errstate(over="ignore", invalid="ignore"):
                values[part] = chunk
    first_bad = None
    if summary.first_bad >= 0:
        major = int(np.searchsorted(pointers, summary.first_bad, side="right")) - 1
        first_bad = (major, int(minor[summary.first_bad]))
        first_bad = first_bad[::-1] if by_column else first_bad
    if not keep or not _acceptable(summary, corrected=corrected):
        return StoredMatrix(None, shape, summary, first_bad, n_stored)
    pointers = pointers.astype(_index_dtype(n_stored, n_minor), copy=False)
    build = sparse.csc_matrix if by_column else sparse.csr_matrix
    csr = settle(build((values, minor, pointers), shape=shape))
    return StoredMatrix(_whole(csr, summary), shape, summary, first_bad, n_stored)


def read_dense(stored: Any, *, keep: bool, corrected: bool = False) -> StoredMatrix:
    """Read a dense matrix in chunks of rows.

    Parameters
    ----------
    stored
        HDF5 dataset or array, two axes.
    keep
        Build the CSR matrix; else only the summary.
    corrected
        Counts with fractions, as a correction leaves them, are rounded and kept too.
    """
    shape = (int(stored.shape[0]), int(stored.shape[1]))
    summary = ValueSummary(n_entries=shape[0] * shape[1], dtype=stored.dtype)
    blocks = []
    for part in slices(shape[0], size=max(1, (1 << 22) // max(shape[1], 1))):
        chunk = np.asarray(stored[part])
        summary.add(chunk)
        if keep and chunk.dtype.kind in "biuf" and (corrected or summary.first_bad < 0):
            blocks.append(sparse.csr_matrix(chunk.astype(np.float32)))
    first_bad = None
    if summary.first_bad >= 0:
        row, column = divmod(summary.first_bad, shape[1])
        first_bad = (row, column)
    if not keep or not _acceptable(summary, corrected=corrected):
        return StoredMatrix(None, shape, summary, first_bad, shape[0] * shape[1])
    csr = settle(sparse.vstack(blocks, format="csr"))
    return StoredMatrix(_whole(csr, summary), shape, summary, first_bad, shape[0] * shape[1])


def _acceptable(summary: ValueSummary, *, corrected: bool) -> bool:
    return summary.state == "counts" or (corrected and summary.state == "fractional")


def _whole(csr: sparse.csr_matrix, summary: ValueSummary) -> sparse.csr_matrix | None:
    """Round counts to whole numbers; None if all cells have one total, as after normalising."""
    if summary.state == "counts":
        return csr
    totals = np.asarray(csr.sum(axis=1, dtype=np.float64)).ravel()
    filled = totals[totals > 0]
    if len(filled) > 1 and filled.std() < _SAME_TOTAL * filled.mean():
        return None
    csr.data = np.rint(csr.data)
    return settle(csr)


def settle(matrix: Any) -> sparse.csr_matrix:
    """Bring a sparse matrix of counts to CSR with sorted, unique indices and no stored zeros."""
    csr = sparse.csr_matrix(matrix)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    dtype = _index_dtype(csr.nnz, *csr.shape)
    csr.indices = csr.indices.astype(dtype, copy=False)
    csr.indptr = csr.indptr.astype(dtype, copy=False)
    return csr


def read_rows(
    data: Any,
    indices: Any,
    indptr: Any,
    *,
    shape: tuple[int, int],
    rows: NDArray[np.intp],
    corrected: bool = False,
) -> StoredMatrix:
    """Read some rows of a CSR matrix; its beginning too, to judge what the matrix holds.

    Parameters
    ----------
    data, indices, indptr
        HDF5 datasets or arrays.
    shape
        Rows and columns of the whole matrix.
    rows
        Positions of the rows, sorted.
    corrected
        Counts with fractions, as a correction leaves them, are rounded and kept too.

    Returns
    -------
    `csr` has these rows only; the summary is that of the rows that were read.

    Raises
    ------
    InputError
        If pointers or indices are damaged (the message has no file name).
    """
    if indices.shape[0] != data.shape[0]:
        msg = f"it has {data.shape[0]} sparse values and {indices.shape[0]} indices"
        raise InputError(msg)
    pointers = _checked_indptr(indptr, n_major=shape[0], n_stored=data.shape[0])
    n_head = int(np.searchsorted(pointers, _HEAD, side="right"))
    looked = np.union1d(np.arange(min(n_head, shape[0])), rows).astype(np.intp)
    parts = _gather(data, indices, pointers, looked)
    found = read_compressed(
        *parts, shape=(len(looked), shape[1]), by_column=False, keep=True, corrected=corrected
    )
    bad = found.first_bad
    return StoredMatrix(
        None if found.csr is None else settle(found.csr[np.searchsorted(looked, rows)]),
        shape,
        found.summary,
        None if bad is None else (int(looked[bad[0]]), bad[1]),
        int(data.shape[0]),
    )


def _gather(
    data: Any, indices: Any, pointers: NDArray[np.int64], rows: NDArray[np.intp]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Values, indices and pointers of some rows; neighbours are read in one go."""
    starts, stops = pointers[rows], pointers[rows + 1]
    indptr = np.concatenate([[0], np.cumsum(stops - starts)])
    values, columns = np.empty(indptr[-1], data.dtype), np.empty(indptr[-1], indices.dtype)
    breaks = np.flatnonzero(starts[1:] - stops[:-1] > _GAP) + 1
    first = 0
    while first < len(rows):
        last = int(np.searchsorted(stops, starts[first] + _SPAN, side="right"))
        after = breaks[np.searchsorted(breaks, first, side="right") :]
        last = max(first + 1, min([last, *after[:1].tolist()]))
        low, high = rows[first], rows[last - 1] + 1
        wanted = np.zeros(high - low, dtype=bool)
        wanted[rows[first:last] - low] = True
        kept = np.repeat(wanted, np.diff(pointers[low : high + 1]))
        span, place = slice(pointers[low], pointers[high]), slice(indptr[first], indptr[last])
        values[place], columns[place] = data[span][kept], indices[span][kept]
        first = last
    return values, columns, indptr


def read_node(
    node: Any, *, keep: bool, corrected: bool = False, rows: NDArray[np.intp] | None = None
) -> StoredMatrix:
    """Read a matrix of an h5ad: a dense dataset, or a group with a sparse matrix.

    Parameters
    ----------
    node
        HDF5 dataset or group.
    keep
        Build the CSR matrix; else only the summary.
    corrected
        Counts with fractions, as a correction leaves them, are rounded and kept too.
    rows
        Positions of the rows to keep, sorted; None for all. Only from CSR are they read alone.

    Raises
    ------
    InputError
        If it is neither, or damaged (the message has no file name).
    """
    if hasattr(node, "dtype"):
        if len(node.shape) != 2:
            msg = f"it has {len(node.shape)} axes instead of 2"
            raise InputError(msg)
        return _some(read_dense(node, keep=keep, corrected=corrected), rows)
    kind = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
    shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
    lacking = {"data", "indices", "indptr"} - set(node)
    if lacking or shape is None or kind[:3] not in ("csr", "csc"):
        msg = f"it is no matrix that can be read (encoding '{kind}', entries {sorted(node)})"
        raise InputError(msg)
    arrays = (node["data"], node["indices"], node["indptr"])
    size = (int(shape[0]), int(shape[1]))
    if rows is not None and kind.startswith("csr"):
        return read_rows(*arrays, shape=size, rows=rows, corrected=corrected)
    by_column = kind.startswith("csc")
    whole = read_compressed(
        *arrays, shape=size, by_column=by_column, keep=keep, corrected=corrected
    )
    return _some(whole, rows)


def _some(stored: StoredMatrix, rows: NDArray[np.intp] | None) -> StoredMatrix:
    """Keep these rows of a matrix that was read whole."""
    if rows is None or stored.csr is None:
        return stored
    return replace(stored, csr=stored.csr[rows])
