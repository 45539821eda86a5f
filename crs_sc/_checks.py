"""Checks at the boundary of public functions, and the two things all of them take out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc._arrays import as_csr, string_codes, value_chunks, whole_numbers, within
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = [
    "add_note",
    "check_fraction",
    "check_obs",
    "count_chunks",
    "counts_matrix",
    "gene_positions",
    "pass_over",
    "sample_table",
    "store",
]


def check_obs(adata: AnnData, **columns: str) -> None:
    """Raise unless each column is in `obs` without missing values.

    Parameters
    ----------
    adata
        Cells x genes.
    **columns
        Parameter name and the column that it names, such as `sample_key="sample"`.

    Raises
    ------
    MissingKeyError
        If a column is absent.
    InputError
        If a column has missing values.
    """
    for parameter, column in columns.items():
        if column not in adata.obs.columns:
            msg = (
                f"`obs` has no column '{column}' ({parameter}). "
                f"Columns: {listing(adata.obs.columns)}."
            )
            raise MissingKeyError(msg)
        missing = int(adata.obs[column].isna().sum())
        if missing:
            msg = (
                f"`obs['{column}']` ({parameter}) is empty for {missing} of {adata.n_obs} cells. "
                "Fill it in or leave those cells out."
            )
            raise InputError(msg)


def check_fraction(name: str, value: float) -> None:
    """Raise unless `0 <= value <= 1`."""
    if not 0 <= value <= 1:
        msg = f"{name} must be between 0 and 1, got {value!r}."
        raise InputError(msg)


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
    return as_csr(_layer(adata, layer))


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
        CSR of these cells, values as stored.

    Raises
    ------
    MissingKeyError
        If the layer is absent.
    InputError
        If a value is no count, or the matrix on disk is damaged or not stored by rows.
    """
    matrix = _layer(adata, layer)
    group = getattr(matrix, "group", None)
    if group is None:
        chunks = _memory_chunks(as_csr(matrix), max_values=max_values)
    else:
        shape = getattr(matrix, "stored_shape", matrix.shape)
        # A file that was opened with a limit of memory knows its chunks.
        size = getattr(matrix, "chunk_values", max_values)
        chunks = _stored_chunks(group, shape, layer=layer, max_values=size)
    for rows, counts, is_sound in chunks:
        if not is_sound:
            _refuse(counts, adata.obs_names[rows], layer=layer)
        # Columns of a user's file that became one gene are added up.
        yield rows, matrix.mapped(counts) if hasattr(matrix, "mapped") else counts


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
    group: Any, shape: tuple[int, int], *, layer: str, max_values: int
) -> Iterator[tuple[slice, sparse.csr_matrix, bool]]:
    """Row chunks of a sparse matrix on disk, and whether their values are counts.

    Wrong indices would crash scipy and are looked for, beside the work on the chunk before.
    """
    kind = str(group.attrs.get("encoding-type", ""))
    if kind != "csr_matrix":
        msg = (
            f"`layers['{layer}']` is on disk as {kind}, which cannot be read cell by cell. "
            "Read the file with crs_sc.read and write it with crs_sc.io.write_h5ad."
        )
        raise InputError(msg)
    data, indices, indptr = group["data"], group["indices"], group["indptr"][...].astype(np.int64)
    whole = len(indptr) == shape[0] + 1 and indptr[0] == 0 and not (np.diff(indptr) < 0).any()
    if not whole or not indptr[-1] == data.shape[0] == indices.shape[0]:
        msg = f"`layers['{layer}']` is damaged: its row pointers and values do not fit together."
        raise InputError(msg)

    def read(rows: slice) -> tuple[sparse.csr_matrix, bool]:
        start, stop = int(indptr[rows.start]), int(indptr[rows.stop])
        columns = indices[start:stop]
        if not within(columns, shape[1]):
            msg = (
                f"`layers['{layer}']` is damaged: column indices of the cells {rows.start} to "
                f"{rows.stop - 1} are not all from 0 to {shape[1] - 1}."
            )
            raise InputError(msg)
        pointers = (indptr[rows.start : rows.stop + 1] - start).astype(columns.dtype)
        chunk = sparse.csr_matrix((rows.stop - rows.start, shape[1]), dtype=data.dtype)
        # Set one by one, because the constructor looks for the largest index once more.
        chunk.data, chunk.indices, chunk.indptr = data[start:stop], columns, pointers
        return chunk, whole_numbers(chunk.data)

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


def _layer(adata: AnnData, layer: str) -> Any:
    """Return a layer of counts as it is."""
    if layer not in adata.layers:
        found = listing(name for name in adata.layers if name is not None)
        msg = (
            f"`layers` has no '{layer}' (raw counts). Layers: {found}. "
            "Read the file with crs_sc.read, which finds the counts."
        )
        raise MissingKeyError(msg)
    return adata.layers[layer]


