"""Cell types of single cells from markers, neighbours and the cell's own counts; plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse, stats

from crs_sc.annotation._marker_scores import panel_scores, relative_to
from crs_sc.annotation._mixtures import foreign_markers
from crs_sc.annotation._neighbourhood import mean_around, shares, spread, with_neighbours
from crs_sc.annotation._own_counts import (
    MIN_CELLS,
    SMALLEST_SHARE,
    most_likely,
    sibling_evidence,
)
from crs_sc.annotation._panels import compartments
from crs_sc.annotation._whole_cell import cloud_likelihood
from crs_sc.core.arrays import group_sums, row_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

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
_MIXED_FDR = 0.05


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
    settled_share
        Share of its lineage after the cell's whole expression was heard; 1 where it was not.
    mixed
        Whether the cell carries the markers of another compartment too.
    """

    best: NDArray[np.intp]
    compartment_share: NDArray[np.float64]
    lineage_share: NDArray[np.float64]
    type_share: NDArray[np.float64]
    settled_share: NDArray[np.float64]
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
    components: NDArray[np.floating],
    groups: Sequence[NDArray[np.integer]],
    native: Sequence[NDArray[np.float64]],
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
    tell the types of its compartment apart can move a cell to another of them, and so can its whole
    expression to any type. Last, distinct markers of another compartment beyond what its like have
    make it a mixture.

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
    components
        Embedding, shape `(n_cells, n_components)`.
    groups
        Fine group of each cell, from 0, in several rounds.
    native
        Share of the expression that ambient RNA does not explain, shape `(n_groups, n_genes)`, in
        each round.
    panels
        Cell types.
    min_expression, min_score
        As in :func:`crs_sc.tl.annotate`.
    neighbour_weight
        See :func:`spread`.

    Returns
    -------
    Calls of the cells, and the highest expression of each gene in a fine group, mean over rounds.
    """
    n_cells = [np.bincount(group) for group in groups]
    profiles = [
        group_sums(expression, group, len(share)) / np.maximum(n, 1)[:, None] * share
        for group, share, n in zip(groups, native, n_cells, strict=True)
    ]
    top = np.mean(
        [
            highest_expression(profile, n, min_expression=min_expression)
            for profile, n in zip(profiles, n_cells, strict=True)
        ],
        axis=0,
    )
    present = _present([relative_to(profile, top) for profile in profiles], panels, min_score)
    around = with_neighbours(graph)
    by_lineage, by_type = _smoothed_scores(
        around, expression, native[0], groups[0], top, panels, present
    )
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
    best, type_share = _within_lineages(
        around, by_type, lineage, names, present, panels, neighbour_weight
    )
    best = _with_own_counts(counts, depth, around, best, panels)
    best, settled = _with_whole_expression(components, counts, depth, around, best, panels)
    lineage = pd.Index(names).get_indexer(pd.Index(panels.lineages[best]))
    mixed = _mixed(counts, depth, doublet_weight, best, panels)
    lineage_share = belief[np.arange(len(belief)), lineage]
    return CellCalls(best, compartment_share, lineage_share, type_share, settled, mixed), top


def _within_lineages(
    around: sparse.csr_matrix,
    by_type: NDArray[np.float64],
    lineage: NDArray[np.intp],
    names: list[str],
    present: NDArray[np.intp],
    panels: Panels,
    neighbour_weight: float,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Type of each cell among the neighbours of its lineage, and its share in the belief."""
    best = np.zeros(len(lineage), dtype=np.intp)
    type_share = np.ones(len(lineage))
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
    return best, type_share


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
            stray=_stray(name),
        )
        best[cells] = own[found]
    return best


def _with_whole_expression(
    components: NDArray[np.floating],
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    around: sparse.csr_matrix,
    best: NDArray[np.intp],
    panels: Panels,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Types after each cell's whole expression was heard as well, and the share of their lineage.

    The prior is the share of each type among the neighbours. The cell's place in the embedding
    and its counts of the markers that define its siblings are the evidence; they share genes, so
    that their mean counts. Types of too few cells have no cloud, and their cells keep them.
    """
    own = np.flatnonzero(np.bincount(best, minlength=len(panels.types)) >= MIN_CELLS)
    if len(own) < 2:
        return best, np.ones(len(best))
    code = pd.Index(own).get_indexer(pd.Index(best))
    evidence = cloud_likelihood(components, code, len(own))
    for name in dict.fromkeys(panels.compartments[own]):
        siblings = np.flatnonzero(panels.compartments[own] == name)
        by_counts = sibling_evidence(
            counts,
            depth,
            pd.Index(siblings).get_indexer(pd.Index(code)),
            [panels.of_type[i] for i in own[siblings]],
            stray=_stray(str(name)),
        )
        evidence[:, siblings] += by_counts - by_counts.max(axis=1, keepdims=True)
    heard = np.asarray(around @ (code[:, None] == np.arange(len(own))).astype(np.float64))
    belief = shares(evidence / 2 + np.log(np.maximum(heard, SMALLEST_SHARE)), temperature=1.0)
    found = np.where(code >= 0, own[belief.argmax(axis=1)], best)
    is_sibling = panels.lineages[own] == panels.lineages[found][:, None]
    return found, np.where(code >= 0, (belief * is_sibling).sum(axis=1), 1.0)


def _stray(compartment: str) -> float:
    """Largest rate of a barred gene in the types of a compartment, see `_ON_OFF`."""
    return _GRADED if compartment in _BY_DEGREES else _ON_OFF


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
    rounds: Sequence[NDArray[np.float64]], panels: Panels, min_score: float
) -> NDArray[np.intp]:
    """Types that most rounds show: the best of a group that shows its lineage; all if none is."""
    votes = np.zeros(len(panels.types))
    for relative in rounds:
        by_lineage = panel_scores(relative, panels.of_lineage)
        lineage = panels.lineages[by_lineage.argmax(axis=1)]
        by_type = panel_scores(relative, panels.of_type)
        best = np.where(panels.lineages == lineage[:, None], by_type, -np.inf).argmax(axis=1)
        votes[np.unique(best[by_lineage.max(axis=1) >= min_score])] += 1
    found = np.flatnonzero(votes > len(rounds) / 2)
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
    for rows in row_chunks(len(groups), size=4_096):
        mean = mean_around(around, expression, rows)
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
