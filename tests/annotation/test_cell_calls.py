"""Cells named one by one: neighbours, mixtures, split clusters and missing types."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from crs_sc import genesets, keys
from crs_sc.annotation import annotate
from crs_sc.annotation._cell_calls import _by_compartment, _present
from crs_sc.annotation._marker_scores import Panel, panel_scores
from crs_sc.annotation._mixtures import foreign_markers
from crs_sc.annotation._neighbourhood import fine_groups, shares, spread, with_neighbours
from crs_sc.annotation._panels import Panels, compartments
from crs_sc.annotation.cell_types import _without_small_parts

TYPES = {"CD4 T": 150, "CD8 T": 120, "NK": 90, "Classical monocyte": 150, "B": 60, "pDC": 20}


def markers_of(name: str) -> list[str]:
    table = genesets.load_cell_types()
    return table.loc[(table["set"] == name) & (table["role"] == "marker"), "symbol"].tolist()


def cohort(types: dict[str, int] = TYPES, *, rate: float = 2.0, seed: int = 0) -> ad.AnnData:
    """Cells that express the markers of their type, with a graph of the nearest 15 cells."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import kneighbors_graph

    rng = np.random.default_rng(seed)
    genes = [*dict.fromkeys(genesets.load_cell_types()["symbol"]), *(f"HK{i}" for i in range(300))]
    rates = pd.DataFrame(0.02, index=list(types), columns=genes)
    rates.loc[:, "HK0":] = 5.0
    for name in types:
        rates.loc[name, markers_of(name)] = rate
    truth = np.repeat(list(types), list(types.values()))
    counts = rng.poisson(rates.loc[truth].to_numpy()).astype(np.float32)
    logged = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    adata = ad.AnnData(
        sparse.csr_matrix(logged),
        obs=pd.DataFrame(
            {"truth": truth, "cluster": "0", "sample": "s1"},
            index=[f"c{i}" for i in range(len(truth))],
        ),
        var=pd.DataFrame(index=genes),
    )
    adata.layers[keys.COUNTS] = sparse.csr_matrix(counts)
    adata.obsm[keys.PCA] = PCA(10, random_state=0).fit_transform(logged)
    adata.obsp["connectivities"] = kneighbors_graph(adata.obsm[keys.PCA], 15)
    return adata


def test_mean_over_neighbours_includes_the_cell() -> None:
    graph = sparse.csr_matrix(np.array([[0, 0.3, 0], [0.3, 0, 0], [0, 0, 0]]))
    expected = [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    np.testing.assert_allclose(with_neighbours(graph).toarray(), expected)


def test_spreading_reaches_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    graph = sparse.csr_matrix(rng.random((20, 20)) < 0.3)
    around = with_neighbours(graph)
    belief = shares(rng.normal(size=(20, 3)), temperature=0.5)
    weight = 0.6
    found = spread(around, belief, weight=weight, n_steps=60)
    closed = (1 - weight) * np.linalg.solve(np.eye(20) - weight * around.toarray(), belief)
    np.testing.assert_allclose(found, closed, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(spread(around, belief, weight=0.0), belief)


def test_fine_groups_are_those_of_the_seed_and_find_the_islands() -> None:
    rng = np.random.default_rng(1)
    island = np.repeat(np.arange(4), [100, 50, 30, 20])
    components = rng.normal(size=(200, 5)) * 0.1 + 10 * np.eye(5)[island]
    rounds = fine_groups(components, random_state=3)
    np.testing.assert_array_equal(rounds, fine_groups(components, random_state=3))
    assert len(rounds) == 5
    for groups in rounds:
        table = pd.crosstab(groups, island).to_numpy()
        assert (table.max(axis=1) / table.sum(axis=1) > 0.99).all()


def test_a_type_is_there_if_most_rounds_show_it() -> None:
    types = np.array(["a", "b"])
    own = [Panel(np.array([i]), np.array([], int), np.ones(1), np.ones(0)) for i in (0, 1)]
    panels = Panels(types, types, types, own, own, np.array([0, 1]))
    only_a, both = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 0.9]])
    assert _present([only_a, both, only_a], panels, 0.3).tolist() == [0]
    assert _present([only_a, both, both], panels, 0.3).tolist() == [0, 1]
    # Where nothing is shown, nothing can be ruled out.
    assert _present([0.1 * only_a], panels, 0.3).tolist() == [0, 1]


