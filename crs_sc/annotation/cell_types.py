"""Cell types from marker panels, with evidence, a confidence and an honest Unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.annotation._cell_calls import NONE_SHARE, call_cells
from crs_sc.annotation._evidence import cell_evidence, marker_evidence, n_shown
from crs_sc.annotation._marker_scores import panel_scores, relative_to, resampled_scores
from crs_sc.annotation._neighbourhood import fine_groups
from crs_sc.annotation._panel_values import panel_values
from crs_sc.annotation._panels import make_panels
from crs_sc.core.arrays import as_csr
from crs_sc.core.checks import add_note, check_fraction, check_obs, store
from crs_sc.errors import MissingKeyError, listing

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.annotation._panel_values import PanelValues
    from crs_sc.annotation._panels import Panels

__all__ = ["annotate"]

# One gene does not make a type.
_MIN_SHOWN = 2
# A part of a cluster with fewer cells has no profile to judge it by.
_MIN_PART = 5
# Share of a compartment that lets the most believed of its lineages stand without a majority:
# macrophages and dendritic cells out of monocytes share it.
_SURE = 0.7
# Share of its lineage after all evidence below which a cell is left open: more than a third of the
# cells below it would be wrong in the data of benchmarks/annotation.py.
_SETTLED = 0.9


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

    With a neighbour graph, the scores are those of each cell and its neighbours, settled by label
    spreading, so that a cluster is cut where its types meet. Then each cell's whole expression is
    heard: its place in the embedding among the clouds of the types (linear discriminant), with its
    counts of the markers that tell like types apart and the calls of its neighbours.

    A cell is `Unknown` if its lineage has less than `min_confidence` of the belief by markers (and
    its compartment, such as the myeloid cells, less than 0.7), if its whole expression leaves
    other lineages more than 0.1, or if its own counts carry the markers of another compartment
    beyond what its like have (a doublet, or a platelet on a T cell; a high `obs["doublet_score"]`
    makes that more credible). Each part of a cluster is then judged by its pseudobulk: `Unknown`
    if its lineage scores too low, or is the best in fewer than `min_confidence` of the resamplings
    of the markers, or if it shows fewer than two markers of its type. The table has a row for each
    part.
    Without a graph, or with labels of the user, each cluster or label is one part.

    The confidence of a part is the share of marker resamplings in which its type stays the best,
    times the mean belief of its cells.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X`.
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
        How much a cell hears its neighbours, inside [0, 1).
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
    """
    check_fraction("min_confidence", min_confidence)
    group_key = cluster_key if label_key is None else label_key
    if label_key is None:
        check_obs(adata, cluster_key=cluster_key)
    if adata.X is None:
        msg = "`X` is empty. Run crs_sc.pp.normalize first."
        raise MissingKeyError(msg)
    table = genesets.load_cell_types(organism=organism) if gene_sets is None else gene_sets
    groups = _groups(adata, group_key)
    panels = make_panels(adata, table, organism=organism, min_markers=min_markers)
    values = panel_values(adata, panels.columns)
    if label_key is None and "connectivities" in adata.obsp:
        parts = _split(
            adata, values, groups, panels, min_expression=min_expression, min_score=min_score,
            min_confidence=min_confidence, neighbour_weight=neighbour_weight,
            random_state=random_state, n_jobs=n_jobs,
        )  # fmt: skip
    else:
        parts = _whole(values, groups, min_expression=min_expression)
    relative = relative_to(parts.profile, parts.top)
    found = _call(
        panels, relative, None if parts.are_whole else parts.best, n_resamples=n_resamples,
        rng=np.random.default_rng(random_state),
    )  # fmt: skip
    n_cells = np.bincount(parts.codes, minlength=len(found))
    mean_belief = np.bincount(parts.codes, weights=parts.belief, minlength=len(found)) / n_cells
    found["confidence"] *= mean_belief
    # The cells of a part were weighed against "none of them" one by one already.
    floor = min_score if parts.are_whole else NONE_SHARE * min_score
    is_named = (found["score"] >= floor) & (found["lineage_confidence"] >= min_confidence)
    is_named &= parts.best >= 0
    is_named &= n_shown(relative, panels.of_type, found["type"].tolist()) >= _MIN_SHOWN
    found.loc[~is_named, ["population", "lineage"]] = keys.UNKNOWN
    found["cluster"] = parts.names
    found["n_cells"] = n_cells
    found["markers"] = marker_evidence(
        relative,
        panels.of_type,
        adata.var_names[panels.columns].tolist(),
        np.where(is_named, found.pop("type"), -1).tolist(),
    )
    evidence = cell_evidence(adata, groups, parts.codes, parts.mixed, len(found))
    found[evidence.columns] = evidence
    if label_key is not None:
        found["population"] = found["cluster"]
    for key, column in ((keys.POPULATION, "population"), (keys.LINEAGE, "lineage")):
        adata.obs[key] = pd.Categorical(found[column].to_numpy()[parts.codes])
    adata.obs[keys.CONFIDENCE] = found["confidence"].to_numpy()[parts.codes]
    store(adata, keys.POPULATIONS, found[keys.POPULATIONS_TABLE.names])


