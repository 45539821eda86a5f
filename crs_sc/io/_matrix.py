"""Matrices of files as CSR float32: checked before scipy is given them, judged by their values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from crs_sc.core.arrays import row_chunks, within
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MatrixState", "Reading", "StoredMatrix", "matrix_state", "read_arrays", "read_node"]

MatrixState = Literal[
    "counts", "log-normalised", "scaled", "fractional", "binary", "other", "empty"
]

# float32 holds every whole number up to here; no gene has more UMI in one cell.
LARGEST_COUNT = 2**24
# log2 of a million, and some: no logarithm of normalised counts is larger.
_LARGEST_LOG = 25.0
# Below this share of values with a fraction, the matrix was counts before it was damaged.
_DAMAGED_SHARE = 0.01
# Totals that differ less than this (relative) were made equal by a normalisation.
_SAME_TOTAL = 1e-3
# Values at the beginning of a matrix that say what it holds; values between two rows that are
# read with them; and values that are read in one go.
_HEAD, _GAP, _SPAN = 1 << 18, 1 << 14, 1 << 22


@dataclass
class ValueSummary:
    """Numbers over all values of a matrix, added up chunk by chunk.

    Of `n_entries` (rows times columns) `n_seen` are stored. The range is that of the finite values;
    `n_huge` are above what a count can be; `first_bad` is the position of the first stored value
    that is no count, or -1.
    """

    n_entries: int
    dtype: np.dtype[Any]
    n_seen: int = 0
    n_nonzero: int = 0
    n_nonfinite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    n_huge: int = 0
    smallest: float = np.inf
    largest: float = -np.inf
    first_bad: int = -1

    def add(self, values: NDArray[Any]) -> None:
        """Count one chunk; chunks come in the order in which the values are stored."""
        values = values.ravel()
        self.n_nonzero += int(np.count_nonzero(values))
        if self.dtype.kind in "biuf" and len(values):
            self._add_numbers(values)
        self.n_seen += len(values)

    def _add_numbers(self, values: NDArray[Any]) -> None:
        bad, present = np.zeros(len(values), dtype=bool), values
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            fractional = finite & (values != np.rint(values))
            self.n_nonfinite += int((~finite).sum())
            self.n_fractional += int(fractional.sum())
            bad = ~finite | fractional
            present = values[finite] if self.n_nonfinite else values
        if len(present):
            self.smallest = min(self.smallest, low := float(present.min()))
            self.largest = max(self.largest, high := float(present.max()))
            if low < 0:
                self.n_negative += int((present < 0).sum())
                bad |= values < 0
            if high > LARGEST_COUNT:
                self.n_huge += int((present > LARGEST_COUNT).sum())
                bad |= values > LARGEST_COUNT
        if self.first_bad < 0 and bad.any():
            self.first_bad = self.n_seen + int(bad.argmax())

    @property
    def state(self) -> MatrixState:
        """What the matrix holds."""
        if self.n_nonzero == 0:
            return "empty"
        if self.dtype.kind not in "biuf" or self.n_nonfinite or self.n_huge:
            return "other"
        if self.n_fractional:
            if self.n_negative:
                return "scaled"
            mostly = self.n_fractional > 0.9 * self.n_nonzero
            return "log-normalised" if mostly and self.largest < _LARGEST_LOG else "fractional"
        if self.n_negative:
            return "other"
        if self.largest == 1:
            return "binary"
        return "other" if self.is_constant else "counts"

    @property
    def is_constant(self) -> bool:
        """Whether every entry, the zeros of a sparse matrix included, is the same."""
        full = self.n_nonzero >= self.n_entries
        return self.n_nonzero == 0 or (full and self.smallest == self.largest)

    @property
    def is_damaged_counts(self) -> bool:
        """Whether these were counts, but for NaN, negative, fractional or impossible values."""
        if self.dtype.kind not in "iuf" or self.first_bad < 0:
            return False
        finite = self.n_nonzero - self.n_nonfinite
        whole = self.n_fractional <= _DAMAGED_SHARE * finite
        return whole and self.n_negative <= 0.5 * finite and finite > 0

    @property
    def faults(self) -> str:
        """What keeps these values from being counts, with how many of each."""
        kinds = (
            (self.n_nonfinite, "NaN or infinite"),
            (self.n_negative, "negative"),
            (self.n_fractional, "not whole"),
            (self.n_huge, f"above {LARGEST_COUNT:,} (largest {self.largest:.3g})"),
        )
        return ", ".join(f"{n:,} {kind}" for n, kind in kinds if n)

    def describe(self) -> str:
        """Say in a few words what the matrix holds, for an error message."""
        state = self.state
        if self.dtype.kind not in "biuf":
            return f"no numbers (dtype {self.dtype})"
        if state == "empty":
            return "empty or all zero"
        if state == "binary":
            return "binary (only 0 and 1: the counts are lost)"
        if state in ("log-normalised", "fractional"):
            share = self.n_fractional / self.n_nonzero
            return f"{state} ({share:.0%} of its values not whole, largest {self.largest:.4g})"
        if state == "other" and self.is_constant and self.n_nonfinite == 0:
            return f"constant (every value is {self.largest:g})"
        return f"{state} ({self.faults})" if self.faults else state


def matrix_state(matrix: Any) -> MatrixState:
    """Say what a matrix holds, from all of its values.

    Parameters
    ----------
    matrix
        Dense or sparse, shape `(n_cells, n_genes)`.

    Returns
    -------
    `counts` (finite, whole, none negative, none above 2**24), `log-normalised` (fractions, none
    negative, largest below 25), `scaled` (fractions and negative values), `fractional` (other
    matrices with fractions, such as CP10k or estimated counts), `binary` (only 0 and 1),
    `empty` (no entries, or all zero) or `other` (NaN, infinite, negative whole numbers,
    impossibly large, constant, no numbers).

    Raises
    ------
    InputError
        If it is not a matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import crs_sc as crs
    >>> crs.io.matrix_state(np.array([[0, 3], [1, 0]]))
    'counts'
    >>> crs.io.matrix_state(np.array([[0.0, 1.39], [0.69, 0.0]]))
    'log-normalised'
    """
    if len(getattr(matrix, "shape", ())) != 2:
        msg = f"matrix_state needs a matrix with two axes, got {type(matrix).__name__}."
        raise InputError(msg)
    n_rows, n_cols = matrix.shape
    if sparse.issparse(matrix):
        values, size = matrix.data if hasattr(matrix, "indptr") else matrix.tocsr().data, _SPAN
    else:
        values, size = np.asarray(matrix), max(1, _SPAN // max(n_cols, 1))
    summary = ValueSummary(n_rows * n_cols, values.dtype)
    for part in row_chunks(len(values), size=size):
        summary.add(values[part])
    return summary.state


@dataclass(frozen=True)
class Reading:
    """What is wanted of the matrices of a file.

    Without `keep` only the summary, no CSR matrix. With `corrected` counts with fractions, as a
    correction for ambient RNA leaves them, are rounded and kept. Of `rows` (positions, sorted; None
    for all) those of a CSR matrix are read alone, and what it holds is judged by them and by its
    beginning.
    """

    keep: bool = True
    corrected: bool = False
    rows: NDArray[np.intp] | None = None


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix as it is in a file.

    `csr` is float32 of whole numbers, or None where only the summary was asked for or the values
    are no counts; `shape` and `n_stored` (of a dense matrix zeros included) are those of the whole
    matrix, `summary` of the values that were read; `first_bad` is the row and column of the first
    value that is no count.
    """

    csr: sparse.csr_matrix | None
    shape: tuple[int, int]
    summary: ValueSummary
    first_bad: tuple[int, int] | None
    n_stored: int


