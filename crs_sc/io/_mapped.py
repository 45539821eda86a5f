"""Counts that stay in a user's file, on the genes under the names that the package uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset

from crs_sc import keys
from crs_sc.core.blocks import STORED_COUNTS
from crs_sc.core.checks import store
from crs_sc.errors import InputError
from crs_sc.io._kind import one_error

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["leave_on_disk"]


def leave_on_disk(
    adata: AnnData,
    path: Path,
    *,
    where: str,
    codes: NDArray[np.integer],
    columns: NDArray[np.intp] | None,
) -> None:
    """Add the counts in the file, and the ambient RNA of the file.

    They become `layers["counts"]` where each column of the file is one gene. Else `obsm` and `uns`
    get the matrix as it is and the gene of each column, from which `core.blocks` works them out.

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
        if np.array_equal(genes, np.arange(adata.n_vars)):
            adata.layers[keys.COUNTS] = sparse_dataset(group)
        else:
            adata.obsm[STORED_COUNTS] = sparse_dataset(group)
            store(adata, STORED_COUNTS, genes)
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
