"""What the annotation reads of the cells: their panel genes, and ambient RNA in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.ambient import ambient_of, has_ambient
from crs_sc.core.arrays import FewColumns, group_sums
from crs_sc.core.blocks import columns_of, pass_over

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["PanelValues", "panel_values"]


@dataclass(frozen=True)
class PanelValues:
    """Expression, counts and ambient RNA of the panel genes.

    Attributes
    ----------
    expression, counts
        Log-normalised values and raw counts, CSR, shape `(n_cells, n_genes)`.
    depth
        Counts of all genes, shape `(n_cells,)`.
    sample
        Sample of each cell, shape `(n_cells,)`.
    ambient RNA
        Share of a cell's counts that ambient RNA adds to each gene, shape `(n_samples, n_genes)`;
        None where no ambient RNA is known.
    """

    expression: sparse.csr_matrix
    counts: sparse.csr_matrix
    depth: NDArray[np.float64]
    sample: NDArray[np.integer]
    soup: NDArray[np.float64] | None

    def profile(self, codes: NDArray[np.integer], n_groups: int) -> NDArray[np.float64]:
        """Mean expression by group without what ambient RNA explains, `(n_groups, n_genes)`."""
        sums = group_sums(self.expression, codes, n_groups)
        mean = sums / np.maximum(np.bincount(codes, minlength=n_groups), 1)[:, None]
        return np.asarray(mean * self.native_share(codes, n_groups))

    def native_share(self, codes: NDArray[np.integer], n_groups: int) -> NDArray[np.float64]:
        """Share of the UMI that ambient RNA does not explain, 1 where no ambient RNA is known."""
        if self.soup is None:
            return np.ones((n_groups, self.counts.shape[1]))
        depth = np.zeros((n_groups, len(self.soup)))
        np.add.at(depth, (codes, self.sample), self.depth)
        seen = group_sums(self.counts, codes, n_groups)
        expected = depth @ self.soup
        # A gene without UMI has no share, and none is needed.
        return np.asarray(1 - expected / np.maximum(np.maximum(seen, expected), 1e-12))


def panel_values(adata: AnnData, columns: NDArray[np.intp]) -> PanelValues:
    """Read the panel genes, in one pass over the counts and one over `X`.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X`, in memory or on disk.
    columns
        Genes of the panels.
    """
    taken = FewColumns(columns, adata.n_obs, adata.n_vars)
    pass_over(adata, taken)
    counts, rest = taken.result()
    sample, soup = np.zeros(adata.n_obs, dtype=np.intp), None
    if has_ambient(adata):
        sample, names = pd.factorize(adata.obs[keys.SAMPLE].astype(str), sort=True)
        fraction, profile = ambient_of(adata, list(names))
        shares = profile.to_numpy(dtype=np.float64).T[:, columns]
        soup = np.nan_to_num(fraction[:, None] * shares)
    return PanelValues(
        expression=columns_of(adata.X, columns),
        counts=counts,
        depth=rest + np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(),
        sample=sample,
        soup=soup,
    )
