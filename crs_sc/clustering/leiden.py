"""Leiden clusters at the finest resolution that subsamples reproduce.

Partitions are those of `scanpy.tl.leiden`. As one graph is cut at several resolutions, and again in
subsamples, igraph and leidenalg are called on it directly: scanpy builds it anew at every call.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.clustering.embedding import random_cells
from crs_sc.core.arrays import as_csr
from crs_sc.core.checks import add_note, check_fraction, check_obs, store
from crs_sc.core.neighbours import fuzzy_graph, neighbours_of
from crs_sc.core.parallel import parallel_map
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    Partitions = dict[float, NDArray[np.int64]]

__all__ = ["cluster", "cluster_table"]

Flavor = Literal["igraph", "leidenalg"]

# Hennig 2007: a mean Jaccard coefficient of 0.75 and above is a stable cluster; what lies below
# 0.6 should not be trusted.
_STABLE, _DOUBTFUL = 0.75, 0.6
# Fewer cells in the subsamples than have a graph of their own do not tell.
_MIN_SEEN = 15
# Least mean share of another cluster in the match of a cluster that is worth naming.
_MIN_JOINED = 0.1


def cluster(
    adata: AnnData,
    *,
    resolutions: Sequence[float] = (0.25, 0.5, 1.0, 1.5, 2.0),
    min_stability: float = 0.9,
    n_subsamples: int = 5,
    subsample: float = 0.8,
    max_cells: int = 10_000,
    flavor: Flavor = "igraph",
    key_added: str = keys.CLUSTER,
    random_state: int = 0,
    n_jobs: int = 1,
) -> None:
    """Partition the cells by Leiden at several resolutions and keep the finest that holds.

    Each resolution is tried again in random subsamples of the cells, each with another seed. The
    chosen one is the largest whose clusters agree with those of the subsamples (mean adjusted
    Rand index) to at least `min_stability`; the most stable one where none does. How well each
    cluster is found again (mean Jaccard coefficient with its best match) is stored, and those
    that are not are named in a note.

    In a large cohort all this is done in `max_cells` random cells with a neighbour graph of their
    own, and the clusters of all cells at the chosen resolution are held against these subsamples;
    where they do not agree to `min_stability`, the next coarser resolution is taken. A cluster
    with fewer than 15 cells in the subsamples is `undetermined`.

    Parameters
    ----------
    adata
        Cells x genes after :func:`embed`.
    resolutions
        Each > 0; larger gives more clusters.
    min_stability
        Mean adjusted Rand index with the subsamples, 0 to 1.
    n_subsamples
        Subsamples, at least 2.
    subsample
        Share of the cells in a subsample, inside (0, 1).
    max_cells
        Cells that the subsamples are drawn from at the most.
    flavor
        Which implementation of Leiden. Both find the same: on 3,600 labelled cells (Kang et al.
        2018; `benchmarks/clustering.py --only flavors`) their partitions agree as two seeds of one
        do (adjusted Rand index 0.965), with the labels 0.539 (igraph) and 0.543 (leidenalg), and
        subsamples find 0.958 and 0.938 of them again. The default is `igraph`, because it takes a
        thirteenth of the time.
    key_added
        Column of `obs` that receives the labels.
    random_state
        Seed.
    n_jobs
        Processes for the subsamples; the result does not depend on it.

    Returns
    -------
    None. Writes `obs[key_added]`: category, labels by decreasing size from "0";
    `uns["crs_sc"]["clustering"]` (columns of `keys.CLUSTERING_TABLE`) and
    `uns["crs_sc"]["clusters"]`: DataFrame with cluster, n_cells, stability, stability_low, state
    and joins (see `keys.CLUSTERS_TABLE`).

    Raises
    ------
    MissingKeyError
        If the neighbour graph is absent.
    InputError
        If a setting is out of range.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.embed(adata, n_comps=10, with_layout=False)
    >>> crs.tl.cluster(adata, resolutions=[0.5], n_subsamples=2)
    >>> adata.obs["cluster"].notna().all()
    np.True_
    """
    if "connectivities" not in adata.obsp:
        msg = "`obsp` has no 'connectivities'. Run crs_sc.tl.embed first."
        raise MissingKeyError(msg)
    if not resolutions or min(resolutions) <= 0 or n_subsamples < 2 or not 0 < subsample < 1:
        msg = (
            "cluster needs resolutions > 0, at least two subsamples and a share of cells inside "
            f"(0, 1), got resolutions={list(resolutions)}, n_subsamples={n_subsamples}, "
            f"subsample={subsample}."
        )
        raise InputError(msg)
    if max_cells < 100:
        msg = f"max_cells must be at least 100, got {max_cells!r}."
        raise InputError(msg)
    if flavor not in get_args(Flavor):
        msg = f"flavor must be igraph or leidenalg, got {flavor!r}."
        raise InputError(msg)
    check_fraction("min_stability", min_stability)
    whole = as_csr(adata.obsp["connectivities"])
    drawn, adjacency = random_cells(adata.n_obs, max_cells, random_state=random_state), whole
    if adata.n_obs > max_cells:
        adjacency = _graph_among(adata, drawn)
    in_drawn, subsamples = run_subsamples(
        adjacency,
        resolutions=sorted(resolutions),
        sizes=[max(1, round(subsample * len(drawn)))] * n_subsamples,
        flavor=flavor,
        random_state=random_state,
        n_jobs=n_jobs,
    )
    rows = []
    for resolution, labels in in_drawn.items():
        agreed = [agreement(labels[cells], trial[resolution]) for cells, trial in subsamples]
        rows.append((resolution, labels.max() + 1, np.mean(agreed), min(agreed), len(labels)))
    columns = ["resolution", "n_clusters", "stability", "stability_low", "n_cells"]
    table = pd.DataFrame(rows, columns=columns).assign(stability_whole=np.nan)
    # From the finest one that holds in the drawn cells on, until one holds in all of them too.
    candidates = table.index[table["stability"] >= min_stability][::-1]
    if not len(candidates):
        candidates = table.index[[int(table["stability"].to_numpy().argmax())]]
    graph = Graph.of(whole, flavor)
    tried: dict[int, NDArray[np.int64]] = {}
    for row in candidates:
        resolution = float(table["resolution"][row])
        tried[row] = graph.leiden(resolution, random_state=random_state)
        table.loc[row, "n_clusters"] = tried[row].max() + 1
        table.loc[row, "stability_whole"] = np.mean(
            [agreement(tried[row][drawn[cells]], trial[resolution]) for cells, trial in subsamples]
        )
        if table["stability_whole"][row] >= min_stability:
            break
    chosen = max(tried, key=lambda row: float(table["stability_whole"][row]))
    table["chosen"] = table.index == chosen
    store(adata, keys.CLUSTERING, table[keys.CLUSTERING_TABLE.names])
    labels, resolution = tried[chosen], float(table["resolution"][chosen])
    names = [str(i) for i in range(int(labels.max()) + 1)]
    adata.obs[key_added] = pd.Categorical.from_codes(labels, categories=pd.Index(names))
    again = [(drawn[cells], trial[resolution]) for cells, trial in subsamples]
    stability = _by_cluster(labels, again, names)
    store(adata, keys.CLUSTERS, stability)
    unstable = stability.loc[stability["state"] == keys.UNSTABLE, ["cluster", "stability", "joins"]]
    if len(unstable):
        named = listing(
            f"{name} ({value:.2f}{f', found with {joins}' if joins else ''})"
            for name, value, joins in unstable.itertuples(index=False)
        )
        add_note(
            adata,
            f"Clusters that {n_subsamples} subsamples of the cells do not find again (mean Jaccard "
            f"coefficient below {_DOUBTFUL}): {named}.",
        )


def cluster_table(
    adata: AnnData, *, cluster_key: str = keys.CLUSTER, population_key: str = keys.POPULATION
) -> pd.DataFrame:
    """Stability of each cluster beside the cell type of most of its cells.

    An unstable cluster that is found with another of the same cell type moves no conclusion,
    because those are keyed to cell types; one that is found with another type can.

    Parameters
    ----------
    adata
        Cells x genes after :func:`cluster` and an annotation.
    cluster_key, population_key
        Columns of `obs`.

    Returns
    -------
    Columns of `keys.CLUSTERS_TABLE`.

    Raises
    ------
    MissingKeyError
        If the cells were not clustered, or a column is absent.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> crs.tl.embed(adata, n_comps=10, with_layout=False)
    >>> crs.tl.cluster(adata, resolutions=[0.5], n_subsamples=2)
    >>> crs.tl.cluster_table(adata)["population_share"].min() > 0.5
    np.True_
    """
    check_obs(adata, cluster_key=cluster_key, population_key=population_key)
    if keys.CLUSTERS not in adata.uns.get(keys.UNS, {}):
        msg = f"`uns['{keys.UNS}']` has no '{keys.CLUSTERS}'. Run crs_sc.tl.cluster first."
        raise MissingKeyError(msg)
    table: pd.DataFrame = adata.uns[keys.UNS][keys.CLUSTERS].reset_index(drop=True)
    add_majority(table, adata, cluster_key, name="population", column=population_key)
    named = table.set_index("cluster")["population"]
    table["joins_population"] = table["joins"].map(named).fillna("")
    chosen: pd.DataFrame = table[keys.CLUSTERS_TABLE.names]
    return chosen


def add_majority(
    table: pd.DataFrame, adata: AnnData, cluster_key: str, *, name: str, column: str
) -> pd.DataFrame:
    """Give each cluster of the table the value that most of its cells have, and their share.

    A missing value is an empty string. Returns cells by cluster and value.
    """
    values = adata.obs[column].astype(object).where(adata.obs[column].notna(), "").astype(str)
    cells = pd.crosstab(adata.obs[cluster_key].astype(str), values)
    cells = cells.reindex(table["cluster"].astype(str))
    table[name] = cells.idxmax(axis=1).to_numpy()
    table[f"{name}_share"] = (cells.max(axis=1) / cells.sum(axis=1)).to_numpy()
    return cells


def _graph_among(adata: AnnData, cells: NDArray[np.integer]) -> sparse.csr_matrix:
    """Neighbour graph of some of the cells, made as that of all of them."""
    representation = keys.HARMONY if keys.HARMONY in adata.obsm else keys.PCA
    settings = adata.uns.get("neighbors", {}).get("params", {})
    if representation not in adata.obsm or "n_neighbors" not in settings:
        msg = (
            f"`obsm` has no '{keys.PCA}', or `uns['neighbors']` no settings, from which the graph "
            "of some of the cells could be made. Run crs_sc.tl.embed first."
        )
        raise MissingKeyError(msg)
    points = np.asarray(adata.obsm[representation])
    n_neighbors = int(settings["n_neighbors"])
    # Scanpy counts the cell itself.
    return fuzzy_graph(*neighbours_of(points[cells], n_neighbors - 1))


def _by_cluster(
    labels: NDArray[np.integer],
    subsamples: Sequence[tuple[NDArray[np.integer], NDArray[np.integer]]],
    names: list[str],
) -> pd.DataFrame:
    """How well each cluster is found again, from cells and clusters of each subsample."""
    n_clusters = len(names)
    matches = [best_matches(labels[cells], other, n_clusters) for cells, other in subsamples]
    jaccard = np.array([best for best, _ in matches])
    is_seen = np.isfinite(jaccard)
    times = np.maximum(is_seen.sum(axis=0), 1)
    n_seen = np.mean(
        [np.bincount(labels[cells], minlength=n_clusters) for cells, _ in subsamples], axis=0
    )
    stability = np.where(is_seen, jaccard, 0.0).sum(axis=0) / times
    shared = np.where(is_seen[:, :, None], [share for _, share in matches], 0.0).sum(axis=0)
    shared /= times[:, None]
    np.fill_diagonal(shared, 0.0)
    joins = np.where(shared.max(axis=1) >= _MIN_JOINED, np.array(names)[shared.argmax(axis=1)], "")
    return pd.DataFrame(
        {
            "cluster": names,
            "n_cells": np.bincount(labels, minlength=n_clusters),
            "stability": stability,
            "stability_low": np.where(is_seen, jaccard, 1.0).min(axis=0),
            "state": np.select(
                [n_seen < _MIN_SEEN, stability >= _STABLE, stability >= _DOUBTFUL],
                [keys.UNDETERMINED, keys.STABLE, keys.DOUBTFUL],
                keys.UNSTABLE,
            ),
            "joins": joins,
        }
    )


@dataclass(frozen=True)
class Graph:
    """An undirected weighted graph of igraph, built once for all resolutions.

    `weights` has one an edge; `flavor` says whose Leiden cuts it.
    """

    graph: Any
    weights: list[float]
    flavor: Flavor

    @classmethod
    def of(cls, adjacency: sparse.csr_matrix, flavor: Flavor = "igraph") -> Graph:
        """Build it from a symmetric matrix, shape `(n_cells, n_cells)`."""
        import igraph

        upper = sparse.triu(adjacency, k=1).tocoo()
        edges = np.stack([upper.row, upper.col], axis=1)
        return cls(igraph.Graph(n=adjacency.shape[0], edges=edges), upper.data.tolist(), flavor)

    def leiden(self, resolution: float, *, random_state: int) -> NDArray[np.int64]:
        """Cluster of each cell by decreasing size: two iterations of Leiden on the modularity.

        Traag et al. 2019, doi:10.1038/s41598-019-41695-z.
        """
        if not self.weights:
            # Without an edge there is no modularity; every cell is its own cluster.
            return np.arange(self.graph.vcount(), dtype=np.int64)
        if self.flavor == "leidenalg":
            import leidenalg

            partition = leidenalg.find_partition(
                self.graph,
                leidenalg.RBConfigurationVertexPartition,
                weights=self.weights,
                resolution_parameter=resolution,
                n_iterations=2,
                seed=random_state,
            )
            return by_size(np.asarray(partition.membership, dtype=np.int64))
        import igraph

        igraph.set_random_number_generator(random.Random(random_state))
        try:
            partition = self.graph.community_leiden(
                "modularity", weights=self.weights, resolution=resolution, n_iterations=2
            )
        finally:
            igraph.set_random_number_generator(random)
        return by_size(np.asarray(partition.membership, dtype=np.int64))


def by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber by decreasing size; equal sizes keep their order."""
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[labels]


