"""Counts that stay in a user's file, on the genes under the names that the package uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from anndata._core.sparse_dataset import _CSRDataset
from anndata.io import read_elem
from scipy import sparse

from crs_sc import keys
from crs_sc.core.checks import store
from crs_sc.errors import InputError
from crs_sc.io._kind import one_error

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["leave_on_disk"]


# The public class of anndata is abstract; that of `sparse_dataset` is what an AnnData can hold.
class _MappedCounts(_CSRDataset):  # type: ignore[misc]
    """A CSR matrix on disk whose columns are given to other genes, added up or left out.

    Parameters
    ----------
    group
        HDF5 group of the matrix.
    codes
        Gene of each column of the file, negative for those that are left out.
    n_genes
        Number of genes.

    Attributes
    ----------
    chunk_values
        Stored values of a chunk of `_chunks.count_chunks`; set where memory is limited.
    """

    def __init__(self, group: Any, codes: NDArray[np.int32], n_genes: int) -> None:
        super().__init__(group)
        self._codes, self._n_genes = codes, n_genes
        self._as_stored = np.array_equal(codes, np.arange(n_genes))

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.stored_shape[0], self._n_genes

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Rows and columns in the file."""
        rows, columns = super().shape
        return rows, columns

    def mapped(self, _: slice, chunk: sparse.csr_matrix) -> sparse.csr_matrix:
        """Give the columns of some rows to the genes."""
        if self._as_stored:
            return chunk
        genes = self._codes[chunk.indices]
        kept = genes >= 0
        indptr = np.concatenate([[0], np.cumsum(kept)])[chunk.indptr]
        parts = (chunk.data[kept].astype(np.float32), genes[kept], indptr)
        result = sparse.csr_matrix(parts, shape=(chunk.shape[0], self._n_genes))
        result.sum_duplicates()
        return result

    def to_memory(self) -> sparse.csr_matrix:
        """Read all of it."""
        return self.mapped(slice(None), super().to_memory())

    def __getitem__(self, index: Any) -> sparse.csr_matrix:
        rows, columns = (
            axis if isinstance(axis, slice) else np.asarray(axis).ravel() for axis in index
        )
        return self.mapped(slice(None), super().__getitem__((rows, slice(None))))[:, columns]


def leave_on_disk(
    adata: AnnData,
    path: Path,
    *,
    where: str,
    codes: NDArray[np.integer],
    columns: NDArray[np.intp] | None,
) -> None:
    """Set `layers["counts"]` to the counts in the file, and ambient RNA to that of the file.

    Parameters
    ----------
    adata
        Cells x genes, without counts.
    path
        An h5ad.
    where
        Which of its matrices holds the counts, such as `X`.
    codes
        Gene of each column of that matrix.
    columns
        Position of these columns in the file, where features were left out.

    Raises
    ------
    InputError
        If the counts are not stored by cell.
    """
    with one_error(path):
        file = h5py.File(path, "r")
        group = file[where.replace("layers['", "layers/").replace("']", "").replace(".", "/")]
        kind = str(group.attrs.get("encoding-type", "no known encoding"))
        if kind != "csr_matrix":
            msg = (
                f"{where} of '{path}' is stored as {kind}; only csr_matrix can be read cell by "
                "cell. Read the file with crs_sc.read and write it with crs_sc.io.write_h5ad."
            )
            raise InputError(msg)
        genes = np.full(int(group.attrs["shape"][1]), -1, dtype=np.int32)
        genes[slice(None) if columns is None else columns] = codes
        adata.layers[keys.COUNTS] = _MappedCounts(group, genes, adata.n_vars)
        if where != "raw.X":
            _take_ambient(adata, file, genes)


def _take_ambient(adata: AnnData, file: Any, genes: NDArray[np.int32]) -> None:
    """Take over profile and contamination, where the file has both for all samples."""
    place, table = f"varm/{keys.AMBIENT_PROFILE}", f"uns/{keys.UNS}/{keys.CONTAMINATION}"
    if place not in file or table not in file:
        return
    profile, contamination = read_elem(file[place]), read_elem(file[table])
    samples = [str(name) for name in adata.obs[keys.SAMPLE].cat.categories]
    lacking = set(samples) - (set(map(str, profile.columns)) & set(map(str, contamination.index)))
    if lacking:
        return
    shares = np.zeros((adata.n_vars, len(samples)))
    kept = genes >= 0
    np.add.at(shares, genes[kept], profile[samples].to_numpy(dtype=np.float64)[kept])
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(shares, index=adata.var_names, columns=samples)
    store(adata, keys.CONTAMINATION, contamination)
