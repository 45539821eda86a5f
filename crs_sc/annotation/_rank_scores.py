"""Rank-based signature scores of single cells, from sparse counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc._arrays import row_chunks

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
    member = np.zeros((n_genes, len(sets)))
    for column, genes in enumerate(sets):
        member[genes, column] = 1.0
    size = member.sum(axis=0)
    wanted = member.any(axis=1)
    gain = np.empty((n_cells, len(sets)))
    total = np.empty(n_cells)
    # Of few cells at once, so that their tables of counts stay small.
    for rows in row_chunks(n_cells, size=4_096):
        place = counts.indptr[rows.start : rows.stop + 1]
        stored = slice(place[0], place[-1])
        gain[rows], total[rows] = _gains(
            counts.data[stored], counts.indices[stored], place - place[0], wanted, member, max_rank
        )
    worst = size * max_rank - size * (size - 1) / 2
    rank_sum = size * (max_rank + 1) - gain
    scores = 1 - (rank_sum - size * (size + 1) / 2) / worst
    return scores.astype(np.float32), total / n_genes / max_rank


def _gains(
    data: NDArray[np.number],
    genes: NDArray[np.integer],
    indptr: NDArray[np.integer],
    wanted: NDArray[np.bool_],
    member: NDArray[np.float64],
    max_rank: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`max_rank + 1 - rank`, from 0, summed over the genes of each set and over all genes.

    Most counts of a cell are small and tied, so a table of how often each occurs gives the ranks
    without sorting; only the wanted genes are then looked up in it.

    Returns
    -------
    Shapes `(n_cells, n_sets)` and `(n_cells,)`; sums of halves, so exact in any order.
    """
    n_cells, width = len(indptr) - 1, _SMALL + 2
    # Cell and count as one number; counts above the table share its last column.
    place = np.minimum(data, _SMALL + 1).astype(np.intp)
    place += np.repeat(np.arange(0, n_cells * width, width), np.diff(indptr))
    often = np.bincount(place, minlength=n_cells * width).reshape(n_cells, width)
    greater = often[:, ::-1].cumsum(axis=1)[:, ::-1] - often
    by_count = np.maximum(0.0, max_rank + 1 - (greater + (often + 1) / 2))
    # Of a stored 0 the gene has no count; counts above the table are looked at one by one.
    by_count[:, 0] = by_count[:, -1] = 0.0
    total = np.asarray((often * by_count).sum(axis=1), dtype=np.float64)
    looked_up = np.flatnonzero(wanted[genes])
    gain = by_count.ravel()[place[looked_up]]
    cell = place[looked_up] // width
    large = np.flatnonzero(data > _SMALL)
    if len(large):
        own = np.searchsorted(indptr, large, side="right") - 1
        above = np.maximum(0.0, max_rank + 1 - _ranks(own, data[large]))
        total += np.bincount(own, weights=above, minlength=n_cells)
        is_large = data[looked_up] > _SMALL
        gain[is_large] = above[wanted[genes[large]]]
    columns = member[genes[looked_up]]
    sums = np.empty((n_cells, member.shape[1]))
    for i in range(member.shape[1]):
        sums[:, i] = np.bincount(cell, weights=gain * columns[:, i], minlength=n_cells)
    return sums, total


def _ranks(cell: NDArray[np.intp], value: NDArray[np.number]) -> NDArray[np.float64]:
    """Rank of each value within its cell from the highest, ties sharing their mean.

    Parameters
    ----------
    cell, value
        Shape `(n_values,)`; cells in order.
    """
    order = np.lexsort((-value, cell))
    cells, values = cell[order], value[order]
    is_new_cell = np.r_[True, cells[1:] != cells[:-1]]
    is_new = is_new_cell | np.r_[True, values[1:] != values[:-1]]
    first = np.flatnonzero(is_new)
    length = np.diff(np.r_[first, len(order)])
    cell_start = np.maximum.accumulate(np.where(is_new_cell, np.arange(len(order)), 0))
    mean = first - cell_start[first] + (length + 1) / 2
    ranks = np.empty(len(order))
    ranks[order] = np.repeat(mean, length)
    return ranks
