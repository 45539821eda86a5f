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


def rank_scores(
    counts: sparse.csr_matrix, sets: Sequence[NDArray[np.integer]], *, max_rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Mann-Whitney score of each gene set in each cell.

    Genes are ranked within the cell from the highest count (ties share their mean rank); genes
    without a count and ranks above `max_rank` are set to `max_rank + 1`. With R the sum of the
    set's ranks and n its size, the score is `1 - (R - n(n+1)/2) / (n max_rank - n(n-1)/2)`: 1 if
    the set's genes are the highest of the cell, 0 if none was seen within `max_rank`. The score of
    a cell depends on that cell alone. This is UCell (Andreatta and Carmona 2021, doi
    10.1016/j.csbj.2021.06.043), with 0 where nothing of the set was seen, also in a panel of fewer
    genes than `max_rank`.

    Parameters
    ----------
    counts
        CSR, shape `(n_cells, n_genes)`, no negative values.
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
    worst = size * max_rank - size * (size - 1) / 2
    scores = np.empty((n_cells, len(sets)), dtype=np.float32)
    chance = np.empty(n_cells)
    for rows in row_chunks(n_cells, size=2_000):
        chunk = counts[rows]
        gain = _rank_gain(chunk, max_rank)
        chance[rows] = np.asarray(gain.sum(axis=1)).ravel() / n_genes / max_rank
        rank_sum = size * (max_rank + 1) - gain @ member
        scores[rows] = 1 - (rank_sum - size * (size + 1) / 2) / worst
    return scores, chance


def _rank_gain(chunk: sparse.csr_matrix, max_rank: int) -> sparse.csr_matrix:
    """`max_rank + 1 - rank` of each gene with a count."""
    n_cells = chunk.shape[0]
    chunk = chunk.copy()
    chunk.eliminate_zeros()
    cell = np.repeat(np.arange(n_cells), np.diff(chunk.indptr))
    values, code = np.unique(chunk.data, return_inverse=True)
    frequency = np.bincount(cell * len(values) + code, minlength=n_cells * len(values)).reshape(
        n_cells, len(values)
    )
    greater = frequency[:, ::-1].cumsum(axis=1)[:, ::-1] - frequency
    rank_by_value = greater + (frequency + 1) / 2
    chunk.data = np.maximum(0.0, max_rank + 1 - rank_by_value[cell, code])
    return chunk
