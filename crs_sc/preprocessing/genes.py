"""Genes for the embedding: variable within samples, and not what the study is about to measure."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.core.blocks import columns_of, pass_over
from crs_sc.core.checks import add_note, check_obs
from crs_sc.errors import InputError, listing
from crs_sc.preprocessing._variance import (
    BatchMoments,
    ClippedCounts,
    most_variable,
    standardised_variance,
)
from crs_sc.preprocessing.normalisation import log_normalised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["select_genes"]

# Loess needs genes with counts; those in fewer cells carry nothing for an embedding.
_MIN_CELLS_OF_GENE = 3


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
        Cells x genes with raw counts, after `filter_cells`.
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
    on the method. The method is `seurat_v3` (Stuart et al. 2019, Cell 177:1888) as in scanpy; where
    its loess fails, scanpy's `cell_ranger` on log-normalised counts, which the note says.
    """
    if n_genes < 1:
        msg = f"n_genes must be at least 1, got {n_genes!r}."
        raise InputError(msg)
    check_obs(adata, batch_key=batch_key)
    left_out = _left_out(adata, exclude)
    candidate = ~np.logical_or.reduce(list(left_out.values()))
    batch = adata.obs[batch_key].astype(str)
    sizes = batch.value_counts()
    large = sorted(sizes.index[sizes >= min_batch_cells])
    if large:
        codes = pd.Index(large).get_indexer(pd.Index(batch)).astype(np.int32)
    else:
        codes = np.zeros(adata.n_obs, dtype=np.int32)
    moments = BatchMoments(codes, max(len(large), 1), adata.n_vars)
    pass_over(adata, moments)
    candidate &= moments.n_stored >= min(_MIN_CELLS_OF_GENE, int(moments.n_cells.sum()))
    if not candidate.any():
        msg = f"No gene has counts in {_MIN_CELLS_OF_GENE} cells: there is nothing to select from."
        raise InputError(msg)
    marked, method = candidate.copy(), "all candidates"
    if candidate.sum() > n_genes:
        chosen, method = _variable(adata, moments, np.flatnonzero(candidate), n_genes)
        marked[:] = False
        marked[chosen] = True
    adata.var[keys.HIGHLY_VARIABLE] = marked
    counted = ", ".join(f"{mask.sum()} {name}" for name, mask in left_out.items() if mask.any())
    add_note(
        adata,
        f"Gene selection: {marked.sum()} genes ({method}); left out: {counted or 'none'}.",
    )
    small = sizes.index[sizes < min_batch_cells]
    if large and len(small):
        add_note(
            adata,
            f"Gene selection: batches with fewer than {min_batch_cells} cells had no say: "
            f"{listing(sorted(small))}.",
        )


def _variable(
    adata: AnnData, moments: BatchMoments, columns: NDArray[np.integer], n_genes: int
) -> tuple[NDArray[np.integer], str]:
    """Highly variable ones among these columns, and the method that found them."""
    try:
        spread, limit = moments.limits(columns)
    except ValueError as error:
        # skmisc's loess is singular where many genes of a batch share a mean.
        failed = f"cell_ranger, because seurat_v3 failed: {str(error).strip()[:80]}"
    else:
        clipped = ClippedCounts(moments.codes, limit)
        pass_over(adata, clipped)
        variance = standardised_variance(moments, clipped, spread, columns)
        return most_variable(variance, columns, n_genes), "seurat_v3"
    import anndata as ad
    import scanpy as sc

    rows = np.flatnonzero(moments.codes >= 0)
    obs = pd.DataFrame({"batch": pd.Categorical(moments.codes[rows])}, index=rows.astype(str))
    counts = columns_of(adata.layers[keys.COUNTS], columns, rows=rows)
    data = ad.AnnData(log_normalised(counts, target_sum=1e4), obs=obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(
            data, flavor="cell_ranger", n_top_genes=n_genes, batch_key="batch", inplace=False
        )
    return columns[np.asarray(table["highly_variable"], dtype=bool)], failed


def _left_out(adata: AnnData, exclude: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Genes that are no candidates, by reason."""
    names = adata.var_names
    cytokines = [*genesets.TARGET_CYTOKINES, *genesets.target_cytokines(organism="mouse")]
    return {
        "target cytokines": names.isin(genesets.match_genes(cytokines, names).values()),
        "immune-receptor genes": genesets.immune_receptor_genes(names),
        "sex genes": genesets.sex_genes(names),
        "mitochondrial genes": genesets.mitochondrial_genes(names),
        "genes named by the user": names.isin(genesets.match_genes(exclude, names).values()),
    }
