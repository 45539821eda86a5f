"""Nearest neighbours, exact or by an index of known recall, with any threads; their weights."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.neighbors import NearestNeighbors

from crs_sc.core.neighbours import (
    distance_matrix,
    fuzzy_graph,
    nearest_neighbours,
    neighbours_of,
    shared,
)
from crs_sc.core.threads import thread_count


def points(n: int = 3000, d: int = 10) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 4, (12, d))
    return (centres[rng.integers(0, 12, n)] + rng.normal(0, 1, (n, d))).astype(np.float32)


def known(data: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances, indices = NearestNeighbors(n_neighbors=k).fit(data).kneighbors(data)
    return indices, distances


def test_small_sets_are_exact() -> None:
    data = points()
    indices, distances = nearest_neighbours(data, k=8)
    expected, lengths = known(data, 8)
    assert shared(indices, expected) > 0.9999
    np.testing.assert_allclose(distances, lengths, atol=5e-3)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_index_reaches_the_recall_that_is_asked_for() -> None:
    data = points(6000)
    expected, _ = known(data, 10)
    loose, _ = nearest_neighbours(data, k=10, max_exact=100, min_recall=0.5, n_checked=300)
    tight, _ = nearest_neighbours(data, k=10, max_exact=100, min_recall=0.99, n_checked=300)
    assert shared(tight, expected) >= 0.98
    assert shared(loose, expected) <= shared(tight, expected)


@pytest.mark.parametrize("max_exact", [100, 10_000])
def test_threads_change_nothing(max_exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for n_threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
        assert thread_count() == int(n_threads)
        found.append(nearest_neighbours(points(), k=8, max_exact=max_exact))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_recall_is_counted() -> None:
    assert shared(np.array([[0, 1], [1, 2]]), np.array([[1, 0], [1, 3]])) == 0.75


def test_weights_follow_their_definition() -> None:
    data = points(400, 6)
    indices, distances = neighbours_of(data, 9)
    directed = np.zeros((len(data), len(data)))
    for i, (own, far) in enumerate(zip(indices, distances.astype(float), strict=True)):
        beyond = far - far.min()
        scale = brentq(lambda s, b=beyond: np.exp(-b / s).sum() - np.log2(10), 1e-3, 1e3)
        directed[i, own] = np.exp(-beyond / scale)
    expected = directed + directed.T - directed * directed.T
    graph = fuzzy_graph(indices, distances, size=150)
    assert (graph != graph.T).nnz == 0
    np.testing.assert_allclose(graph.toarray(), expected, atol=2e-4)


def test_copies_of_a_point_are_neighbours_of_full_weight() -> None:
    data = points(100, 6)
    data[:20] = data[0]
    indices, distances = neighbours_of(data, 9)
    assert not (indices == np.arange(100)[:, None]).any()
    graph = fuzzy_graph(indices, distances)
    assert np.isfinite(graph.data).all()
    assert 0 < graph.data.min() <= graph.data.max() <= 1
    assert (graph[0].toarray().ravel()[indices[0]] == 1).all()
    assert distance_matrix(indices, distances).shape == (100, 100)
