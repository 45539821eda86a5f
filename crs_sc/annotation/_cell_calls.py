"""Cell types of single cells from markers, neighbours and the cell's own counts; plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse, stats

from crs_sc._arrays import group_sums, row_chunks
from crs_sc.annotation._marker_scores import panel_scores, relative_to
from crs_sc.annotation._mixtures import foreign_markers
from crs_sc.annotation._neighbourhood import shares, spread, with_neighbours
from crs_sc.annotation._own_counts import most_likely
from crs_sc.annotation._panels import compartments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crs_sc.annotation._panels import Panels

__all__ = ["NONE_SHARE", "CellCalls", "call_cells", "highest_expression"]

# Difference of panel scores that makes one type e times as believable as another.
_TEMPERATURE = 0.08
# Weight of the cell's own counts beside those of its neighbours, where siblings are told apart.
_OWN_WEIGHT = 0.3
# Score of "none of them", as a share of the smallest score of a named lineage.
NONE_SHARE = 0.5
# Rate of a gene in a type that must not have it, as a share of the rate in the type that has it:
# CD4 and CD8 are on or off, monocytes pass into each other and lose CD14 as they gain CD16.
_ON_OFF = 0.05
_GRADED = 0.3
_BY_DEGREES = ("Myeloid",)
# Groups of fewer cells do not say how high a marker can get.
_MIN_GROUP = 8
# False discovery rate of cells with the markers of two compartments.
_MIXED_FDR = 0.01


@dataclass(frozen=True)
class CellCalls:
    """Call of each cell.

    Attributes
    ----------
    best
        Type as position in the panels, shape `(n_cells,)`.
    compartment_share, lineage_share
        Shares of its compartment and of its lineage in the belief about the cell.
    type_share
        Share of the type in the belief about cells of its lineage.
    mixed
        Whether the cell carries the markers of another compartment too.
    """

    best: NDArray[np.intp]
    compartment_share: NDArray[np.float64]
    lineage_share: NDArray[np.float64]
    type_share: NDArray[np.float64]
    mixed: NDArray[np.bool_]


def highest_expression(
    profile: NDArray[np.float64], n_cells: NDArray[np.integer], *, min_expression: float
) -> NDArray[np.float64]:
    """Highest mean expression of each gene in a group of cells, at least `min_expression`.

    Parameters
    ----------
    profile
        Mean log-normalised expression, shape `(n_groups, n_genes)`.
    n_cells
        Cells of each group; small groups count only where there are no larger ones.
    min_expression
        Expression that counts as clearly there.
    """
    large = n_cells >= min(_MIN_GROUP, int(n_cells.max()))
    top: NDArray[np.float64] = profile[large].max(axis=0, initial=0.0)
    return np.maximum(top, min_expression)


def call_cells(
    expression: sparse.csr_matrix,
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    doublet_weight: NDArray[np.float64],
    graph: sparse.csr_matrix,
    groups: NDArray[np.integer],
    native: NDArray[np.float64],
    panels: Panels,
    *,
    min_expression: float,
    min_score: float,
    neighbour_weight: float,
) -> tuple[CellCalls, NDArray[np.float64]]:
    """Name each cell by what it and its neighbours express.

    The markers are averaged over a cell and its neighbours and scored by the panels of the types
    that some fine group shows. Compartment and lineage are settled by label spreading over the
    graph, then the type among the neighbours of that lineage. Its own counts of the markers that
    tell the types of its compartment apart can move a cell to another of them. Last, distinct
    markers of another compartment beyond what its like have make it a mixture.

    Parameters
    ----------
    expression, counts
        Log-normalised and raw, of the genes of the panels, shape `(n_cells, n_genes)`.
    depth
        All UMI of each cell.
    doublet_weight
        How likely each cell is a mixture before its markers are seen, around 1.
    graph
        Neighbour graph, shape `(n_cells, n_cells)`.
    groups
        Fine group of each cell, from 0.
    native
        Share of the expression that the soup does not explain, shape `(n_groups, n_genes)`.
    panels
        Cell types.
    min_expression, min_score
        As in :func:`crs_sc.tl.annotate`.
    neighbour_weight
        See :func:`spread`.

    Returns
    -------
    Calls of the cells, and the highest expression of each gene in a fine group.
    """
    n_cells = np.bincount(groups, minlength=len(native))
    profile = group_sums(expression, groups, len(native)) / np.maximum(n_cells, 1)[:, None] * native
    top = highest_expression(profile, n_cells, min_expression=min_expression)
    present = _present(relative_to(profile, top), panels, min_score=min_score)
    around = with_neighbours(graph)
    by_lineage, by_type = _smoothed_scores(around, expression, native, groups, top, panels, present)
    names = list(dict.fromkeys(panels.lineages[present]))
    lineage_scores = np.stack(
        [by_lineage[:, panels.lineages[present] == name].max(axis=1) for name in names], axis=1
    )
    # That it is none of them is believed as much as a lineage of this score would be.
    none = np.full((len(depth), 1), NONE_SHARE * min_score)
    belief = spread(
        around,
        shares(np.hstack([lineage_scores, none]), temperature=_TEMPERATURE),
        weight=neighbour_weight,
    )[:, :-1]
    lineage, compartment_share = _by_compartment(belief, names)
    best = np.zeros(len(depth), dtype=np.intp)
    type_share = np.ones(len(depth))
    for code, name in enumerate(names):
        cells = np.flatnonzero(lineage == code)
        own = panels.lineages[present] == name
        if not len(cells):
            continue
        within = sparse.csr_matrix(around[cells][:, cells])
        within = sparse.diags(1 / np.asarray(within.sum(axis=1)).ravel()) @ within
        of_types = spread(
            within,
            shares(by_type[np.ix_(cells, own)], temperature=_TEMPERATURE),
            weight=neighbour_weight,
        )
        best[cells] = present[own][of_types.argmax(axis=1)]
        type_share[cells] = of_types.max(axis=1)
    best = _with_own_counts(counts, depth, around, best, panels)
    lineage = pd.Index(names).get_indexer(pd.Index(panels.lineages[best]))
    mixed = _mixed(counts, depth, doublet_weight, best, panels)
    lineage_share = belief[np.arange(len(belief)), lineage]
    return CellCalls(best, compartment_share, lineage_share, type_share, mixed), top


def _with_own_counts(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    around: sparse.csr_matrix,
    best: NDArray[np.intp],
    panels: Panels,
) -> NDArray[np.intp]:
    """Types after the cells' own counts were heard, compartment by compartment."""
    best = best.copy()
    of_cell = panels.compartments[best]
    for name in dict.fromkeys(of_cell):
        cells = np.flatnonzero(of_cell == name)
        own = np.flatnonzero(panels.compartments == name)
        found = most_likely(
            counts[cells],
            depth[cells],
            around[cells][:, cells],
            np.searchsorted(own, best[cells]),
            [panels.of_type[i] for i in own],
            stray=_GRADED if name in _BY_DEGREES else _ON_OFF,
        )
        best[cells] = own[found]
    return best


