"""The type of each cell in three steps: propagate, refine, flag.

1. :func:`propagate` settles the marker scores of each cell and its neighbours by label spreading.
2. :func:`refine` weighs each cell's own counts and its whole expression against these calls.
3. :func:`flag` leaves open what is a mixture of two compartments or between two lineages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

from crs_sc.annotation._panels import compartments, panel_scores, relative_to
from crs_sc.core import parallel
from crs_sc.core.arrays import row_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crs_sc.annotation._panels import Markers, Panel, Panels

# --- propagate
# Fine groups: cells a group on average, and at most so many groups.
_CELLS_PER_GROUP = 30
_MOST_GROUPS = 100
# Where the cuts of k-means run is chance; what most of so many rounds show is not.
_N_ROUNDS = 5
# Of more cells, the groups of a round are sought in a random sample; the others join the nearest.
_GROUP_SAMPLE = 20_000
# Smaller groups do not say how high a marker can get.
_MIN_GROUP = 8
# Difference of panel scores that makes one type e times as believable as another.
_TEMPERATURE = 0.08
# Weight of the cell's own markers beside those of its neighbours, where siblings are told apart.
_SELF_WEIGHT = 0.3
# Score of "none of them", as a share of the smallest score of a named lineage.
NONE_SHARE = 0.5
# Steps of label spreading: what is left after n of them is of the order of `weight ** n`.
_N_STEPS = 10

# --- refine
# Types of fewer cells have no rates and no cloud of their own.
_MIN_CELLS = 8
# Cells of the type, in mean depth, whose worth the rate over all cells counts in that of a type.
_PRIOR_CELLS = 5.0
# Size of the negative binomial of one gene in the cells of one type.
_SIZE = 2.0
# Genes of one cell are not independent: their evidence counts half.
_DEPENDENCE = 0.5
# However few of the neighbours are of a type, a cell can be.
_SMALLEST_SHARE = 0.02
# Rate of a gene in a type that must not have it (by ambient RNA and strays), as a share of the rate
# in the type that has most of it: CD4 and CD8 are on or off, monocytes pass into each other and
# lose CD14 as they gain CD16.
_ON_OFF = 0.05
_GRADED = 0.3
_BY_DEGREES = ("Myeloid",)
# Share of the covariance that is taken as the same in all directions, so that few cells in many
# dimensions have one that can be inverted.
_SHRINKAGE = 0.1

# --- flag
# Distinct markers of another compartment without which no cell is tested: one can be a stray.
_MIN_FOREIGN = 2
# False discovery rate of cells with the markers of two compartments.
_MIXED_FDR = 0.05
# Share of a compartment that lets the most believed of its lineages stand without a majority:
# macrophages and dendritic cells out of monocytes share it.
_SURE = 0.7
# Share of its lineage after all evidence below which a cell is left open: more than a third of the
# cells below it would be wrong in the data of benchmarks/annotation.py.
_SETTLED = 0.9


@dataclass(frozen=True)
class Cells:
    """What the three steps read of the cells."""

    panels: Panels
    markers: Markers
    # Embedding, shape `(n_cells, n_components)`.
    components: NDArray[np.floating]
    # Mean over each cell and its neighbours, :func:`with_neighbours`.
    around: sparse.csr_matrix
    # How likely each cell is a mixture before its markers are seen, around 1.
    doublet_weight: NDArray[np.float64]


@dataclass(frozen=True)
class Propagated:
    """What the markers of each cell and its neighbours say."""

    # Type of each cell as position in the panels.
    best: NDArray[np.intp]
    # Lineages, and the share of each in the belief about each cell; what is left is "none".
    names: list[str]
    of_lineage: NDArray[np.float64]
    # Share of the compartment in the belief about the cell, and of the type within its lineage.
    compartment_share: NDArray[np.float64]
    type_share: NDArray[np.float64]
    # Highest expression of each gene in a fine group, mean over the rounds.
    top: NDArray[np.float64]


# --- 1. propagate --------------------------------------------------------------------------------


def propagate(
    cells: Cells,
    rounds: Sequence[NDArray[np.integer]],
    *,
    min_expression: float,
    min_score: float,
    neighbour_weight: float,
) -> Propagated:
    """Score the panels on the mean of each cell and its neighbours, and let the calls settle.

    The types that some fine group shows in most `rounds` (:func:`fine_groups`) are scored.
    Compartment and lineage are settled by label spreading over the graph, then the type among the
    neighbours of that lineage. The settings are those of :func:`crs_sc.tl.annotate`.
    """
    panels, markers = cells.panels, cells.markers
    n_cells = [np.bincount(group) for group in rounds]
    profiles = [markers.profile(group, len(n)) for group, n in zip(rounds, n_cells, strict=True)]
    highest = [_highest(profile, n) for profile, n in zip(profiles, n_cells, strict=True)]
    top = np.mean(np.maximum(highest, min_expression), axis=0)
    present = types_present([relative_to(profile, top) for profile in profiles], panels, min_score)
    by_lineage, by_type = _smoothed_scores(cells, rounds[0], top, present)
    lineages = panels.lineages[present]
    names = list(dict.fromkeys(lineages))
    scores = np.stack([by_lineage[:, lineages == name].max(axis=1) for name in names], axis=1)
    # That it is none of them is believed as much as a lineage of this score would be.
    none = np.full((len(scores), 1), NONE_SHARE * min_score)
    of_lineage = spread_labels(
        cells.around,
        _shares(np.hstack([scores, none]), temperature=_TEMPERATURE),
        weight=neighbour_weight,
    )[:, :-1]
    lineage, compartment_share = by_compartment(of_lineage, names)
    best = np.zeros(len(scores), dtype=np.intp)
    type_share = np.ones(len(scores))
    for code, name in enumerate(names):
        rows = np.flatnonzero(lineage == code)
        if not len(rows):
            continue
        siblings = lineages == name
        within = sparse.csr_matrix(cells.around[rows][:, rows])
        within = sparse.diags(1 / np.asarray(within.sum(axis=1)).ravel()) @ within
        of_types = spread_labels(
            within,
            _shares(by_type[np.ix_(rows, siblings)], temperature=_TEMPERATURE),
            weight=neighbour_weight,
        )
        best[rows] = present[siblings][of_types.argmax(axis=1)]
        type_share[rows] = of_types.max(axis=1)
    return Propagated(best, names, of_lineage, compartment_share, type_share, top)


def with_neighbours(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Matrix that takes the mean over each cell and its neighbours (where `graph` is above 0)."""
    # From a file the indices and row pointers can be of two types, which scipy refuses to compare.
    graph = sparse.csr_matrix((graph.data > 0, graph.indices, graph.indptr), shape=graph.shape)
    graph.eliminate_zeros()
    around = sparse.csr_matrix(graph + sparse.eye(graph.shape[0]), dtype=np.float32)
    around.data[:] = 1.0
    return sparse.csr_matrix(sparse.diags(1 / around.getnnz(axis=1)) @ around)


