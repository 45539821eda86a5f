"""Cell types of clusters from marker panels, with a confidence and an honest Unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc._arrays import as_csr, group_sums
from crs_sc._checks import add_note, check_fraction, check_obs, counts_matrix, store
from crs_sc._soup import has_soup, soup_of, soup_rejections, take_counts
from crs_sc.annotation._marker_scores import (
    Panel,
    panel_scores,
    relative_expression,
    resampled_scores,
)
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["annotate", "call_transgene"]


def annotate(
    adata: AnnData,
    *,
    organism: Literal["human", "mouse"] = "human",
    cluster_key: str = keys.CLUSTER,
    label_key: str | None = None,
    min_markers: int = 3,
    min_expression: float = 0.3,
    min_score: float = 0.3,
    min_confidence: float = 0.5,
    n_resamples: int = 200,
    random_state: int = 0,
) -> None:
    """Name the cell type of each cluster by the packaged marker panels.

    The score of a type in a cluster is the mean relative expression of its markers less that of
    its negative markers; of the expression, only the share that the soup does not explain counts,
    where the soup is known. The lineage is that of the best type, markers of its own siblings not
    held against it (a T cell with CD4 and CD8A is a T cell); then the best type of that lineage is
    taken by the whole panel. The confidence is the share of marker resamplings in which it stays
    the best. A cluster is `Unknown` if the score of the lineage is below `min_score`, or if it is
    the best in fewer than `min_confidence` of the resamplings.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X`.
    organism
        Organism of the genes: human or mouse.
    cluster_key
        Column of `obs` with the clusters.
    label_key
        Column of `obs` with the user's own cell types. They are taken as they are (a missing one
        is `Unknown`); lineage and confidence are still those of the markers.
    min_markers
        Markers that must be in the data for a type to be considered.
    min_expression
        Mean log1p(CP10k) of a marker in its best cluster that counts as clearly there.
    min_score
        Smallest score of a called type, -1 to 1.
    min_confidence
        Smallest confidence of a called lineage, 0 to 1.
    n_resamples
        Resamplings of the markers.
    random_state
        Seed.

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
    groups = _groups(adata, group_key)
    panels, columns = _panels(adata, organism, min_markers=min_markers)
    codes = groups.cat.codes.to_numpy()
    profile = _mean_profile(adata, columns, codes, len(groups.cat.categories))
    if has_soup(adata):
        profile *= _native_share(adata, columns, codes, len(groups.cat.categories))
    relative = relative_expression(profile, min_expression=min_expression)
    rng = np.random.default_rng(random_state)
    # By lineage first, then by type.
    scores = [panel_scores(relative, own) for own in (panels.of_lineage, panels.of_type)]
    resampled = [
        resampled_scores(relative, own, n_resamples=n_resamples, rng=rng)
        for own in (panels.of_lineage, panels.of_type)
    ]
    table = _call(panels, scores, resampled)
    unknown = (table["score"] < min_score) | (table["lineage_confidence"] < min_confidence)
    table.loc[unknown, ["population", "lineage"]] = keys.UNKNOWN
    table["cluster"] = groups.cat.categories.astype(str)
    if label_key is not None:
        table["population"] = table["cluster"]
    table["n_cells"] = np.bincount(codes, minlength=len(table))
    for key, column in (
        (keys.POPULATION, "population"),
        (keys.LINEAGE, "lineage"),
    ):
        adata.obs[key] = pd.Categorical(table[column].to_numpy()[codes])
    adata.obs[keys.CONFIDENCE] = table["confidence"].to_numpy()[codes]
    store(adata, keys.POPULATIONS, table[keys.POPULATIONS_TABLE.names])


def call_transgene(
    adata: AnnData,
    *,
    transgene: Sequence[str],
    alpha: float = 0.05,
    sample_key: str = keys.SAMPLE,
    layer: str = keys.COUNTS,
) -> None:
    """Call the CAR transgene in each cell, and name the T cells that have it `CAR T`.

    Transcripts of a transgene are often missed at the 3' end, so a cell without any is
    `not_detected`, never negative.

    Parameters
    ----------
    adata
        Cells x genes after :func:`annotate`, with the soup of each sample.
    transgene
        Features of the construct.
    alpha
        False discovery rate of the call against the soup.
    sample_key
        Column of `obs` with the library.
    layer
        Layer with raw counts.

    Returns
    -------
    None. Writes `obs["transgene"]` and changes `obs["population"]`.

    Raises
    ------
    InputError
        If no feature of the construct is in the data.
    """
    check_obs(adata, population_key=keys.POPULATION, lineage_key=keys.LINEAGE)
    cells = take_counts(adata, transgene, sample_key=sample_key, layer=layer)
    absent = [feature for feature in transgene if feature not in cells.genes]
    if absent:
        add_note(adata, f"Features of the transgene that are not in the data: {listing(absent)}.")
    detected = soup_rejections(
        cells.umi.sum(axis=1), cells.expected.sum(axis=1), cells.sample_codes, alpha=alpha
    )
    adata.obs[keys.TRANSGENE] = pd.Categorical(
        np.where(detected, "detected", "not_detected"), categories=["detected", "not_detected"]
    )
    is_car_t = detected & (adata.obs[keys.LINEAGE] == "T").to_numpy()
    elsewhere = int((detected & ~is_car_t).sum())
    if elsewhere:
        add_note(adata, f"{elsewhere} cells outside the T lineage carry the transgene.")
    population = np.where(is_car_t, keys.CAR_T, adata.obs[keys.POPULATION].astype(str))
    adata.obs[keys.POPULATION] = pd.Categorical(population)


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


@dataclass(frozen=True)
class _Panels:
    """Cell types with enough markers in the data.

    Attributes
    ----------
    types, lineages
        Names, shape `(n_types,)`.
    of_type
        Panel of each type.
    of_lineage
        The same without the negative markers that are markers of another type of its lineage.
    """

    types: NDArray[np.str_]
    lineages: NDArray[np.str_]
    of_type: list[Panel]
    of_lineage: list[Panel]


def _panels(
    adata: AnnData, organism: Literal["human", "mouse"], *, min_markers: int
) -> tuple[_Panels, NDArray[np.intp]]:
    """Panels, and their genes as columns of `adata`."""
    table = genesets.load_cell_types(organism=organism)
    table = table[table["symbol"].isin(adata.var_names)]
    genes = pd.Index(table["symbol"].unique())
    markers = table[table["role"] == "marker"]
    n_markers = markers.groupby("set").size()
    names = [name for name in table["set"].unique() if n_markers.get(name, 0) >= min_markers]
    too_few = [name for name in table["set"].unique() if name not in names]
    if not names:
        msg = (
            f"No cell type has {min_markers} markers among the {adata.n_vars} genes "
            f"(such as {listing(adata.var_names[:3])}). Are these {organism} gene symbols?"
        )
        raise InputError(msg)
    if too_few:
        add_note(
            adata, f"Too few markers in the data to call these cell types: {listing(too_few)}."
        )
    lineages, of_type, of_lineage = [], [], []
    for name in names:
        rows = table[table["set"] == name]
        lineage = rows["lineage"].iloc[0]
        siblings = markers.loc[markers["lineage"] == lineage, "symbol"]
        tells_siblings_apart = (rows["role"] == "negative") & rows["symbol"].isin(siblings)
        lineages.append(str(lineage))
        of_type.append(_panel(rows, genes))
        of_lineage.append(_panel(rows[~tells_siblings_apart], genes))
    panels = _Panels(np.array(names, dtype=str), np.array(lineages), of_type, of_lineage)
    return panels, adata.var_names.get_indexer(genes)


def _panel(rows: pd.DataFrame, genes: pd.Index) -> Panel:
    """One panel as positions in `genes`."""
    is_positive = (rows["role"] == "marker").to_numpy()
    position = genes.get_indexer(pd.Index(rows["symbol"]))
    weight = rows["weight"].to_numpy(dtype=np.float64)
    return Panel(
        position[is_positive], position[~is_positive], weight[is_positive], weight[~is_positive]
    )


def _mean_profile(
    adata: AnnData, columns: NDArray[np.intp], codes: NDArray[np.integer], n_groups: int
) -> NDArray[np.float64]:
    """Mean of `X` by group, shape `(n_groups, n_columns)`."""
    sums = group_sums(as_csr(adata.X)[:, columns], codes, n_groups)
    return np.asarray(sums / np.maximum(np.bincount(codes, minlength=n_groups), 1)[:, None])


def _native_share(
    adata: AnnData, columns: NDArray[np.intp], codes: NDArray[np.integer], n_groups: int
) -> NDArray[np.float64]:
    """Share of the UMI that the soup does not explain, shape `(n_groups, n_columns)`."""
    counts = counts_matrix(adata)
    sample, names = pd.factorize(adata.obs[keys.SAMPLE].astype(str), sort=True)
    fraction, profile = soup_of(adata, list(names))
    soup = fraction[:, None] * profile.to_numpy(dtype=np.float64).T[:, columns]
    depth = np.zeros((n_groups, len(names)))
    np.add.at(depth, (codes, sample), np.asarray(counts.sum(axis=1), dtype=np.float64).ravel())
    seen = group_sums(counts[:, columns], codes, n_groups)
    expected = depth @ np.nan_to_num(soup)
    # A gene without UMI has no share, and none is needed.
    return np.asarray(1 - expected / np.maximum(np.maximum(seen, expected), 1e-12))


def _call(
    panels: _Panels, scores: list[NDArray[np.float64]], resampled: list[NDArray[np.float64]]
) -> pd.DataFrame:
    """Best type, runner-up, margin and confidences of each cluster.

    Parameters
    ----------
    panels
        Cell types.
    scores
        By lineage and by type, each of shape `(n_clusters, n_types)`.
    resampled
        The same, each of shape `(n_resamples, n_clusters, n_types)`.
    """
    by_lineage, by_type = scores
    rows = np.arange(len(by_type))
    lineage = panels.lineages[by_lineage.argmax(axis=1)]
    is_sibling = panels.lineages == lineage[:, None]
    best = np.where(is_sibling, by_type, -np.inf).argmax(axis=1)
    # By how much each other type loses: a sibling by the whole panel, others by their lineage.
    behind = np.where(
        is_sibling,
        by_type[rows, best][:, None] - by_type,
        by_lineage.max(axis=1)[:, None] - by_lineage,
    )
    behind[rows, best] = np.inf
    second = behind.argmin(axis=1)
    margin = np.where(np.isfinite(behind[rows, second]), behind[rows, second], np.nan)
    is_winner = panels.lineages[resampled[0].argmax(axis=2)] == lineage
    winners = np.where(is_sibling, resampled[1], -np.inf).argmax(axis=2)
    return pd.DataFrame(
        {
            "population": panels.types[best],
            "lineage": lineage,
            "score": by_lineage.max(axis=1),
            "confidence": (is_winner & (winners == best)).mean(axis=0),
            "lineage_confidence": is_winner.mean(axis=0),
            "runner_up": panels.types[second],
            "margin": margin,
        }
    )
