"""Embedding, layout and clusters on planted groups, and scanpy's own beside them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from crs_sc import keys
from crs_sc.clustering import cluster, embed, layout
from crs_sc.clustering.leiden import by_size
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
    embed(adata, n_comps=10, integrate=True, with_layout=False)
    assert adata.obsm[keys.HARMONY].shape == adata.obsm[keys.PCA].shape

    def gap(components: np.ndarray) -> float:
        is_x = (adata.obs["batch"] == "x").to_numpy()
        return float(np.linalg.norm(components[is_x].mean(axis=0) - components[~is_x].mean(axis=0)))

    assert gap(adata.obsm[keys.HARMONY]) < 0.2 * gap(adata.obsm[keys.PCA])


@pytest.mark.parametrize("flavor", ["igraph", "leidenalg"])
def test_both_implementations_of_leiden_find_the_groups(flavor: str) -> None:
    adata = planted()
    embed(adata, n_comps=10, with_layout=False)
    assert keys.UMAP not in adata.obsm
    cluster(adata, resolutions=(0.3,), flavor=flavor)
    assert adjusted_rand_score(adata.obs["group"], adata.obs["cluster"]) > 0.99


def test_partitions_of_both_implementations_are_those_of_scanpy() -> None:
    import scanpy as sc

    rng = np.random.default_rng(3)
    adata = planted(sizes=(200, 150, 100, 60))
    adata.X = adata.X + sparse.csr_matrix(rng.gamma(0.3, 1.0, adata.shape).astype(np.float32))
    embed(adata, n_comps=10, with_layout=False)
    found = {}
    for flavor in ("igraph", "leidenalg"):
        cluster(adata, resolutions=(0.3,), flavor=flavor, key_added=flavor)
        sc.tl.leiden(
            adata, flavor=flavor, directed=False, n_iterations=2, resolution=0.3, key_added="known"
        )
        found[flavor] = adata.obs[flavor].astype(str).to_numpy()
        assert adjusted_rand_score(found[flavor], adata.obs["known"]) > 0.99
    assert adjusted_rand_score(*found.values()) > 0.99
    with pytest.raises(InputError, match="igraph or leidenalg"):
        cluster(adata, flavor="louvain")


def test_labels_by_size_keep_order_of_equals() -> None:
    np.testing.assert_array_equal(by_size(np.array([0, 1, 1, 2, 2])), [2, 0, 0, 1, 1])


def test_clear_errors() -> None:
    adata = planted(sizes=(2,))
    with pytest.raises(InputError, match="2 cells are too few"):
        embed(adata)
    for step in (cluster, layout):
        with pytest.raises(MissingKeyError, match="embed first"):
            step(adata)
    del adata.var["highly_variable"]
    with pytest.raises(MissingKeyError, match="select_genes first"):
        embed(adata)


def test_a_cell_needs_a_neighbour_beside_itself() -> None:
    with pytest.raises(InputError, match="n_neighbors must be at least 2"):
        embed(planted(), n_neighbors=1)


def test_components_and_graph_are_those_of_scanpy() -> None:
    import scanpy as sc

    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, 1, (3, 60))[rng.integers(0, 3, 150)]).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(np.log1p(counts)))
    adata.var[keys.HIGHLY_VARIABLE] = np.arange(60) < 50
    known = sc.pp.pca(adata, n_comps=8, svd_solver="arpack", copy=True)
    embed(adata, n_comps=8, n_neighbors=6, with_layout=False)
    np.testing.assert_allclose(adata.obsm[keys.PCA], known.obsm["X_pca"], atol=1e-4)
    np.testing.assert_allclose(adata.varm["PCs"], known.varm["PCs"], atol=1e-4)
    largest = np.abs(adata.varm["PCs"]).argmax(axis=0)
    assert (adata.varm["PCs"][largest, np.arange(8)] > 0).all()
    sc.pp.neighbors(known, n_neighbors=6, distances=adata.obsp["distances"])
    gap = abs(known.obsp["connectivities"] - adata.obsp["connectivities"])
    assert gap.max() < 1e-5
    # What scanpy's own functions look for.
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
    assert adata.obsp["distances"].getnnz(axis=1).tolist() == [5] * 150


def test_layout_keeps_neighbours_together_and_places_the_rest_among_theirs() -> None:
    adata = planted()
    embed(adata, n_comps=10, with_layout=False)
    group = adata.obs["group"].to_numpy()
    for max_cells in (50_000, 100):
        layout(adata, max_cells=max_cells)
        found = adata.obsm[keys.UMAP]
        assert np.isfinite(found).all()
        own = NearestNeighbors(n_neighbors=6).fit(found).kneighbors(return_distance=False)
        assert (group[own] == group[:, None]).mean() > 0.95


def test_threads_change_no_component(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for n_threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
        adata = planted()
        embed(adata, n_comps=10, with_layout=False)
        found.append(adata)
    np.testing.assert_array_equal(found[0].obsm[keys.PCA], found[1].obsm[keys.PCA])
    assert (found[0].obsp["connectivities"] != found[1].obsp["connectivities"]).nnz == 0