@dataclass(frozen=True)
class _Parts:
    """Clusters, or the parts of clusters that hold one type each.

    Attributes
    ----------
    names
        Name of each part: that of its cluster, numbered where the cluster is split.
    codes
        Part of each cell, shape `(n_cells,)`.
    profile
        Mean expression of the panel genes without ambient RNA, shape `(n_parts, n_genes)`.
    top
        Highest expression of each gene, shape `(n_genes,)`.
    best
        Type of each part, -1 where its cells are unknown; of no use where `are_whole`.
    belief
        Share of its type in the belief about each cell, shape `(n_cells,)`.
    mixed
        Whether each cell carries the markers of two compartments, shape `(n_cells,)`.
    are_whole
        Whether nothing was split, so that the type is that of the profile.
    """

    names: list[str]
    codes: NDArray[np.integer]
    profile: NDArray[np.float64]
    top: NDArray[np.float64]
    best: NDArray[np.intp]
    belief: NDArray[np.float64]
    mixed: NDArray[np.bool_]
    are_whole: bool


def _whole(values: PanelValues, groups: pd.Series, *, min_expression: float) -> _Parts:
    """Each cluster or label as one part."""
    codes = groups.cat.codes.to_numpy()
    names = groups.cat.categories.astype(str).tolist()
    profile = values.profile(codes, len(names))
    top = np.maximum(profile.max(axis=0, initial=0.0), min_expression)
    best = np.zeros(len(names), dtype=np.intp)
    belief, mixed = np.ones(len(codes)), np.zeros(len(codes), dtype=bool)
    return _Parts(names, codes, profile, top, best, belief, mixed, are_whole=True)