def test_foreign_markers_against_a_sum_of_probabilities() -> None:
    rng = np.random.default_rng(2)
    counts = sparse.csr_matrix(rng.poisson(0.05, size=(300, 8)).astype(np.float32))
    depth = rng.integers(500, 2000, size=300).astype(float)
    counts = counts.tolil()
    counts[0, :4] = 3
    counts = counts.tocsr()
    groups = np.zeros(300, dtype=np.int64)
    own = [np.array([0, 1, 2, 3]), np.array([4, 5, 6, 7])]
    pvalue, which = foreign_markers(counts, depth, groups, [own])
    missed = 1 - (counts > 0).toarray().sum(axis=0) / 301
    expected = [1 - (missed[group] ** (depth[0] / depth.mean())) for group in own]
    seen = [int((counts[0, group] > 0).sum()) for group in own]
    tail = [stats.poisson.sf(n - 1, p.sum()) for n, p in zip(seen, expected, strict=True)]
    assert seen[0] == 4
    assert pvalue[0] == pytest.approx(2 * tail[0])
    assert pvalue[0] < 1e-3
    assert which[0] == 0
    few = counts.getnnz(axis=1) < 2
    assert (pvalue[few] == 1).all()


def test_required_markers_must_all_be_there() -> None:
    relative = np.array([[1.0, 1.0, 1.0], [1.0, 0.4, 1.0]])
    one = Panel(np.array([0, 1, 2]), np.array([], int), np.ones(3), np.ones(0), np.array([0, 1]))
    np.testing.assert_allclose(panel_scores(relative, [one]), [[1.0], [-1.0]])


def test_one_cluster_of_many_types_is_split() -> None:
    adata = cohort()
    annotate(adata)
    assert (adata.obs["population"].astype(str) == adata.obs["truth"]).mean() > 0.98
    table = adata.uns[keys.UNS]["populations"]
    assert list(table.columns) == keys.POPULATIONS_TABLE.names
    assert set(table["population"]) >= set(TYPES)
    assert table["cluster"].is_unique
    assert table["cluster"].str.startswith("0-").all()
    assert table["n_cells"].sum() == adata.n_obs
    assert table["confidence"].between(0, 1).all()
    # No type is called that nobody is.
    assert set(table["population"]) <= {*TYPES, keys.UNKNOWN}


def test_the_same_seed_gives_the_same_bytes() -> None:
    one, other = cohort(), cohort()
    annotate(one)
    annotate(other)
    pd.testing.assert_frame_equal(one.obs, other.obs, check_exact=True)


def test_a_type_without_rows_is_unknown_or_in_its_lineage() -> None:
    table = genesets.load_cell_types()
    lineage = genesets.lineages()
    for name in ("NK", "B", "Classical monocyte", "CD8 T", "pDC"):
        adata = cohort()
        annotate(adata, gene_sets=table[table["set"] != name])
        own = (adata.obs["truth"] == name).to_numpy()
        found = adata.obs["lineage"].astype(str)
        assert found[own].isin([keys.UNKNOWN, lineage[name]]).mean() >= 0.8, name
        right = adata.obs["truth"].map(lineage)
        assert (found == right)[~own].mean() > 0.95, name


def test_platelets_on_t_cells_are_unknown_and_noted() -> None:
    adata = cohort()
    bound = np.flatnonzero((adata.obs["truth"] == "CD4 T").to_numpy())[:6]
    counts = adata.layers[keys.COUNTS].tolil()
    for gene in ("PPBP", "PF4", "GNG11", "TUBB1", "GP9", "TREML1"):
        counts[bound, adata.var_names.get_loc(gene)] = 4
    adata.layers[keys.COUNTS] = counts.tocsr()
    annotate(adata)
    assert set(adata.obs["population"].iloc[bound]) == {keys.UNKNOWN}
    rest = np.setdiff1d(np.arange(adata.n_obs), bound)
    assert (adata.obs["population"].iloc[rest] != keys.UNKNOWN).mean() > 0.98
    assert any("markers of two compartments" in note for note in adata.uns[keys.UNS]["notes"])