def read_node(node: Any, reading: Reading) -> StoredMatrix:
    """Read a matrix of an h5ad: a dense dataset, or a group with a sparse matrix.

    Errors name what is wrong with it, but not the file.
    """
    if hasattr(node, "dtype"):
        if len(node.shape) != 2:
            msg = f"it has {len(node.shape)} axes instead of 2"
            raise InputError(msg)
        return _some(_read_dense(node, reading), reading)
    kind = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
    shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
    lacking = {"data", "indices", "indptr"} - set(node)
    if lacking or shape is None or kind[:3] not in ("csr", "csc"):
        msg = f"it is no matrix that can be read (encoding '{kind}', entries {sorted(node)})"
        raise InputError(msg)
    arrays = (node["data"], node["indices"], node["indptr"])
    size = (int(shape[0]), int(shape[1]))
    return read_arrays(arrays, size, reading, by_column=kind.startswith("csc"))


def read_arrays(
    arrays: tuple[Any, Any, Any],
    shape: tuple[int, int],
    reading: Reading,
    *,
    by_column: bool = False,
) -> StoredMatrix:
    """Read a compressed sparse matrix: values, indices and pointers, HDF5 data sets or arrays.

    Errors name what is damaged, but not the file.
    """
    data, indices, indptr = arrays
    n_major, n_stored = shape[by_column], int(data.shape[0])
    if indices.shape[0] != n_stored:
        msg = f"it has {n_stored} sparse values and {indices.shape[0]} indices"
        raise InputError(msg)
    pointers = _checked_indptr(indptr, n_major=n_major, n_stored=n_stored)
    arrays = (data, indices, pointers)
    if reading.rows is None or by_column:
        return _some(_read_compressed(arrays, shape, reading, by_column=by_column), reading)
    n_head = int(np.searchsorted(pointers, _HEAD, side="right"))
    looked = np.union1d(np.arange(min(n_head, n_major)), reading.rows).astype(np.intp)
    some = _read_compressed(_gather(*arrays, looked), (len(looked), shape[1]), reading)
    bad = some.first_bad
    return replace(
        some,
        csr=None if some.csr is None else settle(some.csr[np.searchsorted(looked, reading.rows)]),
        shape=shape,
        first_bad=None if bad is None else (int(looked[bad[0]]), bad[1]),
        n_stored=n_stored,
    )


