"""The raw counts, whole or in one pass over chunks of cells, from memory or from disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
from scipy import sparse

from crs_sc import keys
from crs_sc.core.arrays import FewColumns, as_csr, row_chunks, value_chunks, whole_numbers, within
from crs_sc.core.stored import StoredArray
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = [
    "as_given",
    "columns_of",
    "count_chunks",
    "counts_matrix",
    "is_on_disk",
    "layer_of",
    "matrix_chunks",
    "parts_of",
    "pass_over",
    "rows_of",
]


def counts_matrix(adata: AnnData, *, layer: str = keys.COUNTS) -> sparse.csr_matrix:
    """Return the raw counts as CSR.

    Parameters
    ----------
    adata
        Cells x genes.
    layer
        Layer with raw integer counts.

    Raises
    ------
    MissingKeyError
        If the layer is absent.
    """
    return as_csr(layer_of(adata, layer=layer))


def count_chunks(
    adata: AnnData, *, layer: str = keys.COUNTS, max_values: int = 1 << 20
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Go over the raw counts once, in chunks of rows, from memory or from disk.

    Parameters
    ----------
    adata
        Cells x genes, in memory or from `io.open_h5ad`.
    layer
        Layer with raw counts.
    max_values
        Stored values that a chunk may have, which bounds the memory: from disk, three chunks are
        held, because the next one is read while one is worked on.

    Yields
    ------
    rows
        Which cells, in order; together all of them.
    counts
        CSR of these cells, values as stored. It may be kept: the memory of a chunk is used for
        another one only when nothing refers to its arrays any more.

    Raises
    ------
    MissingKeyError
        If the layer is absent.
    InputError
        If a value is no count, or the matrix on disk is damaged or not stored by rows.
    """
    matrix = layer_of(adata, layer=layer)
    for rows, counts, is_sound in _stored(matrix, what=f"layers['{layer}']", max_values=max_values):
        if not is_sound:
            _refuse(counts, adata.obs_names[rows], layer=layer)
        yield rows, as_given(matrix, rows, counts)


