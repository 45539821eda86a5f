"""A few genes of each cell beside the sum of all others: all that attribution needs of a cohort."""

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

__all__ = ["FewGenes", "condense"]


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.condense(adata, genes=["IL6", "IL1B"]).var_names.to_list()
    ['IL6', 'IL1B', 'all other genes']
    """
    few = FewGenes(adata, genes)
    pass_over(adata, few, layer=layer)
    return few.cohort()


class FewGenes(FewColumns):
    """Genes beside the rest, as a kernel of a pass over the counts that may feed others too.

    Attributes
    ----------
    positions
        Column of each gene that is in the data.
    """

    def __init__(self, adata: AnnData, genes: Sequence[str]) -> None:
        self.positions = gene_positions(adata, genes)
        if not self.positions:
            msg = (
                f"None of the genes {listing(genes)} is in the data "
                f"({adata.n_vars} genes such as {listing(adata.var_names[:3])}). "
                "Give symbols of the organism that was read."
            )
            raise InputError(msg)
        self._adata = adata
        columns = np.array(list(self.positions.values()))
        super().__init__(columns, adata.n_obs, adata.n_vars)

    def cohort(self) -> AnnData:
        """Return the small cohort."""
        import anndata as ad

        counts, rest = self.result()
        last = sparse.csr_matrix(rest[:, None].astype(counts.dtype))
        counts = sparse.csr_matrix(sparse.hstack([counts, last], format="csr"))
        counts.eliminate_zeros()
        names = pd.Index([*self._adata.var_names[self._columns], keys.OTHER_GENES])
        # The names are those of an AnnData already; whether they are unique takes as long to find
        # out as the rest.
        with ad.settings.override(restrict_index_types=False):
            small = ad.AnnData(
                obs=self._adata.obs.copy(),
                var=pd.DataFrame(index=names),
                layers={keys.COUNTS: counts},
                uns=deepcopy(dict(self._adata.uns)),
            )
        if keys.AMBIENT_PROFILE in self._adata.varm:
            profile = self._adata.varm[keys.AMBIENT_PROFILE]
            chosen = profile.iloc[self._columns]
            others = (profile.sum() - chosen.sum()).clip(lower=0.0)
            together = pd.concat([chosen, others.to_frame(keys.OTHER_GENES).T])
            small.varm[keys.AMBIENT_PROFILE] = together.set_axis(names)
        return small
