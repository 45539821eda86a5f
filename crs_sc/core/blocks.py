"""The raw counts, whole or in one pass over chunks of cells, from memory or from disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
from scipy import sparse

from crs_sc import keys
from crs_sc.core.arrays import (
    as_csr,
    is_on_disk,
    value_chunks,
    whole_numbers,
    within,
)
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = [
    "STORED_COUNTS",
    "columns_of",
    "count_chunks",
    "counts_matrix",
    "is_on_disk",
    "layer_of",
    "matrix_chunks",
    "pass_over",
    "rows_of",
]

# Slot of `obsm` with counts on disk whose columns are not the genes of `var` (some are of one gene,
# or of none), and of `uns["crs_sc"]` with the gene of each column.
STORED_COUNTS = "stored_counts"
# Stored values of a chunk: more makes nothing faster.
VALUES = 1 << 20


def counts_matrix(adata: AnnData, *, layer: str = keys.COUNTS) -> sparse.csr_matrix:
    """Return the raw counts as CSR; MissingKeyError if the layer is absent."""
    return as_csr(layer_of(adata, layer=layer))


def count_chunks(
    adata: AnnData, *, layer: str = keys.COUNTS, max_values: int | None = None
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Go over the raw counts once, in chunks of rows, from memory or from disk.

    Parameters
    ----------
    adata
        Cells x genes, in memory, from `io.open_h5ad` or from `io.CohortFiles.on_disk`.
    layer
        Layer with raw counts.
    max_values
        Stored values that a chunk may have, which bounds the memory: from disk, two chunks are
        held, because the next one is read while one is worked on.

    Yields
    ------
    rows
        Which cells, in order; together all of them.
    counts
        CSR of these cells, values as stored.

    Raises
    ------
    MissingKeyError
        If the layer is absent.
    InputError
        If a value is no count, or the matrix on disk is damaged or not stored by rows.
    """
    genes = None
    if layer not in adata.layers and STORED_COUNTS in adata.obsm:
        matrix, genes = adata.obsm[STORED_COUNTS], adata.uns[keys.UNS][STORED_COUNTS]
    else:
        matrix = layer_of(adata, layer=layer)

    def counted() -> Iterator[tuple[slice, sparse.csr_matrix]]:
        for rows, counts in _chunks(matrix, what=f"layers['{layer}']", max_values=max_values):
            if not whole_numbers(counts.data):
                _refuse(counts, adata.obs_names[rows], layer=layer)
            yield rows, counts if genes is None else _of_genes(counts, genes, adata.n_vars)

    return _ahead(counted()) if is_on_disk(matrix) else counted()


