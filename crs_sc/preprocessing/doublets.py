"""Doublets by scrublet, sample by sample, with bounds on what the automatic threshold may do.

The scores are those of scanpy's scrublet, whose steps are done here on sparse arrays throughout:
scanpy makes the standardised matrix dense and compiles much of what it calls (17 times the time).
Here the matrix is scaled as it is and centred within the decomposition, and the neighbours come
from a compiled index. The pairs that are added up are those of scanpy for the same seed; as the
components of a sum follow from those of its parts, the sums themselves are never made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.arrays import FewColumns, compiled
from crs_sc.core.blocks import counts_matrix
from crs_sc.core.checks import check_obs
from crs_sc.core.neighbours import nearest_neighbours
from crs_sc.errors import InputError
from crs_sc.preprocessing.genes import factors_to
from crs_sc.preprocessing.qc import join_notes, refresh_table, stored_table

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from crs_sc.preprocessing._contamination import Floats, Mask

    Indices = NDArray[np.integer]

__all__ = ["call_doublets"]

# Doublets that are simulated, for each cell.
_RATIO = 2
# Target sum of both before they are compared; it cancels in the standardisation.
_TARGET = 1e6
# Genes are in so many cells, and cells have so many of these genes.
_MIN_SEEN = 3
# Of the components, relative: neighbours are told apart by float32 distances, which are no finer.
_TOLERANCE = 1e-5


def call_doublets(
    adata: AnnData,
    *,
    sample_key: str = keys.SAMPLE,
    min_cells: int = 100,
    expected_rate: float = 0.05,
    max_excess: float = 3.0,
    n_comps: int = 30,
    random_state: int = 0,
) -> None:
    """Call doublets among the cells that passed, by scrublet within each sample.

    Scrublet looks for the valley between the two modes of the scores of simulated doublets, and
    finds a wrong one where the modes are not clear. Its threshold is used only if it calls at
    most `max_excess * expected_rate` of the cells; else the `1 - expected_rate` quantile of the
    scores is, and the note of the sample says so.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, after `quality_control`.
    sample_key
        Column of `obs`; doublets form within one sample.
    min_cells
        Samples with fewer passing cells are skipped, and their note says so.
    expected_rate
        Expected share of doublets (10x: about 0.008 per 1,000 cells recovered).
    max_excess
        Largest accepted share of calls, in units of `expected_rate`.
    n_comps
        Principal components.
    random_state
        Seed of the simulated doublets.

    Raises
    ------
    InputError
        If `expected_rate` is not inside (0, 0.5).
    MissingKeyError
        If quality control has not run.

    Notes
    -----
    Sets `obs['doublet_score']` (missing where not scored), changes `obs['qc_status']` of doublets
    from `pass` to `doublet`, and completes `uns['crs_sc']['qc']`. The steps are those of
    `scanpy.pp.scrublet` on sparse arrays, with the same simulated doublets for the same seed; the
    neighbours are exact in samples of up to 10,000 cells.

    References
    ----------
    Wolock et al. 2019, Cell Systems 8:281.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort(state="raw")
    >>> crs.pp.quality_control(adata)
    >>> crs.pp.call_doublets(adata)
    >>> "doublet" in set(adata.obs["qc_status"])
    True
    """
    if not 0 < expected_rate < 0.5:
        msg = f"expected_rate must be between 0 and 0.5, got {expected_rate!r}."
        raise InputError(msg)
    check_obs(adata, sample_key=sample_key, status=keys.QC_STATUS)
    table = stored_table(adata)
    counts = counts_matrix(adata)
    sample = adata.obs[sample_key].astype(str).to_numpy()
    status = adata.obs[keys.QC_STATUS].astype(str).to_numpy(dtype=object)
    # A second call starts from the same cells as the first.
    candidate = np.isin(status, (keys.PASS, keys.DOUBLET))
    status[candidate] = keys.PASS
    scores = np.full(adata.n_obs, np.nan)
    table["max_doublet_score"] = np.nan
    for name in table.index:
        rows = np.flatnonzero((sample == name) & candidate)
        scored: tuple[Floats, Floats] | str = f"{len(rows)} cells, fewer than {min_cells}"
        if len(rows) >= min_cells:
            scored = scrublet_scores(
                counts[rows],
                expected_rate=expected_rate,
                n_comps=min(n_comps, len(rows) - 1, adata.n_vars - 1),
                random_state=random_state,
            )
        if isinstance(scored, str):
            note = f"doublets not called: {scored}"
        else:
            scores[rows] = scored[0]
            limit, note = bounded_threshold(
                *scored, expected_rate=expected_rate, max_excess=max_excess
            )
            status[rows[scored[0] > limit]] = keys.DOUBLET
            table.loc[name, "max_doublet_score"] = limit
        # An earlier note on doublets goes.
        before = str(table.loc[name, "note"]).split("; ")
        kept = [part for part in before if "doublets" not in part]
        table.loc[name, "note"] = join_notes(*kept, note)
    adata.obs[keys.DOUBLET_SCORE] = scores
    adata.obs[keys.QC_STATUS] = pd.Categorical(status, categories=list(keys.QC_REASONS))
    refresh_table(adata, table, sample_key=sample_key)


def bounded_threshold(
    scores: Floats, simulated: Floats, *, expected_rate: float, max_excess: float
) -> tuple[float, str]:
    """Scrublet's threshold, or a quantile of the scores where it cannot be trusted.

    Scrublet's is the valley between the two modes of the scores of simulated doublets.

    Threshold (a cell above it is a doublet) and a note, empty if scrublet's was used.
    """
    from skimage.filters import threshold_minimum

    finite = scores[np.isfinite(scores)]
    try:
        automatic = float(threshold_minimum(simulated))
    except RuntimeError:
        # No two modes.
        reason = "scrublet found no threshold"
    else:
        called = np.mean(finite > automatic)
        if called <= max_excess * expected_rate:
            return automatic, ""
        reason = f"scrublet's threshold would call {called:.0%} of the cells"
    limit = float(np.quantile(finite, 1 - expected_rate))
    return limit, f"{reason}: the highest {expected_rate:.0%} of the scores are doublets instead"


def scrublet_scores(
    counts: sparse.csr_matrix, *, expected_rate: float, n_comps: int, random_state: int
) -> tuple[Floats, Floats] | str:
    """Score the cells of a sample, and simulated doublets, by the doublets among their neighbours.

    Scores of the cells, `(n_cells,)`, missing for a cell with fewer than three genes, and of the
    simulated doublets; or, in words, why there are none.
    """
    from sklearn.utils.random import sample_without_replacement

    # Genes that are in three cells or more, how many of them each cell has, and their sum.
    n_with, n_genes = np.zeros(counts.shape[1], np.int64), np.zeros(counts.shape[0], np.int64)
    total = np.zeros(counts.shape[0])
    compiled(_seen_in_rows)(counts.data, counts.indices, counts.indptr, n_with, n_genes, total)
    seen, usable = n_with >= _MIN_SEEN, n_genes >= _MIN_SEEN
    if not usable.all():
        counts, total = counts[usable], total[usable]
    n_cells = counts.shape[0]
    mean, variance = moments(counts, total=total, target=float(np.median(total)))
    variable = np.flatnonzero(seen)[variable_genes(mean[seen], variance[seen])]
    if min(n_cells, len(variable)) <= n_comps:
        return f"{len(variable)} variable genes in {n_cells} cells for {n_comps} components"
    taken = FewColumns(variable, *counts.shape)
    taken.add(slice(0, n_cells), counts)
    pairs = np.unravel_index(
        sample_without_replacement(n_cells**2, _RATIO * n_cells, random_state=random_state),
        (n_cells, n_cells),
    )
    together = _components(taken.result()[0], pairs, n_comps=n_comps, random_state=random_state)
    k = round(round(0.5 * np.sqrt(n_cells)) * (1 + _RATIO))
    neighbours, _ = nearest_neighbours(together, k=k)
    # A simulated doublet is no neighbour of its own.
    n_doublets = (neighbours >= n_cells).sum(axis=1)
    n_doublets[n_cells:] -= 1
    score = _posterior(n_doublets, k, expected_rate)
    scores = np.full(len(usable), np.nan)
    scores[usable] = score[:n_cells]
    return scores, score[n_cells:]


def variable_genes(mean: Floats, variance: Floats, *, n_bins: int = 20) -> Mask:
    """Mark the genes that scanpy's `highly_variable_genes` marks by default (flavour `seurat`).

    By mean and variance of the counts brought to the median total of the cells: dispersions are
    compared within bins of the mean, in standard deviations of the bin.
    """
    mean = np.where(mean == 0, 1e-12, mean)
    with np.errstate(divide="ignore"):
        dispersion = np.log(variance / mean)
    table = pd.DataFrame({"mean": np.log1p(mean), "dispersion": dispersion})
    table.loc[variance == 0, "dispersion"] = np.nan
    grouped = table.groupby(pd.cut(table["mean"], bins=n_bins, labels=False))["dispersion"]
    centre, deviation = grouped.transform("mean"), grouped.transform("std")
    # A gene that is alone in its bin counts as one standard deviation above it.
    alone = deviation.isna()
    centre, deviation = centre.mask(alone, 0), deviation.mask(alone, centre)
    score = ((table["dispersion"] - centre) / deviation).fillna(0)
    in_bounds = table["mean"].between(0.0125, 3.0, inclusive="neither")
    return np.asarray(in_bounds & (score > 0.5), dtype=bool)


def moments(counts: sparse.csr_matrix, *, total: Floats, target: float) -> tuple[Floats, Floats]:
    """Mean and variance (n - 1) of each gene, the counts of each cell brought to `target`.

    `total` is the sum that each cell has; one without counts stays empty.
    """
    n_cells, n_genes = counts.shape
    sums, squares = np.zeros(n_genes), np.zeros(n_genes)
    factor = factors_to(total, target)
    compiled(_column_sums)(counts.data, counts.indices, counts.indptr, factor, sums, squares)
    mean = sums / n_cells
    variance = (squares / n_cells - mean**2) * n_cells / max(n_cells - 1, 1)
    return mean, np.maximum(variance, 0)


def _components(
    counts: sparse.csr_matrix,
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
    *,
    n_comps: int,
    random_state: int,
) -> Floats:
    """Principal components of the standardised cells, and the places of sums of two of them.

    Shape `(n_cells + n_pairs, n_comps)`.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    n_genes = counts.shape[1]
    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    mean, variance = moments(counts, total=total, target=_TARGET)
    scale = np.divide(1, np.sqrt(variance), out=np.zeros(n_genes), where=variance > 0)
    factor, centre = factors_to(total, _TARGET), mean * scale
    values = counts.data * np.repeat(factor, np.diff(counts.indptr)) * scale[counts.indices]

    def product(vector: Floats) -> Floats:
        result = np.zeros(n_genes)
        compiled(_scatter_times)(
            values, counts.indices, counts.indptr, centre, vector.ravel(), result
        )
        return result

    start = np.random.default_rng(random_state).uniform(-1, 1, n_genes)
    scatter = LinearOperator((n_genes, n_genes), matvec=product, dtype=np.float64)
    _, axes = eigsh(scatter, n_comps, v0=start, tol=_TOLERANCE)
    # The place of a sum follows from those of its parts, before they are scaled and centred.
    raw = counts @ (axes * scale[:, None])
    first, second = pairs
    raw = np.vstack([raw, raw[first] + raw[second]])
    factor = factors_to(np.concatenate([total, total[first] + total[second]]), _TARGET)
    return np.asarray(raw * factor[:, None] - centre @ axes)


