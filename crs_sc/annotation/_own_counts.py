"""What a cell's own counts say between the types of its compartment, on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crs_sc.core.arrays import row_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    from crs_sc.annotation._marker_scores import Panel

__all__ = [
    "MIN_CELLS",
    "SMALLEST_SHARE",
    "count_likelihood",
    "defining_markers",
    "most_likely",
    "rates_of",
    "sibling_evidence",
]

# Cells of the type, in mean depth, whose worth the rate over all cells counts in that of a type.
_PRIOR_CELLS = 5.0
# Genes of one cell are not independent: their evidence counts half.
_DEPENDENCE = 0.5
# However few of the neighbours are of a type, a cell can be.
SMALLEST_SHARE = 0.02
# Types of fewer cells have no rates of their own.
MIN_CELLS = 8


def defining_markers(panels: Sequence[Panel]) -> NDArray[np.intp]:
    """Full-weight markers of one of these types that another must not have, sorted.

    CD4, CD8A and CD8B between T cells, CD14 and FCGR3A between monocytes.

    Parameters
    ----------
    panels
        One a type.
    """
    marks = [panel.positive[panel.positive_weight >= 1] for panel in panels]
    bars = [panel.negative for panel in panels]
    if not marks:
        return np.empty(0, dtype=np.intp)
    # No panel has a gene on both sides, so a gene in both lists is of two types.
    return np.intersect1d(np.concatenate(marks), np.concatenate(bars)).astype(np.intp)


def rates_of(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    groups: NDArray[np.integer],
    n_groups: int,
) -> NDArray[np.float64]:
    """Take counts per UMI of each gene in each group, drawn to the mean of all where cells are few.

    Returns
    -------
    Shape `(n_groups, n_genes)`, above 0.
    """
    members = np.eye(n_groups)[groups]
    overall = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel() / depth.sum()
    prior = _PRIOR_CELLS * depth.mean()
    seen = np.asarray(counts.T @ members, dtype=np.float64).T
    rates = (seen + prior * overall) / ((depth @ members)[:, None] + prior)
    return np.asarray(np.maximum(rates, 1e-8))


def count_likelihood(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    rates: NDArray[np.float64],
    *,
    size: float = 2.0,
) -> NDArray[np.float64]:
    """Log-likelihood of the counts of each cell at the rates of each group.

    Negative binomial with `size` (mean m, variance m + m**2 / size), without the terms that are
    the same for all groups.

    Parameters
    ----------
    counts
        CSR, shape `(n_cells, n_genes)`.
    depth
        All UMI of each cell.
    rates
        Counts per UMI, shape `(n_groups, n_genes)`.
    size
        Size of the negative binomial.

    Returns
    -------
    Shape `(n_cells, n_groups)`.
    """
    found = np.empty((counts.shape[0], len(rates)))
    for rows in row_chunks(counts.shape[0]):
        seen = counts[rows].toarray().astype(np.float64)
        for group, rate in enumerate(rates):
            mean = np.outer(depth[rows], rate)
            terms = seen * np.log(mean / (mean + size)) - size * np.log1p(mean / size)
            found[rows, group] = terms.sum(axis=1)
    return found


def sibling_evidence(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    types: NDArray[np.integer],
    panels: Sequence[Panel],
    *,
    stray: float,
) -> NDArray[np.float64]:
    """Log-likelihood of the defining markers of these types in each cell.

    The rates of a type are those of the cells that are called so, less where the type must not
    have the gene. So the evidence of a marker is what it is worth in these data: much in deep
    cells, little where it is hardly seen.

    Parameters
    ----------
    counts, depth, panels, stray
        As for :func:`most_likely`.
    types
        Type of each cell as position in `panels`, -1 for cells of another compartment.

    Returns
    -------
    Shape `(n_cells, n_types)`; zeros where no marker defines a type.
    """
    genes = defining_markers(panels)
    if not len(genes):
        return np.zeros((counts.shape[0], len(panels)))
    seen, own = counts[:, genes], np.flatnonzero(types >= 0)
    rates = rates_of(seen[own], depth[own], types[own], len(panels))
    is_barred = np.array([np.isin(genes, panel.negative) for panel in panels])
    rates = np.where(is_barred, np.minimum(rates, stray * rates.max(axis=0)), rates)
    return _DEPENDENCE * count_likelihood(seen, depth, rates)


def most_likely(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    around: sparse.csr_matrix,
    types: NDArray[np.intp],
    panels: Sequence[Panel],
    *,
    stray: float,
) -> NDArray[np.intp]:
    """Type of each cell from its own counts of the defining markers and its neighbours.

    The prior is the share of each type among the neighbours, the evidence that of
    :func:`sibling_evidence`.

    Parameters
    ----------
    counts
        Raw counts of the genes of the panels, CSR, shape `(n_cells, n_genes)`.
    depth
        All UMI of each cell.
    around
        Mean over the neighbours, shape `(n_cells, n_cells)`; rows need not add up to 1.
    types
        Type of each cell as position in `panels`.
    panels
        One a type.
    stray
        A gene that a type must not have is there by ambient RNA and strays: at most this share of
        the rate in the type that has most of it.

    Returns
    -------
    Same shape as `types`; a cell of a type of fewer than eight cells keeps it.
    """
    found = types.copy()
    own = np.flatnonzero(np.bincount(types, minlength=len(panels)) >= MIN_CELLS)
    named = [panels[int(i)] for i in own]
    if len(own) < 2 or not len(defining_markers(named)):
        return found
    cells = np.flatnonzero(np.isin(types, own))
    code = np.searchsorted(own, types[cells])
    heard = np.asarray(around[cells][:, cells] @ np.eye(len(own))[code])
    heard = heard / heard.sum(axis=1, keepdims=True)
    evidence = sibling_evidence(counts[cells], depth[cells], code, named, stray=stray)
    belief = evidence + np.log(np.maximum(heard, SMALLEST_SHARE))
    found[cells] = own[belief.argmax(axis=1)]
    return found
