"""Log-normalised expression, and the genes for the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from crs_sc import genesets, keys
from crs_sc.core.arrays import as_csr, log_scaled
from crs_sc.core.blocks import layer_of
from crs_sc.core.checks import add_note, check_obs
from crs_sc.core.variable_genes import variable_genes
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["normalize", "select_genes"]


def normalize(adata: AnnData, *, target_sum: float = 1e4) -> None:
    """Set `X` to `log1p(counts / total * target_sum)`.

    It starts from `layers['counts']` whatever `X` holds, so that nothing is normalised twice. A
    cell without counts stays zero. The total is over all columns, those of a cohort of a few genes
    (`tl.condense`) too, of which the last is the sum of all other genes.

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
    Sets `X` (float32 CSR), equal to that of `scanpy.pp.normalize_total` and `scanpy.pp.log1p` to
    5e-7.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.pp.normalize(adata)
    >>> adata.X.dtype
    dtype('float32')
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
    # The formula of scanpy's `normalize_total` and `log1p`, which compile for about ten seconds in
    # every process before they take a fraction of one.
    cells = as_csr(counts)
    factor = factors_to(np.asarray(cells.sum(axis=1), dtype=np.float64).ravel(), target_sum)
    adata.X = sparse.csr_matrix(
        (log_scaled(cells, factor), cells.indices.copy(), cells.indptr.copy()), shape=cells.shape
    )


def factors_to(total: NDArray[np.float64], target_sum: float) -> NDArray[np.float64]:
    """By how much the counts of each cell are multiplied; 0 where it has none."""
    return np.divide(target_sum, total, out=np.zeros_like(total), where=total > 0)


def select_genes(
    adata: AnnData,
    *,
    n_genes: int = 2000,
    batch_key: str = keys.SAMPLE,
    exclude: Sequence[str] = (),
    min_batch_cells: int = 30,
) -> None:
    """Mark the highly variable genes, ranked within each batch on the raw counts.

    Left out, so that the embedding does not follow them: the target cytokines (they are what is
    measured later), immune-receptor, sex and mitochondrial genes, and `exclude`.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, in memory or on disk, after `filter_cells`.
    n_genes
        How many to mark; all candidates where there are no more than that.
    batch_key
        Column of `obs`; the median rank over its batches decides.
    exclude
        More genes to leave out: the transgene, and cytokines that are asked about.
    min_batch_cells
        Batches with fewer cells have no say, unless all are that small.

    Raises
    ------
    InputError
        If `n_genes` is not positive, or no candidate gene has counts.
    MissingKeyError
        If `batch_key` or the counts are absent.

    Notes
    -----
    Sets `var['highly_variable']`, and a note in `uns['crs_sc']['notes']` on what was left out and
    on the method. The method is scanpy's `seurat_v3` (Stuart et al. 2019, Cell 177:1888), in a
    random sample of 50,000 cells where there are more; where its loess fails, scanpy's
    `cell_ranger` on log-normalised counts, which the note says.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.pp.select_genes(adata, n_genes=50, exclude=["IL6"])
    >>> int(adata.var["highly_variable"].sum())
    50
    """
    if n_genes < 1:
        msg = f"n_genes must be at least 1, got {n_genes!r}."
        raise InputError(msg)
    check_obs(adata, batch_key=batch_key)
    left_out = genesets.kept_out(adata.var_names, exclude=exclude)
    candidate = ~np.logical_or.reduce(list(left_out.values()))
    candidate &= np.asarray(adata.var_names != keys.OTHER_GENES)
    chosen = variable_genes(
        layer_of(adata),
        adata.obs[batch_key],
        candidate=candidate,
        n_genes=n_genes,
        min_batch_cells=min_batch_cells,
    )
    adata.var[keys.HIGHLY_VARIABLE] = chosen.marked
    counted = ", ".join(f"{mask.sum()} {name}" for name, mask in left_out.items() if mask.any())
    add_note(
        adata,
        f"Gene selection: {chosen.marked.sum()} genes ({chosen.method}); "
        f"left out: {counted or 'none'}.",
    )
    if chosen.small_batches:
        add_note(
            adata,
            f"Gene selection: batches with fewer than {min_batch_cells} cells had no say: "
            f"{listing(chosen.small_batches)}.",
        )
