"""Cells that express the packaged markers of their type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import genesets, keys

if TYPE_CHECKING:
    from collections.abc import Callable


def with_rates(
    rates: dict[str, dict[str, float]],
    *,
    n: int = 200,
    n_others: int = 1,
    others: float = 2000.0,
    seed: int = 0,
) -> ad.AnnData:
    """Clusters of cells with these rates of UMI, and some genes of all cells.

    The rates are those of genes, or of all markers of a type.
    """
    known = genesets.load_cell_types()
    of_type = known[known["role"] == "marker"].groupby("set")["symbol"].apply(list)
    rates = {
        cluster: {
            gene: rate for name, rate in given.items() for gene in of_type.get(name, default=[name])
        }
        for cluster, given in rates.items()
    }
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rates, index=known["symbol"].unique()).T.fillna(0.0)
    of_all = pd.DataFrame(others, table.index, [f"HK{i}" for i in range(n_others)])
    table = pd.concat([table, of_all], axis=1)
    counts = rng.poisson(np.repeat(table.to_numpy(), n, axis=0)).astype(np.float32)
    adata = ad.AnnData(
        sparse.csr_matrix(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)),
        obs=pd.DataFrame(
            {"cluster": np.repeat(table.index, n), "sample": "s1"},
            index=[f"c{i}" for i in range(n * len(table))],
        ),
        var=pd.DataFrame(index=table.columns),
    )
    adata.layers[keys.COUNTS] = sparse.csr_matrix(counts)
    adata.obs["cluster"] = adata.obs["cluster"].astype("category")
    return adata


def marked_cells(types: dict[str, int], *, seed: int = 0) -> ad.AnnData:
    """Cells of these types with a graph of the nearest 15, all in one cluster."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import kneighbors_graph

    background = dict.fromkeys(genesets.load_cell_types()["symbol"], 0.02)
    rates = {name: background | {name: 2.0} for name in types}
    adata = with_rates(rates, n=max(types.values()), n_others=300, others=5.0, seed=seed)
    place = adata.obs.groupby("cluster", observed=True).cumcount()
    adata = adata[place < adata.obs["cluster"].astype(str).map(types)].copy()
    adata.obs["truth"] = adata.obs["cluster"].astype(str)
    adata.obs["cluster"] = pd.Categorical(["0"] * adata.n_obs)
    adata.obsm[keys.PCA] = PCA(10, random_state=0).fit_transform(adata.X.toarray())
    adata.obsp["connectivities"] = kneighbors_graph(adata.obsm[keys.PCA], 15)
    return adata


@pytest.fixture(scope="session")
def make() -> Callable[..., ad.AnnData]:
    """Makes cells from types and their numbers."""
    return marked_cells


@pytest.fixture(scope="session")
def make_by_rates() -> Callable[..., ad.AnnData]:
    """Makes clusters of cells from rates of their markers."""
    return with_rates
