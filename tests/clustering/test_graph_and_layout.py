"""Weights of the neighbour graph against their definition, and the layout on planted groups."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import brentq
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from crs_sc import keys
from crs_sc.clustering import embed
from crs_sc.clustering._graph import distance_matrix, fuzzy_graph, without_self
from crs_sc.clustering._layout import curve, forces, layout, start_from


def groups(n: int = 400, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, n)
    return rng.normal(0, 6, (4, d))[group] + rng.normal(0, 1, (n, d)), group


def neighbours(data: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    distances, indices = NearestNeighbors(n_neighbors=k).fit(data).kneighbors(data)
    return without_self(indices, distances.astype(np.float32))


def test_weights_follow_their_definition() -> None:
    data, _ = groups()
    indices, distances = neighbours(data)
    directed = np.zeros((len(data), len(data)))
    for i, (own, far) in enumerate(zip(indices, distances.astype(float), strict=True)):
        beyond = far - far.min()
        scale = brentq(lambda s, b=beyond: np.exp(-b / s).sum() - np.log2(10), 1e-3, 1e3)
        directed[i, own] = np.exp(-beyond / scale)
    expected = directed + directed.T - directed * directed.T
    graph = fuzzy_graph(indices, distances, size=150)
    assert (graph != graph.T).nnz == 0
    np.testing.assert_allclose(graph.toarray(), expected, atol=2e-4)


def test_copies_of_a_cell_are_neighbours_of_full_weight() -> None:
    data, _ = groups(100)
    data[:20] = data[0]
    indices, distances = neighbours(data)
    assert not (indices == np.arange(100)[:, None]).any()
    graph = fuzzy_graph(indices, distances)
    assert np.isfinite(graph.data).all()
    assert 0 < graph.data.min() <= graph.data.max() <= 1
    assert (graph[0].toarray().ravel()[indices[0]] == 1).all()
    assert distance_matrix(indices, distances).shape == (100, 100)


def test_layout_keeps_neighbours_together() -> None:
    data, group = groups()
    graph = fuzzy_graph(*neighbours(data))
    start = start_from(data)
    before = start.copy()
    found = layout(graph, start, n_threads=2, random_state=0)
    np.testing.assert_array_equal(start, before)
    assert trustworthiness(data, found, n_neighbors=10) > 0.9
    own = NearestNeighbors(n_neighbors=6).fit(found).kneighbors(return_distance=False)
    assert (group[own] == group[:, None]).mean() > 0.98


@pytest.mark.parametrize("n_threads", [2, 5])
def test_layout_does_not_depend_on_the_threads(n_threads: int) -> None:
    data, _ = groups()
    graph, start = fuzzy_graph(*neighbours(data)), start_from(data)
    one = layout(graph, start, n_threads=1, random_state=3, n_epochs=30)
    np.testing.assert_array_equal(
        one, layout(graph, start, n_threads=n_threads, random_state=3, n_epochs=30)
    )
    assert not np.array_equal(one, layout(graph, start, n_threads=1, random_state=4, n_epochs=30))


def test_curve_is_that_of_umap() -> None:
    # find_ab_params(1.0, 0.5) of umap-learn.
    np.testing.assert_allclose(curve(min_dist=0.5, spread=1.0), (0.583, 1.334), atol=2e-3)


def test_components_are_those_of_scanpy() -> None:
    import scanpy as sc

    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, 1, (3, 60))[rng.integers(0, 3, 150)]).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(np.log1p(counts)))
    adata.var[keys.HIGHLY_VARIABLE] = np.arange(60) < 50
    known = sc.pp.pca(adata, n_comps=8, svd_solver="arpack", copy=True)
    embed(adata, n_comps=8, n_neighbors=6)
    np.testing.assert_allclose(np.abs(adata.obsm[keys.PCA]), np.abs(known.obsm["X_pca"]), atol=1e-3)
    np.testing.assert_allclose(np.abs(adata.varm["PCs"]), np.abs(known.varm["PCs"]), atol=1e-3)
    # What scanpy's own functions look for.
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
    assert adata.obsp["distances"].getnnz(axis=1).tolist() == [5] * 150


def test_forces_are_those_of_umap() -> None:
    a, b = curve(min_dist=0.5, spread=1.0)
    pull, push = forces(a, b)
    squared = np.geomspace(1e-12, 1e12, 5_000).astype(np.float32)
    entry = squared.view(np.uint32) >> 15
    s = squared.astype(np.float64)
    # Gradients of umap-learn's optimize_layout_euclidean, its attraction from both ends.
    np.testing.assert_allclose(
        pull[entry], 2 * -2 * a * b * s ** (b - 1) / (a * s**b + 1), rtol=5e-3
    )
    np.testing.assert_allclose(push[entry], 2 * b / ((0.001 + s) * (a * s**b + 1)), rtol=5e-3)
    assert np.isfinite(pull).all()
    assert np.isfinite(push).all()
