"""Scores of cells: against scipy's ranks, alone or among others, in memory and from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from crs_sc.annotation._rank_scores import rank_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from crs_sc import genesets, keys, tl
from crs_sc.errors import InputError
from crs_sc.io import open_h5ad, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

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


def test_target_cytokines_are_in_no_signature_and_no_panel() -> None:
    for organism in ("human", "mouse"):
        targets = set(genesets.target_cytokines(organism=organism))
        for table in (
            genesets.load_signatures(organism=organism), genesets.load_cell_types(organism=organism)
        ):  # fmt: skip
            assert targets.isdisjoint(table["symbol"])