def run_subsamples(
    adjacency: sparse.csr_matrix,
    *,
    resolutions: Sequence[float],
    sizes: Sequence[int],
    flavor: Flavor,
    random_state: int,
    n_jobs: int,
) -> tuple[Partitions, list[tuple[NDArray[np.intp], Partitions]]]:
    """Leiden at every resolution, in all cells and in random subsamples, each with another seed.

    Clusters of all cells by resolution; for each subsample its cells, sorted, and their clusters.

    The graph is restricted to the drawn cells, not made anew: the modularity of a partition is, in
    expectation, that of all cells (every weight and every product of degrees over the total
    shrinks by the same factor), so a resolution means the same, and no neighbour search is needed.
    """
    n_cells = adjacency.shape[0]
    rng = np.random.default_rng(random_state)
    drawn = [np.sort(rng.choice(n_cells, n, replace=False)).astype(np.intp) for n in sizes]
    parts = [adjacency, *(sparse.csr_matrix(adjacency[cells][:, cells]) for cells in drawn)]
    calls = [(part, tuple(resolutions), flavor, random_state + i) for i, part in enumerate(parts)]
    labels, *partitions = parallel_map(_at_resolutions, calls, n_jobs=n_jobs)
    return labels, list(zip(drawn, partitions, strict=True))


