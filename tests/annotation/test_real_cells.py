"""Calls on real cells: stimulated monocytes, surface proteins, mouse dendritic cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from crs_sc import keys, pp, tl

if TYPE_CHECKING:
    from pathlib import Path

MONOCYTES = ("CD14+ Monocytes", "FCGR3A+ Monocytes")
# Reads, not UMI: of a gene that is not expressed a few stray reads are seen.
PRODUCER = 10


def annotated(adata: ad.AnnData, **settings: str) -> ad.AnnData:
    """The way a user takes, with all defaults."""
    pp.normalize(adata)
    pp.select_genes(adata)
    tl.embed(adata)
    tl.cluster(adata)
    tl.annotate(adata, **settings)
    return adata


def test_stimulated_monocytes_stay_monocytes(shared_data: Path) -> None:
    """Interferon beta (Kang 2018)."""
    adata = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad")
    stim = (adata.obs["condition"] == "stim") & (adata.obs["demuxlet_call"] == "SNG")
    adata = adata[stim & (adata.obs["cell_type"] != "unlabelled")].copy()
    adata.layers[keys.COUNTS] = adata.X.copy()
    annotated(adata)
    label = adata.obs["cell_type"].astype(str)
    lineage = adata.obs["lineage"].astype(str)
    assert (lineage[label.isin(MONOCYTES)] == "Monocyte").mean() > 0.97
    assert (lineage[label == "Dendritic cells"] == "Monocyte").mean() < 0.3
    assert (lineage == keys.UNKNOWN).mean() < 0.05


def test_cd4_and_cd8_t_cells_are_those_with_the_protein(shared_data: Path) -> None:
    """Mimitou 2019: the surface proteins of the same cells."""
    adata = ad.read_h5ad(shared_data / "ecciteseq_pbmc_500.h5ad")
    adata.obs[keys.SAMPLE] = "s"
    adata.layers[keys.COUNTS] = adata.X.copy()
    annotated(adata)
    adt, population = adata.obsm["adt"], adata.obs[keys.POPULATION].astype(str).to_numpy()
    no_b = (adt["CD19"] <= 100) & (adt["CD11c"] <= 100)
    # NK cells have CD8 dimly: only cells with much of it are taken for T cells.
    cd4 = (no_b & (adt["CD4"] > 100) & (adt["CD8"] < 50)).to_numpy()
    cd8 = (no_b & (adt["CD8"] > 250) & (adt["CD4"] < 50)).to_numpy()
    assert (cd4.sum(), cd8.sum()) > (90, 140)
    right = np.concatenate([population[cd4] == "CD4 T", population[cd8] == "CD8 T"])
    # Over six seeds of all steps it is 258 to 260 of 294 cells.
    assert right.sum() >= 258
    assert len(right) == 294
    lineage = adata.obs[keys.LINEAGE].astype(str).to_numpy()
    assert (lineage[cd4 | cd8] == "T").mean() >= 0.97


# --- bone-marrow dendritic cells after LPS and PAM (Shalek 2014) ---------------------------------


@pytest.fixture(scope="module")
def cells(shared_data: Path) -> ad.AnnData:
    adata = ad.read_h5ad(shared_data / "shalek_bmdc_lps_mouse.h5ad")
    adata = adata[~adata.obs["label_suspect"].astype(bool)].copy()
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.SAMPLE] = (
        adata.obs["stimulus"].astype(str) + " " + adata.obs["time_h"].astype(str)
    )
    return adata


def producer_share(cells: ad.AnnData, gene: str, stimulus: str) -> pd.Series:
    """Share of producers by hour, the unstimulated cells at 0."""
    keep = cells.obs["stimulus"].isin([stimulus, "Unstimulated"]).to_numpy()
    makes = np.asarray(cells[keep, gene].layers[keys.COUNTS].todense()).ravel() >= PRODUCER
    return pd.Series(makes).groupby(cells.obs["time_h"][keep].astype(int).to_numpy()).mean()


def test_named_cells_are_dendritic_cells_and_macrophages(cells: ad.AnnData) -> None:
    adata = annotated(cells.copy(), organism="mouse")
    lineage = adata.obs[keys.LINEAGE].astype(str)
    named = lineage[lineage != keys.UNKNOWN]
    assert len(named) >= 0.7 * adata.n_obs
    assert named.isin(["DC", "Macrophage"]).mean() >= 0.95
    # Both are in the culture (Helft 2015, doi:10.1016/j.immuni.2015.05.018).
    assert set(named.value_counts().index[:2]) == {"DC", "Macrophage"}


@pytest.mark.parametrize("stimulus", ["LPS", "PAM"])
def test_producers_of_il6_and_il1_rise_with_time_and_il1_comes_first(
    cells: ad.AnnData, stimulus: str
) -> None:
    il1b, il6 = (producer_share(cells, gene, stimulus) for gene in ("Il1b", "Il6"))
    assert il1b.index.tolist() == il6.index.tolist() == [0, 1, 2, 4, 6]
    assert il6[6] - il6[0] >= 0.7
    assert stats.kendalltau(il6.index, il6).statistic >= 0.6
    # Nearly all cells make IL-1 from the second hour on: it rises early and then stays.
    assert (il1b[1:] - il1b[0] >= 0.4).all()
    assert il1b[6] - il1b[0] >= 0.7
    # At one hour most cells that will make IL-1 do, and fewer of those that will make IL-6.
    assert il1b[1] / il1b[6] - il6[1] / il6[6] >= 0.15
    assert il1b[1] > il6[1]
