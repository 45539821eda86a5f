"""Doublets by scrublet with bounded thresholds."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from skimage.filters import threshold_minimum
from sklearn.metrics import roc_auc_score

from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.preprocessing import call_doublets, qc_table, quality_control
from crs_sc.preprocessing.doublets import (
    _components,
    bounded_threshold,
    moments,
    scrublet_scores,
    variable_genes,
)


def cohort(n_cells: int = 300, n_doublets: int = 15, *, seed: int = 0) -> ad.AnnData:
    """Three cell types of 400 genes; the last `n_doublets` cells are sums of two types."""
    rng = np.random.default_rng(seed)
    rates = rng.lognormal(0, 1, 400) * rng.lognormal(0, 1.5, (3, 400))
    rates *= 1200 / rates.sum(axis=1, keepdims=True)
    kind = rng.integers(0, 3, n_cells)
    mean = rates[kind]
    mean[-n_doublets:] += rates[(kind[-n_doublets:] + 1) % 3]
    counts = rng.poisson(mean * rng.lognormal(0, 0.2, (n_cells, 1)))
    adata = ad.AnnData(
        sparse.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame(
            {keys.SAMPLE: "s0", keys.SUBJECT: "m0", keys.CONDITION: "ctrl"},
            index=[f"c{i}" for i in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"G{i}" for i in range(400)]),
    )
    adata.layers[keys.COUNTS] = adata.X.copy()
    return adata


def test_planted_doublets_are_found() -> None:
    adata = cohort()
    quality_control(adata)
    call_doublets(adata)
    called = (adata.obs[keys.QC_STATUS] == keys.DOUBLET).to_numpy()
    assert called[-15:].mean() > 0.7
    assert called[:-15].mean() < 0.02
    row = qc_table(adata).iloc[0]
    assert row["n_doublets"] == called.sum()
    assert row["n_cells_out"] == 300 - called.sum()
    assert (called == (adata.obs[keys.DOUBLET_SCORE] > row["max_doublet_score"])).all()


def test_a_second_call_changes_nothing_and_a_seed_fixes_the_scores() -> None:
    adata = cohort()
    quality_control(adata)
    call_doublets(adata)
    first = adata.obs.copy()
    table = qc_table(adata)
    call_doublets(adata)
    pd.testing.assert_frame_equal(adata.obs, first)
    pd.testing.assert_frame_equal(qc_table(adata), table)


def test_only_cells_that_passed_are_scored() -> None:
    adata = cohort()
    quality_control(adata)
    status = adata.obs[keys.QC_STATUS].copy()
    status.iloc[:7] = keys.LOW_COUNTS
    adata.obs[keys.QC_STATUS] = status
    call_doublets(adata)
    assert adata.obs[keys.DOUBLET_SCORE].isna().to_numpy()[:7].all()
    assert (adata.obs[keys.QC_STATUS].iloc[:7] == keys.LOW_COUNTS).all()


def test_sample_without_variable_genes_is_skipped_with_a_note() -> None:
    adata = cohort()[:, :5].copy()
    quality_control(adata, min_umi=0, min_genes=0, n_mads=20)
    call_doublets(adata)
    row = qc_table(adata).iloc[0]
    assert "not called" in row["note"]
    assert pd.isna(row["n_doublets"])
    assert adata.obs[keys.DOUBLET_SCORE].isna().all()
    assert not (adata.obs[keys.QC_STATUS] == keys.DOUBLET).any()


def test_threshold_is_bounded() -> None:
    scores = np.linspace(0, 1, 101)

    def two_modes(valley: float) -> np.ndarray:
        ramp = np.concatenate([np.full(300, valley + by) for by in (-0.1, 0.1)])
        return ramp + np.random.default_rng(0).normal(0, 0.02, len(ramp))

    rates = {"expected_rate": 0.05, "max_excess": 3}
    limit, note = bounded_threshold(scores, two_modes(0.9), **rates)
    assert (limit, note) == (pytest.approx(threshold_minimum(two_modes(0.9))), "")
    limit, note = bounded_threshold(scores, two_modes(0.5), **rates)
    assert limit == pytest.approx(0.95)
    called = np.mean(scores > threshold_minimum(two_modes(0.5)))
    assert f"{called:.0%} of the cells" in note
    limit, note = bounded_threshold(scores, np.arange(600) / 600, **rates)
    assert limit == pytest.approx(0.95)
    assert "found no threshold" in note


def test_settings_are_checked() -> None:
    adata = cohort(20, 2)
    with pytest.raises(MissingKeyError, match="qc_status"):
        call_doublets(adata)
    with pytest.raises(InputError, match="expected_rate"):
        call_doublets(adata, expected_rate=0.9)


def test_scores_and_calls_are_those_of_scanpy() -> None:
    import scanpy as sc

    counts = cohort(400, 30, seed=3).X
    found = scrublet_scores(counts, expected_rate=0.05, n_comps=20, random_state=1)
    assert not isinstance(found, str)
    scores, simulated = found
    known = ad.AnnData(counts.copy())
    sc.pp.scrublet(
        known, n_prin_comps=20, use_approx_neighbors=False, random_state=1, verbose=False
    )
    expected = known.obs["doublet_score"].to_numpy()
    assert np.mean(np.isclose(scores, expected, atol=1e-9)) > 0.97
    assert np.abs(scores - expected).max() < 0.02
    planted = np.arange(400) >= 370
    assert abs(roc_auc_score(planted, scores) - roc_auc_score(planted, expected)) < 0.01
    limit = known.uns["scrublet"]["threshold"]
    assert np.mean((scores > limit) == (expected > limit)) > 0.99
    own, note = bounded_threshold(scores, simulated, expected_rate=0.05, max_excess=10)
    assert note == ""
    assert np.mean((scores > own) == (expected > limit)) > 0.99


def test_genes_are_those_that_scanpy_finds_variable() -> None:
    import scanpy as sc

    data = ad.AnnData(cohort(200).X)
    counts = data.X.copy()
    sc.pp.normalize_total(data)
    sc.pp.log1p(data)
    sc.pp.highly_variable_genes(data)
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    found = variable_genes(*moments(counts, total=total, target=float(np.median(total))))
    np.testing.assert_array_equal(found, data.var["highly_variable"])


def test_components_are_those_of_the_dense_matrix_and_sums_lie_where_they_would() -> None:
    counts = sparse.csr_matrix(cohort(150, 10, seed=5).X)
    first, second = np.random.default_rng(0).integers(0, 150, (2, 40))
    found = _components(counts, (first, second), n_comps=5, random_state=0)
    dense = counts.toarray().astype(np.float64)
    cells, sums = (v / v.sum(axis=1, keepdims=True) for v in (dense, dense[first] + dense[second]))
    scale = cells.std(axis=0, ddof=1)
    cells, sums = (
        (v - cells.mean(axis=0)) / np.where(scale > 0, scale, np.inf) for v in (cells, sums)
    )
    axes = np.linalg.svd(cells, full_matrices=False)[2][:5].T
    expected = np.vstack([cells, sums]) @ axes
    # Components come in any order and with any sign, within the tolerance of the solver.
    products = expected @ expected.T
    np.testing.assert_allclose(found @ found.T, products, atol=1e-5 * np.abs(products).max())
