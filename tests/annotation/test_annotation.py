"""Cell types, states, transgene and scores against references and planted truth."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from crs_sc import genesets, keys
from crs_sc.annotation import annotate, call_myeloid_states, call_transgene, score_signatures
from crs_sc.annotation._marker_scores import Panel, panel_scores, relative_expression
from crs_sc.annotation._rank_scores import rank_scores
from crs_sc.errors import InputError, MissingKeyError

TYPES = ("Classical monocyte", "Non-classical monocyte", "cDC2", "CD4 T", "CD8 T", "NK", "B",
         "B-ALL blast", "pDC")  # fmt: skip

GRANULES = ("MPO", "AZU1", "ELANE", "PRTN3", "CTSG")


def slow_rank_score(counts: np.ndarray, genes: np.ndarray, max_rank: int) -> float:
    """UCell of one cell by scipy ranks."""
    rank = np.minimum(stats.rankdata(-counts), max_rank + 1)
    rank = np.where(counts > 0, rank, max_rank + 1)[genes]
    n = len(genes)
    u = rank.sum() - n * (n + 1) / 2
    return float(1 - u / (n * max_rank - n * (n - 1) / 2))


def typed_cells(types: tuple[str, ...] = TYPES, *, n: int = 30, seed: int = 0) -> ad.AnnData:
    """Cells that express the packaged markers of their type, and 200 genes of all cells."""
    rng = np.random.default_rng(seed)
    table = genesets.load_cell_types()
    genes = [*dict.fromkeys(table["symbol"]), *(f"HK{i}" for i in range(200))]
    rates = np.full((len(types), len(genes)), 0.02)
    rates[:, -200:] = 2.0
    for i, name in enumerate(types):
        markers = table.loc[(table["set"] == name) & (table["role"] == "marker"), "symbol"]
        rates[i, [genes.index(gene) for gene in markers]] = 3.0
    group = np.repeat(np.arange(len(types)), n)
    counts = rng.poisson(rates[group]).astype(np.float32)
    adata = ad.AnnData(
        sparse.csr_matrix(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)),
        obs=pd.DataFrame(
            {"truth": np.array(types)[group], "cluster": group.astype(str), "sample": "s1"},
            index=[f"c{i}" for i in range(len(group))],
        ),
        var=pd.DataFrame(index=genes),
    )
    adata.layers["counts"] = sparse.csr_matrix(counts)
    return adata


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 40))
def test_rank_scores_equal_scipy_ranks(seed: int, max_rank: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.7, size=(6, 40)) * rng.integers(1, 4, size=(6, 40))
    sets = [rng.choice(40, size=3, replace=False), np.array([5])]
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    found, chance = rank_scores(matrix, sets, max_rank=max_rank)
    single, _ = rank_scores(matrix, [np.array([i]) for i in range(40)], max_rank=max_rank)
    np.testing.assert_allclose(chance, single.mean(axis=1), atol=1e-6)
    expected = [[slow_rank_score(row, genes, max_rank) for genes in sets] for row in counts]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_score_of_a_cell_does_not_depend_on_the_others() -> None:
    adata = typed_cells()
    signatures = {"t": ["CD3D", "CD3E", "IL7R"], "mono": ["CD14", "LYZ", "NOT_A_GENE"]}
    score_signatures(adata, signatures=signatures)
    alone = adata[7:8].copy()
    score_signatures(alone, signatures=signatures)
    pd.testing.assert_frame_equal(
        alone.obsm[keys.SIGNATURE_SCORES], adata.obsm[keys.SIGNATURE_SCORES].iloc[7:8]
    )
    means = adata.obsm[keys.SIGNATURE_SCORES].groupby(adata.obs["truth"]).mean()
    assert means["mono"].idxmax() == "Classical monocyte"


def test_signature_without_genes_is_noted_and_none_at_all_is_an_error() -> None:
    adata = typed_cells()
    score_signatures(adata, signatures={"t": ["CD3D"], "nothing": ["XYZ1"]})
    assert list(adata.obsm[keys.SIGNATURE_SCORES].columns) == ["t"]
    assert "nothing" in adata.uns[keys.UNS]["notes"][0]
    with pytest.raises(InputError, match="No gene of the signatures nothing"):
        score_signatures(adata, signatures={"nothing": ["XYZ1"]})


def test_absent_marker_stays_small_everywhere() -> None:
    relative = relative_expression(np.array([[0.01, 2.0], [0.0, 1.0]]), min_expression=0.2)
    np.testing.assert_allclose(relative, [[0.05, 1.0], [0.0, 0.5]])


def test_panel_score_is_weighted_markers_less_negatives() -> None:
    relative = np.array([[1.0, 0.5, 0.2]])
    panel = Panel(np.array([0, 1]), np.array([2]), np.array([1.0, 3.0]), np.array([1.0]))
    np.testing.assert_allclose(panel_scores(relative, [panel]), [[(1.0 + 3 * 0.5) / 4 - 0.2]])


def test_types_that_express_their_markers_are_named() -> None:
    adata = typed_cells()
    annotate(adata)
    assert (adata.obs["population"].astype(str) == adata.obs["truth"]).all()
    assert (adata.obs["population_confidence"] > 0.9).all()
    table = adata.uns[keys.UNS]["populations"]
    assert list(table.columns) == keys.POPULATIONS_TABLE.names
    assert (table["margin"] > 0).all()
    assert set(adata.obs.loc[adata.obs["truth"] == "CD8 T", "lineage"]) == {"T"}


def with_rates(rates: dict[str, dict[str, float]], *, n: int = 200, seed: int = 0) -> ad.AnnData:
    """Groups of cells with these rates of UMI; every other marker is absent."""
    rng = np.random.default_rng(seed)
    genes = [*dict.fromkeys(genesets.load_cell_types()["symbol"]), "REST"]
    table = pd.DataFrame(rates, index=genes).T.fillna(0.0)
    table["REST"] = 2000.0
    counts = rng.poisson(np.repeat(table.to_numpy(), n, axis=0)).astype(np.float32)
    adata = ad.AnnData(
        sparse.csr_matrix(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)),
        obs=pd.DataFrame(
            {"cluster": np.repeat(table.index, n), "sample": "s1"},
            index=[f"c{i}" for i in range(n * len(table))],
        ),
        var=pd.DataFrame(index=genes),
    )
    adata.layers["counts"] = sparse.csr_matrix(counts)
    return adata


def markers_of(name: str, *, rate: float) -> dict[str, float]:
    table = genesets.load_cell_types()
    symbols = table.loc[(table["set"] == name) & (table["role"] == "marker"), "symbol"]
    return dict.fromkeys(symbols, rate)


def called(adata: ad.AnnData) -> dict[str, str]:
    annotate(adata)
    return adata.obs.groupby("cluster")["population"].first().astype(str).to_dict()


def test_markers_of_siblings_do_not_take_a_cell_out_of_its_lineage() -> None:
    # An activated T cell with both co-receptors, beside ordinary ones.
    both = markers_of("CD4 T", rate=2.0) | markers_of("CD8 T", rate=4.0)
    adata = with_rates(
        {"cd4": markers_of("CD4 T", rate=4.0), "cd8": markers_of("CD8 T", rate=4.0), "both": both}
    )
    assert called(adata) == {"cd4": "CD4 T", "cd8": "CD8 T", "both": "CD8 T"}
    table = adata.uns[keys.UNS]["populations"].set_index("cluster")
    assert set(table["lineage"]) == {"T"}
    # Which of the siblings it is, is less sure, and the table says so.
    assert table.loc["both", "runner_up"] == "CD4 T"
    assert table.loc["both", "margin"] < 0.5 * table.loc["cd8", "margin"]
    assert (table["margin"] >= 0).all()


def test_soup_is_no_evidence_of_a_type() -> None:
    monocyte = markers_of("Classical monocyte", rate=40.0)
    ambient = {gene: 0.1 * rate for gene, rate in monocyte.items()}
    odd = {gene: 0.1 * rate for gene, rate in markers_of("CD4 T", rate=4.0).items()}
    adata = with_rates({"monocyte": monocyte, "t": markers_of("CD4 T", rate=4.0) | ambient,
                        "nothing": ambient | odd})  # fmt: skip
    annotate(adata)
    before = adata.uns[keys.UNS]["populations"].set_index("cluster")
    profile = pd.Series(monocyte).reindex(adata.var_names).fillna(0.0)
    profile["REST"] = 2000.0
    profile /= profile.sum()
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame({"s1": profile})
    adata.uns[keys.UNS]["contamination"] = pd.DataFrame(
        {"ambient_fraction": 0.1, "ambient_upper": 0.12, "ambient_source": "test"}, index=["s1"]
    )
    annotate(adata)
    after = adata.uns[keys.UNS]["populations"].set_index("cluster")
    assert after["population"].to_dict() == {
        "monocyte": "Classical monocyte", "t": "CD4 T", "nothing": "Unknown"
    }  # fmt: skip
    # Without ambient RNA, monocyte markers speak for and against every cluster.
    assert before.loc["nothing", "lineage"] == "Monocyte"
    assert after.loc["t", "margin"] > before.loc["t", "margin"]


def test_granules_tell_a_monocytic_blast_from_a_monocyte() -> None:
    """THP-1: much of the programme of monocytes, and no monocyte to compare with."""
    blast = markers_of("AML blast", rate=4.0)
    blast |= dict.fromkeys(("LYZ", "FCN1", "CTSS", "CD36", "S100A8", "S100A9", "MS4A6A"), 4.0)
    adata = with_rates({"blast": blast, "t": markers_of("CD4 T", rate=4.0)})
    assert called(adata) == {"blast": "AML blast", "t": "CD4 T"}
    monocyte = {gene: rate for gene, rate in blast.items() if gene not in GRANULES}
    monocyte |= markers_of("Classical monocyte", rate=4.0)
    adata = with_rates({"monocyte": monocyte, "t": markers_of("CD4 T", rate=4.0)})
    assert called(adata)["monocyte"] == "Classical monocyte"


def test_cells_without_any_marker_are_unknown() -> None:
    adata = typed_cells()
    odd = (adata.obs["truth"] == "B").to_numpy()
    X = adata.X.toarray()
    X[odd, :-200] = 0
    adata.X = sparse.csr_matrix(X)
    annotate(adata)
    assert set(adata.obs.loc[odd, "population"]) == {"Unknown"}
    assert "Unknown" not in set(adata.obs.loc[~odd, "population"])


def test_own_labels_are_kept_and_get_a_lineage() -> None:
    adata = typed_cells()
    adata.obs["label"] = adata.obs["truth"].map(lambda name: f"my {name}")
    annotate(adata, label_key="label")
    assert (adata.obs["population"].astype(str) == adata.obs["label"]).all()
    assert set(adata.obs.loc[adata.obs["truth"] == "cDC2", "lineage"]) == {"DC"}


def test_transgene_above_the_soup_makes_a_car_t_cell() -> None:
    adata = typed_cells(("CD4 T", "Classical monocyte"), n=200)
    annotate(adata)
    transgene = np.zeros(400, dtype=np.float32)
    transgene[:50] = 5
    transgene[300:303] = 1  # ambient RNA in monocytes
    adata = _with_gene(adata, "CAR", transgene)
    call_transgene(adata, transgene=["CAR"])
    called = adata.obs["population"] == "CAR T"
    assert called[:50].all()
    assert called.sum() == 50
    assert set(adata.obs.loc[~called, "transgene"]) == {"not_detected"}


def test_samples_without_the_product_tell_the_false_positives_and_have_none() -> None:
    """A stray feature in all samples: only what exceeds its rate is the transgene."""
    rng = np.random.default_rng(0)
    adata = typed_cells(("CD4 T", "Classical monocyte"), n=800)
    annotate(adata)
    is_t = (adata.obs["lineage"] == "T").to_numpy()
    sample = np.where(np.arange(1600) % 2 == 0, "s0", "s1")
    transgene = rng.poisson(0.1, size=1600)
    carries = is_t & (sample == "s1") & (np.arange(1600) < 400)
    transgene[carries] += 1 + rng.poisson(4.0, size=carries.sum())
    adata = _with_gene(adata, "CAR", transgene.astype(np.float32))
    adata.obs["sample"] = sample
    adata.obs["condition"] = pd.Categorical(np.where(sample == "s0", "baseline", "day7"))
    ambient = adata.varm[keys.AMBIENT_PROFILE]["s1"] * 0.01
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame({"s0": ambient, "s1": ambient})
    known = adata.uns[keys.UNS]["contamination"]
    adata.uns[keys.UNS]["contamination"] = pd.concat([known, known.set_axis(["s0"])])
    naive = adata.copy()
    call_transgene(naive, transgene=["CAR"])
    call_transgene(adata, transgene=["CAR"], before=("baseline",))
    wrong = ((naive.obs["population"] == "CAR T") & ~carries).sum()
    called = (adata.obs["population"] == "CAR T").to_numpy()
    assert wrong > 20, "without the samples before infusion the stray feature is taken for a CAR"
    assert not called[sample == "s0"].any()
    assert (called & ~carries).sum() <= 0.05 * called.sum()
    assert called[carries].mean() > 0.6
    table = adata.uns[keys.UNS]["transgene"].set_index("sample")
    assert table["without_product"].to_dict() == {"s0": True, "s1": False}
    strays = (is_t & (sample == "s0") & (transgene > 0)).sum()
    assert table.loc["s0", "n_with_umi"] == strays
    assert table.loc["s0", "n_with_umi_expected"] == pytest.approx(strays, rel=0.35)
    (note,) = (n for n in adata.uns[keys.UNS]["notes"] if "False positives" in n)
    assert f"{table.loc['s0', 'n_detected']} of 400 T cells" in note
    with pytest.raises(InputError, match="No sample is of day-1"):
        call_transgene(adata, transgene=["CAR"], before=("day-1",))


def _with_gene(adata: ad.AnnData, gene: str, counts: np.ndarray) -> ad.AnnData:
    extra = sparse.hstack([adata.layers["counts"], sparse.csr_matrix(counts[:, None])]).tocsr()
    result = ad.AnnData(
        obs=adata.obs, var=pd.DataFrame(index=[*adata.var_names, gene]), uns=adata.uns
    )
    result.layers["counts"] = extra
    profile = np.asarray(extra.sum(axis=0)).ravel() / extra.sum()
    result.varm[keys.AMBIENT_PROFILE] = pd.DataFrame({"s1": profile}, index=result.var_names)
    result.uns[keys.UNS]["contamination"] = pd.DataFrame(
        {"ambient_fraction": 0.1, "ambient_upper": 0.12, "ambient_source": "test"}, index=["s1"]
    )
    return result


def test_clear_errors() -> None:
    adata = typed_cells(("B", "NK"))
    annotate(adata)
    with pytest.raises(MissingKeyError, match="score_signatures first"):
        call_myeloid_states(adata)
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    with pytest.raises(InputError, match="No cell type has 3 markers"):
        annotate(adata)
    with pytest.raises(MissingKeyError, match="no column 'nope'"):
        annotate(adata, cluster_key="nope")


def test_one_gene_does_not_make_a_type() -> None:
    genes = ["SDC1", "MZB1", "DERL3", "CD3D", "CD3E", "CD3G", "TRAC", "IL7R", "LTB"]
    t = dict.fromkeys(genes[3:], 4.0)
    one = with_rates({"odd": {"MZB1": 4.0}, "t": t})[:, [*genes, "REST"]].copy()
    two = with_rates({"odd": {"MZB1": 4.0, "SDC1": 4.0}, "t": t})[:, [*genes, "REST"]].copy()
    assert called(one) == {"odd": "Unknown", "t": "CD4 T"}
    assert called(two) == {"odd": "Plasma cell", "t": "CD4 T"}
