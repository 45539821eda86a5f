"""A cohort of a few genes: all that attribution needs of each cell, small enough for memory."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.core.arrays import FewColumns
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import gene_positions
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["CondensePass", "condense"]


def condense(adata: AnnData, *, genes: Sequence[str], layer: str = keys.COUNTS) -> AnnData:
    """Keep a few genes of each cell, and all its other UMI as one more gene.

    One pass over the counts, in memory or on disk. The sum over the genes is the depth of the
    cell, so producers, ledger and receivers of these genes are what they are on all genes.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, in memory or from `io.open_h5ad`.
    genes
        Symbols; those that are not in the data are left out.
    layer
        Layer with raw counts.

    Returns
    -------
    New AnnData, cells x (genes + 1), in memory: `obs`, `uns`, `layers["counts"]` and
    `varm["ambient_profile"]` where there is one. The last gene is `all other genes`.

    Raises
    ------
    InputError
        If none of the genes is in the data, or a value is no count.
    MissingKeyError
        If the layer is absent.
    """
    kernel = CondensePass(adata, genes=genes)
    pass_over(adata, kernel, layer=layer)
    return kernel.result()


class CondensePass:
    """The same as a kernel, for a pass over the counts that feeds others too.

    The parameters are those of :func:`condense`.
    """

    def __init__(self, adata: AnnData, *, genes: Sequence[str]) -> None:
        positions = gene_positions(adata, list(dict.fromkeys(genes)))
        if not positions:
            msg = (
                f"None of the genes {listing(genes)} is in the data "
                f"({adata.n_vars} genes such as {listing(adata.var_names[:3])}). "
                "Give symbols of the organism that was read."
            )
            raise InputError(msg)
        self._adata = adata
        self._columns = np.array(list(positions.values()))
        self._kernel = FewColumns(self._columns, adata.n_obs, adata.n_vars)

    def add(self, rows: slice, chunk: sparse.csr_matrix) -> None:
        """Take in the counts of some cells."""
        self._kernel.add(rows, chunk)

    def result(self) -> AnnData:
        """Return the small cohort."""
        import anndata as ad

        counts, rest = self._kernel.result()
        names = pd.Index([*self._adata.var_names[self._columns], keys.OTHER_GENES])
        # The names are those of an AnnData already; whether they are unique takes as long to find
        # out as the rest.
        with ad.settings.override(restrict_index_types=False):
            small = ad.AnnData(
                obs=self._adata.obs.copy(),
                var=pd.DataFrame(index=names),
                layers={keys.COUNTS: _with_last_column(counts, rest)},
                uns=deepcopy(dict(self._adata.uns)),
            )
        if keys.AMBIENT_PROFILE in self._adata.varm:
            profile = self._adata.varm[keys.AMBIENT_PROFILE]
            own = profile.iloc[self._columns]
            rest_of = (profile.sum() - own.sum()).clip(lower=0.0)
            together = pd.concat([own, rest_of.to_frame(keys.OTHER_GENES).T])
            small.varm[keys.AMBIENT_PROFILE] = together.set_axis(names)
        return small


def _with_last_column(matrix: sparse.csr_matrix, values: NDArray[np.float64]) -> sparse.csr_matrix:
    """Add one column to a CSR matrix with sorted indices."""
    n_rows, n_columns = matrix.shape
    ends = matrix.indptr[1:]
    parts = (
        np.insert(matrix.data, ends, values.astype(matrix.dtype)),
        np.insert(matrix.indices, ends, n_columns),
        matrix.indptr + np.arange(n_rows + 1),
    )
    wider = sparse.csr_matrix(parts, shape=(n_rows, n_columns + 1))
    wider.eliminate_zeros()
    return wider
