"""Log-normalised expression, always from the raw counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from crs_sc.core.arrays import RowTotals, as_csr, log_scaled
from crs_sc.core.blocks import is_on_disk, layer_of, pass_over
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["normalize"]


def normalize(adata: AnnData, *, target_sum: float = 1e4) -> None:
    """Set `X` to `log1p(counts / total * target_sum)`.

    It starts from `layers['counts']` whatever `X` holds, so that nothing is normalised twice. A
    cell without counts stays zero.

    Parameters
    ----------
    adata
        Cells x genes with raw counts.
    target_sum
        Counts per cell after scaling.

    Raises
    ------
    InputError
        If `target_sum` is not positive, or there is no cell.
    MissingKeyError
        If `layers['counts']` is absent.

    Notes
    -----
    Sets `X` (float32 CSR); where the counts are on disk, it is worked out when it is read.
    """
    if target_sum <= 0:
        msg = f"target_sum must be above 0, got {target_sum!r}."
        raise InputError(msg)
    if adata.n_obs == 0:
        msg = (
            "There is no cell left to analyse: none passed quality control. Look at the thresholds "
            "in the QC table. Are the counts raw and the organism right?"
        )
        raise InputError(msg)
    counts = layer_of(adata)
    if is_on_disk(counts):
        from crs_sc.core.stacked import LogNormalised

        totals = RowTotals(adata.n_obs, np.zeros(adata.n_vars, dtype=bool))
        pass_over(adata, totals)
        adata.X = LogNormalised(counts, _factor(totals.total, target_sum))
    else:
        adata.X = log_normalised(as_csr(counts), target_sum=target_sum)


def log_normalised(counts: sparse.csr_matrix, *, target_sum: float) -> sparse.csr_matrix:
    """Kernel of `normalize` on a CSR matrix, shape `(n_cells, n_genes)`."""
    factor = _factor(np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(), target_sum)
    return sparse.csr_matrix(
        (log_scaled(counts, factor), counts.indices.copy(), counts.indptr.copy()),
        shape=counts.shape,
    )


def _factor(total: NDArray[np.float64], target_sum: float) -> NDArray[np.float64]:
    """By how much the counts of each cell are multiplied; 0 where it has none."""
    return np.divide(target_sum, total, out=np.zeros_like(total), where=total > 0)