def _by_compartment(
    belief: NDArray[np.float64], names: list[str]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Most believed lineage of the most believed compartment, and the share of that compartment.

    Parameters
    ----------
    belief
        Shares of the lineages, shape `(n_cells, n_lineages)`; what is left is "none of them".
    names
        The lineages.
    """
    code, _ = pd.factorize(compartments(np.array(names, dtype=str)))
    of_compartment = belief @ np.eye(code.max() + 1)[code]
    best = of_compartment.argmax(axis=1)
    lineage = np.where(code == best[:, None], belief, -1.0).argmax(axis=1)
    return lineage, of_compartment.max(axis=1)


def _present(
    relative: NDArray[np.float64], panels: Panels, *, min_score: float
) -> NDArray[np.intp]:
    """Types that are the best of a group which shows its lineage; all types if none is."""
    by_lineage = panel_scores(relative, panels.of_lineage)
    lineage = panels.lineages[by_lineage.argmax(axis=1)]
    by_type = panel_scores(relative, panels.of_type)
    best = np.where(panels.lineages == lineage[:, None], by_type, -np.inf).argmax(axis=1)
    found = np.unique(best[by_lineage.max(axis=1) >= min_score])
    return found if len(found) else np.arange(len(panels.types))


def _smoothed_scores(
    around: sparse.csr_matrix,
    expression: sparse.csr_matrix,
    native: NDArray[np.float64],
    groups: NDArray[np.integer],
    top: NDArray[np.float64],
    panels: Panels,
    present: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Panel scores of the mean over each cell and its neighbours, by lineage and by type."""
    scores = np.empty((2, len(groups), len(present)))
    for rows in row_chunks(len(groups)):
        mean = np.asarray((around[rows] @ expression).todense(), dtype=np.float64)
        relative = relative_to(mean * native[groups[rows]], top)
        scores[0, rows] = panel_scores(relative, [panels.of_lineage[i] for i in present])
        own = relative_to(expression[rows].toarray() * native[groups[rows]], top)
        relative += _OWN_WEIGHT * (own - relative)
        scores[1, rows] = panel_scores(relative, [panels.of_type[i] for i in present])
    return scores[0], scores[1]


def _mixed(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    weight: NDArray[np.float64],
    best: NDArray[np.intp],
    panels: Panels,
) -> NDArray[np.bool_]:
    """Cells with the markers of two compartments, at a weighted false discovery rate.

    The p-values are divided by weights of mean 1 (Genovese 2006, doi:10.1093/biomet/93.3.509).
    """
    of_compartment = {
        name: np.unique(
            np.concatenate(
                [
                    panel.positive
                    for panel, own in zip(panels.of_type, panels.compartments, strict=True)
                    if own == name
                ]
            )
        )
        for name in dict.fromkeys(panels.compartments)
    }
    foreign = [
        [
            np.setdiff1d(columns, of_compartment[own])
            for name, columns in of_compartment.items()
            if name != own
        ]
        for own in panels.compartments
    ]
    pvalue, _ = foreign_markers(counts, depth, best, foreign)
    weighted = np.minimum(pvalue * weight.mean() / weight, 1.0)
    return np.asarray(stats.false_discovery_control(weighted) < _MIXED_FDR)
