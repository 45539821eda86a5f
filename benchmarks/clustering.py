"""Clusters: which hold, what they cost, what sub-clustering and the target genes do to the labels.

`python benchmarks/clustering.py` takes about five minutes on two cores and reads the real data in
`$CRS_SC_DATA` (`../shared/data`). `--only choice,subclusters,circularity,batches,flavors,cost`
chooses tables. `flavors` holds the two implementations of Leiden against each other on the same
graph: agreement with the labels, stability, seconds of processor.

The cells and their published labels are those of `benchmarks/annotation.py`. Batches: the arms of
Kang et al. as if they were batches (wholly aliased, which is what the warning is for), and their
donors. Cost: simulated points, 14 groups of unequal size in 30 dimensions.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import get_args

import anndata as ad
import numpy as np
import pandas as pd
from annotation import DATA_SETS, accuracy, clustered, labelled
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from crs_sc import genesets, keys, pp, tl
from crs_sc.clustering.leiden import Flavor, Graph
from crs_sc.core.neighbours import fuzzy_graph, neighbours_of


def choice(adata: ad.AnnData) -> dict[str, float]:
    """Resolution that was chosen, and how well its clusters hold."""
    table = adata.uns[keys.UNS][keys.CLUSTERING]
    own = table[table["chosen"]].iloc[0]
    state = adata.uns[keys.UNS][keys.CLUSTERS]["state"]
    return {
        "resolution": own["resolution"],
        "clusters": own["n_clusters"],
        "stability": own["stability_whole"],
        "finest": table["stability"].iloc[-1],
        "stable": int((state == keys.STABLE).sum()),
        "doubtful": int((state == keys.DOUBTFUL).sum()),
        "unstable": int((state == keys.UNSTABLE).sum()),
    }


def with_subclusters(adata: ad.AnnData) -> pd.DataFrame:
    """Accuracy of the labels, with the myeloid cells clustered on their own genes and without."""
    trial = adata.copy()
    tl.subcluster(trial)
    finer = trial.obs[keys.SUBCLUSTER].astype(object)
    trial.obs[keys.CLUSTER] = pd.Categorical(
        finer.where(finer.notna(), trial.obs[keys.CLUSTER].astype(object))
    )
    tl.annotate(trial)
    rows = {"clusters": adata, "with sub-clusters": trial}
    return pd.DataFrame(
        {
            name: accuracy(
                one.obs["truth"], one.obs[keys.POPULATION].astype(str), one.obs[keys.LINEAGE]
            )
            for name, one in rows.items()
        }
    ).T


def batches(*, batch: str) -> pd.DataFrame:
    """Mixing and conservation of the published labels when `batch` is integrated."""
    adata = labelled("kang both arms")
    adata.obs[keys.BATCH] = adata.obs[batch].astype(str)
    pp.normalize(adata)
    pp.select_genes(adata)
    tl.embed(adata, integrate=True)
    return tl.integration_table(adata, label_key="truth").tail(1)


def points(n_cells: int) -> ad.AnnData:
    """Simulate points and their neighbour graph: 14 groups of unequal size that overlap."""
    rng = np.random.default_rng(0)
    group = rng.choice(14, n_cells, p=rng.dirichlet(np.full(14, 0.7)))
    places = rng.normal(0, 1.6, (14, 30))[group] + rng.normal(size=(n_cells, 30))
    adata = ad.AnnData(
        sparse.csr_matrix((n_cells, 1), dtype=np.float32),
        obs=pd.DataFrame({"truth": group.astype(str)}, index=np.arange(n_cells).astype(str)),
        obsm={keys.PCA: places.astype(np.float32)},
    )
    adata.obsp["connectivities"] = fuzzy_graph(*neighbours_of(adata.obsm[keys.PCA], 14))
    adata.uns["neighbors"] = {"params": {"n_neighbors": 15}}
    return adata


def flavors(name: str, *, seeds: int = 3) -> pd.DataFrame:
    """Both implementations of Leiden on the same graph: quality, stability and time."""
    if name == "simulated":
        adata = points(10_000)
    else:
        adata = labelled(name)
        pp.normalize(adata)
        pp.select_genes(adata)
        tl.embed(adata, with_layout=False)
    rows, labels = [], {}
    for flavor in get_args(Flavor):
        for seed in range(seeds):
            start = time.process_time()
            tl.cluster(adata, flavor=flavor, random_state=seed)
            spent = time.process_time() - start
            labels[flavor, seed] = adata.obs[keys.CLUSTER].to_numpy(str)
            row = choice(adata)
            row["ARI with the labels"] = adjusted_rand_score(
                adata.obs["truth"], labels[flavor, seed]
            )
            rows.append({"data": name, "flavor": flavor, **row, "seconds": spent})
    table = pd.DataFrame(rows).groupby(["data", "flavor"], sort=False).mean()
    pairs = [
        [adjusted_rand_score(labels[a, i], labels[b, j]) for i in range(seeds) for j in range(seeds)
         if a != b or i < j]
        for a, b in (("igraph", "igraph"), ("leidenalg", "leidenalg"), ("igraph", "leidenalg"))
    ]  # fmt: skip
    table["ARI of seeds"] = [np.mean(pairs[0]), np.mean(pairs[1])]
    table["ARI of both"] = np.mean(pairs[2])
    return table


def cost(n_cells: int) -> dict[str, float]:
    """Seconds of processor time of `tl.cluster`, and of the Leiden runs at five resolutions."""
    adata = points(n_cells)
    start = time.process_time()
    graph = Graph.of(adata.obsp["connectivities"])
    for resolution in (0.25, 0.5, 1.0, 1.5, 2.0):
        graph.leiden(resolution, random_state=0)
    single = time.process_time() - start
    start = time.process_time()
    tl.cluster(adata)
    return {
        "cells": n_cells,
        "five runs of Leiden, s": single,
        "cluster, s": time.process_time() - start,
        "ARI with the groups": adjusted_rand_score(adata.obs["truth"], adata.obs[keys.CLUSTER]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="choice,subclusters,circularity,batches,flavors,cost")
    parser.add_argument("--data", default=",".join(DATA_SETS))
    parser.add_argument("--cells", default="10000,50000")
    arguments = parser.parse_args()
    chosen = set(arguments.only.split(","))
    warnings.simplefilter("ignore")
    pd.set_option("display.width", 160)
    choices, sub, circular = {}, {}, {}
    of_data = bool({"choice", "subclusters", "circularity"} & chosen)
    for name in arguments.data.split(",") if of_data else ():
        adata = clustered(labelled(name))
        tl.annotate(adata)
        choices[name] = choice(adata)
        if "subclusters" in chosen:
            sub[name] = with_subclusters(adata)
        if "circularity" in chosen:
            circular[name] = tl.circularity(adata, genes=genesets.target_cytokines())
    if "choice" in chosen:
        print("\nChosen resolution: adjusted Rand index with subsamples, and clusters by state")
        print(pd.DataFrame(choices).T.round(2).to_string())
    if "subclusters" in chosen:
        print("\nAccuracy with and without sub-clusters of the myeloid cells")
        print(pd.concat(sub).round(3).to_string())
    if "circularity" in chosen:
        print("\nClusters with and without the target genes (control: as many other genes)")
        print(pd.concat(circular, names=["data", "row"]).droplevel("row").round(2).to_string())
    if "batches" in chosen:
        print("\nHarmony on Kang et al., all cells: by donor, and by arm (aliased)")
        rows = {name: batches(batch=name) for name in ("donor", "condition")}
        print(pd.concat(rows).droplevel(1).round(3).to_string())
    if "flavors" in chosen:
        print("\nLeiden by igraph and by leidenalg: means of three seeds")
        found = [flavors(name) for name in ("kang both arms", "combat", "simulated")]
        print(pd.concat(found).round(3).T.to_string())
    if "cost" in chosen:
        print("\nProcessor time on simulated points")
        rows = [cost(int(n)) for n in arguments.cells.split(",")]
        print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