def _at_resolutions(
    adjacency: sparse.csr_matrix, resolutions: Sequence[float], flavor: Flavor, seed: int
) -> Partitions:
    """Leiden clusters at each resolution."""
    graph = Graph.of(adjacency, flavor)
    return {r: graph.leiden(r, random_state=seed) for r in resolutions}


def agreement(one: NDArray[np.integer], other: NDArray[np.integer]) -> float:
    """Return the adjusted Rand index of two partitions of the same cells."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one, other))


def best_matches(
    labels: NDArray[np.integer], other: NDArray[np.integer], n_clusters: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hold the clusters against another partition of the same cells.

    For each of the clusters, named from 0 to `n_clusters - 1`: its largest Jaccard coefficient with
    a cluster of the other (Hennig 2007, doi:10.1016/j.csda.2006.11.025), NaN without a cell; and
    the share that each other cluster has of that match, shape `(n_clusters, n_clusters)`.
    """
    both = np.zeros((n_clusters, int(other.max()) + 1))
    np.add.at(both, (labels, other), 1)
    size, size_other = both.sum(axis=1, keepdims=True), both.sum(axis=0, keepdims=True)
    jaccard = both / (size + size_other - both)
    match = jaccard.argmax(axis=1)
    best = jaccard[np.arange(n_clusters), match]
    best[size.ravel() == 0] = np.nan
    return best, (both / size_other)[:, match].T