def _split(
    adata: AnnData,
    values: PanelValues,
    groups: pd.Series,
    panels: Panels,
    *,
    min_expression: float,
    min_score: float,
    min_confidence: float,
    neighbour_weight: float,
    random_state: int,
    n_jobs: int,
) -> _Parts:
    """Cut each cluster where the types of its cells meet."""
    components = adata.obsm[keys.HARMONY if keys.HARMONY in adata.obsm else keys.PCA]
    fine = fine_groups(components, random_state=random_state, n_jobs=n_jobs)
    calls, top = call_cells(
        values.expression,
        values.counts,
        values.depth,
        _doublet_weight(adata),
        as_csr(adata.obsp["connectivities"]),
        components,
        fine,
        [values.native_share(group, int(group.max()) + 1) for group in fine],
        panels,
        min_expression=min_expression,
        min_score=min_score,
        neighbour_weight=neighbour_weight,
    )
    if calls.mixed.any():
        add_note(
            adata,
            f"{calls.mixed.sum()} cells carry the markers of two compartments (doublets, or "
            "platelets on other cells) and are Unknown.",
        )
    is_sure = (calls.lineage_share >= min_confidence) | (calls.compartment_share >= _SURE)
    is_known = ~calls.mixed & is_sure & (calls.settled_share >= _SETTLED)
    best = _without_small_parts(groups, np.where(is_known, calls.best, -1), panels.lineages)
    names, codes, of_part = _numbered(groups, best)
    profile = values.profile(codes, len(names))
    belief = calls.lineage_share * calls.type_share
    return _Parts(names, codes, profile, top, of_part, belief, calls.mixed, are_whole=False)


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
    own = largest.loc[pd.MultiIndex.from_frame(cells[["cluster", "lineage"]])]
    size = cells.groupby(["cluster", "best"])["lineage"].transform("size").to_numpy()
    other = np.where(own["n"] >= _MIN_PART, own["best"], -1)
    return np.where(size >= _MIN_PART, best, other).astype(np.intp)


def _doublet_weight(adata: AnnData) -> NDArray[np.float64]:
    """Doublet score relative to its mean, 0.1 to 10; 1 where there is none."""
    if keys.DOUBLET_SCORE not in adata.obs:
        return np.ones(adata.n_obs)
    score = adata.obs[keys.DOUBLET_SCORE].astype(float)
    return np.asarray((score / score.mean()).fillna(1.0).clip(0.1, 10.0), dtype=np.float64)


def _numbered(
    groups: pd.Series, best: NDArray[np.intp]
) -> tuple[list[str], NDArray[np.integer], NDArray[np.intp]]:
    """Names of the parts, the largest of a cluster first; part of each cell; type of each part."""
    cells = pd.DataFrame({"cluster": groups.cat.codes.to_numpy(), "best": best})
    parts = cells.groupby(["cluster", "best"]).size().rename("n").reset_index()
    parts = parts.sort_values(["cluster", "n", "best"], ascending=[True, False, True])
    number = parts.groupby("cluster").cumcount() + 1
    is_split = parts["cluster"].duplicated(keep=False)
    name = groups.cat.categories.astype(str).to_numpy()[parts["cluster"]]
    names = [
        f"{cluster}-{i}" if split else cluster
        for cluster, i, split in zip(name, number, is_split, strict=True)
    ]
    position = pd.MultiIndex.from_frame(parts[["cluster", "best"]])
    codes = position.get_indexer(pd.MultiIndex.from_frame(cells))
    return names, codes, parts["best"].to_numpy(dtype=np.intp)


def _groups(adata: AnnData, key: str) -> pd.Series:
    """Cluster or label of each cell; a cell without a label is in the group Unknown."""
    if key not in adata.obs.columns:
        msg = f"`obs` has no column '{key}' (label_key). Columns: {listing(adata.obs.columns)}."
        raise MissingKeyError(msg)
    groups: pd.Series = adata.obs[key].astype("category")
    if groups.isna().any():
        if keys.UNKNOWN not in groups.cat.categories:
            groups = groups.cat.add_categories([keys.UNKNOWN])
        groups = groups.fillna(keys.UNKNOWN)
    return groups.cat.remove_unused_categories()


def _call(
    panels: Panels,
    relative: NDArray[np.float64],
    given: NDArray[np.intp] | None,
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Type, runner-up, margin and confidences of each part.

    Parameters
    ----------
    panels
        Cell types.
    relative
        Expression relative to the highest, shape `(n_parts, n_genes)`.
    given
        Type of each part, -1 for none; where there is none, the type is that of the profile.
    n_resamples
        Resamplings of the markers.
    rng
        Source of the resamplings.
    """
    both = (panels.of_lineage, panels.of_type)
    by_lineage, by_type = (panel_scores(relative, own) for own in both)
    drawn = [resampled_scores(relative, own, n_resamples=n_resamples, rng=rng) for own in both]
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
