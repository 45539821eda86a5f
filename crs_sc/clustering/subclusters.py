"""Clusters within a compartment, on genes that vary within it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.clustering.embedding import components_of, neighbour_graph
from crs_sc.clustering.leiden import Flavor, add_majority, cluster
from crs_sc.core.arrays import log_scaled
from crs_sc.core.blocks import columns_of, layer_of
from crs_sc.core.checks import add_note, check_obs, gene_positions, store
from crs_sc.core.variable_genes import variable_genes
from crs_sc.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["subcluster", "subcluster_table"]

# Cells of the compartment in which genes are selected, at the most; and those that a sample needs
# to have a say, as in the whole cohort.
_MAX_CELLS, _MIN_BATCH_CELLS = 20_000, 30


def subcluster(
    adata: AnnData,
    *,
    genes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    counts: AnnData | None = None,
    n_genes: int = 2000,
    groups: Sequence[str] = keys.MYELOID_LINEAGES,
    group_key: str = keys.LINEAGE,
    batch_key: str = keys.SAMPLE,
    min_cells: int = 100,
    n_comps: int = 20,
    n_neighbors: int = 15,
    resolutions: Sequence[float] = (0.25, 0.5, 1.0, 1.5, 2.0),
    flavor: Flavor = "igraph",
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
        Cells x genes with log-normalised `X`, after an annotation; raw counts and samples too
        where the genes are to be selected.
    genes
        Genes that vary within the compartment. None: the `n_genes` that vary most within the
        batches of its cells (at most 20,000 of these), as `pp.select_genes` finds them.
    exclude
        More genes that are left out then: the transgene, and cytokines that are asked about.
    counts
        The same cells with the raw counts of all genes, in memory or on disk (`io.open_h5ad`),
        where `adata` holds a few genes only. Genes are selected, and read, from there.
    n_genes
        How many are selected where none are given.
    groups
        Values of `group_key` that make up the compartment.
    group_key, batch_key
        Columns of `obs`; batches are those within which genes are selected.
    min_cells
        With fewer cells nothing is clustered; a note says so.
    n_comps, n_neighbors
        Principal components, and neighbours with the cell itself; fewer with few genes or cells.
    resolutions, flavor
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.subcluster(adata, n_genes=100, resolutions=[0.5])
    >>> adata.obs["myeloid_cluster"].cat.categories.to_list()
    ['s0', 's1', 's2']
    """
    import anndata as ad

    check_obs(adata, group_key=group_key)
    source = adata if counts is None else counts
    cells = np.flatnonzero(adata.obs[group_key].isin(list(groups)).to_numpy())
    if genes is not None:
        columns = np.array(list(gene_positions(source, list(genes)).values()), dtype=np.intp)
        if not len(columns):
            msg = f"None of the {len(genes)} genes is in the data."
            raise InputError(msg)
    elif len(cells) >= min_cells:
        check_obs(adata, batch_key=batch_key)
        columns = _variable(source, adata.obs[batch_key], cells, n_genes=n_genes, exclude=exclude)
    labels = pd.Series(None, index=adata.obs_names, dtype="object")
    adata.uns.get(keys.UNS, {}).pop(keys.SUBCLUSTERS, None)
    if len(cells) < min_cells:
        add_note(adata, f"Not clustered again: {len(cells)} cells in {', '.join(groups)}.")
    else:
        if counts is None:
            if adata.X is None:
                msg = "`X` is empty. Run crs_sc.pp.normalize first."
                raise MissingKeyError(msg)
            expression = columns_of(adata.X, columns, rows=cells)
        else:
            expression = columns_of(layer_of(counts), columns, rows=cells)
            depth = np.asarray(layer_of(adata)[cells].sum(axis=1), dtype=np.float64).ravel()
            # As `X`: log1p of counts per 10,000.
            expression.data = log_scaled(expression, 1e4 / np.maximum(depth, 1))
        points = components_of(expression, n_comps=n_comps).obsm["X_pca"]
        part = ad.AnnData(obs=pd.DataFrame(index=adata.obs_names[cells]), obsm={keys.PCA: points})
        neighbour_graph(part, keys.PCA, n_neighbors=n_neighbors)
        cluster(
            part, resolutions=resolutions, flavor=flavor, random_state=random_state, n_jobs=n_jobs
        )
        labels.iloc[cells] = "s" + part.obs[keys.CLUSTER].astype(str).to_numpy(dtype=object)
        table: pd.DataFrame = part.uns[keys.UNS][keys.CLUSTERS]
        for column in ("cluster", "joins"):
            table[column] = np.where(table[column] != "", "s" + table[column].astype(str), "")
        store(adata, keys.SUBCLUSTERS, table)
    names = [f"s{i}" for i in range(labels.nunique())]
    adata.obs[key_added] = pd.Categorical(labels, categories=names)


def _variable(
    source: AnnData,
    batch: pd.Series,
    cells: NDArray[np.intp],
    *,
    n_genes: int,
    exclude: Sequence[str],
) -> NDArray[np.intp]:
    """Columns of the genes that vary most among the cells of the compartment."""
    # Genes that vary in so many cells vary in all of them; more would be a copy of the counts.
    some = np.linspace(0, len(cells) - 1, min(len(cells), _MAX_CELLS)).astype(np.intp)
    left_out = genesets.kept_out(source.var_names, exclude=exclude)
    candidate = ~np.logical_or.reduce(list(left_out.values()))
    candidate &= np.asarray(source.var_names != keys.OTHER_GENES)
    chosen = variable_genes(
        layer_of(source),
        batch,
        candidate=candidate,
        n_genes=n_genes,
        min_batch_cells=_MIN_BATCH_CELLS,
        cells=cells[some],
    )
    return np.flatnonzero(chosen.marked)


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.subcluster(adata, n_genes=100, resolutions=[0.5])
    >>> adata.obs["myeloid_state"] = None  # crs.tl.call_myeloid_states names them
    >>> crs.tl.subcluster_table(adata)["population"].to_list()
    ['Classical monocyte', 'Non-classical monocyte', 'cDC2']
    """
    check_obs(
        adata, population_key=population_key, subject_key=subject_key, condition_key=condition_key
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
    for name, column in sources.items():
        cells = add_majority(table, adata, cluster_key, name=name, column=column)
    table["n_subjects"] = (cells > 0).sum(axis=1).to_numpy()
    joined = table.set_index("cluster")
    table["joins_population"] = table["joins"].map(joined["population"]).fillna("")
    table["joins_state"] = table["joins"].map(joined["myeloid_state"]).fillna("")
    return table[keys.SUBCLUSTERS_TABLE.names]
