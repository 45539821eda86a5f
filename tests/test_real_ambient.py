"""Ambient RNA of real PBMC (10x 4k, the example of SoupX): what is known of it comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

from crs_sc import genesets, keys
from crs_sc.core.ambient import ambient_rejections, take_counts
from crs_sc.preprocessing import estimate_ambient
from crs_sc.sources import call_producers, producers, production

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

# Constant chains, of which ambient RNA holds enough to be seen in every population.
IMMUNOGLOBULIN = ("IGKC", "IGLC2", "IGLC3", "IGHM", "IGHD")
T_CELLS = ("CD4 T", "CD8 T")


@pytest.fixture(scope="module")
def pbmc(shared_data: Path) -> AnnData:
    """Cells with the published labels and ambient RNA of the published empty droplets."""
    adata = ad.read_h5ad(shared_data / "pbmc4k_soupx_2170.h5ad")
    adata.layers[keys.COUNTS] = adata.X
    for column in (keys.SAMPLE, keys.SUBJECT, keys.CONDITION):
        adata.obs[column] = "s"
    adata.obs[keys.POPULATION] = adata.obs["cell_type"].astype(str)
    estimate_ambient(adata, empty_profiles={"s": adata.var["soup_est"]})
    return adata


def test_contamination_is_a_few_per_cent_and_known_from_immunoglobulin(pbmc: AnnData) -> None:
    row = pbmc.uns[keys.UNS][keys.CONTAMINATION].loc["s"]
    # A few per cent, the order of the published SoupX example.
    assert 0.03 < row["ambient_fraction"] < 0.09
    assert row["ambient_lower"] < row["ambient_fraction"] < row["ambient_upper"] < 0.12
    assert row["ambient_source"].startswith("empty_droplets")
    assert "immunoglobulin" in row["ambient_source"]


def test_immunoglobulin_outside_b_cells_is_ambient(pbmc: AnnData) -> None:
    cells = take_counts(pbmc, IMMUNOGLOBULIN, sample_key=keys.SAMPLE, layer=keys.COUNTS)
    population = pbmc.obs[keys.POPULATION].to_numpy()
    in_t = np.isin(population, T_CELLS)
    # What T cells show of it, ambient RNA was expected to add, over all chains together.
    seen, expected = cells.umi[in_t].sum(), cells.expected[in_t].sum()
    assert seen > 300
    assert seen / expected == pytest.approx(1.0, abs=0.25)
    for column, gene in enumerate(cells.genes):
        beyond = ambient_rejections(
            cells.umi[:, column], cells.expected[:, column], cells.sample_codes, alpha=0.05
        )
        assert beyond[in_t].mean() < 0.01, gene
        # A B cell has one of the light chains.
        assert beyond[population == "B"].mean() > 0.25, gene


def test_producers_of_immunoglobulin_are_b_cells(pbmc: AnnData) -> None:
    call_producers(pbmc, genes=["IGKC", "IGHM", "IGHD"])
    table = production(producers(pbmc)).set_index(["gene", "population"])
    for gene in ("IGKC", "IGHM", "IGHD"):
        assert table.loc[(gene, "B"), "state"] == keys.PRODUCER
        for population in T_CELLS:
            assert table.loc[(gene, population), "state"] == keys.AMBIENT_COMPATIBLE
            assert table.loc[(gene, population), "umi"] > 10


def test_haemoglobin_is_in_red_cells_alone(pbmc: AnnData) -> None:
    is_haemoglobin = genesets.haemoglobin_genes(pbmc.var_names)
    totals = np.asarray(pbmc.X[:, is_haemoglobin].sum(axis=1)).ravel()
    genes = pbmc.var_names[is_haemoglobin & (pbmc.var["soup_est"].to_numpy() > 0)]
    cells = take_counts(pbmc, list(genes), sample_key=keys.SAMPLE, layer=keys.COUNTS)
    beyond = ambient_rejections(
        cells.umi.sum(axis=1), cells.expected.sum(axis=1), cells.sample_codes, alpha=0.05
    )
    # Two droplets hold a red cell beside another; a UMI in others is ambient RNA.
    assert 1 <= beyond.sum() <= 3
    assert totals[beyond].sum() > 0.8 * totals.sum()
    assert ((totals > 0) & ~beyond).sum() >= 2
