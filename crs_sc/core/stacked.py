"""Matrices of a cohort that stay in the files of its samples, and are read when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from anndata._core.sparse_dataset import _CSRDataset
from scipy import sparse

from crs_sc.core.arrays import log_scaled
from crs_sc.core.blocks import columns_of, parts_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["LogNormalised", "StackedCounts"]


# The public class of anndata is abstract; that of `sparse_dataset` is what an AnnData can hold.
class _OnDisk(_CSRDataset):  # type: ignore[misc]
    """A CSR matrix made of others; `parts`, `shape` and `dtype` come from the class below."""

    def __init__(self) -> None:
        # It has no group of a file of its own.
        pass

    def __repr__(self) -> str:
        return f"{type(self).__name__}: shape {self.shape}, {self.dtype}, on disk"

    def to_memory(self) -> sparse.csr_matrix:
        """Read all of it."""
        return rows_of(self, np.arange(self.shape[0]))

    def __getitem__(self, index: Any) -> sparse.csr_matrix:
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        n_rows, n_columns = self.shape
        wanted = np.arange(n_rows)[rows if isinstance(rows, slice) else np.ravel(rows)]
        chosen = np.arange(n_columns)[columns if isinstance(columns, slice) else np.ravel(columns)]
        ascending, place = np.unique(wanted, return_inverse=True)
        if len(chosen) < n_columns and len(np.unique(chosen)) == len(chosen):
            found = columns_of(self, chosen, rows=ascending)
        else:
            found = rows_of(self, ascending)[:, chosen]
        is_same = np.array_equal(place, np.arange(len(ascending)))
        return found if is_same else sparse.csr_matrix(found[place])


class StackedCounts(_OnDisk):
    """Counts of several samples, one below the other, each left where it is.

    Parameters
    ----------
    parts
        CSR matrices on disk or in memory with the same columns.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self.parts = list(parts)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the counts."""
        found: np.dtype[Any] = np.dtype(self.parts[0].dtype)
        return found


class LogNormalised(_OnDisk):
    """`log1p(counts * factor)` of counts that stay where they are.

    Parameters
    ----------
    counts
        A matrix on disk.
    factor
        What the counts of each cell are multiplied by, shape `(n_cells,)`.
    """

    def __init__(self, counts: Any, factor: NDArray[np.float64]) -> None:
        super().__init__()
        self.counts, self.factor = counts, factor
        self.parts = parts_of(counts)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        rows, columns = self.counts.shape
        return int(rows), int(columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Single precision."""
        return np.dtype(np.float32)

    def mapped(self, rows: slice, stored: sparse.csr_matrix) -> sparse.csr_matrix:
        """Values of some rows, from their counts."""
        return self.normalised(rows, stored)

    def log_normalised(self, rows: slice, counts: sparse.csr_matrix) -> NDArray[np.float32]:
        """Work out the stored values of some rows from their counts."""
        return log_scaled(counts, self.factor[rows])

    def normalised(self, rows: slice, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Values of some rows from their counts."""
        return _log_scaled(counts, self.factor[rows])


def _log_scaled(counts: sparse.csr_matrix, factor: NDArray[np.float64]) -> sparse.csr_matrix:
    """`log1p(counts * factor)`, single precision."""
    parts = (log_scaled(counts, factor), counts.indices, counts.indptr)
    return sparse.csr_matrix(parts, shape=counts.shape)