def matrix_chunks(
    matrix: Any, *, max_values: int | None = None
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Go over any matrix once, such as `X`, in chunks of rows, from memory or from disk.

    Parameters
    ----------
    matrix
        Dense or sparse, or a `anndata.abc.CSRDataset`, shape `(n_rows, n_columns)`.
    max_values
        As in `count_chunks`.

    Yields
    ------
    rows, values
        As in `count_chunks`.
    """
    chunks = _chunks(matrix, what="X", max_values=max_values)
    return _ahead(chunks) if is_on_disk(matrix) else chunks


def columns_of(
    matrix: Any, columns: NDArray[np.integer], *, rows: NDArray[np.integer] | None = None
) -> sparse.csr_matrix:
    """Take some columns of a matrix into memory, in one pass where it was left on disk.

    `columns` come in the order wanted, without repeats, `rows` ascending; all if left out.
    """
    wanted = np.arange(matrix.shape[0]) if rows is None else rows
    # By chunks, so that no second copy of all columns is held.
    chunks = [values[:, columns] for values in _wanted_rows(matrix, wanted)]
    return _stacked(chunks, matrix, n_columns=len(columns))


def rows_of(matrix: Any, rows: NDArray[np.integer]) -> sparse.csr_matrix:
    """Take some rows, ascending, of a matrix into memory, in one pass where it was left on disk."""
    return _stacked(list(_wanted_rows(matrix, rows)), matrix, n_columns=matrix.shape[1])


def _wanted_rows(matrix: Any, rows: NDArray[np.integer]) -> Iterator[sparse.csr_matrix]:
    """Chunks of some rows of a matrix."""
    for place, values in matrix_chunks(matrix):
        first, last = np.searchsorted(rows, [place.start, place.stop])
        if last - first == values.shape[0]:
            yield values
        elif last > first:
            yield values[rows[first:last] - place.start]


def _stacked(found: list[sparse.csr_matrix], matrix: Any, *, n_columns: int) -> sparse.csr_matrix:
    """Put chunks below each other, with sorted indices."""
    empty = sparse.csr_matrix((0, n_columns), dtype=matrix.dtype)
    result = sparse.csr_matrix(sparse.vstack([empty, *found], format="csr"))
    result.sort_indices()
    return result


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


def _chunks(
    matrix: Any, *, what: str, max_values: int | None
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Row chunks of any matrix."""
    max_values = VALUES if max_values is None else max_values
    if not is_on_disk(matrix):
        return _memory_chunks(as_csr(matrix), max_values=max_values)
    return _stored_chunks(matrix, what=what, max_values=max_values)


def _memory_chunks(
    matrix: sparse.csr_matrix, *, max_values: int
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Row chunks of a matrix in memory."""
    # Of views scipy would add up duplicates in place, in the data of the user.
    canonical = matrix.has_canonical_format
    for rows in value_chunks(matrix.indptr, size=max_values):
        if not canonical:
            yield rows, matrix[rows]
            continue
        start, stop = matrix.indptr[rows.start], matrix.indptr[rows.stop]
        # Slices of scipy's would be copies.
        chunk = sparse.csr_matrix((rows.stop - rows.start, matrix.shape[1]), dtype=matrix.dtype)
        # Set one by one, because the constructor copies views.
        chunk.data, chunk.indices = matrix.data[start:stop], matrix.indices[start:stop]
        indptr = matrix.indptr[rows.start : rows.stop + 1] - start
        chunk.indptr = indptr.astype(matrix.indices.dtype)
        chunk.has_canonical_format = True
        yield rows, chunk


def _stored_chunks(
    matrix: Any, *, what: str, max_values: int
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Row chunks of a sparse matrix on disk; wrong indices would crash scipy and are looked for."""
    group, (n_rows, n_columns) = matrix.group, matrix.shape
    kind = str(group.attrs.get("encoding-type", ""))
    # scipy has no numbers of the other order of bytes.
    if kind != "csr_matrix" or not matrix.dtype.isnative:
        msg = (
            f"`{what}` is on disk as {kind} of {matrix.dtype}, which cannot be read cell by cell. "
            "Read the file with crs_sc.read and write it with crs_sc.io.write_h5ad."
        )
        raise InputError(msg)
    indptr = group["indptr"][...].astype(np.int64)
    whole = len(indptr) == n_rows + 1 and indptr[0] == 0 and not (np.diff(indptr) < 0).any()
    if not whole or not indptr[-1] == group["data"].shape[0] == group["indices"].shape[0]:
        msg = f"`{what}` is damaged: its row pointers and values do not fit together."
        raise InputError(msg)
    for rows in value_chunks(indptr, size=max_values):
        chunk = sparse.csr_matrix(matrix[rows])
        if not within(chunk.indices, n_columns):
            msg = (
                f"`{what}` is damaged: column indices of the cells {rows.start} to "
                f"{rows.stop - 1} are not all from 0 to {n_columns - 1}."
            )
            raise InputError(msg)
        yield rows, chunk


def _ahead(
    chunks: Iterator[tuple[slice, sparse.csr_matrix]],
) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Read the next chunk while one is worked on."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = reader.submit(next, chunks, None)
        while (chunk := pending.result()) is not None:
            pending = reader.submit(next, chunks, None)
            yield chunk


def _of_genes(
    stored: sparse.csr_matrix, genes: NDArray[np.integer], n_genes: int
) -> sparse.csr_matrix:
    """Give the columns of a file to the genes they stand for: added up, or left out where < 0."""
    gene = genes[stored.indices]
    kept = gene >= 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[stored.indptr]
    parts = (stored.data[kept].astype(np.float32), gene[kept], indptr)
    counts = sparse.csr_matrix(parts, shape=(stored.shape[0], n_genes))
    counts.sum_duplicates()
    return counts


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
    """Return a layer of counts as it is, in memory or on disk; MissingKeyError if it is absent."""
    if layer not in adata.layers:
        found = listing(name for name in adata.layers if name is not None)
        msg = (
            f"`layers` has no '{layer}' (raw counts). Layers: {found}. "
            "Read the file with crs_sc.read, which finds the counts."
        )
        raise MissingKeyError(msg)
    return adata.layers[layer]
