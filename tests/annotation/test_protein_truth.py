"""Calls from transcripts against the surface proteins of the same cells (Mimitou 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np

from crs_sc import keys, pp, tl

if TYPE_CHECKING:
    from pathlib import Path


def test_cd4_and_cd8_t_cells_are_those_with_the_protein(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "ecciteseq_pbmc_500.h5ad")
    adata.obs[keys.SAMPLE] = "s"
    adata.layers[keys.COUNTS] = adata.X.copy()
    pp.normalize(adata)
    pp.select_genes(adata)
    tl.embed(adata)
    tl.cluster(adata)
    tl.annotate(adata)
    adt, population = adata.obsm["adt"], adata.obs[keys.POPULATION].astype(str).to_numpy()
    no_b = (adt["CD19"] <= 100) & (adt["CD11c"] <= 100)
    # NK cells have CD8 dimly: only cells with much of it are taken for T cells.
    cd4 = (no_b & (adt["CD4"] > 100) & (adt["CD8"] < 50)).to_numpy()
    cd8 = (no_b & (adt["CD8"] > 250) & (adt["CD4"] < 50)).to_numpy()
    assert (cd4.sum(), cd8.sum()) > (90, 140)
    right = np.concatenate([population[cd4] == "CD4 T", population[cd8] == "CD8 T"])
    assert right.mean() >= 0.88
    lineage = adata.obs[keys.LINEAGE].astype(str).to_numpy()
    assert (lineage[cd4 | cd8] == "T").mean() >= 0.97
