"""Cell types from marker panels, with evidence, a confidence and an honest Unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.annotation._calls import (
    NONE_SHARE,
    Cells,
    fine_groups,
    flag,
    propagate,
    refine,
    with_neighbours,
)
from crs_sc.annotation._panels import (
    make_panels,
    marker_evidence,
    n_shown,
    panel_scores,
    read_markers,
    relative_to,
    resampled_scores,
)
from crs_sc.core.arrays import as_csr
from crs_sc.core.checks import add_note, check_fraction, check_obs, store
from crs_sc.errors import MissingKeyError, listing

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.annotation._panels import Panels

__all__ = ["annotate"]

# One gene does not make a type.
_MIN_SHOWN = 2
# A part of a cluster with fewer cells has no profile to judge it by.
_MIN_PART = 5
# How many times as credible as on average a doublet score makes a mixture, or as little, at most.
_MOST_CREDIBLE = 10.0
# Share of mixtures from which a note names the cluster.
_MOSTLY_MIXED = 0.5
_STRESS = "dissociation_stress"


def annotate(
    adata: AnnData,
    *,
    organism: Literal["human", "mouse"] = "human",
    cluster_key: str = keys.CLUSTER,
    label_key: str | None = None,
    gene_sets: pd.DataFrame | None = None,
    min_markers: int = 3,
    min_expression: float = 0.3,
    min_score: float = 0.3,
    min_confidence: float = 0.5,
    neighbour_weight: float = 0.8,
    n_resamples: int = 200,
    random_state: int = 0,
    n_jobs: int = 1,
) -> None:
    """Name the cell types by marker panels, and split the clusters that hold several.

    The score of a type is the mean relative expression of its markers less that of its negative
    markers; of the expression, only the share that ambient RNA does not explain counts, where the
    ambient RNA is known. Lineage comes first, markers of its own siblings not held against it (a T
    cell with CD4 and CD8A is a T cell), then the type within the lineage by the whole panel.

    With a neighbour graph, cells are named in three steps. *Propagate*: the scores are those of
    each cell and its neighbours, settled by label spreading, so that a cluster is cut where its
    types meet. *Refine*: each cell's whole expression has its say, by its place in the embedding
    among the clouds of the types (linear discriminant), with its counts of the markers that tell
    like types apart and the calls of its neighbours. *Flag*: a cell is `Unknown` if its lineage has
    less than `min_confidence` of the belief by markers (and its compartment, such as the myeloid
    cells, less than 0.7), if its whole expression leaves other lineages more than 0.1, or if its
    own counts carry the markers of another compartment beyond what its like have (a doublet, or a
    platelet on a T cell; a high `obs["doublet_score"]` makes that more credible). Each part of a
    cluster is then judged by its pseudobulk: `Unknown` if its lineage scores too low, or is the
    best in fewer than `min_confidence` of the resamplings of the markers, or if it shows fewer than
    two markers of its type. The table has a row for each part.

    Without a graph, or with labels of the user, each cluster or label is one part.

    The confidence of a part is the share of marker resamplings in which its type stays the best,
    times the mean belief of its cells.

    Parameters
    ----------
    adata
        Cells x genes with raw counts and log-normalised `X`, and for clusters to be split an
        embedding and its neighbour graph. Of the counts only the genes of the panels and the depth
        of each cell are used: a condensed cohort (`tl.condense`) has the same calls.
    organism
        Whose markers.
    cluster_key
        Column of `obs` with the clusters.
    label_key
        Column of `obs` with the user's own labels. They become the populations as they are; the
        markers only give their lineage and tell how well each fits.
    gene_sets
        Markers with the columns of `genesets.load_cell_types`; the packaged ones if None.
    min_markers
        Types with fewer markers in the data are not called; a note names them.
    min_expression
        Mean log-normalised expression that counts as clearly there.
    min_score
        Smallest score of the lineage of a whole cluster, -1 to 1. "None of them" has half of it
        in the belief about a cell, and the parts of a cluster must reach that half.
    min_confidence
        Smallest share of the belief about a cell, and of the resamplings, for a named lineage.
    neighbour_weight
        How much the neighbours of a cell weigh in the belief about it, inside [0, 1).
    n_resamples
        Resamplings of the markers.
    random_state
        Seed.
    n_jobs
        Processes; the result does not depend on it.

    Returns
    -------
    None. Writes `obs["population"]`, `obs["lineage"]`, `obs["population_confidence"]` and
    `uns["crs_sc"]["populations"]` (columns of `keys.POPULATIONS_TABLE`).

    Raises
    ------
    MissingKeyError
        If `X` or a column is absent.
    InputError
        If no cell type has enough markers in the data.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.annotate(adata)
    >>> calls = adata.obs[["population", "lineage", "population_confidence"]]
    """
    check_fraction("min_confidence", min_confidence)
    if label_key is None:
        check_obs(adata, cluster_key=cluster_key)
    if adata.X is None:
        msg = "`X` is empty. Run crs_sc.pp.normalize first."
        raise MissingKeyError(msg)
    table = genesets.load_cell_types(organism=organism) if gene_sets is None else gene_sets
    groups = _groups(adata, cluster_key if label_key is None else label_key)
    panels = make_panels(adata, table, organism=organism, min_markers=min_markers)
    markers = read_markers(adata, panels.columns)
    if label_key is None and "connectivities" in adata.obsp:
        cells = Cells(
            panels=panels,
            markers=markers,
            components=adata.obsm[keys.HARMONY if keys.HARMONY in adata.obsm else keys.PCA],
            around=with_neighbours(as_csr(adata.obsp["connectivities"])),
            doublet_weight=_doublet_weight(adata),
        )
        propagated = propagate(
            cells,
            fine_groups(cells.components, random_state=random_state, n_jobs=n_jobs),
            min_expression=min_expression,
            min_score=min_score,
            neighbour_weight=neighbour_weight,
        )
        best, settled_share = refine(cells, propagated.best)
        best, belief, mixed = flag(
            cells, propagated, best, settled_share, min_confidence=min_confidence
        )
        names, codes, given = _split(groups, best, panels.lineages)
        profile, top = markers.profile(codes, len(names)), propagated.top
        # The cells of a part were weighed against "none of them" one by one already.
        lowest_score = NONE_SHARE * min_score
    else:
        # Nothing is split, so the type of a part is that of its profile.
        names, codes, given = groups.cat.categories.astype(str), groups.cat.codes.to_numpy(), None
        belief, mixed = np.ones(adata.n_obs), np.zeros(adata.n_obs, dtype=bool)
        profile = markers.profile(codes, len(names))
        top = np.maximum(profile.max(axis=0, initial=0.0), min_expression)
        lowest_score = min_score
    relative = relative_to(profile, top)
    rng = np.random.default_rng(random_state)
    judged = _judged(panels, relative, given, n_resamples=n_resamples, rng=rng)
    n_cells = np.bincount(codes, minlength=len(judged))
    judged["confidence"] *= np.bincount(codes, weights=belief, minlength=len(judged)) / n_cells
    is_named = (judged["score"] >= lowest_score) & (judged["lineage_confidence"] >= min_confidence)
    is_named &= n_shown(relative, panels.of_type, judged["type"].tolist()) >= _MIN_SHOWN
    if given is not None:
        is_named &= given >= 0
    judged.loc[~is_named, ["population", "lineage"]] = keys.UNKNOWN
    judged["cluster"], judged["n_cells"] = names, n_cells
    judged["markers"] = marker_evidence(
        relative,
        panels.of_type,
        adata.var_names[panels.columns].tolist(),
        np.where(is_named, judged.pop("type"), -1).tolist(),
    )
    mixed_share = pd.Series(mixed, index=groups.index).groupby(groups, observed=True).mean()
    _note_mixtures(adata, int(mixed.sum()), mixed_share)
    judged["mixed_share"] = groups.map(mixed_share).astype(float).groupby(codes).first()
    scores = _doublet_and_stress(adata).groupby(codes).mean()
    judged[scores.columns] = scores
    if label_key is not None:
        judged["population"] = judged["cluster"]
    for key, column in ((keys.POPULATION, "population"), (keys.LINEAGE, "lineage")):
        adata.obs[key] = pd.Categorical(judged[column].to_numpy()[codes])
    adata.obs[keys.CONFIDENCE] = judged["confidence"].to_numpy()[codes]
    store(adata, keys.POPULATIONS, judged[keys.POPULATIONS_TABLE.names])


def _groups(adata: AnnData, key: str) -> pd.Series:
    """Cluster or label of each cell; a cell without a label is in the group Unknown."""
    if key not in adata.obs:
        check_obs(adata, label_key=key)
    groups: pd.Series = adata.obs[key].astype("category")
    if groups.isna().any():
        if keys.UNKNOWN not in groups.cat.categories:
            groups = groups.cat.add_categories([keys.UNKNOWN])
        groups = groups.fillna(keys.UNKNOWN)
    return groups.cat.remove_unused_categories()


def _doublet_weight(adata: AnnData) -> NDArray[np.float64]:
    """Doublet score relative to its mean, 0.1 to 10; 1 where there is none."""
    if keys.DOUBLET_SCORE not in adata.obs:
        return np.ones(adata.n_obs)
    score = adata.obs[keys.DOUBLET_SCORE].astype(float)
    weight = (score / score.mean()).fillna(1.0).clip(1 / _MOST_CREDIBLE, _MOST_CREDIBLE)
    return np.asarray(weight, dtype=np.float64)


# --- parts of clusters ---------------------------------------------------------------------------


def _split(
    groups: pd.Series, best: NDArray[np.intp], lineages: NDArray[np.str_]
) -> tuple[pd.Index, NDArray[np.integer], NDArray[np.intp] | None]:
    """Cut each cluster where the types of its cells meet; the largest part comes first.

    Returns the name of each part (that of its cluster, numbered where the cluster is split), the
    part of each cell, and the type of each part, -1 where its cells are unknown.
    """
    best = _without_small_parts(groups, best, lineages)
    cells = pd.DataFrame({"cluster": groups.cat.codes.to_numpy(), "best": best})
    parts = cells.groupby(["cluster", "best"]).size().rename("n").reset_index()
    parts = parts.sort_values(["cluster", "n", "best"], ascending=[True, False, True])
    number = parts.groupby("cluster").cumcount() + 1
    is_split = parts["cluster"].duplicated(keep=False)
    name = groups.cat.categories.astype(str).to_numpy(object)[parts["cluster"]]
    names = pd.Index(np.where(is_split, name + "-" + number.astype(str).to_numpy(object), name))
    position = pd.MultiIndex.from_frame(parts[["cluster", "best"]])
    codes = position.get_indexer(pd.MultiIndex.from_frame(cells))
    return names, codes, parts["best"].to_numpy(dtype=np.intp)


def _without_small_parts(
    groups: pd.Series, best: NDArray[np.intp], lineages: NDArray[np.str_]
) -> NDArray[np.intp]:
    """Give the cells of small parts the most frequent type of their lineage in the cluster.

    Where that is too small as well, they are unknown (-1).
    """
    cells = pd.DataFrame({"cluster": groups.cat.codes.to_numpy(), "best": best})
    cells["lineage"] = np.where(best >= 0, lineages[best], keys.UNKNOWN)
    parts = cells.groupby(["cluster", "lineage", "best"]).size().rename("n").reset_index()
    parts = parts.sort_values(["n", "best"], ascending=[False, True])
    largest = parts.drop_duplicates(["cluster", "lineage"]).set_index(["cluster", "lineage"])
    sibling = largest.loc[pd.MultiIndex.from_frame(cells[["cluster", "lineage"]])]
    size = cells.groupby(["cluster", "best"])["lineage"].transform("size").to_numpy()
    other = np.where(sibling["n"] >= _MIN_PART, sibling["best"], -1)
    return np.where(size >= _MIN_PART, best, other).astype(np.intp)


def _judged(
    panels: Panels,
    relative: NDArray[np.float64],
    given: NDArray[np.intp] | None,
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Type, runner-up, margin and confidences of each part by its pseudobulk.

    `given` has the type of each part, -1 for none; where there is none, the type is that of the
    profile.
    """
    both = (panels.of_lineage, panels.of_type)
    by_lineage, by_type = (panel_scores(relative, one) for one in both)
    drawn = [resampled_scores(relative, one, n_resamples=n_resamples, rng=rng) for one in both]
    rows = np.arange(len(relative))
    lineage = panels.lineages[by_lineage.argmax(axis=1)]
    if given is not None:
        lineage = np.where(given >= 0, panels.lineages[given], lineage)
    is_sibling = panels.lineages == lineage[:, None]
    best = np.where(is_sibling, by_type, -np.inf).argmax(axis=1)
    if given is not None:
        best = np.where(given >= 0, given, best)
    score = np.where(is_sibling, by_lineage, -np.inf).max(axis=1)
    # By how much each other type loses: a sibling by the whole panel, others by their lineage.
    behind = np.where(
        is_sibling, by_type[rows, best][:, None] - by_type, score[:, None] - by_lineage
    )
    behind[rows, best] = np.inf
    second = behind.argmin(axis=1)
    margin = np.where(np.isfinite(behind[rows, second]), behind[rows, second], np.nan)
    is_winner = panels.lineages[drawn[0].argmax(axis=2)] == lineage
    winners = np.where(is_sibling, drawn[1], -np.inf).argmax(axis=2)
    return pd.DataFrame(
        {
            "population": panels.types[best],
            "type": best,
            "lineage": lineage,
            "score": score,
            "confidence": (is_winner & (winners == best)).mean(axis=0),
            "lineage_confidence": is_winner.mean(axis=0),
            "runner_up": panels.types[second],
            "margin": margin,
        }
    )


def _doublet_and_stress(adata: AnnData) -> pd.DataFrame:
    """Doublet and stress score of each cell; a score that the data do not have is missing."""
    scores = pd.DataFrame(np.nan, index=adata.obs_names, columns=["doublet_score", "stress"])
    if keys.DOUBLET_SCORE in adata.obs:
        scores["doublet_score"] = adata.obs[keys.DOUBLET_SCORE].astype(float)
    if _STRESS in adata.obsm.get(keys.SIGNATURE_SCORES, ()):
        scores["stress"] = adata.obsm[keys.SIGNATURE_SCORES][_STRESS].astype(float)
    return scores


def _note_mixtures(adata: AnnData, n_mixed: int, share: pd.Series) -> None:
    """Say how many cells carry the markers of two compartments, and which clusters are of such."""
    if not n_mixed:
        return
    add_note(
        adata,
        f"{n_mixed} cells carry the markers of two compartments (doublets, or platelets on "
        "other cells) and are Unknown.",
    )
    mostly = [str(name) for name in share.index[share >= _MOSTLY_MIXED]]
    if mostly:
        add_note(
            adata,
            "Clusters of mixtures, half of whose cells or more carry the markers of two "
            f"compartments: {listing(mostly)}.",
        )
