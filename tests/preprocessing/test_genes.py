"""Normalisation starts from the counts, always; genes for the embedding."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from crs_sc import genesets, keys
from crs_sc.core.variable_genes import variable_genes
from crs_sc.errors import InputError
from crs_sc.preprocessing import normalize, select_genes

LEFT_OUT = [*genesets.TARGET_CYTOKINES, "XIST", "RPS4Y1", "IGHV3-23", "TRBV7-2", "MT-CO1", "CAR"]


def cohort(sizes: tuple[int, ...] = (80, 80, 5), *, seed: int = 0) -> ad.AnnData:
    """500 genes, the first 50 and all that must be left out differ between two cell types."""
    rng = np.random.default_rng(seed)
    names = [*LEFT_OUT, *(f"G{i}" for i in range(500))]
    kind = rng.integers(0, 2, sum(sizes))
    mean = np.tile(rng.lognormal(1, 0.7, len(names)), (sum(sizes), 1))
    mean[:, : len(LEFT_OUT) + 50] *= np.where(kind, 1.9, 0.1)[:, None]
    adata = ad.AnnData(
        sparse.csr_matrix(rng.poisson(mean), dtype=np.float32), var=pd.DataFrame(index=names)
    )
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.SAMPLE] = np.repeat([f"s{i}" for i in range(len(sizes))], sizes)
    return adata


def test_variable_genes_are_found_and_the_measured_ones_left_out() -> None:
    adata = cohort()
    select_genes(adata, n_genes=50, exclude=["CAR"])
    marked = adata.var_names[adata.var[keys.HIGHLY_VARIABLE]]
    assert len(marked) == 50
    assert not set(marked) & set(LEFT_OUT)
    assert len(set(marked) & {f"G{i}" for i in range(50)}) >= 45
    notes = " ".join(adata.uns[keys.UNS][keys.NOTES])
    assert f"{len(genesets.TARGET_CYTOKINES)} target cytokines" in notes
    assert "seurat_v3" in notes
    assert "had no say: s2" in notes


def test_retired_symbols_of_cytokines_are_left_out_too() -> None:
    adata = cohort()
    adata.var_names = adata.var_names.str.replace("CXCL8", "IL8")
    select_genes(adata, n_genes=50)
    assert not adata.var.loc["IL8", keys.HIGHLY_VARIABLE]


def test_small_panel_is_used_whole() -> None:
    adata = cohort()
    select_genes(adata)
    assert adata.var[keys.HIGHLY_VARIABLE].sum() == 500 + 1
    assert adata.var.loc["CAR", keys.HIGHLY_VARIABLE]


def test_failing_loess_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def singular(*arguments: object, **settings: object) -> None:
        msg = "reciprocal condition number 1e-17"
        raise ValueError(msg)

    monkeypatch.setattr("skmisc.loess.loess", singular)
    adata = cohort()
    select_genes(adata, n_genes=50)
    assert adata.var[keys.HIGHLY_VARIABLE].sum() == 50
    assert "reciprocal condition" in " ".join(adata.uns[keys.UNS][keys.NOTES])


@pytest.mark.parametrize("sizes", [(60,), (4, 5), (1,), (3,)])
def test_one_or_only_tiny_samples_work(sizes: tuple[int, ...]) -> None:
    adata = cohort(sizes)
    select_genes(adata, n_genes=40)
    assert 0 < adata.var[keys.HIGHLY_VARIABLE].sum() <= 40


def test_nothing_to_select_from_is_an_error() -> None:
    adata = cohort((40,))[:, LEFT_OUT[:3]].copy()
    with pytest.raises(InputError, match="nothing to select"):
        select_genes(adata)
    with pytest.raises(InputError, match="n_genes"):
        select_genes(adata, n_genes=0)


def test_what_is_left_of_other_genes_is_never_chosen() -> None:
    adata = cohort((80, 80))
    adata.var_names = [*adata.var_names[:-1], keys.OTHER_GENES]
    select_genes(adata)
    assert not adata.var.loc[keys.OTHER_GENES, keys.HIGHLY_VARIABLE]
    assert adata.var[keys.HIGHLY_VARIABLE].sum() == 500


def test_a_sample_of_the_cells_chooses_the_genes_of_all() -> None:
    adata = cohort((300, 900, 5))
    settings = {
        "candidate": np.arange(adata.n_vars) >= len(LEFT_OUT),
        "n_genes": 50,
        "min_batch_cells": 30,
    }
    whole, some = (
        variable_genes(adata.layers[keys.COUNTS], adata.obs[keys.SAMPLE], **settings, max_cells=n)
        for n in (2000, 400)
    )
    assert whole.small_batches == some.small_batches == ["s2"]
    assert (whole.marked & some.marked).sum() >= 48


@given(arrays(np.float32, (4, 5), elements=st.integers(0, 50).map(float)))
def test_normalisation_is_the_formula_and_empty_cells_stay_empty(dense: np.ndarray) -> None:
    adata = ad.AnnData(layers={keys.COUNTS: sparse.csr_matrix(dense)})
    normalize(adata)
    total = np.maximum(dense.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(adata.X.toarray(), np.log1p(dense / total * 1e4), rtol=1e-5)


def test_normalisation_is_that_of_scanpy_and_cannot_be_done_twice() -> None:
    import scanpy as sc

    adata = cohort((20,))
    before = adata.layers[keys.COUNTS].copy()
    reference = ad.AnnData(before.copy())
    sc.pp.normalize_total(reference, target_sum=1e4)
    sc.pp.log1p(reference)
    normalize(adata)
    once = adata.X.copy()
    normalize(adata)
    assert adata.X.dtype == np.float32
    np.testing.assert_allclose(once.toarray(), reference.X.toarray(), atol=5e-7)
    np.testing.assert_array_equal(once.toarray(), adata.X.toarray())
    assert (adata.layers[keys.COUNTS] != before).nnz == 0


def test_target_must_be_positive() -> None:
    with pytest.raises(InputError, match="target_sum"):
        normalize(ad.AnnData(np.ones((1, 1))), target_sum=0)
