"""Cell types: kernels against references, and planted types through the public function."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from crs_sc import genesets, keys, pp, tl
from crs_sc.annotation import _calls, _panels
from crs_sc.annotation._panels import Panel
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.io import open_h5ad, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

TYPES = {"CD4 T": 150, "CD8 T": 120, "NK": 90, "Classical monocyte": 150, "B": 60, "pDC": 20}
GRANULES = ("MPO", "AZU1", "ELANE", "PRTN3", "CTSG")
Maker = "Callable[..., ad.AnnData]"


def panel(positive: list[int], negative: list[int], weight: float = 1.0) -> Panel:
    return Panel(
        np.array(positive),
        np.array(negative, dtype=int),
        np.full(len(positive), weight),
        np.ones(len(negative)),
    )


def called(adata: ad.AnnData) -> dict[str, str]:
    tl.annotate(adata)
    return adata.obs.groupby("cluster", observed=True)["population"].first().astype(str).to_dict()


def populations(adata: ad.AnnData) -> pd.DataFrame:
    return adata.uns[keys.UNS][keys.POPULATIONS]


# --- kernels -------------------------------------------------------------------------------------


def test_panel_score_is_weighted_markers_less_negatives_and_needs_the_required_ones() -> None:
    relative = np.array([[1.0, 0.5, 0.2], [1.0, 0.4, 1.0]])
    weighted = Panel(np.array([0, 1]), np.array([2]), np.array([1.0, 3.0]), np.array([1.0]))
    required = Panel(
        np.array([0, 1, 2]), np.array([], int), np.ones(3), np.ones(0), np.array([0, 1])
    )
    found = _panels.panel_scores(relative, [weighted, required])
    np.testing.assert_allclose(found[:, 0], [(1.0 + 3 * 0.5) / 4 - 0.2, (1 + 3 * 0.4) / 4 - 1])
    np.testing.assert_allclose(found[:, 1], [1.7 / 3, -1.0])


def test_markers_are_named_by_weight_and_level_and_those_against_apart() -> None:
    one = Panel(np.array([0, 1, 2]), np.array([3]), np.array([1.0, 0.5, 1.0]), np.array([1.0]))
    relative = np.array([[0.5, 0.9, 0.1, 0.0], [0.3, 0.8, 0.9, 0.4], [1.0, 1.0, 1.0, 1.0]])
    genes = ["MPO", "LYZ", "AZU1", "CD14"]
    # LYZ at 0.9 with half a weight comes after MPO at 0.5; AZU1 at 0.1 is not there.
    assert _panels.marker_evidence(relative, [one], genes, [0, 0, -1]) == [
        "MPO, LYZ",
        "AZU1, LYZ, MPO; against it CD14",
        "",
    ]


def test_mean_over_neighbours_includes_the_cell() -> None:
    graph = sparse.csr_matrix(np.array([[0, 0.3, 0], [0.3, 0, 0], [0, 0, 0]]))
    expected = [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    np.testing.assert_allclose(_calls.with_neighbours(graph).toarray(), expected)


def test_spreading_reaches_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    around = _calls.with_neighbours(sparse.csr_matrix(rng.random((20, 20)) < 0.3))
    belief = rng.dirichlet(np.ones(3), size=20)
    weight = 0.6
    found = _calls.spread_labels(around, belief, weight=weight, n_steps=60)
    closed = (1 - weight) * np.linalg.solve(np.eye(20) - weight * around.toarray(), belief)
    np.testing.assert_allclose(found, closed, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(_calls.spread_labels(around, belief, weight=0.0), belief)


def test_fine_groups_are_those_of_the_seed_and_find_the_islands() -> None:
    rng = np.random.default_rng(1)
    island = np.repeat(np.arange(4), [100, 50, 30, 20])
    components = rng.normal(size=(200, 5)) * 0.1 + 10 * np.eye(5)[island]
    rounds = _calls.fine_groups(components, random_state=3)
    np.testing.assert_array_equal(rounds, _calls.fine_groups(components, random_state=3))
    assert len(rounds) == 5
    for groups in rounds:
        table = pd.crosstab(groups, island).to_numpy()
        assert (table.max(axis=1) / table.sum(axis=1) > 0.99).all()


def test_likelihood_differs_between_groups_as_the_negative_binomial_of_scipy() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, size=(20, 4))
    depth = rng.integers(500, 5000, size=20).astype(float)
    rates = rng.uniform(1e-5, 2e-3, size=(3, 4))
    found = _calls.count_likelihood(sparse.csr_matrix(counts), depth, rates)
    mean = depth[:, None, None] * rates
    expected = stats.nbinom.logpmf(counts[:, None, :], 2.0, 2.0 / (2.0 + mean)).sum(axis=2)
    np.testing.assert_allclose(
        found - found[:, :1], expected - expected[:, :1], rtol=1e-9, atol=1e-9
    )


def test_rates_are_those_of_the_group_and_of_all_where_cells_are_few() -> None:
    counts = sparse.csr_matrix(np.repeat([[4.0, 0.0], [0.0, 2.0]], [1000, 1000], axis=0))
    depth = np.full(2000, 1000.0)
    found = _calls.rates_of(counts, depth, np.repeat([0, 1], 1000), 3)
    np.testing.assert_allclose(found[:2], [[4e-3, 0], [0, 2e-3]], rtol=0.01, atol=2e-5)
    np.testing.assert_allclose(found[2], [2e-3, 1e-3], rtol=1e-6)
    assert (found > 0).all()


def test_defining_markers_are_of_one_type_and_barred_in_another() -> None:
    cd4, cd8, both = panel([0, 5], [1, 2]), panel([1, 2, 5], [0]), panel([5], [])
    np.testing.assert_array_equal(_calls.defining_markers([cd4, cd8, both]), [0, 1, 2])
    # A marker of little weight does not define its type.
    np.testing.assert_array_equal(_calls.defining_markers([panel([0], [1], 0.5), cd8]), [1])
    assert len(_calls.defining_markers([both])) == len(_calls.defining_markers([])) == 0


def test_foreign_markers_against_a_sum_of_probabilities() -> None:
    rng = np.random.default_rng(2)
    counts = sparse.csr_matrix(rng.poisson(0.05, size=(300, 8)).astype(np.float32)).tolil()
    depth = rng.integers(500, 2000, size=300).astype(float)
    counts[0, :4] = 3
    counts = counts.tocsr()
    sets = [np.array([0, 1, 2, 3]), np.array([4, 5, 6, 7])]
    pvalue = _calls.foreign_markers(counts, depth, np.zeros(300, dtype=np.int64), [sets])
    missed = 1 - (counts > 0).toarray().sum(axis=0) / 301
    expected = [1 - (missed[columns] ** (depth[0] / depth.mean())) for columns in sets]
    seen = [int((counts[0, columns] > 0).sum()) for columns in sets]
    tail = [stats.poisson.sf(n - 1, p.sum()) for n, p in zip(seen, expected, strict=True)]
    assert seen[0] == 4
    assert pvalue[0] == pytest.approx(2 * tail[0])
    assert pvalue[0] < 1e-3
    assert (pvalue[counts.getnnz(axis=1) < 2] == 1).all()


def test_compartment_comes_before_lineage() -> None:
    # Monocyte, DC and B: the myeloid cells together outweigh B.
    belief = np.array([[0.35, 0.25, 0.4], [0.1, 0.1, 0.3]])
    lineage, share = _calls.by_compartment(belief, ["Monocyte", "DC", "B"])
    assert lineage.tolist() == [0, 2]
    np.testing.assert_allclose(share, [0.6, 0.3])


def test_a_type_is_there_if_most_rounds_show_it() -> None:
    types = np.array(["a", "b"])
    one = [panel([i], []) for i in (0, 1)]
    panels = _panels.Panels(types, types, types, one, one, np.array([0, 1]))
    only_a, both = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 0.9]])
    assert _calls.types_present([only_a, both, only_a], panels, 0.3).tolist() == [0]
    assert _calls.types_present([only_a, both, both], panels, 0.3).tolist() == [0, 1]
    # Where nothing is shown, nothing can be ruled out.
    assert _calls.types_present([0.1 * only_a], panels, 0.3).tolist() == [0, 1]


# --- refine: planted faults ----------------------------------------------------------------------


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of one long shape; what they share says nothing about the type."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [200, 120, 80])
    centre = np.array([[0, 0, 0, 0], [0, 6, 0, 0], [0, 0, 5, 5]])
    return centre[truth] + rng.normal(size=(400, 4)) * np.array([10.0, 1.0, 1.0, 1.0]), truth


def cells_of(
    components: np.ndarray,
    *,
    around: sparse.csr_matrix,
    counts: sparse.csr_matrix | None = None,
    panels: SimpleNamespace | None = None,
) -> _calls.Cells:
    """Cells of three types in three compartments whose counts are silent, if nothing is given."""
    n = len(components)
    names = np.array(["CD4 T", "B", "NK"])
    silent = [panel([i], []) for i in range(3)]
    panels = panels or SimpleNamespace(
        types=names, lineages=names, compartments=names, of_type=silent
    )
    counts = sparse.csr_matrix((n, 3), dtype=np.float32) if counts is None else counts
    markers = SimpleNamespace(counts=counts, depth=np.full(n, 2000.0))
    return _calls.Cells(panels, markers, components, around, np.ones(n))


def test_wrong_calls_are_mended_by_the_whole_expression_and_open_ones_are_said() -> None:
    components, truth = clouds()
    best = truth.copy()
    wrong = np.random.default_rng(1).choice(400, 30, replace=False)
    best[wrong] = (truth[wrong] + 1) % 3
    # Halfway between the clouds of the first two types.
    components, best = np.vstack([components, [[0, 3, 0, 0]]]), np.append(best, 0)
    # Every cell has the same neighbours, so that they cannot tell.
    around = sparse.csr_matrix(np.full((401, 401), 1 / 401))
    found, share = _calls.refine(cells_of(components, around=around), best)
    assert (found[wrong] == truth[wrong]).mean() > 0.9
    assert (found[:-1] == truth).mean() > 0.95
    assert 0.4 < share[-1] < 0.95
    right = found[:-1] == truth
    assert share[:-1][~right].mean() < share[:-1][right].mean()


@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_types_of_few_cells_have_no_cloud_and_their_cells_stay(n_types: int) -> None:
    components, truth = clouds()
    best = np.minimum(truth, n_types - 1)
    best[best == n_types - 1] = 0
    best[:5] = n_types - 1
    found, share = _calls.refine(
        cells_of(components, around=sparse.identity(400, format="csr")), best
    )
    assert (found[:5] == n_types - 1).all()
    assert (share[:5] == 1).all()


def test_cells_without_extent_have_equal_places() -> None:
    best = np.repeat([0, 1], 10)
    around = sparse.identity(20, format="csr")
    found, share = _calls.refine(cells_of(np.ones((20, 2)), around=around), best)
    np.testing.assert_array_equal(found, best)
    np.testing.assert_allclose(share, 1 / 1.02)


@pytest.mark.parametrize(("rate", "least"), [(3.0, 0.9), (0.4, 0.2)])
def test_cells_among_others_are_found_as_far_as_their_counts_go(rate: float, least: float) -> None:
    """A fifth of the cells that are called 0 are of type 1; all are neighbours of all."""
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1, 1], [400, 400, 100])
    best = np.repeat([0, 1, 0], [400, 400, 100])
    counts = sparse.csr_matrix(rng.poisson(np.where(np.eye(2)[truth] > 0, rate, 0.02)))
    around = sparse.csr_matrix(np.ones((900, 900)) / 900)
    monocytes = SimpleNamespace(
        types=np.array(["a", "b"]),
        lineages=np.array(["Monocyte"] * 2),
        compartments=np.array(["Myeloid"] * 2),
        of_type=[panel([0], [1]), panel([1], [0])],
    )
    cells = cells_of(np.ones((900, 2)), around=around, counts=counts, panels=monocytes)
    found = _calls.by_counts(cells, best)
    seen = counts.toarray() > 0
    assert (found[800:] == 1).mean() >= least
    # No more are found than show their marker, and cells that show their own alone stay.
    assert (found[800:] == 1).sum() <= seen[800:, 1].sum()
    clear = seen[np.arange(900), truth] & ~seen[np.arange(900), 1 - truth]
    np.testing.assert_array_equal(found[clear], truth[clear])


# --- whole clusters ------------------------------------------------------------------------------


def test_types_that_express_their_markers_are_named(make: Maker) -> None:
    adata = make(dict.fromkeys([*TYPES, "Non-classical monocyte", "cDC2", "B-ALL blast"], 30))
    del adata.obsp["connectivities"]
    adata.obs["cluster"] = adata.obs["truth"].astype("category")
    tl.annotate(adata)
    assert (adata.obs["population"].astype(str) == adata.obs["truth"]).all()
    assert (adata.obs["population_confidence"] > 0.9).all()
    table = populations(adata)
    assert list(table.columns) == keys.POPULATIONS_TABLE.names
    assert (table["margin"] > 0).all()
    assert set(adata.obs.loc[adata.obs["truth"] == "CD8 T", "lineage"]) == {"T"}
    # Labels of the user stay as they are, and get a lineage.
    adata.obs["label"] = adata.obs["truth"].map(lambda name: f"my {name}")
    tl.annotate(adata, label_key="label")
    assert (adata.obs["population"].astype(str) == adata.obs["label"]).all()
    assert set(adata.obs.loc[adata.obs["truth"] == "cDC2", "lineage"]) == {"DC"}
    # Without its markers a cluster has no type.
    odd = (adata.obs["truth"] == "B").to_numpy()
    values = adata.X.toarray()
    values[odd, :-300] = 0
    adata.X = sparse.csr_matrix(values)
    tl.annotate(adata)
    assert set(adata.obs.loc[odd, "population"]) == {keys.UNKNOWN}
    assert keys.UNKNOWN not in set(adata.obs.loc[~odd, "population"])


def test_markers_of_siblings_do_not_take_a_cell_out_of_its_lineage(make_by_rates: Maker) -> None:
    # An activated T cell with both co-receptors, beside ordinary ones.
    both = {"CD4 T": 2.0, "CD8 T": 4.0}
    adata = make_by_rates({"cd4": {"CD4 T": 4.0}, "cd8": {"CD8 T": 4.0}, "both": both})
    assert called(adata) == {"cd4": "CD4 T", "cd8": "CD8 T", "both": "CD8 T"}
    table = populations(adata).set_index("cluster")
    assert set(table["lineage"]) == {"T"}
    # Which of the siblings it is, is less sure, and the table says so.
    assert table.loc["both", "runner_up"] == "CD4 T"
    assert table.loc["both", "margin"] < 0.5 * table.loc["cd8", "margin"]
    assert (table["margin"] >= 0).all()


def test_ambient_rna_is_no_evidence_of_a_type(make_by_rates: Maker) -> None:
    adata = make_by_rates(
        {
            "monocyte": {"Classical monocyte": 40.0},
            "t": {"CD4 T": 4.0, "Classical monocyte": 4.0},
            "nothing": {"Classical monocyte": 4.0, "CD4 T": 0.4},
        }
    )
    tl.annotate(adata)
    before = populations(adata).set_index("cluster")
    rate = make_by_rates({"one": {"Classical monocyte": 40.0}}, n=400).layers[keys.COUNTS].mean(0)
    profile = np.where(np.asarray(rate).ravel() > 10, 40.0, 0.0)
    profile[-1] = 2000.0
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(
        {"s1": profile / profile.sum()}, index=adata.var_names
    )
    adata.uns[keys.UNS]["contamination"] = pd.DataFrame(
        {"ambient_fraction": 0.1, "ambient_upper": 0.12, "ambient_source": "test"}, index=["s1"]
    )
    tl.annotate(adata)
    after = populations(adata).set_index("cluster")
    assert after["population"].to_dict() == {
        "monocyte": "Classical monocyte", "t": "CD4 T", "nothing": "Unknown"
    }  # fmt: skip
    # Without ambient RNA, monocyte markers speak for and against every cluster.
    assert before.loc["nothing", "lineage"] == "Monocyte"
    assert after.loc["t", "margin"] > before.loc["t", "margin"]


def test_granules_tell_a_monocytic_blast_from_a_monocyte(make_by_rates: Maker) -> None:
    """THP-1: much of the programme of monocytes, and no monocyte to compare with."""
    programme = ("LYZ", "FCN1", "CTSS", "CD36", "S100A8", "S100A9", "MS4A6A")
    blast = {"AML blast": 4.0} | dict.fromkeys(programme, 4.0)
    adata = make_by_rates({"blast": blast, "t": {"CD4 T": 4.0}})
    assert called(adata) == {"blast": "AML blast", "t": "CD4 T"}
    monocyte = blast | dict.fromkeys(GRANULES, 0.0) | {"Classical monocyte": 4.0}
    adata = make_by_rates({"monocyte": monocyte, "t": {"CD4 T": 4.0}})
    assert called(adata)["monocyte"] == "Classical monocyte"


@pytest.mark.parametrize(
    ("markers", "name"), [(["MZB1"], "Unknown"), (["MZB1", "SDC1"], "Plasma cell")]
)
def test_one_gene_does_not_make_a_type(make_by_rates: Maker, markers: list[str], name: str) -> None:
    t = ["CD3D", "CD3E", "CD3G", "TRAC", "IL7R", "LTB"]
    adata = make_by_rates({"odd": dict.fromkeys(markers, 4.0), "t": dict.fromkeys(t, 4.0)})
    adata = adata[:, ["SDC1", "MZB1", "DERL3", *t, "HK0"]].copy()
    assert called(adata) == {"odd": name, "t": "CD4 T"}


def test_clear_errors(make: Maker) -> None:
    adata = make({"B": 30, "NK": 30})
    with pytest.raises(MissingKeyError, match="no column 'nope'"):
        tl.annotate(adata, cluster_key="nope")
    with pytest.raises(MissingKeyError, match="no column 'nope'"):
        tl.annotate(adata, label_key="nope")
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    with pytest.raises(InputError, match="No cell type has 3 markers"):
        tl.annotate(adata)


# --- clusters of several types -------------------------------------------------------------------


def test_one_cluster_of_many_types_is_split(make: Maker) -> None:
    adata = make(TYPES)
    # Retired symbols are markers too.
    adata.var_names = adata.var_names.where(adata.var_names != "CAVIN2", "SDPR")
    again = adata.copy()
    tl.annotate(adata)
    assert (adata.obs["population"].astype(str) == adata.obs["truth"]).mean() > 0.98
    table = populations(adata)
    assert list(table.columns) == keys.POPULATIONS_TABLE.names
    assert table["cluster"].is_unique
    assert table["cluster"].str.startswith("0-").all()
    assert table["n_cells"].sum() == adata.n_obs
    assert table["confidence"].between(0, 1).all()
    assert table[["doublet_score", "stress"]].isna().all(axis=None)
    # No type is called that nobody is.
    assert {*TYPES} <= set(table["population"]) <= {*TYPES, keys.UNKNOWN}
    assert not [note for note in adata.uns[keys.UNS].get("notes", []) if "Megakaryocyte" in note]
    tl.annotate(again)
    pd.testing.assert_frame_equal(adata.obs, again.obs, check_exact=True)


def test_a_cohort_of_the_panel_genes_and_one_on_disk_have_the_same_calls(
    make: Maker, tmp_path: Path
) -> None:
    adata = make(TYPES)
    pp.normalize(adata)
    ambient = np.asarray(adata.layers[keys.COUNTS].sum(axis=0)).ravel()
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(
        {"s1": ambient / ambient.sum()}, index=adata.var_names
    )
    adata.uns.setdefault(keys.UNS, {})["contamination"] = pd.DataFrame(
        {"ambient_fraction": 0.05, "ambient_upper": 0.06, "ambient_source": "test"}, index=["s1"]
    )
    write_h5ad(adata, tmp_path / "cohort.h5ad")
    stored = open_h5ad(tmp_path / "cohort.h5ad")
    panel_genes = genesets.load_cell_types()["symbol"].unique()
    small = tl.condense(adata, genes=[*panel_genes, "HK0"])
    assert small.n_vars < adata.n_vars
    pp.normalize(small)
    small.obsm[keys.PCA] = adata.obsm[keys.PCA]
    small.obsp["connectivities"] = adata.obsp["connectivities"]
    tl.annotate(adata)
    for other in (small, stored):
        tl.annotate(other)
        pd.testing.assert_frame_equal(populations(other), populations(adata), check_exact=True)
        columns = [keys.POPULATION, keys.LINEAGE, keys.CONFIDENCE]
        pd.testing.assert_frame_equal(other.obs[columns], adata.obs[columns], check_exact=True)


@pytest.mark.parametrize("name", ["NK", "B", "Classical monocyte", "CD8 T", "pDC"])
def test_a_type_without_rows_is_unknown_or_in_its_lineage(make: Maker, name: str) -> None:
    table = genesets.load_cell_types()
    lineage = genesets.lineages()
    adata = make(TYPES)
    tl.annotate(adata, gene_sets=table[table["set"] != name])
    lost = (adata.obs["truth"] == name).to_numpy()
    found = adata.obs["lineage"].astype(str)
    assert found[lost].isin([keys.UNKNOWN, lineage[name]]).mean() >= 0.8
    assert (found == adata.obs["truth"].map(lineage))[~lost].mean() > 0.95


def with_platelets(make: Maker, n: int, genes: tuple[str, ...], umi: int) -> ad.AnnData:
    """Cells of all types, with platelets on the first CD4 T cells."""
    adata = make(TYPES)
    bound = np.flatnonzero((adata.obs["truth"] == "CD4 T").to_numpy())[:n]
    counts = adata.layers[keys.COUNTS].tolil()
    for gene in genes:
        counts[bound, adata.var_names.get_loc(gene)] = umi
    adata.layers[keys.COUNTS] = counts.tocsr()
    adata.obs["bound"] = np.isin(np.arange(adata.n_obs), bound)
    return adata


def test_platelets_on_t_cells_are_unknown_and_noted(make: Maker) -> None:
    adata = with_platelets(make, 6, ("PPBP", "PF4", "GNG11", "TUBB1", "GP9", "TREML1"), 4)
    adata.obs[keys.DOUBLET_SCORE] = np.where(adata.obs["bound"], 0.5, 0.1)
    adata.obsm[keys.SIGNATURE_SCORES] = pd.DataFrame(
        {"dissociation_stress": 0.25}, index=adata.obs_names
    )
    tl.annotate(adata)
    bound = adata.obs["bound"]
    assert set(adata.obs["population"][bound]) == {keys.UNKNOWN}
    assert (adata.obs["population"][~bound] != keys.UNKNOWN).mean() > 0.98
    assert any("markers of two compartments" in note for note in adata.uns[keys.UNS]["notes"])
    table = populations(adata)
    assert (table["stress"] == 0.25).all()
    np.testing.assert_allclose(table["mixed_share"], table["mixed_share"][0])
    assert table["mixed_share"][0] >= 6 / adata.n_obs
    of_cells = (table["doublet_score"] * table["n_cells"]).sum()
    assert of_cells == pytest.approx(adata.obs[keys.DOUBLET_SCORE].sum())


def test_a_cluster_of_mixtures_is_noted(make: Maker) -> None:
    adata = with_platelets(make, 6, ("PPBP", "PF4", "GNG11", "TUBB1", "GP9", "TREML1"), 4)
    adata.obs["cluster"] = pd.Categorical(np.where(adata.obs["bound"], "odd", "0"))
    tl.annotate(adata)
    (note,) = (n for n in adata.uns[keys.UNS]["notes"] if n.startswith("Clusters of mixtures"))
    assert note.endswith("compartments: odd.")


def test_a_doublet_score_makes_a_mixture_more_credible(make: Maker) -> None:
    found = {}
    for scored in (False, True):
        adata = with_platelets(make, 3, ("PPBP", "PF4", "GNG11", "GP9"), 2)
        if scored:
            adata.obs[keys.DOUBLET_SCORE] = np.where(adata.obs["bound"], 0.6, 0.02)
        tl.annotate(adata)
        found[scored] = (adata.obs["population"][adata.obs["bound"]] == keys.UNKNOWN).sum()
    assert found[True] > found[False]


def test_intermediate_monocytes_show_both_receptors(make: Maker) -> None:
    types = {"CD4 T": 60, "Classical monocyte": 80, "Non-classical monocyte": 80}
    adata = make(types)
    tl.annotate(adata)
    assert "Intermediate monocyte" not in set(adata.obs["population"])
    adata = make(types | {"Intermediate monocyte": 60})
    tl.annotate(adata)
    both = adata.obs["truth"] == "Intermediate monocyte"
    assert (adata.obs["population"][both] == "Intermediate monocyte").mean() > 0.9


def test_small_parts_join_their_lineage_and_are_unknown_without_one(make: Maker) -> None:
    adata = make({"CD4 T": 60, "CD8 T": 40, "B": 60})
    # Three CD8 T cells in a cluster of CD4 T cells, two CD4 T cells in one of B cells.
    place = adata.obs.groupby("truth").cumcount()
    cluster = np.array(adata.obs["truth"], dtype=object)
    cluster[(adata.obs["truth"] == "CD8 T") & (place < 3)] = "CD4 T"
    cluster[(adata.obs["truth"] == "CD4 T") & (place < 2)] = "B"
    adata.obs["cluster"] = pd.Categorical(cluster)
    tl.annotate(adata)
    population = adata.obs["population"].astype(str)
    assert set(population[(adata.obs["truth"] == "CD8 T") & (place < 3)]) == {"CD4 T"}
    assert set(population[(adata.obs["truth"] == "CD4 T") & (place < 2)]) == {keys.UNKNOWN}
    assert (populations(adata)["n_cells"] > 0).all()


@pytest.mark.parametrize("organism", ["human", "mouse"])
def test_stress_and_target_cytokines_cannot_move_a_call(organism: str) -> None:
    panels = set(genesets.load_cell_types(organism=organism)["symbol"])
    targets = set(genesets.target_cytokines(organism=organism))
    assert panels.isdisjoint(genesets.signatures(organism=organism)["dissociation_stress"])
    assert panels.isdisjoint(targets)
    assert targets.isdisjoint(genesets.load_signatures(organism=organism)["symbol"])


# --- transgene -----------------------------------------------------------------------------------


def with_car(adata: ad.AnnData, counts: np.ndarray, samples: tuple[str, ...]) -> ad.AnnData:
    """Add the feature CAR, with ambient RNA as the cells have it."""
    more = sparse.csr_matrix(counts[:, None].astype(np.float32))
    extra = sparse.hstack([adata.layers[keys.COUNTS], more]).tocsr()
    result = ad.AnnData(
        obs=adata.obs, var=pd.DataFrame(index=[*adata.var_names, "CAR"]), uns=adata.uns,
        layers={keys.COUNTS: extra},
    )  # fmt: skip
    profile = np.asarray(extra.sum(axis=0)).ravel() / extra.sum()
    result.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(
        dict.fromkeys(samples, profile), index=result.var_names
    )
    result.uns[keys.UNS]["contamination"] = pd.DataFrame(
        {"ambient_fraction": 0.1, "ambient_upper": 0.12, "ambient_source": "test"}, index=samples
    )
    return result


def test_transgene_above_the_ambient_rna_makes_a_car_t_cell(make: Maker) -> None:
    adata = make({"CD4 T": 200, "Classical monocyte": 200})
    tl.annotate(adata)
    transgene = np.zeros(400)
    transgene[:50] = 5
    transgene[300:303] = 1  # ambient RNA in monocytes
    adata = with_car(adata, transgene, ("s1",))
    tl.call_transgene(adata, transgene=["CAR"])
    is_car = adata.obs["population"] == "CAR T"
    assert is_car[:50].all()
    assert is_car.sum() == 50
    assert set(adata.obs.loc[~is_car, "transgene"]) == {"not_detected"}


def test_samples_without_the_product_tell_the_false_positives_and_have_none(make: Maker) -> None:
    """A stray feature in all samples: only what exceeds its rate is the transgene."""
    rng = np.random.default_rng(0)
    adata = make({"CD4 T": 800, "Classical monocyte": 800})
    tl.annotate(adata)
    is_t = (adata.obs["lineage"] == "T").to_numpy()
    sample = np.where(np.arange(1600) % 2 == 0, "s0", "s1")
    transgene = rng.poisson(0.1, size=1600)
    carries = is_t & (sample == "s1") & (np.arange(1600) < 400)
    transgene[carries] += 1 + rng.poisson(4.0, size=carries.sum())
    adata = with_car(adata, transgene, ("s0", "s1"))
    adata.varm[keys.AMBIENT_PROFILE] *= 0.01
    adata.obs["sample"] = sample
    adata.obs["condition"] = pd.Categorical(np.where(sample == "s0", "baseline", "day7"))
    naive = adata.copy()
    tl.call_transgene(naive, transgene=["CAR"])
    tl.call_transgene(adata, transgene=["CAR"], before=("baseline",))
    wrong = ((naive.obs["population"] == "CAR T") & ~carries).sum()
    is_car = (adata.obs["population"] == "CAR T").to_numpy()
    assert wrong > 20, "without the samples before infusion the stray feature is taken for a CAR"
    assert not is_car[sample == "s0"].any()
    assert (is_car & ~carries).sum() <= 0.05 * is_car.sum()
    assert is_car[carries].mean() > 0.6
    table = adata.uns[keys.UNS]["transgene"].set_index("sample")
    assert table["without_product"].to_dict() == {"s0": True, "s1": False}
    strays = (is_t & (sample == "s0") & (transgene > 0)).sum()
    assert table.loc["s0", "n_with_umi"] == strays
    assert table.loc["s0", "n_with_umi_expected"] == pytest.approx(strays, rel=0.35)
    (note,) = (n for n in adata.uns[keys.UNS]["notes"] if "False positives" in n)
    assert f"{table.loc['s0', 'n_detected']} of {table.loc['s0', 'n_t_cells']} T cells" in note
    with pytest.raises(InputError, match="No sample is of day-1"):
        tl.call_transgene(adata, transgene=["CAR"], before=("day-1",))
