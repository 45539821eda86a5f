"""Rank-based signature scores of single cells, from sparse counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc.core.arrays import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["rank_scores"]

# Counts up to this are ranked by counting them; the few above it by sorting.
_SMALL = 63


def rank_scores(
    counts: sparse.csr_matrix, sets: Sequence[NDArray[np.integer]], *, max_rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Mann-Whitney score of each gene set in each cell.

    Genes are ranked within the cell from the highest count (ties share their mean rank); genes
    without a count and ranks above `max_rank` are set to `max_rank + 1`. With R the sum of the
    set's ranks and n its size, the score is `1 - (R - n(n+1)/2) / (n max_rank - n(n-1)/2)`: 1 if
    the set's genes are the highest of the cell, 0 if none was seen within `max_rank`. The score of
    a cell depends on that cell alone, so chunks of cells can be scored one by one. This is UCell
    (Andreatta and Carmona 2021, doi 10.1016/j.csbj.2021.06.043), with 0 where nothing of the set
    was seen, also in a panel of fewer genes than `max_rank`.

    Parameters
    ----------
    counts
        CSR of whole numbers from 0, shape `(n_cells, n_genes)`, no entry twice.
    sets
        Columns of each set, each with at least one entry.
    max_rank
        Ranks that count; at least the size of the largest set.

    Returns
    -------
    scores
        Shape `(n_cells, n_sets)`.
    chance
        Mean score of a single gene drawn at random from the cell, shape `(n_cells,)`: what a set
        without meaning is expected to have.
    """
    n_cells, n_genes = counts.shape
    # For each gene the sets that it is in, one after the other.
    pairs = sorted({(int(gene), i) for i, genes in enumerate(sets) for gene in genes})
    gene_of_pair, set_of_pair = np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()
    first = np.searchsorted(gene_of_pair, np.arange(n_genes + 1))
    size = np.bincount(set_of_pair, minlength=len(sets)).astype(np.float64)
    gain, total = np.zeros((n_cells, len(sets))), np.zeros(n_cells)
    compiled(_add_gains)(
        counts.data, counts.indices, counts.indptr, first, set_of_pair, float(max_rank), gain, total
    )
    worst = size * max_rank - size * (size - 1) / 2
    rank_sum = size * (max_rank + 1) - gain
    scores = 1 - (rank_sum - size * (size + 1) / 2) / worst
    return scores.astype(np.float32), total / n_genes / max_rank


def _add_gains(
    data: NDArray[np.number],
    genes: NDArray[np.integer],
    indptr: NDArray[np.integer],
    first: NDArray[np.int64],
    set_of_pair: NDArray[np.int64],
    max_rank: float,
    gain: NDArray[np.float64],
    total: NDArray[np.float64],
) -> None:
    """Add up `max_rank + 1 - rank`, from 0, over the genes of each set and over all genes.

    Most counts of a cell are small and tied, so a table of how often each occurs gives the ranks
    without sorting; only the few above the table are sorted. Sums of halves, so exact in any order.

    Parameters
    ----------
    data, genes, indptr
        Of the counts.
    first, set_of_pair
        Sets of gene g: `set_of_pair[first[g]:first[g + 1]]`.
    max_rank
        Ranks that count.
    gain, total
        Zeros, shapes `(n_cells, n_sets)` and `(n_cells,)`, to which is added.
    """
    often = np.empty(_SMALL + 1, dtype=np.int64)
    by_count = np.empty(_SMALL + 1)
    for cell in range(len(total)):
        start, stop = indptr[cell], indptr[cell + 1]
        own = data[start:stop]
        large = np.sort(own[own > _SMALL])
        often[:] = 0
        for count in own[own <= _SMALL]:
            often[int(count)] += 1
        above = len(large)
        # Of a stored 0 the gene has no count.
        by_count[0] = 0.0
        for count in range(_SMALL, 0, -1):
            by_count[count] = max(0.0, max_rank + 1 - (above + (often[count] + 1) / 2))
            above += often[count]
            total[cell] += often[count] * by_count[count]
        for j in range(start, stop):
            is_large = data[j] > _SMALL
            if not is_large and first[genes[j]] == first[genes[j] + 1]:
                continue
            if is_large:
                # Those with the same count share their mean rank.
                higher = len(large) - np.searchsorted(large, data[j], side="right")
                others = len(large) - higher - np.searchsorted(large, data[j], side="left")
                value = max(0.0, max_rank + 1 - (higher + (others + 1) / 2))
                total[cell] += value
            else:
                value = by_count[int(data[j])]
            for pair in range(first[genes[j]], first[genes[j] + 1]):
                gain[cell, set_of_pair[pair]] += value
