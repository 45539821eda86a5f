"""Kernel of the doublet scores: the steps of scanpy's scrublet, on sparse arrays throughout.

scanpy makes the standardised matrix dense and compiles much of what it calls. Here it is scaled as
it is and centred within the decomposition, and the neighbours come from a compiled index. The
pairs that are added up are those of scanpy for the same seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc._neighbours import nearest_neighbours

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["automatic_threshold", "scrublet_scores", "variable_genes"]

# Doublets that are simulated, for each cell.
_RATIO = 2
# Target sum of both before they are compared; it cancels in the standardisation.
_TARGET = 1e6


def scrublet_scores(
    counts: sparse.csr_matrix, *, expected_rate: float, n_comps: int, random_state: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
    """Score the cells of a sample, and simulated doublets, by the doublets among their neighbours.

    Parameters
    ----------
    counts
        Raw counts, shape `(n_cells, n_genes)`.
    expected_rate
        Expected share of doublets.
    n_comps
        Principal components.
    random_state
        Seed of the pairs.

    Returns
    -------
    Scores of the cells, `(n_cells,)`, missing for a cell with fewer than three genes, and of the
    simulated doublets; or, in words, why there are none.
    """
    from sklearn.decomposition import PCA
    from sklearn.utils.random import sample_without_replacement

    counts = counts[:, np.asarray(counts.getnnz(axis=0)) >= 3]
    usable = np.asarray(counts.getnnz(axis=1)) >= 3
    counts = counts[usable]
    n_cells = counts.shape[0]
    variable = variable_genes(counts)
    if min(n_cells, int(variable.sum())) <= n_comps:
        return f"{variable.sum()} variable genes in {n_cells} cells for {n_comps} components"
    counts = sparse.csr_matrix(counts[:, variable], dtype=np.float64)
    pairs = np.unravel_index(
        sample_without_replacement(n_cells**2, _RATIO * n_cells, random_state=random_state),
        (n_cells, n_cells),
    )
    cells = _to_sum(counts, _TARGET)
    doublets = _to_sum(counts[pairs[0]] + counts[pairs[1]], _TARGET)
    _, variance = _moments(cells)
    scale = np.divide(1, np.sqrt(variance), out=np.zeros_like(variance), where=variance > 0)
    scaling = sparse.diags_array(scale)
    cells = sparse.csr_matrix(cells @ scaling)
    model = PCA(n_components=n_comps, svd_solver="arpack", random_state=random_state).fit(cells)
    together = np.vstack([model.transform(cells), model.transform(doublets @ scaling)])
    k = round(round(0.5 * np.sqrt(n_cells)) * (1 + _RATIO))
    neighbours, _ = nearest_neighbours(together, k=k)
    # A simulated doublet is no neighbour of its own.
    n_doublets = (neighbours >= n_cells).sum(axis=1)
    n_doublets[n_cells:] -= 1
    score = _posterior(n_doublets, k, expected_rate)
    scores = np.full(len(usable), np.nan)
    scores[usable] = score[:n_cells]
    return scores, score[n_cells:]


def variable_genes(
    counts: sparse.csr_matrix,
    *,
    n_bins: int = 20,
    min_mean: float = 0.0125,
    max_mean: float = 3.0,
    min_dispersion: float = 0.5,
) -> NDArray[np.bool_]:
    """Mark the genes that scanpy's `highly_variable_genes` marks by default (flavour `seurat`).

    Parameters
    ----------
    counts
        Raw counts, shape `(n_cells, n_genes)`, without empty cells.
    n_bins
        Bins of the mean within which dispersions are compared.
    min_mean, max_mean
        Bounds of the log mean of the counts, brought to the median total of the cells.
    min_dispersion
        Bound of the log dispersion, in standard deviations of its bin.
    """
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    mean, variance = _moments(_to_sum(counts, float(np.median(total[total > 0]))))
    mean[mean == 0] = 1e-12
    with np.errstate(divide="ignore"):
        dispersion = np.log(variance / mean)
    table = pd.DataFrame({"mean": np.log1p(mean), "dispersion": dispersion})
    table.loc[variance == 0, "dispersion"] = np.nan
    grouped = table.groupby(pd.cut(table["mean"], bins=n_bins, labels=False))["dispersion"]
    centre, spread = grouped.transform("mean"), grouped.transform("std")
    # A gene that is alone in its bin counts as one standard deviation above it.
    alone = spread.isna()
    centre, spread = centre.mask(alone, 0), spread.mask(alone, centre)
    score = ((table["dispersion"] - centre) / spread).fillna(0)
    in_bounds = (table["mean"] > min_mean) & (table["mean"] < max_mean)
    return np.asarray(in_bounds & (score > min_dispersion), dtype=bool)


def automatic_threshold(simulated: NDArray[np.float64]) -> float | None:
    """Valley between the two modes of the scores of simulated doublets, None if there is none."""
    from skimage.filters import threshold_minimum

    try:
        return float(threshold_minimum(simulated))
    except RuntimeError:
        # No two modes.
        return None


def _to_sum(counts: sparse.csr_matrix, target: float) -> sparse.csr_matrix:
    """Scale each row to a sum; empty rows stay empty."""
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    factor = np.divide(target, total, out=np.zeros_like(total), where=total > 0)
    data = counts.data * np.repeat(factor, np.diff(counts.indptr))
    return sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)


def _moments(matrix: sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance (n - 1) of each column."""
    n_rows, n_columns = matrix.shape
    total = np.bincount(matrix.indices, matrix.data, n_columns)
    squares = np.bincount(matrix.indices, matrix.data**2, n_columns)
    mean = total / n_rows
    variance = (squares / n_rows - mean**2) * n_rows / max(n_rows - 1, 1)
    return mean, np.maximum(variance, 0)


def _posterior(n_doublets: NDArray[np.int64], k: int, expected_rate: float) -> NDArray[np.float64]:
    """Probability of a doublet given how many of the `k` neighbours are simulated ones."""
    share = (n_doublets + 1) / (k + 2)
    odds = expected_rate / _RATIO
    return share * odds / (1 - expected_rate - share * (1 - expected_rate - odds))
