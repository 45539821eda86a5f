"""Embedding and clusters on planted groups."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from crs_sc import keys
from crs_sc.clustering import cluster, embed
from crs_sc.clustering._leiden import by_size
from crs_sc.errors import InputError, MissingKeyError


def planted(seed: int = 0, sizes: tuple[int, ...] = (120, 80, 40)) -> ad.AnnData:
    """Groups that differ in 20 genes each, as log-normalised expression."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    rates = np.full((len(sizes), 100), 1.0)
    for i in range(len(sizes)):
        rates[i, 20 * i : 20 * i + 20] = 5.0
    counts = rng.poisson(rates[group]).astype(np.float32)
    return ad.AnnData(
        sparse.csr_matrix(np.log1p(counts)),
        obs=pd.DataFrame(
            {"group": group.astype(str), "batch": np.where(np.arange(len(group)) % 2, "x", "y")},
            index=[f"c{i}" for i in range(len(group))],
        ),
        var=pd.DataFrame({"highly_variable": True}, index=[f"g{i}" for i in range(100)]),
    )


@pytest.fixture(scope="module")
def embedded() -> ad.AnnData:
    adata = planted()
    embed(adata, n_comps=10)
    cluster(adata, resolutions=(0.1, 0.3))
    return adata


def test_planted_groups_come_back_largest_first(embedded: ad.AnnData) -> None:
    assert adjusted_rand_score(embedded.obs["group"], embedded.obs["cluster"]) > 0.99
    assert embedded.obs["cluster"].value_counts().loc[["0", "1", "2"]].tolist() == [120, 80, 40]
    assert embedded.obsm[keys.UMAP].shape == (240, 2)
    assert not [column for column in embedded.obs if column.startswith("_")]


def test_choice_of_resolution_is_recorded(embedded: ad.AnnData) -> None:
    table = embedded.uns[keys.UNS]["clustering"]
    assert table["chosen"].sum() == 1
    stable = table[table["stability"] >= 0.9]
    assert table.loc[table["chosen"], "resolution"].item() == stable["resolution"].max()


def test_same_seed_same_result(embedded: ad.AnnData) -> None:
    again = planted()
    embed(again, n_comps=10)
    cluster(again, resolutions=(0.1, 0.3))
    np.testing.assert_array_equal(again.obsm[keys.UMAP], embedded.obsm[keys.UMAP])
    assert again.obs["cluster"].tolist() == embedded.obs["cluster"].tolist()


def test_harmony_removes_a_planted_batch_shift() -> None:
    adata = planted()
    shift = np.zeros(100, dtype=np.float32)
    shift[60:] = 0.5
    adata.X = sparse.csr_matrix(
        adata.X.toarray() + np.outer(adata.obs["batch"] == "x", shift).astype(np.float32)
    )
    embed(adata, n_comps=10, integrate=True)
    assert adata.obsm[keys.HARMONY].shape == adata.obsm[keys.PCA].shape

    def gap(components: np.ndarray) -> float:
        is_x = (adata.obs["batch"] == "x").to_numpy()
        return float(np.linalg.norm(components[is_x].mean(axis=0) - components[~is_x].mean(axis=0)))

    assert gap(adata.obsm[keys.HARMONY]) < 0.2 * gap(adata.obsm[keys.PCA])


def test_labels_by_size_keep_order_of_equals() -> None:
    np.testing.assert_array_equal(by_size(np.array([0, 1, 1, 2, 2])), [2, 0, 0, 1, 1])


def test_clear_errors() -> None:
    adata = planted(sizes=(2,))
    with pytest.raises(InputError, match="2 cells are too few"):
        embed(adata)
    with pytest.raises(MissingKeyError, match="embed first"):
        cluster(adata)
    del adata.var["highly_variable"]
    with pytest.raises(MissingKeyError, match="select_genes first"):
        embed(adata)


def test_a_cell_needs_a_neighbour_beside_itself() -> None:
    with pytest.raises(InputError, match="n_neighbors must be at least 2"):
        embed(planted(), n_neighbors=1)