def fine_groups(
    components: NDArray[np.floating], *, random_state: int = 0, n_jobs: int = 1
) -> list[NDArray[np.int64]]:
    """Cut the cells into many small groups of like cells (k-means), several times.

    They are fine enough that a population of few cells has a group of its own, which a cluster
    of the cohort may not give it. The group of each cell, from 0, in each round.
    """
    n_groups = int(np.clip(len(components) // _CELLS_PER_GROUP, 1, _MOST_GROUPS))
    rng = np.random.default_rng(random_state)
    rounds: list[tuple[Any, ...]] = []
    for _ in range(_N_ROUNDS):
        seed, sample = int(rng.integers(2**31 - 1)), None
        if len(components) > _GROUP_SAMPLE:
            sample = np.sort(rng.choice(len(components), _GROUP_SAMPLE, replace=False))
        rounds.append((components, sample, n_groups, seed))
    return parallel.parallel_map(_groups_of, rounds, n_jobs=n_jobs)


def _groups_of(
    components: NDArray[np.floating],
    sample: NDArray[np.integer] | None,
    n_groups: int,
    random_state: int,
) -> NDArray[np.int64]:
    """Group of each cell in one round."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(
        n_groups, n_init=3, batch_size=4096, random_state=random_state, reassignment_ratio=0.0
    )
    model.fit(np.asarray(components if sample is None else components[sample], dtype=np.float64))
    parts = [
        model.predict(np.asarray(components[rows], dtype=np.float64))
        for rows in row_chunks(len(components))
    ]
    return np.concatenate(parts).astype(np.int64)


def _highest(profile: NDArray[np.float64], n_cells: NDArray[np.integer]) -> NDArray[np.float64]:
    """Highest mean expression of each gene; small groups count where there are no larger ones."""
    large = n_cells >= min(_MIN_GROUP, int(n_cells.max()))
    return np.asarray(profile[large].max(axis=0, initial=0.0))


def types_present(
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
    shown = np.flatnonzero(votes > len(rounds) / 2)
    return shown if len(shown) else np.arange(len(panels.types))


def _smoothed_scores(
    cells: Cells,
    groups: NDArray[np.integer],
    top: NDArray[np.float64],
    present: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Panel scores of the mean over each cell and its neighbours, by lineage and by type."""
    expression, panels = cells.markers.expression, cells.panels
    native = cells.markers.native_share(groups, int(groups.max()) + 1)
    around = cells.around.astype(np.float64)
    scores = np.empty((2, len(groups), len(present)))
    for rows in row_chunks(len(groups), size=4_096):
        share = native[groups[rows]]
        relative = relative_to((around[rows] @ expression).toarray() * share, top)
        scores[0, rows] = panel_scores(relative, [panels.of_lineage[i] for i in present])
        of_cell = relative_to(expression[rows].toarray() * share, top)
        relative += _SELF_WEIGHT * (of_cell - relative)
        scores[1, rows] = panel_scores(relative, [panels.of_type[i] for i in present])
    return scores[0], scores[1]


def _shares(scores: NDArray[np.float64], *, temperature: float) -> NDArray[np.float64]:
    """Share of each type in the belief about a cell: softmax of its scores, same shape."""
    belief = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(belief / belief.sum(axis=1, keepdims=True))


def spread_labels(
    around: sparse.csr_matrix,
    belief: NDArray[np.float64],
    *,
    weight: float,
    n_steps: int = _N_STEPS,
) -> NDArray[np.float64]:
    """Settle the belief about each cell with its neighbours; rows add up to 1.

    Label spreading (Zhou et al. 2003, Learning with local and global consistency): with the belief
    F0 and the mean over neighbours S, F <- weight S F + (1 - weight) F0, which goes to
    (1 - weight) (I - weight S)^-1 F0.
    """
    settled = belief
    for _ in range(n_steps):
        settled = (1 - weight) * belief + weight * (around @ settled)
        settled = settled / settled.sum(axis=1, keepdims=True)
    return np.asarray(settled)


def by_compartment(
    belief: NDArray[np.float64], names: list[str]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Most believed lineage of the most believed compartment, and the share of that compartment.

    `belief` has the shares of the lineages `names`, shape `(n_cells, n_lineages)`.
    """
    code, _ = pd.factorize(compartments(np.array(names, dtype=str)))
    of_compartment = belief @ np.eye(code.max() + 1)[code]
    best = of_compartment.argmax(axis=1)
    lineage = np.where(code == best[:, None], belief, -1.0).argmax(axis=1)
    return lineage, of_compartment.max(axis=1)


# --- 2. refine -----------------------------------------------------------------------------------


def by_counts(cells: Cells, best: NDArray[np.intp]) -> NDArray[np.intp]:
    """Types within each compartment by the cells' counts of the defining markers.

    The prior is the share of each type among the neighbours in the compartment. Cells of a type of
    too few cells keep it.
    """
    best, panels, markers = best.copy(), cells.panels, cells.markers
    is_large = np.bincount(best, minlength=len(panels.types)) >= _MIN_CELLS
    for compartment in dict.fromkeys(panels.compartments[best]):
        types = np.flatnonzero((panels.compartments == compartment) & is_large)
        siblings = [panels.of_type[i] for i in types]
        if len(types) < 2 or not len(defining_markers(siblings)):
            continue
        rows = np.flatnonzero(np.isin(best, types))
        code = np.searchsorted(types, best[rows])
        prior = np.asarray(cells.around[rows][:, rows] @ np.eye(len(types))[code])
        prior = prior / prior.sum(axis=1, keepdims=True)
        evidence = _sibling_evidence(
            markers.counts[rows], markers.depth[rows], code, siblings, stray=_stray(compartment)
        )
        belief = evidence + np.log(np.maximum(prior, _SMALLEST_SHARE))
        best[rows] = types[belief.argmax(axis=1)]
    return best


def refine(cells: Cells, best: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Weigh each cell's own counts, then its whole expression too, against its neighbours' calls.

    The counts of the markers that tell the types of its compartment apart can move a cell to
    another of them (:func:`by_counts`), and its whole expression to any type. Then the prior is the
    share of each type among the neighbours; the cell's place in the embedding and its counts of the
    markers that define its siblings are the evidence; they share genes, so that their mean counts.
    Returns the type of each cell, and the share of its lineage then. Types of too few cells have
    no cloud: their cells keep them, with a share of 1.
    """
    best, panels = by_counts(cells, best), cells.panels
    types = np.flatnonzero(np.bincount(best, minlength=len(panels.types)) >= _MIN_CELLS)
    if len(types) < 2:
        return best, np.ones(len(best))
    code = pd.Index(types).get_indexer(pd.Index(best))
    evidence = _cloud_likelihood(cells.components, code)
    for compartment in dict.fromkeys(panels.compartments[types]):
        siblings = np.flatnonzero(panels.compartments[types] == compartment)
        counted = _sibling_evidence(
            cells.markers.counts,
            cells.markers.depth,
            pd.Index(siblings).get_indexer(pd.Index(code)),
            [panels.of_type[i] for i in types[siblings]],
            stray=_stray(compartment),
        )
        evidence[:, siblings] += counted - counted.max(axis=1, keepdims=True)
    prior = np.asarray(cells.around @ (code[:, None] == np.arange(len(types))).astype(np.float64))
    belief = _shares(evidence / 2 + np.log(np.maximum(prior, _SMALLEST_SHARE)), temperature=1.0)
    refined = np.where(code >= 0, types[belief.argmax(axis=1)], best)
    is_sibling = panels.lineages[types] == panels.lineages[refined][:, None]
    return refined, np.where(code >= 0, (belief * is_sibling).sum(axis=1), 1.0)


def _cloud_likelihood(
    components: NDArray[np.floating], types: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Log-likelihood of the place of each cell in the embedding, by type (linear discriminant).

    Each type is a cloud around its mean, and all clouds have one shape, that of the cells around
    the means of their types. So the direction in which cells of all types differ, as by a
    treatment, tells little, and every gene of the embedding has a say, not only the markers by
    which the types were named first. Types count from 0 without gaps; -1 are cells that shall not
    count in the clouds. 0 for the likeliest type of each cell, shape `(n_cells, n_types)`.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    components = np.asarray(components, dtype=np.float64)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE)
    model.fit(components[types >= 0], types[types >= 0])
    score = model.decision_function(components)
    if score.ndim == 1:
        # Of two types scikit-learn gives the second against the first.
        score = np.column_stack([np.zeros_like(score), score])
    # How frequent a type is among the neighbours is the prior, not how frequent it is everywhere.
    score -= np.log(model.priors_)
    return np.asarray(score - score.max(axis=1, keepdims=True))


def _stray(compartment: str) -> float:
    """Largest rate of a barred gene in the types of a compartment, see `_ON_OFF`."""
    return _GRADED if compartment in _BY_DEGREES else _ON_OFF


def defining_markers(panels: Sequence[Panel]) -> NDArray[np.intp]:
    """Full-weight markers of one of these types that another must not have, sorted.

    CD4, CD8A and CD8B between T cells, CD14 and FCGR3A between monocytes.
    """
    marks = [panel.positive[panel.positive_weight >= 1] for panel in panels]
    bars = [panel.negative for panel in panels]
    if not marks:
        return np.empty(0, dtype=np.intp)
    # No panel has a gene on both sides, so a gene in both lists is of two types.
    return np.intersect1d(np.concatenate(marks), np.concatenate(bars)).astype(np.intp)


def _sibling_evidence(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    types: NDArray[np.integer],
    panels: Sequence[Panel],
    *,
    stray: float,
) -> NDArray[np.float64]:
    """Log-likelihood of the defining markers of these types in each cell, `(n_cells, n_types)`.

    The rates of a type are those of the cells that are called so, at most `stray` of the highest
    where the type must not have the gene. So the evidence of a marker is what it is worth in these
    data: much in deep cells, little where it is hardly seen. Zeros where no marker defines a type.
    `types` is -1 for cells of another compartment.
    """
    genes = defining_markers(panels)
    if not len(genes):
        return np.zeros((counts.shape[0], len(panels)))
    seen, called = counts[:, genes], np.flatnonzero(types >= 0)
    rates = rates_of(seen[called], depth[called], types[called], len(panels))
    is_barred = np.array([np.isin(genes, panel.negative) for panel in panels])
    rates = np.where(is_barred, np.minimum(rates, stray * rates.max(axis=0)), rates)
    return _DEPENDENCE * count_likelihood(seen, depth, rates)


def rates_of(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    groups: NDArray[np.integer],
    n_groups: int,
) -> NDArray[np.float64]:
    """Estimate counts per UMI by group, drawn to the mean of all where cells are few.

    With the sum Y and the depth N of a group, the rate r of all cells and the prior depth P,
    (Y + P r) / (N + P); above 0, shape `(n_groups, n_genes)`.
    """
    members = np.eye(n_groups)[groups]
    overall = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel() / depth.sum()
    prior = _PRIOR_CELLS * depth.mean()
    seen = np.asarray(counts.T @ members, dtype=np.float64).T
    rates = (seen + prior * overall) / ((depth @ members)[:, None] + prior)
    return np.asarray(np.maximum(rates, 1e-8))


def count_likelihood(
    counts: sparse.csr_matrix, depth: NDArray[np.float64], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log-likelihood of the counts of each cell at the rates of each group.

    Negative binomial of mean m = depth x rate and variance m + m**2 / size: y log(m / (m + size))
    - size log(1 + m / size), without the terms that are the same for all groups.
    """
    likelihood = np.empty((counts.shape[0], len(rates)))
    for rows in row_chunks(counts.shape[0]):
        seen = counts[rows].toarray().astype(np.float64)
        for group, rate in enumerate(rates):
            mean = np.outer(depth[rows], rate)
            terms = seen * np.log(mean / (mean + _SIZE)) - _SIZE * np.log1p(mean / _SIZE)
            likelihood[rows, group] = terms.sum(axis=1)
    return likelihood


# --- 3. flag -------------------------------------------------------------------------------------


def flag(
    cells: Cells,
    propagated: Propagated,
    best: NDArray[np.intp],
    settled_share: NDArray[np.float64],
    *,
    min_confidence: float,
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """Leave open the cells that are mixtures or whose lineage is not settled.

    A lineage stands with `min_confidence` of the belief by the markers, or as the most believed of
    a compartment that is sure, and if the whole expression leaves it hardly any other. Returns the
    type of each cell, -1 where it is left open; its share in the belief by the markers; and whether
    the cell carries the markers of another compartment too.
    """
    lineage = pd.Index(propagated.names).get_indexer(pd.Index(cells.panels.lineages[best]))
    lineage_share = propagated.of_lineage[np.arange(len(best)), lineage]
    is_sure = (lineage_share >= min_confidence) | (propagated.compartment_share >= _SURE)
    mixed = _mixed(cells, best)
    stands = ~mixed & is_sure & (settled_share >= _SETTLED)
    return np.where(stands, best, -1), lineage_share * propagated.type_share, mixed


def _mixed(cells: Cells, best: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Cells with the markers of two compartments, at a weighted false discovery rate.

    The p-values are divided by weights of mean 1 (Genovese 2006, doi:10.1093/biomet/93.3.509).
    """
    panels, weight = cells.panels, cells.doublet_weight
    of_compartment: dict[str, set[int]] = {}
    for panel, compartment in zip(panels.of_type, panels.compartments, strict=True):
        of_compartment.setdefault(compartment, set()).update(panel.positive.tolist())
    foreign = [
        [
            np.array(sorted(columns - of_compartment[compartment]), dtype=np.intp)
            for name, columns in of_compartment.items()
            if name != compartment
        ]
        for compartment in panels.compartments
    ]
    pvalue = foreign_markers(cells.markers.counts, cells.markers.depth, best, foreign)
    weighted = np.minimum(pvalue * weight.mean() / weight, 1.0)
    return np.asarray(stats.false_discovery_control(weighted) < _MIXED_FDR)


def foreign_markers(
    counts: sparse.csr_matrix,
    depth: NDArray[np.float64],
    groups: NDArray[np.integer],
    foreign: Sequence[Sequence[NDArray[np.integer]]],
) -> NDArray[np.float64]:
    """Test each cell for more distinct markers of another compartment than its like have.

    A marker that a share f of the cell's group shows (by its ambient RNA or by strays) is seen in
    a cell of depth N with probability 1 - (1 - f) ** (N / mean depth); the number of distinct
    markers seen is compared with a Poisson of the sum. Shares and not rates, so that a few cells
    that are full of a marker do not hide themselves.

    `foreign` has for each group the columns of the markers of each other compartment alone. The
    smallest p over these, times their number, at most 1.
    """
    pvalue = np.ones(counts.shape[0])
    for group, sets in enumerate(foreign):
        rows = np.flatnonzero(groups == group)
        if not len(rows):
            continue
        of_group = counts[rows]
        share = of_group.getnnz(axis=0) / (len(rows) + 1)
        rate = -np.log1p(-share) / depth[rows].mean()
        for columns in sets:
            if len(columns) < _MIN_FOREIGN:
                continue
            seen = of_group[:, columns].getnnz(axis=1)
            tested = seen >= _MIN_FOREIGN
            expected = -np.expm1(-np.outer(depth[rows[tested]], rate[columns])).sum(axis=1)
            tail = stats.poisson.sf(seen[tested] - 1, expected) * len(sets)
            pvalue[rows[tested]] = np.minimum(pvalue[rows[tested]], tail)
    return pvalue