def test_a_doublet_score_makes_a_mixture_more_credible() -> None:
    found = {}
    for scored in (False, True):
        adata = cohort()
        bound = np.flatnonzero((adata.obs["truth"] == "CD4 T").to_numpy())[:3]
        counts = adata.layers[keys.COUNTS].tolil()
        for gene in ("PPBP", "PF4", "GNG11", "GP9"):
            counts[bound, adata.var_names.get_loc(gene)] = 2
        adata.layers[keys.COUNTS] = counts.tocsr()
        if scored:
            adata.obs[keys.DOUBLET_SCORE] = 0.02
            adata.obs.iloc[bound, adata.obs.columns.get_loc(keys.DOUBLET_SCORE)] = 0.6
        annotate(adata)
        found[scored] = (adata.obs["population"].iloc[bound] == keys.UNKNOWN).sum()
    assert found[True] > found[False]


@pytest.mark.parametrize("organism", ["human", "mouse"])
def test_stress_cannot_move_a_call(organism: str) -> None:
    table = genesets.load_cell_types(organism=organism)
    stress = genesets.signatures(organism=organism)["dissociation_stress"]
    assert not set(table["symbol"]) & set(stress)


def test_intermediate_monocytes_show_both_receptors() -> None:
    adata = cohort({"CD4 T": 60, "Classical monocyte": 80, "Non-classical monocyte": 80})
    annotate(adata)
    assert "Intermediate monocyte" not in set(adata.obs["population"])
    adata = cohort(
        {"CD4 T": 60, "Classical monocyte": 80, "Non-classical monocyte": 80,
         "Intermediate monocyte": 60}
    )  # fmt: skip
    annotate(adata)
    own = adata.obs["truth"] == "Intermediate monocyte"
    assert (adata.obs["population"][own] == "Intermediate monocyte").mean() > 0.9


def test_retired_symbols_are_markers_too() -> None:
    adata = cohort()
    adata.var_names = adata.var_names.where(adata.var_names != "CAVIN2", "SDPR")
    annotate(adata)
    assert not [note for note in adata.uns[keys.UNS].get("notes", []) if "Megakaryocyte" in note]
    assert (adata.obs["population"].astype(str) == adata.obs["truth"]).mean() > 0.98


def test_lineages_that_change_by_degrees_share_a_compartment() -> None:
    of = compartments(np.array(["T", "NK", "B", "Monocyte", "DC", "pDC"]))
    assert of[0] == of[1]
    assert of[3] == of[4]
    assert len(set(of)) == 4


def test_stimulated_monocytes_stay_monocytes(shared_data) -> None:
    from crs_sc import pp, tl

    adata = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad")
    stim = (adata.obs["condition"] == "stim") & (adata.obs["demuxlet_call"] == "SNG")
    labelled = adata.obs["cell_type"] != "unlabelled"
    adata = adata[stim & labelled].copy()
    adata.layers[keys.COUNTS] = adata.X.copy()
    pp.normalize(adata)
    pp.select_genes(adata)
    tl.embed(adata)
    tl.cluster(adata)
    tl.annotate(adata)
    label = adata.obs["cell_type"].astype(str)
    lineage = adata.obs["lineage"].astype(str)
    monocytes = label.isin(["CD14+ Monocytes", "FCGR3A+ Monocytes"])
    assert (lineage[monocytes] == "Monocyte").mean() > 0.97
    assert (lineage[label == "Dendritic cells"] == "Monocyte").mean() < 0.3
    assert (lineage == keys.UNKNOWN).mean() < 0.05


def test_small_parts_join_their_lineage_and_are_unknown_without_one() -> None:
    lineages = np.array(["T", "T", "B"])
    groups = pd.Series(["0"] * 14 + ["1"] * 9, dtype="category")
    best = np.array([0] * 8 + [1] * 3 + [2] * 2 + [-1] + [2] * 6 + [0] * 2 + [1])
    expected = [0] * 11 + [-1] * 3 + [2] * 6 + [-1] * 3
    found = _without_small_parts(groups, best, lineages)
    np.testing.assert_array_equal(found, expected)


def test_compartment_comes_before_lineage() -> None:
    # Monocyte, DC and B: the myeloid cells together outweigh B.
    belief = np.array([[0.35, 0.25, 0.4], [0.1, 0.1, 0.3]])
    lineage, share = _by_compartment(belief, ["Monocyte", "DC", "B"])
    assert lineage.tolist() == [0, 2]
    np.testing.assert_allclose(share, [0.6, 0.3])
