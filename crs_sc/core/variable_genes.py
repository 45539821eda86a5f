"""Highly variable genes by scanpy, on as many cells as fit in memory."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from crs_sc.core.blocks import columns_of
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["VariableGenes", "variable_genes"]

# Loess needs genes with counts; those in fewer cells carry nothing for an embedding.
_MIN_CELLS_OF_GENE = 3
# Ranks of genes in so many cells are those in all of them; more would be a copy of the counts.
_MAX_CELLS = 50_000


class VariableGenes(NamedTuple):
    """Genes that were chosen, how in words, and batches with too few cells to have a say."""

    marked: NDArray[np.bool_]
    method: str
    small_batches: list[str]


def variable_genes(
    counts: Any,
    batch: pd.Series,
    *,
    candidate: NDArray[np.bool_],
    n_genes: int,
    min_batch_cells: int,
    cells: NDArray[np.integer] | None = None,
    max_cells: int = _MAX_CELLS,
) -> VariableGenes:
    """Choose the candidates that vary most within the batches, by their raw counts.

    Parameters
    ----------
    counts
        Raw counts, in memory or on disk, shape `(n_cells, n_genes)`.
    batch
        Of each cell; the median rank over the batches decides.
    candidate
        Which genes may be chosen, shape `(n_genes,)`.
    n_genes
        How many; all candidates with counts where there are no more than that.
    min_batch_cells
        Batches with fewer cells have no say, unless all are that small.
    cells
        Which are looked at, ascending; all if left out.
    max_cells
        Of more cells a random sample is looked at, with the same share of each batch.

    Raises
    ------
    InputError
        If no candidate has counts.

    Notes
    -----
    `scanpy.pp.highly_variable_genes` by `seurat_v3` (Stuart et al. 2019, Cell 177:1888); where its
    loess fails, by `cell_ranger` on log-normalised counts.
    """
    cells = np.arange(counts.shape[0]) if cells is None else cells
    names = batch.astype(str).to_numpy(dtype=object)[cells]
    sizes = pd.Series(names).value_counts()
    small = sorted(sizes.index[sizes < min_batch_cells])
    if len(small) == len(sizes):
        names, small = np.full(len(cells), "all", dtype=object), []
    has_say = ~pd.Index(names).isin(small)
    cells, names = cells[has_say], names[has_say]
    if len(cells) > max_cells:
        drawn = _sample(names, max_cells)
        cells, names = cells[drawn], names[drawn]
    columns = np.flatnonzero(candidate)
    taken = columns_of(counts, columns, rows=cells)
    seen = taken.getnnz(axis=0) >= min(_MIN_CELLS_OF_GENE, len(cells))
    if not seen.any():
        msg = f"No gene has counts in {_MIN_CELLS_OF_GENE} cells: there is nothing to select from."
        raise InputError(msg)
    marked = np.zeros(len(candidate), dtype=bool)
    if seen.sum() <= n_genes:
        marked[columns[seen]] = True
        return VariableGenes(marked, "all candidates", small)
    import anndata as ad

    data = ad.AnnData(
        taken[:, seen], obs=pd.DataFrame({"batch": pd.Categorical(names)}, index=cells.astype(str))
    )
    chosen, method = _by_scanpy(data, n_genes)
    marked[columns[seen][chosen]] = True
    return VariableGenes(marked, method, small)


def _sample(batch: NDArray[np.object_], size: int) -> NDArray[np.intp]:
    """Random cells, ascending, with the same share of each batch."""
    rng = np.random.default_rng(0)
    parts = []
    for name in np.unique(batch):
        rows = np.flatnonzero(batch == name)
        n_drawn = int(np.ceil(size * len(rows) / len(batch)))
        parts.append(rng.choice(rows, n_drawn, replace=False))
    return np.sort(np.concatenate(parts)).astype(np.intp)


def _by_scanpy(data: AnnData, n_genes: int) -> tuple[NDArray[np.bool_], str]:
    """Which of the genes vary most, and the method that said so."""
    import scanpy as sc

    settings = {"n_top_genes": n_genes, "batch_key": "batch", "inplace": False}
    try:
        table = sc.pp.highly_variable_genes(
            data, flavor="seurat_v3", check_values=False, **settings
        )
        method = "seurat_v3"
    except ValueError as error:
        # skmisc's loess is singular where many genes of a batch share a mean.
        method = f"cell_ranger, because seurat_v3 failed: {str(error).strip()[:80]}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sc.pp.normalize_total(data, target_sum=1e4)
            sc.pp.log1p(data)
            table = sc.pp.highly_variable_genes(data, flavor="cell_ranger", **settings)
    return np.asarray(table["highly_variable"], dtype=bool), method