def matrix_chunks(
    matrix: Any, *, max_values: int = 1 << 20
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Go over any matrix once, such as `X`, in chunks of rows, from memory or from disk.

    Parameters
    ----------
    matrix
        Dense or sparse, or a sparse matrix that was left on disk, shape `(n_rows, n_columns)`.
    max_values
        As in `count_chunks`.

    Yields
    ------
    rows, values
        As in `count_chunks`.
    """
    for rows, values, _ in _stored(matrix, what="X", max_values=max_values):
        yield rows, as_given(matrix, rows, values)


def columns_of(
    matrix: Any, columns: NDArray[np.integer], *, rows: NDArray[np.integer] | None = None
) -> sparse.csr_matrix:
    """Take some columns of a matrix into memory, in one pass where it was left on disk.

    Parameters
    ----------
    matrix
        As in `matrix_chunks`.
    columns
        Which, in the order wanted, without repeats.
    rows
        Which, ascending; all if left out.

    Returns
    -------
    CSR, shape `(len(rows), len(columns))`.
    """
    wanted = np.arange(matrix.shape[0]) if rows is None else rows
    if not is_on_disk(matrix):
        whole = as_csr(matrix)
        if rows is None:
            return sparse.csr_matrix(whole[:, columns])
        # By chunks, so that no second copy of all columns is held.
        parts = [whole[wanted[own]][:, columns] for own in row_chunks(len(wanted))]
        return sparse.csr_matrix(sparse.vstack(parts, format="csr"))
    if hasattr(matrix, "few_columns"):
        # Only what is wanted need be normalised.
        return matrix.few_columns(columns, rows=wanted)
    taken = FewColumns(columns, len(wanted), matrix.shape[1])
    for own, values in _wanted_rows(matrix, wanted):
        taken.add(own, values)
    return taken.result()[0]


def rows_of(matrix: Any, rows: NDArray[np.integer]) -> sparse.csr_matrix:
    """Take some rows of a matrix into memory, in one pass where it was left on disk.

    Parameters
    ----------
    matrix
        As in `matrix_chunks`.
    rows
        Which, ascending.

    Returns
    -------
    CSR, shape `(len(rows), n_columns)`.
    """
    if not is_on_disk(matrix):
        return sparse.csr_matrix(as_csr(matrix)[rows])
    found = [values for _, values in _wanted_rows(matrix, rows)]
    empty = sparse.csr_matrix((0, matrix.shape[1]), dtype=matrix.dtype)
    return sparse.csr_matrix(sparse.vstack([empty, *found], format="csr"))


def _wanted_rows(
    matrix: Any, rows: NDArray[np.integer]
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Chunks of some rows of a matrix, and their place among those."""
    for place, values in matrix_chunks(matrix):
        first, last = np.searchsorted(rows, [place.start, place.stop])
        if last - first == values.shape[0]:
            yield slice(first, last), values
        elif last > first:
            yield slice(first, last), values[rows[first:last] - place.start]


def is_on_disk(matrix: Any) -> bool:
    """Whether a matrix is read from its file when it is asked for."""
    return hasattr(matrix, "to_memory")


class RowKernel(Protocol):
    """What takes in row chunks, such as `GroupSums`."""

    def add(self, rows: slice, chunk: sparse.csr_matrix, /) -> None:
        """Take in the rows of one chunk."""


def pass_over(adata: AnnData, *kernels: RowKernel, layer: str = keys.COUNTS) -> None:
    """Feed several kernels in one pass over the raw counts.

    Parameters
    ----------
    adata
        Cells x genes, in memory or from `io.open_h5ad`.
    *kernels
        They take in the same chunks, in the order of the cells, each in a thread of its own.
    layer
        Layer with raw counts.
    """
    with ThreadPoolExecutor(max_workers=len(kernels)) as workers:
        for rows, counts in count_chunks(adata, layer=layer):
            for done in [workers.submit(kernel.add, rows, counts) for kernel in kernels]:
                done.result()


def parts_of(matrix: Any) -> list[Any]:
    """Matrices of which this one is made, one below the other: itself, if it is in one piece."""
    return list(getattr(matrix, "parts", [matrix]))


def as_given(matrix: Any, rows: slice, stored: sparse.csr_matrix) -> sparse.csr_matrix:
    """Values of some rows, where a file has something else stored than the matrix stands for."""
    found: sparse.csr_matrix = matrix.mapped(rows, stored) if hasattr(matrix, "mapped") else stored
    return found


def _stored(
    matrix: Any, *, what: str, max_values: int
) -> Iterator[tuple[slice, sparse.csr_matrix, bool]]:
    """Row chunks of any matrix as stored, part by part, and whether their values are counts."""
    start = 0
    for part in parts_of(matrix):
        if hasattr(part, "group"):
            shape = getattr(part, "stored_shape", part.shape)
            # A file that was opened with a limit of memory knows its chunks.
            size = getattr(part, "chunk_values", max_values)
            chunks = _stored_chunks(part.group, shape, what=what, max_values=size)
        else:
            chunks = _memory_chunks(as_csr(part), max_values=max_values)
        for rows, values, is_sound in chunks:
            yield slice(start + rows.start, start + rows.stop), values, is_sound
        start += part.shape[0]


def _memory_chunks(
    matrix: sparse.csr_matrix, *, max_values: int
) -> Iterator[tuple[slice, sparse.csr_matrix, bool]]:
    """Row chunks of a matrix in memory, and whether their values are counts."""
    # Of views scipy would add up duplicates in place, in the data of the user.
    canonical = matrix.has_canonical_format
    for rows in value_chunks(matrix.indptr, size=max_values):
        if not canonical:
            part = matrix[rows]
            yield rows, part, whole_numbers(part.data)
            continue
        start, stop = matrix.indptr[rows.start], matrix.indptr[rows.stop]
        # Slices of scipy's would be copies.
        chunk = sparse.csr_matrix((rows.stop - rows.start, matrix.shape[1]), dtype=matrix.dtype)
        # Set one by one, because the constructor copies views.
        chunk.data, chunk.indices = matrix.data[start:stop], matrix.indices[start:stop]
        indptr = matrix.indptr[rows.start : rows.stop + 1] - start
        chunk.indptr = indptr.astype(matrix.indices.dtype)
        chunk.has_canonical_format = True
        yield rows, chunk, whole_numbers(chunk.data)


def _stored_chunks(
    group: Any, shape: tuple[int, int], *, what: str, max_values: int
) -> Iterator[tuple[slice, sparse.csr_matrix, bool]]:
    """Row chunks of a sparse matrix on disk, and whether their values are counts.

    Wrong indices would crash scipy and are looked for, beside the work on the chunk before.
    """
    kind = str(group.attrs.get("encoding-type", ""))
    if kind != "csr_matrix":
        msg = (
            f"`{what}` is on disk as {kind}, which cannot be read cell by cell. "
            "Read the file with crs_sc.read and write it with crs_sc.io.write_h5ad."
        )
        raise InputError(msg)
    indptr = group["indptr"][...].astype(np.int64)
    whole = len(indptr) == shape[0] + 1 and indptr[0] == 0 and not (np.diff(indptr) < 0).any()
    if not whole or not indptr[-1] == group["data"].shape[0] == group["indices"].shape[0]:
        msg = f"`{what}` is damaged: its row pointers and values do not fit together."
        raise InputError(msg)
    data, indices = (StoredArray(group[name], block=max_values) for name in ("data", "indices"))

    def read(rows: slice) -> tuple[sparse.csr_matrix, bool]:
        start, stop = int(indptr[rows.start]), int(indptr[rows.stop])
        columns, values = indices.read(start, stop), data.read(start, stop)
        if not within(columns, shape[1]):
            msg = (
                f"`{what}` is damaged: column indices of the cells {rows.start} to "
                f"{rows.stop - 1} are not all from 0 to {shape[1] - 1}."
            )
            raise InputError(msg)
        pointers = (indptr[rows.start : rows.stop + 1] - start).astype(columns.dtype)
        chunk = sparse.csr_matrix((rows.stop - rows.start, shape[1]), dtype=values.dtype)
        # Set one by one, because the constructor looks for the largest index once more.
        chunk.data, chunk.indices, chunk.indptr = values, columns, pointers
        return chunk, whole_numbers(values)

    slices = list(value_chunks(indptr, size=max_values))
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = [reader.submit(read, rows) for rows in slices[:1]]
        for i, rows in enumerate(slices):
            chunk, is_sound = pending.pop().result()
            pending += [reader.submit(read, after) for after in slices[i + 1 : i + 2]]
            yield rows, chunk, is_sound


def _refuse(counts: sparse.csr_matrix, names: pd.Index, *, layer: str) -> NoReturn:
    """Name the first value that is no whole number from 0."""
    values: NDArray[Any] = counts.data
    bad = ~(values >= 0) | (values == np.inf) | (values != np.rint(values))
    first = int(bad.argmax())
    cell = names[int(np.searchsorted(counts.indptr, first, side="right")) - 1]
    msg = (
        f"`layers['{layer}']` must hold raw counts; cell '{cell}' has {values[first]:g}. "
        "Read the file with crs_sc.read, which finds the counts."
    )
    raise InputError(msg)


def layer_of(adata: AnnData, *, layer: str = keys.COUNTS) -> Any:
    """Return a layer of counts as it is, in memory or on disk.

    Raises
    ------
    MissingKeyError
        If the layer is absent.
    """
    if layer not in adata.layers:
        found = listing(name for name in adata.layers if name is not None)
        msg = (
            f"`layers` has no '{layer}' (raw counts). Layers: {found}. "
            "Read the file with crs_sc.read, which finds the counts."
        )
        raise MissingKeyError(msg)
    return adata.layers[layer]
