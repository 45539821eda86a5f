"""Genes for the embedding."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import genesets, keys
from crs_sc.core.blocks import pass_over
from crs_sc.errors import InputError
from crs_sc.preprocessing import select_genes
from crs_sc.preprocessing._variance import (
    BatchMoments,
    ClippedCounts,
    most_variable,
    standardised_variance,
)

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
    def singular(*arguments: object) -> None:
        msg = "reciprocal condition number 1e-17"
        raise ValueError(msg)

    monkeypatch.setattr(BatchMoments, "limits", singular)
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


def test_ranks_are_those_of_scanpy() -> None:
    import scanpy as sc

    adata = cohort((120, 90))
    # Some counts that are clipped.
    adata.layers[keys.COUNTS].data[::97] = 900
    adata.X = adata.layers[keys.COUNTS]
    columns = np.arange(adata.n_vars)
    codes = (adata.obs[keys.SAMPLE] == "s1").to_numpy().astype(np.int32)
    moments = BatchMoments(codes, 2, adata.n_vars)
    pass_over(adata, moments)
    spread, limit = moments.limits(columns)
    clipped = ClippedCounts(codes, limit)
    pass_over(adata, clipped)
    variance = standardised_variance(moments, clipped, spread, columns)
    for code, batch in enumerate(("s0", "s1")):
        own = adata[adata.obs[keys.SAMPLE] == batch].copy()
        known = sc.pp.highly_variable_genes(own, flavor="seurat_v3", n_top_genes=50, inplace=False)[
            "variances_norm"
        ]
        np.testing.assert_allclose(variance[code], known, rtol=1e-6)
    assert clipped.lost.any()
    known = sc.pp.highly_variable_genes(
        adata, flavor="seurat_v3", n_top_genes=50, batch_key=keys.SAMPLE, inplace=False
    )["highly_variable"].to_numpy()
    found = most_variable(variance, columns, 50)
    # scanpy's variances of several batches are of single precision.
    assert len(np.intersect1d(found, np.flatnonzero(known))) >= 48
