"""Cells that carry the markers of two compartments, on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["foreign_markers"]


def foreign_markers(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    groups: NDArray[np.integer],
    foreign: Sequence[Sequence[NDArray[np.integer]]],
    *,
    min_markers: int = 2,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Test each cell for more distinct markers of another compartment than its like have.

    A marker that a share f of the cell's group shows (by its ambient RNA or by strays) is seen in
    a cell of depth N with probability 1 - (1 - f) ** (N / mean depth); the number of distinct
    markers seen is compared with a Poisson of the sum. Shares and not rates, so that a few cells
    that are full of a marker do not hide themselves.

    Parameters
    ----------
    counts
        Raw counts of the markers, CSR, shape `(n_cells, n_markers)`.
    depth
        All UMI of each cell, shape `(n_cells,)`.
    groups
        Type of each cell, from 0, shape `(n_cells,)`.
    foreign
        For each group, the columns of each other compartment's own markers.
    min_markers
        Distinct markers without which no cell is tested.

    Returns
    -------
    pvalue
        The smallest over the compartments, times their number, at most 1; shape `(n_cells,)`.
    compartment
        Position of that compartment in `foreign[group]`, same shape.
    """
    pvalue = np.ones(counts.shape[0])
    which = np.zeros(counts.shape[0], dtype=np.int64)
    for group, sets in enumerate(foreign):
        rows = np.flatnonzero(groups == group)
        if not len(rows):
            continue
        own = counts[rows]
        share = own.getnnz(axis=0) / (len(rows) + 1)
        rate = -np.log1p(-share) / depth[rows].mean()
        for position, columns in enumerate(sets):
            if len(columns) < min_markers:
                continue
            seen = own[:, columns].getnnz(axis=1)
            tested = seen >= min_markers
            expected = -np.expm1(-np.outer(depth[rows[tested]], rate[columns])).sum(axis=1)
            found = stats.poisson.sf(seen[tested] - 1, expected) * len(sets)
            better = found < pvalue[rows[tested]]
            pvalue[rows[tested][better]] = found[better]
            which[rows[tested][better]] = position
    return pvalue, which
