"""Cell types of clusters from marker panels, with a confidence and an honest Unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc._arrays import as_csr, group_sums
from crs_sc._checks import add_note, check_fraction, check_obs, store
from crs_sc._soup import soup_rejections, take_counts
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
    min_expression: float = 0.2,
    min_score: float = 0.3,
    min_confidence: float = 0.5,
    n_resamples: int = 200,
    random_state: int = 0,
) -> None:
    """Name the cell type of each cluster by the packaged marker panels.

    The score of a type in a cluster is the mean relative expression of its markers less that of
    its negative markers. Its confidence is the share of marker resamplings in which it stays the
    best. A cluster is `Unknown` if the best score is below `min_score`, or if its lineage is the
    best in fewer than `min_confidence` of the resamplings.

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
    types, lineages, panels, columns = _panels(adata, organism, min_markers=min_markers)
    codes = groups.cat.codes.to_numpy()
    profile = _mean_profile(adata, columns, codes, len(groups.cat.categories))
    relative = relative_expression(profile, min_expression=min_expression)
    resampled = resampled_scores(
        relative, panels, n_resamples=n_resamples, rng=np.random.default_rng(random_state)
    )
    table = _call(panel_scores(relative, panels), resampled, types, lineages)
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


def _panels(
    adata: AnnData, organism: Literal["human", "mouse"], *, min_markers: int
) -> tuple[list[str], list[str], list[Panel], NDArray[np.intp]]:
    """Types, their lineages and panels, and the genes of the panels as columns of `adata`."""
    table = genesets.load_cell_types(organism=organism)
    table = table[table["symbol"].isin(adata.var_names)]
    genes = pd.Index(table["symbol"].unique())
    types, lineages, panels = [], [], []
    too_few = []
    for name, rows in table.groupby("set", sort=False):
        is_positive = (rows["role"] == "marker").to_numpy()
        position = genes.get_indexer(rows["symbol"])
        weight = rows["weight"].to_numpy(dtype=np.float64)
        if is_positive.sum() < min_markers:
            too_few.append(str(name))
            continue
        types.append(str(name))
        lineages.append(str(rows["lineage"].iloc[0]))
        panels.append(
            Panel(
                position[is_positive],
                position[~is_positive],
                weight[is_positive],
                weight[~is_positive],
            )
        )
    if not panels:
        msg = (
            f"No cell type has {min_markers} markers among the {adata.n_vars} genes "
            f"(such as {listing(adata.var_names[:3])}). Are these {organism} gene symbols?"
        )
        raise InputError(msg)
    if too_few:
        add_note(
            adata, f"Too few markers in the data to call these cell types: {listing(too_few)}."
        )
    return types, lineages, panels, adata.var_names.get_indexer(genes)


def _mean_profile(
    adata: AnnData, columns: NDArray[np.intp], codes: NDArray[np.integer], n_groups: int
) -> NDArray[np.float64]:
    """Mean of `X` by group, shape `(n_groups, n_columns)`."""
    sums = group_sums(as_csr(adata.X)[:, columns], codes, n_groups)
    return np.asarray(sums / np.maximum(np.bincount(codes, minlength=n_groups), 1)[:, None])


def _call(
    scores: NDArray[np.float64],
    resampled: NDArray[np.float64],
    types: list[str],
    lineages: list[str],
) -> pd.DataFrame:
    """Best type, runner-up, margin and confidences of each cluster."""
    order = np.argsort(-scores, axis=1, kind="stable")
    rows = np.arange(len(scores))
    best = order[:, 0]
    second = order[:, min(1, len(types) - 1)]
    winners = resampled.argmax(axis=2)
    type_names, lineage_names = np.asarray(types), np.asarray(lineages)
    return pd.DataFrame(
        {
            "population": type_names[best],
            "lineage": lineage_names[best],
            "score": scores[rows, best],
            "confidence": (winners == best).mean(axis=0),
            "lineage_confidence": (lineage_names[winners] == lineage_names[best]).mean(axis=0),
            "runner_up": type_names[second],
            "margin": scores[rows, best] - scores[rows, second],
        }
    )