def gene_positions(adata: AnnData, genes: Sequence[str]) -> dict[str, int]:
    """Column of each gene that is in the data, in the order of `genes`.

    Parameters
    ----------
    adata
        Cells x genes.
    genes
        Symbols; those that are not in `var_names` are left out of the answer.
    """
    index = adata.var_names.get_indexer(pd.Index(list(genes)))
    return {gene: int(i) for gene, i in zip(genes, index, strict=True) if i >= 0}


def sample_table(
    adata: AnnData,
    *,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """One row a sample: its subject, condition and, where they exist, time point and batch.

    Parameters
    ----------
    adata
        Cells x genes.
    sample_key, subject_key, condition_key
        Columns of `obs`.
    covariates
        Further columns of `obs`, one value a sample.

    Returns
    -------
    DataFrame indexed by sample (sorted), columns `subject`, `condition` and, where the cohort has
    them, `timepoint` and `batch`, all strings; then the covariates as they are.

    Raises
    ------
    MissingKeyError
        If a column is absent.
    InputError
        If one sample has two subjects, conditions, time points, batches or values of a covariate.
    """
    check_obs(adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key)
    sources = {keys.SUBJECT: subject_key, keys.CONDITION: condition_key}
    sources |= {name: name for name in (keys.TIMEPOINT, keys.BATCH) if name in adata.obs.columns}
    unique = _combinations(
        {keys.SAMPLE: adata.obs[sample_key]}
        | {name: adata.obs[column] for name, column in sources.items()}
    )
    mixed = unique.loc[unique[keys.SAMPLE].duplicated(), keys.SAMPLE]
    if len(mixed):
        name = mixed.iloc[0]
        rows = unique.loc[unique[keys.SAMPLE] == name].drop(columns=keys.SAMPLE)
        differing = [column for column in rows.columns if rows[column].nunique() > 1]
        msg = (
            f"Sample '{name}' has more than one {' and '.join(differing)}: "
            f"{listing(rows[differing[0]].unique())}. A sample is one library of one subject in "
            "one condition; map a finer column to `sample`."
        )
        raise InputError(msg)
    table = unique.set_index(keys.SAMPLE).sort_index()
    for name in covariates:
        table[name] = _by_sample(adata, name, sample_key=sample_key)
    return table


def _combinations(columns: dict[str, pd.Series]) -> pd.DataFrame:
    """Distinct rows of some columns, as strings, in the order of their first appearance."""
    codes, levels = zip(*(string_codes(values) for values in columns.values()), strict=True)
    row, n_rows = np.zeros(len(codes[0]), dtype=np.int64), 1
    for own, names in zip(codes, levels, strict=True):
        if n_rows * (len(names) + 1) > np.iinfo(np.int64).max:
            row, n_rows = pd.factorize(row)[0], len(row)
        # What is missing has the code -1.
        row, n_rows = row * (len(names) + 1) + own + 1, n_rows * (len(names) + 1)
    # Categories repeat in long runs, of which only the first cell can be new.
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    _, first = np.unique(row[starts], return_index=True)
    first = starts[np.sort(first)]
    return pd.DataFrame(
        {
            name: np.array([*names, None], dtype=object)[own[first]]
            for name, own, names in zip(columns, codes, levels, strict=True)
        },
        dtype="str",
    )


def _by_sample(adata: AnnData, name: str, *, sample_key: str) -> pd.Series:
    """Value of a covariate in each sample, indexed by sample; missing where a sample has none."""
    if name not in adata.obs.columns:
        msg = f"`obs` has no column '{name}' (covariates). Columns: {listing(adata.obs.columns)}."
        raise MissingKeyError(msg)
    by_sample = adata.obs[name].groupby(adata.obs[sample_key].astype(str).to_numpy(), sort=True)
    n_values = by_sample.nunique(dropna=False)
    mixed = n_values.index[n_values > 1]
    if len(mixed):
        found = adata.obs.loc[(adata.obs[sample_key].astype(str) == mixed[0]).to_numpy(), name]
        msg = (
            f"Sample '{mixed[0]}' has more than one {name}: {listing(found.unique())}. "
            "A covariate has one value a sample."
        )
        raise InputError(msg)
    values: pd.Series = by_sample.first()
    return values


def store(adata: AnnData, name: str, value: Any) -> None:
    """Put a result into `uns["crs_sc"][name]`.

    Parameters
    ----------
    adata
        Cells x genes.
    name
        One of the entries named in `keys`.
    value
        A DataFrame, dict, list of strings or scalar that h5ad can hold.
    """
    adata.uns.setdefault(keys.UNS, {})[name] = value


def add_note(adata: AnnData, note: str) -> None:
    """Add a line to `uns["crs_sc"]["notes"]`, which the report shows; the same line only once."""
    notes = [str(line) for line in adata.uns.setdefault(keys.UNS, {}).get(keys.NOTES, [])]
    if note not in notes:
        notes.append(note)
    adata.uns[keys.UNS][keys.NOTES] = notes