def _seen_in_rows(
    data: NDArray[Any],
    indices: Indices,
    indptr: Indices,
    n_with: NDArray[np.int64],
    n_columns: NDArray[np.int64],
    total: Floats,
) -> None:
    """Count the values of each column, and of each row those in columns with enough of them."""
    for j in range(len(indices)):
        n_with[np.uint64(indices[j])] += 1
    for i in range(len(n_columns)):
        for j in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            if n_with[np.uint64(indices[j])] >= _MIN_SEEN:
                n_columns[i] += 1
                total[i] += data[j]


def _column_sums(
    data: NDArray[Any],
    indices: Indices,
    indptr: Indices,
    factor: Floats,
    sums: Floats,
    squares: Floats,
) -> None:
    """Add the rows of a CSR matrix, each multiplied by its factor, and their squares."""
    for i in range(len(factor)):
        for j in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            value, column = data[j] * factor[i], np.uint64(indices[j])
            sums[column] += value
            squares[column] += value * value


def _scatter_times(
    data: Floats, indices: Indices, indptr: Indices, centre: Floats, vector: Floats, result: Floats
) -> None:
    """Multiply a vector by a CSR matrix whose columns are centred, and by its transpose."""
    shift, total = 0.0, 0.0
    for k in range(len(centre)):
        shift += centre[k] * vector[k]
    for i in range(len(indptr) - 1):
        # Unsigned, so that no index is asked whether it counts from the end.
        first, last = np.uint64(indptr[i]), np.uint64(indptr[i + 1])
        product = -shift
        for j in range(first, last):
            product += data[j] * vector[np.uint64(indices[j])]
        total += product
        for j in range(first, last):
            result[np.uint64(indices[j])] += data[j] * product
    for k in range(len(centre)):
        result[k] -= centre[k] * total


def _posterior(n_doublets: NDArray[np.int64], k: int, expected_rate: float) -> Floats:
    """Probability of a doublet given how many of the `k` neighbours are simulated ones."""
    share = (n_doublets + 1) / (k + 2)
    odds = expected_rate / _RATIO
    return share * odds / (1 - expected_rate - share * (1 - expected_rate - odds))
