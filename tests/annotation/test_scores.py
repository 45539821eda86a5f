"""Scores of cells against scipy's ranks, and states of monocytes on real and planted cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from crs_sc import genesets, keys, tl
from crs_sc.annotation.scores import rank_scores
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.io import open_h5ad, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

MONOCYTES = ("CD14+ Monocytes", "FCGR3A+ Monocytes")
SETS = {"a": ["G3", "G7", "G11"], "b": ["G0"], "c": [f"G{i}" for i in range(20, 40)]}


def slow_scores(counts: np.ndarray, genes: np.ndarray, max_rank: int) -> np.ndarray:
    """UCell by scipy's ranks, cell by cell."""
    found = []
    for cell in counts:
        rank = np.minimum(stats.rankdata(-cell), max_rank + 1)
        rank = np.where(cell > 0, rank, max_rank + 1)[genes]
        n = len(genes)
        worst = n * max_rank - n * (n - 1) / 2
        found.append(1 - (rank.sum() - n * (n + 1) / 2) / worst)
    return np.array(found)


def cohort(n: int = 30, *, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.lognormal(0, 2, size=60), size=(n, 60)).astype(np.float32)
    return ad.AnnData(
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(60)]),
        layers={"counts": sparse.csr_matrix(counts)},
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 60), st.sampled_from([0.3, 3.0, 60.0, 3000.0]))
def test_ranks_are_scipys_whatever_the_size_of_the_counts(
    seed: int, max_rank: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    # About the size where ranks by counting give way to ranks by sorting, with ties on both sides.
    counts = rng.poisson(scale, size=(7, 50)) * rng.integers(0, 2, size=(7, 50))
    counts[0] = 0
    sets = [rng.choice(50, size=4, replace=False), np.array([9])]
    found, chance = rank_scores(
        sparse.csr_matrix(counts.astype(np.float32)), sets, max_rank=max_rank
    )
    expected = np.stack([slow_scores(counts, genes, max_rank) for genes in sets], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    each = [slow_scores(counts, np.array([gene]), max_rank) for gene in range(50)]
    np.testing.assert_allclose(chance, np.mean(each, axis=0), atol=1e-12)


def test_from_disk_alone_or_in_another_order_it_is_the_same(tmp_path: Path) -> None:
    adata = cohort(200)
    tl.score_signatures(adata, signatures=SETS)
    scores = adata.obsm[keys.SIGNATURE_SCORES]
    write_h5ad(cohort(200), tmp_path / "c.h5ad")
    stored = open_h5ad(tmp_path / "c.h5ad")
    tl.score_signatures(stored, signatures=SETS)
    pd.testing.assert_frame_equal(stored.obsm[keys.SIGNATURE_SCORES], scores)
    pd.testing.assert_series_equal(stored.obs[keys.CHANCE_SCORE], adata.obs[keys.CHANCE_SCORE])
    part = cohort(200)[[150, 3, 77]].copy()
    tl.score_signatures(part, signatures={"b": SETS["b"], "other": ["G5"], "a": SETS["a"]})
    pd.testing.assert_frame_equal(
        part.obsm[keys.SIGNATURE_SCORES][["a", "b"]], scores.loc[part.obs_names, ["a", "b"]]
    )
    genes = cohort(200)[:, ::-1].copy()
    tl.score_signatures(genes, signatures=SETS)
    pd.testing.assert_frame_equal(genes.obsm[keys.SIGNATURE_SCORES], scores)


def test_stored_zeros_and_entries_in_two_parts_count_once() -> None:
    adata = cohort()
    tl.score_signatures(adata, signatures=SETS)
    same = cohort()
    m = same.layers["counts"].tocoo()
    ones = np.flatnonzero(m.data > 1)
    zeros = np.argwhere(same.layers["counts"].toarray() == 0)[:40]
    rows = np.concatenate([m.row, m.row[ones], zeros[:, 0]])
    columns = np.concatenate([m.col, m.col[ones], zeros[:, 1]])
    split = m.data.copy()
    split[ones] -= 1
    data = np.concatenate([split, np.ones(len(ones)), np.zeros(len(zeros))]).astype(np.float32)
    order = np.argsort(rows, kind="stable")
    pointers = np.searchsorted(rows[order], np.arange(same.n_obs + 1))
    shaped = sparse.csr_matrix((data[order], columns[order], pointers), shape=same.shape)
    assert not shaped.has_canonical_format
    stored = shaped.nnz
    same.layers["counts"] = shaped
    tl.score_signatures(same, signatures=SETS)
    pd.testing.assert_frame_equal(
        same.obsm[keys.SIGNATURE_SCORES], adata.obsm[keys.SIGNATURE_SCORES]
    )
    assert same.layers["counts"].nnz == stored


def test_only_counts_are_scored() -> None:
    adata = cohort()
    adata.layers["counts"] = adata.layers["counts"] * np.float32(0.5)
    with pytest.raises(InputError, match="raw counts"):
        tl.score_signatures(adata, signatures=SETS)


def test_a_score_is_high_where_its_genes_are_and_the_rest_of_a_cell_is_no_gene() -> None:
    adata = cohort(100)
    counts = adata.layers["counts"].toarray()
    counts[:50, 0] = counts.max() + 1
    adata.layers["counts"] = sparse.csr_matrix(counts)
    tl.score_signatures(adata, signatures=SETS | {"nothing": ["XYZ1"]})
    scores = adata.obsm[keys.SIGNATURE_SCORES]
    assert list(scores) == list(SETS)
    assert (scores["b"][:50] == 1).all()
    first, panel = adata.uns[keys.UNS][keys.NOTES]
    assert "nothing" in first
    assert panel.startswith("With 60 genes in the data")
    small = tl.condense(adata, genes=[f"G{i}" for i in range(40)])
    named = cohort(100)[:, :40].copy()
    named.layers["counts"] = sparse.csr_matrix(counts[:, :40])
    for one in (small, named):
        tl.score_signatures(one, signatures=SETS)
    pd.testing.assert_frame_equal(
        small.obsm[keys.SIGNATURE_SCORES], named.obsm[keys.SIGNATURE_SCORES]
    )
    pd.testing.assert_series_equal(small.obs[keys.CHANCE_SCORE], named.obs[keys.CHANCE_SCORE])
    with pytest.raises(InputError, match="No gene of the signatures nothing"):
        tl.score_signatures(adata, signatures={"nothing": ["XYZ1"]})


# --- states of monocytes -------------------------------------------------------------------------


def scored(rows: list[dict[str, float]], lineage: list[str]) -> ad.AnnData:
    names = [f"c{i}" for i in range(len(rows))]
    adata = ad.AnnData(
        sparse.csr_matrix((len(rows), 1), dtype=np.float32),
        obs=pd.DataFrame({keys.LINEAGE: lineage}, index=names),
    )
    adata.obsm[keys.SIGNATURE_SCORES] = pd.DataFrame(rows, index=names)
    return adata


def scores(**given: float) -> dict[str, float]:
    zero = dict.fromkeys(
        ("type1_ifn_response", "inflammatory_monocyte", "il1_response", "nfkb_response",
         "s100a_high", "hla_dr"), 0.0
    )  # fmt: skip
    return zero | given


def test_the_state_is_the_largest_multiple_of_its_threshold() -> None:
    both = scores(
        type1_ifn_response=0.5, inflammatory_monocyte=0.2, il1_response=0.2, nfkb_response=0.2
    )
    hot = scores(inflammatory_monocyte=0.1, il1_response=0.2, nfkb_response=0.3)
    low = scores(s100a_high=0.6, hla_dr=0.2)
    rows = [both, hot, low, scores(s100a_high=0.6, hla_dr=0.5), scores(), both]
    adata = scored(rows, ["Monocyte"] * 4 + ["Macrophage", "T"])
    tl.call_myeloid_states(adata)
    states = adata.obs[keys.MYELOID_STATE]
    assert states[:5].tolist() == [
        "interferon_stimulated", "inflammatory", "hla_dr_low", "resting", "resting",
    ]  # fmt: skip
    assert states[5:].isna().all()
    # 0.2 of 0.1 is a larger multiple than 0.5 of 0.3.
    tl.call_myeloid_states(adata, min_inflammatory=0.1, min_interferon=0.3)
    assert adata.obs[keys.MYELOID_STATE].iloc[0] == "inflammatory"


def test_states_that_cannot_be_seen_are_noted() -> None:
    rows = [{"type1_ifn_response": 0.6, "s100a_high": 0.9}]
    adata = scored(rows, ["Monocyte"])
    tl.call_myeloid_states(adata)
    assert adata.obs[keys.MYELOID_STATE].tolist() == ["interferon_stimulated"]
    (note,) = adata.uns[keys.UNS][keys.NOTES]
    assert "not scored: inflammatory, hla_dr_low" in note
    del adata.obsm[keys.SIGNATURE_SCORES]
    with pytest.raises(MissingKeyError, match="score_signatures first"):
        tl.call_myeloid_states(adata)


def kang(shared_data: Path) -> ad.AnnData:
    adata = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad")
    adata = adata[
        (adata.obs["demuxlet_call"] == "SNG") & adata.obs["cell_type"].isin(MONOCYTES)
    ].copy()
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.LINEAGE] = "Monocyte"
    tl.score_signatures(adata, signatures=genesets.signatures())
    tl.call_myeloid_states(adata)
    return adata


def test_monocytes_after_interferon_are_interferon_stimulated_and_controls_are_not(
    shared_data: Path,
) -> None:
    adata = kang(shared_data)
    state = adata.obs[keys.MYELOID_STATE].astype(str)
    arm = adata.obs["condition"].astype(str)
    share = (state == "interferon_stimulated").groupby(arm).mean()
    assert share["stim"] >= 0.95
    assert share["ctrl"] <= 0.06
    # IL1B is in no signature; monocytes that are called inflammatory make it more often.
    makes = np.asarray(adata[:, "IL1B"].layers[keys.COUNTS].todense()).ravel() > 0
    of = pd.Series(makes, index=adata.obs_names)[arm == "ctrl"].groupby(state[arm == "ctrl"]).mean()
    assert of["inflammatory"] >= 1.5 * of["resting"]


def test_the_state_of_a_cell_does_not_depend_on_the_others(shared_data: Path) -> None:
    adata = kang(shared_data)
    part = adata[::7].copy()
    tl.score_signatures(part, signatures=genesets.signatures())
    tl.call_myeloid_states(part)
    found = part.obs[keys.MYELOID_STATE].astype(str)
    pd.testing.assert_series_equal(
        found, adata.obs[keys.MYELOID_STATE].astype(str).loc[part.obs_names]
    )


def test_healthy_monocytes_rest_and_those_of_critical_covid_lose_hla_dr(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "combat_covid_pbmc.h5ad")
    # The provisional labels are a rough guess; the states are those of cells with CD14 or FCGR3A.
    adata = adata[adata.obs["cell_type_provisional"].isin(MONOCYTES)].copy()
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.LINEAGE] = "Monocyte"
    tl.score_signatures(adata, signatures=genesets.signatures())
    tl.call_myeloid_states(adata)
    state, arm = adata.obs[keys.MYELOID_STATE].astype(str), adata.obs["condition"].astype(str)
    share = pd.crosstab(arm, state, normalize="index")
    assert share.loc["Healthy", "resting"] >= 0.85
    assert share.loc["Covid_Critical", "hla_dr_low"] >= 0.4
    assert share.loc["Covid_Mild", "interferon_stimulated"] >= 0.2
    assert share.loc["Healthy", ["hla_dr_low", "interferon_stimulated"]].max() <= 0.06


@pytest.mark.parametrize("name", ["min_interferon", "min_inflammatory", "min_hla_dr_low"])
def test_thresholds_decide(name: str) -> None:
    row = scores(
        type1_ifn_response=0.3, inflammatory_monocyte=0.2, il1_response=0.2, nfkb_response=0.2,
        s100a_high=0.7, hla_dr=0.3,
    )  # fmt: skip
    others = {"min_interferon": 9.0, "min_inflammatory": 9.0, "min_hla_dr_low": 9.0} | {name: 0.1}
    adata = scored([row], ["Monocyte"])
    tl.call_myeloid_states(adata, **others)
    called = {"min_interferon": "interferon_stimulated", "min_inflammatory": "inflammatory",
              "min_hla_dr_low": "hla_dr_low"}[name]  # fmt: skip
    assert adata.obs[keys.MYELOID_STATE].tolist() == [called]
