"""Files that grow while a cohort is simulated: an h5ad and tables, with flat memory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc.io import atomic_path
from crs_sc.io._write import GuardedFile, full_disk_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from scipy import sparse

__all__ = ["GrowingH5ad", "GrowingTable", "growing_h5ad", "growing_table"]

# Elements a chunk of HDF5.
_CHUNK = 1 << 16


class GrowingH5ad:
    """An h5ad in the making; from :func:`growing_h5ad`."""

    def __init__(
        self, file: Any, path: Path, genes: Sequence[str], columns: Mapping[str, Sequence[str]]
    ) -> None:
        import h5py
        from anndata.io import write_elem

        self._file, self._path = file, path
        self.guard: GuardedFile | None = None
        self._columns = {name: list(values) for name, values in columns.items()}
        _mark(file, "anndata", "0.1.0")
        counts = file.create_group("X")
        _mark(counts, "csr_matrix", "0.1.0")
        counts.attrs["shape"] = np.array([0, len(genes)])
        for name, kind in (("data", "f4"), ("indices", "i4"), ("indptr", "i8")):
            counts.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(_CHUNK,))
        _append(counts["indptr"], np.zeros(1, dtype=np.int64))
        obs = file.create_group("obs")
        _mark(obs, "dataframe", "0.2.0")
        obs.attrs["_index"] = "_index"
        obs.attrs["column-order"] = np.array(list(columns), dtype=h5py.string_dtype())
        text = h5py.string_dtype()
        names = obs.create_dataset("_index", (0,), text, maxshape=(None,), chunks=(_CHUNK,))
        _mark(names, "string-array", "0.2.0")
        for name, values in self._columns.items():
            column = obs.create_group(name)
            _mark(column, "categorical", "0.2.0")
            column.attrs["ordered"] = False
            write_elem(column, "categories", np.array(values, dtype=object))
            column.create_dataset("codes", (0,), "i2", maxshape=(None,), chunks=(_CHUNK,))
            _mark(column["codes"], "array", "0.2.0")
        var = pd.DataFrame(index=pd.Index(np.array(genes, dtype=object), dtype=object))
        write_elem(file, "var", var)
        for name in ("obsm", "varm", "obsp", "varp", "layers"):
            write_elem(file, name, {})

    def append(
        self, counts: sparse.csr_matrix, names: Sequence[str], identity: Mapping[str, str]
    ) -> None:
        """Add cells.

        Parameters
        ----------
        counts
            CSR, `(n_cells, n_genes)`.
        names
            Of the cells.
        identity
            Value of each column, the same for all of them.

        Raises
        ------
        InputError
            If the disk is full.
        """
        group, obs = self._file["X"], self._file["obs"]
        end = group["data"].shape[0]
        _append(group["data"], counts.data.astype(np.float32, copy=False))
        _append(group["indices"], counts.indices.astype(np.int32, copy=False))
        _append(group["indptr"], end + counts.indptr[1:].astype(np.int64))
        n_rows, n_genes = group.attrs["shape"]
        group.attrs["shape"] = np.array([n_rows + counts.shape[0], n_genes])
        _append(obs["_index"], np.array(names, dtype=object))
        for name, values in self._columns.items():
            codes = np.full(counts.shape[0], values.index(identity[name]), dtype=np.int16)
            _append(obs[name]["codes"], codes)
        self.check()

    def describe(self, text: str) -> None:
        """Say what the file is, in `uns`."""
        from anndata.io import write_elem

        write_elem(self._file, "uns", {"description": text})

    def check(self) -> None:
        """Raise if the disk filled up."""
        if self.guard is not None and self.guard.error is not None:
            raise full_disk_error(self._path, self.guard.error) from self.guard.error


@contextlib.contextmanager
def growing_h5ad(
    path: Path, *, genes: Sequence[str], columns: Mapping[str, Sequence[str]], description: str
) -> Iterator[GrowingH5ad]:
    """Write an h5ad cells by cells; it is there when the body ends, and not if the body raises.

    Parameters
    ----------
    path
        The final path.
    genes
        Names of the genes.
    columns
        Columns of `obs` and the values that each can have.
    description
        What the file is.

    Yields
    ------
    GrowingH5ad
        Its method `append` adds cells.

    Raises
    ------
    InputError
        If the folder cannot be written to, or the disk is full.
    """
    import h5py

    with atomic_path(path) as temporary, GuardedFile(temporary) as guard:
        with h5py.File(guard, "w") as file:
            growing = GrowingH5ad(file, path, genes, columns)
            growing.guard = guard
            growing.describe(description)
            yield growing
        growing.check()


class GrowingTable:
    """A table in the making; from :func:`growing_table`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._is_new = True

    def append(self, frame: pd.DataFrame) -> None:
        """Add rows."""
        frame.to_csv(
            self._handle, sep="\t", index=False, header=self._is_new, lineterminator="\n", na_rep=""
        )
        self._is_new = False


@contextlib.contextmanager
def growing_table(path: Path) -> Iterator[GrowingTable]:
    """Write a table rows by rows, in the format of `io.write_table`.

    Parameters
    ----------
    path
        The final path; there when the body ends, and not if the body raises.

    Yields
    ------
    GrowingTable
        Its method `append` adds rows.

    Raises
    ------
    InputError
        If the folder cannot be written to, or the disk is full.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as handle,
    ):
        yield GrowingTable(handle)


def _mark(where: Any, kind: str, version: str) -> None:
    where.attrs["encoding-type"] = kind
    where.attrs["encoding-version"] = version


def _append(dataset: Any, values: Any) -> None:
    end = dataset.shape[0]
    dataset.resize((end + len(values),))
    dataset[end:] = values
