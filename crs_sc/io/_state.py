"""What a matrix holds, judged from all of its values, and how a damaged one is told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["MatrixState", "ValueSummary", "matrix_state", "slices"]

MatrixState = Literal[
    "counts", "log-normalised", "scaled", "fractional", "binary", "other", "empty"
]

# float32 holds every whole number up to here; no gene has more UMI in one cell.
LARGEST_COUNT = 2**24
# log2 of a million, and some: no logarithm of normalised counts is larger.
_LARGEST_LOG = 25.0
# Below this share of values with a fraction, the matrix was counts before it was damaged.
_DAMAGED_SHARE = 0.01


def slices(length: int, *, size: int = 1 << 22) -> Iterator[slice]:
    """Cover `range(length)` with slices of at most `size`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


@dataclass
class ValueSummary:
    """Numbers over all values of a matrix, added up chunk by chunk.

    Attributes
    ----------
    n_entries
        Rows times columns.
    n_seen, n_nonzero, n_nonfinite, n_negative, n_fractional, n_huge
        Stored values; of them not zero; NaN or infinite; below zero; with a fraction; above what
        a count can be.
    smallest, largest
        Of the finite values.
    first_bad
        Position of the first stored value that is no count, or -1.
    dtype
        Type of the stored values.
    """

    n_entries: int
    n_seen: int = 0
    n_nonzero: int = 0
    n_nonfinite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    n_huge: int = 0
    smallest: float = np.inf
    largest: float = -np.inf
    first_bad: int = -1
    dtype: np.dtype[Any] | None = None

    def add(self, values: NDArray[Any]) -> None:
        """Count one chunk; chunks come in the order in which the values are stored."""
        values = values.ravel()
        self.dtype = values.dtype
        self.n_nonzero += int(np.count_nonzero(values))
        if values.dtype.kind in "biuf" and len(values):
            self._add_numbers(values)
        self.n_seen += len(values)

    def _add_numbers(self, values: NDArray[Any]) -> None:
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            bad = ~finite
            self.n_nonfinite += int(bad.sum())
            fractional = finite & (values != np.rint(values))
            self.n_fractional += int(fractional.sum())
            bad |= fractional
            present = values[finite] if self.n_nonfinite else values
        else:
            bad = np.zeros(len(values), dtype=bool)
            present = values
        if len(present):
            low, high = float(present.min()), float(present.max())
            self.smallest, self.largest = min(self.smallest, low), max(self.largest, high)
            if low < 0:
                negative = values < 0
                self.n_negative += int(np.isfinite(values[negative]).sum())
                bad |= negative
            if high > LARGEST_COUNT:
                huge = values > LARGEST_COUNT
                self.n_huge += int(np.isfinite(values[huge]).sum())
                bad |= huge
        if self.first_bad < 0 and bad.any():
            self.first_bad = self.n_seen + int(bad.argmax())

    @property
    def state(self) -> MatrixState:
        """What the matrix holds."""
        kind = self.dtype.kind if self.dtype is not None else "f"
        if self.n_entries == 0 or self.n_nonzero == 0:
            return "empty"
        if kind not in "biuf" or self.n_nonfinite or self.n_huge:
            return "other"
        if kind == "b":
            return "binary"
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
        if self.dtype is None or self.dtype.kind not in "iuf" or self.first_bad < 0:
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
        if self.dtype is not None and self.dtype.kind not in "biuf":
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


def summarise(matrix: Any) -> ValueSummary:
    """Go through all values of a matrix in memory, chunk by chunk.

    Parameters
    ----------
    matrix
        Dense or sparse, shape `(n_rows, n_cols)`.
    """
    n_rows, n_cols = matrix.shape
    summary = ValueSummary(n_entries=n_rows * n_cols)
    if sparse.issparse(matrix):
        stored = matrix.data if hasattr(matrix, "indptr") else matrix.tocsr().data
        for part in slices(len(stored)):
            summary.add(stored[part])
        summary.dtype = stored.dtype
    else:
        dense = np.asarray(matrix)
        for part in slices(n_rows, size=max(1, (1 << 22) // max(n_cols, 1))):
            summary.add(dense[part])
        summary.dtype = dense.dtype
    return summary


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
    """
    if len(getattr(matrix, "shape", ())) != 2:
        msg = f"matrix_state needs a matrix with two axes, got {type(matrix).__name__}."
        raise InputError(msg)
    return summarise(matrix).state
