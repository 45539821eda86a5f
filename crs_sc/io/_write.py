"""Files that are whole or not there; an AnnData so that any anndata, cellxgene and R opens it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import resource
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.core.arrays import as_csr, log_scaled
from crs_sc.core.blocks import is_on_disk, layer_of, matrix_chunks
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = [
    "GuardedFile",
    "allow_open_files",
    "atomic_path",
    "full_disk_error",
    "write_cohort",
    "write_h5ad",
    "write_json",
    "write_text",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a run has open beside its samples: libraries, pipes to other processes, tables.
_OTHERS = 256


def full_disk_error(path: Path, error: OSError) -> InputError:
    """Return the error for a disk or quota that filled up while `path` was written."""
    free = shutil.disk_usage(path.parent).free
    return InputError(
        f"No space left for '{path}' ({error.strerror}; {free / 1e9:.2f} GB free on the disk). "
        "Nothing was left under that name. Make room, or write to another disk."
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that it is never seen half-written under its own name.

    The body writes to a hidden temporary path in the same folder, with the same suffix. When the
    body ends, the file is forced to disk and renamed; when it raises, the temporary file is
    removed and what was there before stays. The folder is made if it is not there. A process that
    is killed can leave the hidden temporary file behind (`.STEM.tmp-*`), never the final one.

    Parameters
    ----------
    path
        The final path.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    InputError
        If the folder cannot be written to, or if the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with crs.io.atomic_path(f"{folder}/notes.txt") as temporary:
    ...         n_written = temporary.write_text("whole or not there")
    """
    final = Path(path)
    temporary = final.with_name(f".{final.stem}.tmp-{secrets.token_hex(6)}{final.suffix}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        if error.errno in _FULL:
            raise full_disk_error(final, error) from error
        msg = (
            f"Cannot write '{final}': {error.strerror}. "
            "Choose an output folder that you may write to."
        )
        raise InputError(msg) from error
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(final)
        _sync(final.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise full_disk_error(final, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    r"""Write text as UTF-8 with `\n`, atomically.

    Parameters
    ----------
    text
        What to write.
    path
        The final path.

    Raises
    ------
    InputError
        If the folder cannot be written to, or if the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_text("IL1B", f"{folder}/gene.txt")
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(value: Any, path: str | os.PathLike[str]) -> None:
    """Write a value as indented JSON, keys in their own order, atomically.

    Parameters
    ----------
    value
        Dicts, lists, strings, numbers, booleans and None.
    path
        The final path.

    Raises
    ------
    InputError
        If the folder cannot be written to, or if the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_json({"gene": "IL1B"}, f"{folder}/settings.json")
    """
    write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", path)


class GuardedFile(io.FileIO):
    """A file for h5py that survives a full disk.

    HDF5 cannot close a file whose writes fail and crashes the whole process at exit. So the first
    failure is kept in `error`, later small writes (HDF5's own bookkeeping, which it reads back)
    go to memory, large ones nowhere, and HDF5 closes in peace; the caller then raises `error`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._late: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write at the current position, or pretend to after a failure."""
        view = memoryview(data).cast("B")
        start = self.tell()
        try:
            done = 0
            while self.error is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        if self.error is not None:
            if len(view) <= 1 << 20:
                self._late.append((start, bytes(view)))
            self.seek(start + len(view))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the file and from what came after a failure."""
        view = memoryview(buffer).cast("B")
        start = self.tell()
        stop = start + len(view)
        got = super().readinto(view) or 0
        view[got:] = bytes(len(view) - got)
        for position, data in self._late:
            low, high = max(start, position), min(stop, position + len(data))
            if low < high:
                view[low - start : high - start] = data[low - position : high - position]
        self.seek(stop)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position; the end is that of what came after a failure too."""
        if whence == os.SEEK_END:
            ends = [position + len(data) for position, data in self._late]
            offset += max([os.fstat(self.fileno()).st_size, *ends])
            whence = os.SEEK_SET
        return super().seek(offset, whence)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file, or pretend to after a failure."""
        size = self.tell() if size is None else size
        try:
            if self.error is None:
                super().truncate(size)
        except OSError as error:
            self.error = error
        return size


def _plain_strings(values: Any) -> pd.Index:
    """Strings as Python objects: anndata writes these as the string-array that all can read."""
    # At once, because pandas gives its strings out slowly one by one.
    found = np.asarray(values, dtype=object)
    if not set(map(type, found)) <= {str}:
        found = np.asarray([str(value) for value in found], dtype=object)
    plain: pd.Index = pd.Index(found, dtype=object)
    return plain


def _categorical(values: pd.Series) -> pd.Categorical:
    category = values.array
    if not isinstance(category, pd.Categorical):
        category = pd.Categorical(values.astype(object).map(str, na_action="ignore"))
    # A value of another type than str cannot be a category in every reader.
    return pd.Categorical.from_codes(
        category.codes,
        categories=_plain_strings(category.categories),
        ordered=bool(category.ordered),
    )


def _plain_column(values: pd.Series) -> Any:
    """One column in a form that any anndata can read."""
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype):
        return _categorical(values)
    if pd.api.types.is_bool_dtype(kind):
        return _categorical(values) if values.isna().any() else values.to_numpy(dtype=bool)
    if pd.api.types.is_numeric_dtype(kind):
        if not pd.api.types.is_extension_array_dtype(kind):
            return values.to_numpy()
        whole = pd.api.types.is_integer_dtype(kind) and not values.isna().any()
        return values.to_numpy(dtype=np.int64 if whole else np.float64, na_value=np.nan)
    if values.isna().any():
        return _categorical(values)
    return _plain_strings(values).to_numpy()


def _plain_frame(frame: pd.DataFrame, *, where: str, categorical: bool) -> pd.DataFrame:
    """Return a frame that any anndata can read; repeated strings of `obs` and `var` are coded."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        msg = f"{where} has two columns named '{twice[0]}'. Rename one."
        raise InputError(msg)
    index = _plain_strings(frame.index)
    if frame.index.name is not None and str(frame.index.name) not in names:
        index.name = str(frame.index.name)
    plain = pd.DataFrame(index=index)
    for position, name in enumerate(names):
        _check_name(name, where=where)
        values = frame.iloc[:, position]
        column = _plain_column(values)
        is_text = isinstance(column, np.ndarray) and column.dtype == object
        if categorical and is_text and values.nunique() < len(values):
            column, is_text = _categorical(values), False
        plain[name] = pd.Series(column, index=index, dtype=object if is_text else None)
    return plain


def _check_name(name: str, *, where: str) -> None:
    if "/" in name or not name:
        msg = f"{where} has the name '{name}': HDF5 has no empty names and none with '/'. Rename."
        raise InputError(msg)


def _plain(value: Any, *, where: str) -> Any:
    """Any value of an AnnData slot in a form that any anndata can read."""
    if isinstance(value, pd.DataFrame):
        return _plain_frame(value, where=where, categorical=False)
    if hasattr(value, "items"):
        for name in value:
            _check_name(str(name), where=where)
        return {str(name): _plain(item, where=f"{where}['{name}']") for name, item in value.items()}
    if isinstance(value, list | tuple | pd.Index | pd.Series):
        items = list(value)
        if all(isinstance(item, str) for item in items):
            return np.asarray(items, dtype=object)
        if all(isinstance(item, bool | int | float | np.number) for item in items):
            return np.asarray(items)
    elif isinstance(value, str | bool | int | float | np.generic | np.ndarray):
        return value
    if sparse.issparse(value) or is_on_disk(value):
        return value
    msg = f"{where} is {type(value).__name__}, which no h5ad can hold. Store strings or numbers."
    raise InputError(msg)


def _size(value: Any) -> int:
    """Bytes of a value on disk, about."""
    if value is None:
        return 0
    if isinstance(value, pd.DataFrame):
        return int(value.memory_usage(deep=True).sum())
    if isinstance(value, dict):
        return sum(_size(item) for item in value.values())
    if is_on_disk(value):
        return 8 * int(_pointers(value)[-1])
    if sparse.issparse(value):
        return int(value.data.nbytes + value.indices.nbytes + value.indptr.nbytes)
    return int(getattr(value, "nbytes", 64))


def _contents(adata: AnnData) -> dict[str, Any]:
    parts = {} if adata.X is None else {"X": _plain(adata.X, where="`X`")}
    for name in ("obs", "var"):
        parts[name] = _plain_frame(getattr(adata, name), where=f"`{name}`", categorical=True)
    for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
        # anndata 0.13 shows X among the layers under the name None.
        named = {k: v for k, v in getattr(adata, name).items() if k is not None}
        parts[name] = _plain(named, where=f"`{name}`")
    return parts


# Values of `X` from the counts of some rows.
type _Normalised = Callable[[slice, sparse.csr_matrix], NDArray[np.float32]]


def _apart(parts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts that anndata writes, and by their place the matrices that are written by rows."""
    held = {name: part for name, part in parts.items() if not _is_by_rows(part)}
    by_rows = {name: part for name, part in parts.items() if name not in held}
    for group in ("layers", "obsp"):
        named = parts[group]
        held[group] = {name: part for name, part in named.items() if not _is_by_rows(part)}
        by_rows |= {f"{group}/{n}": part for n, part in named.items() if n not in held[group]}
    return held, by_rows


def _is_by_rows(value: Any) -> bool:
    return is_on_disk(value) or (sparse.issparse(value) and value.format == "csr")


def _pointers(matrix: Any) -> NDArray[np.integer]:
    """Row pointers of a CSR matrix, of the type that its indices get: scipy wants one for both."""
    pointers = matrix.group["indptr"][...] if is_on_disk(matrix) else matrix.indptr
    return np.asarray(pointers, dtype=np.int32 if pointers[-1] < 1 << 31 else np.int64)


def _write_csr(
    file: Any,
    place: str,
    matrix: Any,
    options: Mapping[str, Any],
    normalised: _Normalised | None = None,
) -> None:
    """Write a CSR matrix as anndata does, but not in pieces of a few kilobytes.

    With `normalised`, `X` is worked out from it and written in the same pass. It shares the indices
    of the counts in the file: any reader finds both, and nothing is stored twice.
    """
    indptr = _pointers(matrix)
    groups = [file.require_group(name) for name in (place, *(["X"] if normalised else []))]
    for group, dtype in zip(groups, (matrix.dtype, np.float32), strict=False):
        group.attrs["encoding-type"] = "csr_matrix"
        group.attrs["encoding-version"] = "0.1.0"
        group.attrs["shape"] = np.array(matrix.shape, dtype=np.int64)
        group.create_dataset("data", (int(indptr[-1]),), dtype=dtype, **options)
    first = groups[0]
    first.create_dataset("indices", (int(indptr[-1]),), dtype=indptr.dtype, **options)
    first.create_dataset("indptr", data=indptr, **options)
    for group in groups[1:]:
        group["indices"], group["indptr"] = first["indices"], first["indptr"]
    for rows, chunk in matrix_chunks(matrix):
        stored = slice(int(indptr[rows.start]), int(indptr[rows.stop]))
        first["data"][stored], first["indices"][stored] = chunk.data, chunk.indices
        if normalised is not None:
            groups[1]["data"][stored] = normalised(rows, chunk)


def _verify(path: Path, shape: tuple[int, int], parts: dict[str, Any]) -> None:
    """Open the written file again: all parts there, and the two axes of the right length."""
    import h5py

    with h5py.File(path, "r") as file:
        lengths = [len(file[name][file[name].attrs["_index"]]) for name in ("obs", "var")]
        if tuple(lengths) != shape or set(file) != set(parts):
            msg = f"'{path}' read back as {lengths} instead of {list(shape)}; it was not kept."
            raise InputError(msg)


def write_h5ad(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    compression: Literal["gzip", "lzf"] | None = None,
) -> None:
    """Write an h5ad that is either whole or not there, and that older readers can open.

    The file is written beside, opened again, forced to disk and renamed. Strings are written as
    plain string arrays (as categories where values repeat or are missing), nullable numbers as
    int64 or float64, columns of mixed types as strings; `.raw` is not written. Matrices that are on
    disk are copied a chunk of cells at a time. `adata` itself is not changed.

    Parameters
    ----------
    adata
        Cells x genes.
    path
        The final path.
    compression
        None by default: reading and writing are about ten times as fast as with gzip, for about
        three times the space. All three can be read without a plug-in.

    Raises
    ------
    InputError
        If a name or value cannot be stored, the folder cannot be written to, or there is no
        space. Nothing is then left under `path`, or what was there before.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_h5ad(crs.datasets.toy_cohort(state="raw"), f"{folder}/cohort.h5ad")
    """
    _write(adata, Path(path), compression)


def write_cohort(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    target_sum: float = 1e4,
    compression: Literal["gzip", "lzf"] | None = None,
) -> None:
    """Write an h5ad as `write_h5ad` does, its `X` worked out from the counts on the way.

    It goes over the counts once, a chunk of cells at a time: neither they nor `X` need be in
    memory. What `X` is in `adata` does not matter.

    Parameters
    ----------
    adata
        Cells x genes, `layers["counts"]` in memory or on disk (`open_h5ad`).
    path
        The final path.
    target_sum
        Counts per cell in `X`, which becomes `log1p(counts / total * target_sum)`, float32, zero
        for a cell without counts, as `pp.normalize` has it.
    compression
        As for `write_h5ad`.

    Raises
    ------
    MissingKeyError
        If `layers["counts"]` is absent.
    InputError
        As for `write_h5ad`; or if the counts on disk are damaged.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_cohort(crs.datasets.toy_cohort(state="raw"), f"{folder}/cohort.h5ad")
    """
    layer_of(adata)

    def normalised(_: slice, chunk: sparse.csr_matrix) -> NDArray[np.float32]:
        total = np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel()
        factor = np.divide(target_sum, total, out=np.zeros_like(total), where=total > 0)
        return log_scaled(chunk, factor)

    _write(adata, Path(path), compression, normalised)


def _write(
    adata: AnnData, path: Path, compression: str | None, normalised: _Normalised | None = None
) -> None:
    """Write all parts of an AnnData; with `normalised`, `X` is what it gives of the counts."""
    import h5py
    from anndata.io import write_elem

    parts, place = _contents(adata), f"layers/{keys.COUNTS}"
    if normalised is not None:
        counts = parts["layers"][keys.COUNTS]
        counts = counts if is_on_disk(counts) else as_csr(counts)
        parts["X"] = parts["layers"][keys.COUNTS] = counts
    needed = _size(parts) * (1.02 if compression is None else 0.25) + 1e5
    held, by_rows = _apart(parts)
    if normalised is not None:
        del by_rows["X"]
    options = {} if compression is None else {"compression": compression}
    with atomic_path(path) as temporary:
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            msg = (
                f"'{path}' needs about {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB "
                "free. Make room, or write to another disk."
            )
            raise InputError(msg)
        with GuardedFile(temporary) as guard:
            with h5py.File(guard, "w") as file:
                file.attrs["encoding-type"] = "anndata"
                file.attrs["encoding-version"] = "0.1.0"
                for name, part in held.items():
                    if guard.error is None:
                        write_elem(file, name, part, dataset_kwargs=options)
                for name, matrix in by_rows.items():
                    _write_csr(file, name, matrix, options, normalised if name == place else None)
            if guard.error is not None:
                raise full_disk_error(path, guard.error) from guard.error
        _verify(temporary, adata.shape, parts)


def allow_open_files(n_files: int) -> None:
    """Let this process have so many files open; the usual limit is 1,024.

    Parameters
    ----------
    n_files
        Files that are open at a time, beside the usual ones.

    Raises
    ------
    InputError
        If the system does not allow it.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.io.allow_open_files(16)
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n_files + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        msg = (
            f"{n_files} samples are read at a time, and this process may have {hard} files open. "
            f"Raise the limit to {needed} or more (`ulimit -n`, LimitNOFILE of the job), or put "
            "libraries together in fewer samples."
        )
        raise InputError(msg)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
