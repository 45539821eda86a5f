"""Stability of clusters and the choice of the resolution, where both are planted."""

from __future__ import annotations

import anndata as ad
import igraph
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, jaccard_score

from crs_sc import keys
from crs_sc.clustering import cluster, cluster_table
from crs_sc.clustering.leiden import Graph, best_matches, run_subsamples
from crs_sc.core.neighbours import fuzzy_graph, neighbours_of
from crs_sc.errors import InputError, MissingKeyError


def blobs(sizes: tuple[int, ...], *, distance: float = 40.0, seed: int = 0) -> ad.AnnData:
    """Round groups of points far apart, with their neighbour graph; nothing is inside a group."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    centres = distance * np.eye(len(sizes), 10)
    points = (centres[group] + rng.normal(size=(len(group), 10))).astype(np.float32)
    adata = ad.AnnData(
        sparse.csr_matrix((len(group), 1), dtype=np.float32),
        obs=pd.DataFrame({"group": group.astype(str)}, index=[f"c{i}" for i in range(len(group))]),
        obsm={keys.PCA: points},
    )
    adata.obsp["connectivities"] = fuzzy_graph(*neighbours_of(points, 15))
    adata.uns["neighbors"] = {"params": {"n_neighbors": 15, "use_rep": keys.PCA}}
    return adata


def stored(adata: ad.AnnData, name: str) -> pd.DataFrame:
    return adata.uns[keys.UNS][name]


def test_groups_far_apart_are_found_again_whole() -> None:
    adata = blobs((300, 200, 100))
    cluster(adata, resolutions=(0.05,))
    found = stored(adata, "clusters")
    assert found["n_cells"].tolist() == [300, 200, 100]
    np.testing.assert_allclose(found["stability"], 1.0)
    assert found["state"].tolist() == [keys.STABLE] * 3
    assert found["joins"].tolist() == [""] * 3
    assert stored(adata, "clustering")["stability"].tolist() == [1.0]
    assert not [note for note in adata.uns[keys.UNS].get("notes", []) if "Jaccard" in note]


def test_a_resolution_that_cuts_round_groups_is_not_chosen() -> None:
    adata = blobs((300, 200, 100))
    cluster(adata, resolutions=(4.0, 0.05))
    table = stored(adata, "clustering").set_index("resolution")
    assert table["chosen"].to_dict() == {0.05: True, 4.0: False}
    assert table["n_clusters"][0.05] == 3
    assert table["n_clusters"][4.0] > 8
    assert table["stability"][4.0] < 0.7
    assert adata.obs["cluster"].nunique() == 3


def test_the_pieces_of_one_group_are_unstable_and_the_note_names_them() -> None:
    adata = blobs((600, 150))
    cluster(adata, resolutions=(3.0,))
    found = stored(adata, "clusters").set_index("cluster")
    piece = pd.crosstab(adata.obs["cluster"].astype(str), adata.obs["group"])["0"] > 0
    assert piece.sum() > 4
    assert (found.loc[piece[piece].index, "stability"] < 0.75).all()
    unstable = found.index[found["state"] == keys.UNSTABLE]
    assert len(unstable)
    (note,) = [note for note in adata.uns[keys.UNS]["notes"] if "Jaccard" in note]
    assert f"{unstable[0]} ({found['stability'][unstable[0]]:.2f}" in note
    # A piece is found with other pieces of its own group, not with those of the other.
    joined = found.loc[unstable, "joins"]
    joined = joined[joined != ""]
    assert len(joined)
    assert (piece[joined].to_numpy() == piece[joined.index].to_numpy()).all()


def test_where_no_resolution_holds_the_most_stable_is_taken() -> None:
    adata = blobs((500,))
    cluster(adata, resolutions=(2.0, 4.0))
    table = stored(adata, "clustering")
    assert (table["stability"] < 0.9).all()
    assert table.loc[table["chosen"], "stability"].item() == table["stability"].max()


def test_a_large_cohort_is_tried_in_some_of_its_cells() -> None:
    adata = blobs((600, 400, 200, 12))
    cluster(adata, resolutions=(0.05, 4.0), max_cells=400)
    table = stored(adata, "clustering")
    assert table["n_cells"].tolist() == [400, 400]
    assert table.loc[table["chosen"], "stability_whole"].item() > 0.95
    assert adjusted_rand_score(adata.obs["group"], adata.obs["cluster"]) == 1.0
    # Of twelve cells about three are among those that are tried.
    assert stored(adata, "clusters")["state"].tolist() == [keys.STABLE] * 3 + [keys.UNDETERMINED]


def test_the_same_twice_and_another_seed_another_draw() -> None:
    tables = []
    for seed in (0, 0, 1):
        adata = blobs((200, 100))
        cluster(adata, resolutions=(3.0,), random_state=seed)
        tables.append((adata.obs["cluster"].tolist(), stored(adata, "clusters")))
    assert tables[0][0] == tables[1][0]
    pd.testing.assert_frame_equal(tables[0][1], tables[1][1])
    assert tables[0][0] != tables[2][0]


def test_igraph_keeps_its_own_random_numbers() -> None:
    import random

    random.seed(7)
    before = igraph.Graph.Erdos_Renyi(n=30, m=60).get_edgelist()
    random.seed(7)
    Graph.of(blobs((60,)).obsp["connectivities"]).leiden(1.0, random_state=3)
    assert igraph.Graph.Erdos_Renyi(n=30, m=60).get_edgelist() == before


def test_a_graph_without_edges_has_a_cluster_for_each_cell() -> None:
    graph = Graph.of(sparse.csr_matrix((4, 4)))
    assert graph.leiden(1.0, random_state=0).tolist() == [0, 1, 2, 3]


def test_subsamples_see_only_their_own_cells() -> None:
    adjacency = blobs((100, 50)).obsp["connectivities"]
    settings = {"resolutions": (0.05,), "sizes": [120] * 3, "flavor": "igraph", "random_state": 0}
    labels, subsamples = run_subsamples(adjacency, **settings, n_jobs=1)
    labels_of_two, subsamples_of_two = run_subsamples(adjacency, **settings, n_jobs=2)
    np.testing.assert_array_equal(labels[0.05], labels_of_two[0.05])
    for one, other in zip(subsamples, subsamples_of_two, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1][0.05], other[1][0.05])
    for cells, partitions in subsamples:
        assert len(cells) == len(partitions[0.05]) == 120
        assert (np.diff(cells) > 0).all()
    assert len({tuple(cells) for cells, _ in subsamples}) == 3


def test_best_match_is_the_largest_jaccard_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    labels, found = rng.integers(0, 4, 300), rng.integers(0, 5, 300)
    best, shared = best_matches(labels, found, 5)
    expected = [[jaccard_score(labels == i, found == j) for j in range(5)] for i in range(4)]
    np.testing.assert_allclose(best[:4], np.max(expected, axis=1))
    assert np.isnan(best[4])
    match = np.argmax(expected, axis=1)
    by_hand = [[(labels[found == match[i]] == k).mean() for k in range(5)] for i in range(4)]
    np.testing.assert_allclose(shared[:4], by_hand)


def test_cluster_table_says_what_an_unstable_cluster_is_found_with() -> None:
    adata = blobs((600, 150))
    cluster(adata, resolutions=(3.0,))
    adata.obs["population"] = np.where(adata.obs["group"] == "0", "CD4 T", "B")
    table = cluster_table(adata)
    assert list(table.columns) == keys.CLUSTERS_TABLE.names
    joined = table[table["joins"] != ""]
    assert len(joined)
    assert (joined["joins_population"] == joined["population"]).all()
    assert (table["population_share"] == 1.0).all()


def test_errors_name_what_is_wrong() -> None:
    adata = blobs((40,))
    for bad in ({"n_subsamples": 1}, {"subsample": 1.0}, {"resolutions": ()}, {"max_cells": 3}):
        with pytest.raises(InputError, match=next(iter(bad)).split("_")[-1]):
            cluster(adata, **bad)
    large = blobs((300,))
    del large.uns["neighbors"]
    with pytest.raises(MissingKeyError, match="embed first"):
        cluster(large, max_cells=100)
    adata.obs["population"], adata.obs["cluster"] = "B", "0"
    with pytest.raises(MissingKeyError, match=r"tl\.cluster first"):
        cluster_table(adata)