def _some(stored: StoredMatrix, reading: Reading) -> StoredMatrix:
    """Keep the wanted rows of a matrix that was read whole."""
    if reading.rows is None or stored.csr is None:
        return stored
    return replace(stored, csr=stored.csr[reading.rows])


def _read_compressed(
    arrays: tuple[Any, Any, NDArray[np.int64]],
    shape: tuple[int, int],
    reading: Reading,
    *,
    by_column: bool = False,
) -> StoredMatrix:
    """Read all of a matrix; wrong indices would crash scipy, so they are checked first."""
    data, indices, pointers = arrays
    n_minor, n_stored = shape[not by_column], data.shape[0]
    minor = _checked_indices(indices, n_minor=n_minor)
    summary = ValueSummary(shape[0] * shape[1], data.dtype)
    is_kept = reading.keep and data.dtype.kind in "biuf"
    values = np.empty(n_stored if is_kept else 0, dtype=np.float32)
    for part in row_chunks(n_stored, size=_SPAN):
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
    csr = None
    if reading.keep and _acceptable(summary, reading):
        pointers = pointers.astype(_index_dtype(n_stored, n_minor), copy=False)
        build = sparse.csc_matrix if by_column else sparse.csr_matrix
        csr = _whole(settle(build((values, minor, pointers), shape=shape)), summary)
    return StoredMatrix(csr, shape, summary, first_bad, n_stored)


def _read_dense(stored: Any, reading: Reading) -> StoredMatrix:
    """Read a dense matrix in chunks of rows."""
    shape = (int(stored.shape[0]), int(stored.shape[1]))
    summary = ValueSummary(shape[0] * shape[1], stored.dtype)
    blocks = []
    for part in row_chunks(shape[0], size=max(1, _SPAN // max(shape[1], 1))):
        chunk = np.asarray(stored[part])
        summary.add(chunk)
        good = chunk.dtype.kind in "biuf" and (reading.corrected or summary.first_bad < 0)
        if reading.keep and good:
            blocks.append(sparse.csr_matrix(chunk.astype(np.float32)))
    first_bad = divmod(summary.first_bad, shape[1]) if summary.first_bad >= 0 else None
    csr = None
    if reading.keep and _acceptable(summary, reading):
        csr = _whole(settle(sparse.vstack(blocks, format="csr")), summary)
    return StoredMatrix(csr, shape, summary, first_bad, shape[0] * shape[1])


def _acceptable(summary: ValueSummary, reading: Reading) -> bool:
    return summary.state == "counts" or (reading.corrected and summary.state == "fractional")


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
    for part in row_chunks(len(indices), size=_SPAN):
        chunk = np.asarray(stored[part])
        if not within(chunk, n_minor):
            wrong = chunk[(chunk < 0) | (chunk >= n_minor)]
            msg = (
                f"its sparse indices are damaged (index {int(wrong[0])} where they must be from 0 "
                f"to {n_minor - 1})"
            )
            raise InputError(msg)
        if not is_ready:
            indices[part] = chunk
    return indices


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
