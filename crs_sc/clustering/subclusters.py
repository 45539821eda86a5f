"""Clusters within a compartment, on genes that vary within it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.clustering._components import components_of
from crs_sc.clustering._graph import fuzzy_graph
from crs_sc.clustering._mixing import neighbours_of
from crs_sc.clustering.leiden import cluster
from crs_sc.core.blocks import columns_of
from crs_sc.core.checks import add_note, check_obs, gene_positions, store
from crs_sc.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["subcluster", "subcluster_table"]


def subcluster(
    adata: AnnData,
    *,
    genes: Sequence[str],
    groups: Sequence[str] = keys.MYELOID_LINEAGES,
    group_key: str = keys.LINEAGE,
    min_cells: int = 100,
    n_comps: int = 20,
    n_neighbors: int = 15,
    resolutions: Sequence[float] = (0.25, 0.5, 1.0, 1.5, 2.0),
    key_added: str = keys.SUBCLUSTER,
    random_state: int = 0,
    n_jobs: int = 1,
) -> None:
    """Cluster the cells of a compartment on their own, by genes that vary within it.

    Principal components, neighbours and Leiden see only these cells; the resolution is chosen,
    and each cluster judged, as in :func:`cluster`.

    Parameters
    ----------
    adata
        Cells x genes with log-normalised `X`, after an annotation.
    genes
        Genes that vary within the compartment: `pp.select_genes` on its cells alone.
    groups
        Values of `group_key` that make up the compartment.
    group_key
        Column of `obs`.
    min_cells
        With fewer cells nothing is clustered; a note says so.
    n_comps, n_neighbors
        Principal components, and neighbours with the cell itself; fewer with few genes or cells.
    resolutions
        As in :func:`cluster`.
    key_added
        Column of `obs` that receives the labels.
    random_state
        Seed.
    n_jobs
        As in :func:`cluster`.

    Returns
    -------
    None. Writes `obs[key_added]`: category, "s0" the largest, missing outside the compartment;
    `uns["crs_sc"]["subclusters"]`, as `uns["crs_sc"]["clusters"]` of :func:`cluster`.

    Raises
    ------
    MissingKeyError
        If `X` or the column is absent.
    InputError
        If none of the genes is in the data.
    """
    import anndata as ad

    check_obs(adata, group_key=group_key)
    if adata.X is None:
        msg = "`X` is empty. Run crs_sc.pp.normalize first."
        raise MissingKeyError(msg)
    columns = np.array(list(gene_positions(adata, list(genes)).values()), dtype=np.intp)
    if not len(columns):
        msg = f"None of the {len(genes)} genes is in the data."
        raise InputError(msg)
    cells = np.flatnonzero(adata.obs[group_key].isin(list(groups)).to_numpy())
    labels = pd.Series(None, index=adata.obs_names, dtype="object")
    adata.uns.get(keys.UNS, {}).pop(keys.SUBCLUSTERS, None)
    if len(cells) < min_cells:
        add_note(adata, f"Not clustered again: {len(cells)} cells in {', '.join(groups)}.")
    else:
        expression = columns_of(adata.X, columns, rows=cells)
        points = components_of(expression, n_comps=n_comps).points
        k = min(n_neighbors, len(cells))
        part = ad.AnnData(obs=pd.DataFrame(index=adata.obs_names[cells]), obsm={keys.PCA: points})
        part.obsp["connectivities"] = fuzzy_graph(*neighbours_of(points, k - 1))
        part.uns["neighbors"] = {"params": {"n_neighbors": k}}
        cluster(part, resolutions=resolutions, random_state=random_state, n_jobs=n_jobs)
        labels.iloc[cells] = "s" + part.obs[keys.CLUSTER].astype(str).to_numpy(dtype=object)
        table: pd.DataFrame = part.uns[keys.UNS][keys.CLUSTERS]
        for column in ("cluster", "joins"):
            table[column] = np.where(table[column] != "", "s" + table[column].astype(str), "")
        store(adata, keys.SUBCLUSTERS, table)
    names = [f"s{i}" for i in range(labels.nunique())]
    adata.obs[key_added] = pd.Categorical(labels, categories=names)


def subcluster_table(
    adata: AnnData,
    *,
    cluster_key: str = keys.SUBCLUSTER,
    population_key: str = keys.POPULATION,
    state_key: str = keys.MYELOID_STATE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
) -> pd.DataFrame:
    """Name the clusters of a compartment by cell type and state, and say whose cells they are.

    Parameters
    ----------
    adata
        Cells x genes after :func:`subcluster`.
    cluster_key, population_key, state_key, subject_key, condition_key
        Columns of `obs`; that of the state may have missing values.

    Returns
    -------
    Columns of `keys.SUBCLUSTERS_TABLE`; no row if there were too few cells to cluster.

    Raises
    ------
    MissingKeyError
        If a column is absent.
    """
    check_obs(
        adata,
        population_key=population_key,
        subject_key=subject_key,
        condition_key=condition_key,
    )
    stored = adata.uns.get(keys.UNS, {}).get(keys.SUBCLUSTERS)
    if stored is None:
        return pd.DataFrame(columns=keys.SUBCLUSTERS_TABLE.names)
    table: pd.DataFrame = stored.reset_index(drop=True)
    sources = {
        "population": population_key,
        "myeloid_state": state_key,
        "condition": condition_key,
        "subject": subject_key,
    }
    for name, key in sources.items():
        of_cell = adata.obs[key].astype(object).where(adata.obs[key].notna(), "")
        cells = pd.crosstab(adata.obs[cluster_key], of_cell).reindex(table["cluster"])
        table[name] = cells.idxmax(axis=1).to_numpy()
        table[f"{name}_share"] = (cells.max(axis=1) / cells.sum(axis=1)).to_numpy()
    table["n_subjects"] = (cells > 0).sum(axis=1).to_numpy()
    joined = table.set_index("cluster")
    table["joins_population"] = table["joins"].map(joined["population"]).fillna("")
    table["joins_state"] = table["joins"].map(joined["myeloid_state"]).fillna("")
    return table[keys.SUBCLUSTERS_TABLE.names]
