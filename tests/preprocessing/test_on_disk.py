"""Quality control, species and ambient RNA from disk: the same as in memory, in any cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from crs_sc import keys, pp
from crs_sc.datasets import simulate_cohort
from crs_sc.io import open_h5ad, read, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> ad.AnnData:
    """Both genomes, as read."""
    simulated = simulate_cohort(
        arms=("vehicle", "CART"),
        n_subjects_per_arm=1,
        cells_per_sample=250,
        n_background_genes=200,
        random_state=3,
    )
    path = tmp_path_factory.mktemp("disk") / "raw.h5ad"
    simulated.adata.write_h5ad(path)
    columns = {"sample": "lib", "subject": "mouse", "condition": "arm"}
    return read(path, columns=columns, organism="human+mouse")


@pytest.mark.parametrize("chunk", [3_000, 50_000, 10_000_000])
def test_disk_is_memory_bit_for_bit(cohort: ad.AnnData, chunk: int, tmp_path: Path) -> None:
    both = cohort.copy()
    write_h5ad(both, tmp_path / "both.h5ad")
    on_disk = open_h5ad(tmp_path / "both.h5ad")
    on_disk.layers[keys.COUNTS].chunk_values = chunk
    for adata in (both, on_disk):
        pp.call_species(adata)
    pd.testing.assert_frame_equal(both.obs, on_disk.obs, check_categorical=False)
    pd.testing.assert_frame_equal(
        both.uns[keys.UNS][keys.SPECIES_AMBIENT], on_disk.uns[keys.UNS][keys.SPECIES_AMBIENT]
    )
    cells = pp.select_species(both)
    write_h5ad(cells, tmp_path / "cells.h5ad")
    on_disk = open_h5ad(tmp_path / "cells.h5ad")
    on_disk.layers[keys.COUNTS].chunk_values = chunk
    for adata in (cells, on_disk):
        pp.quality_control(adata)
        pp.estimate_ambient(adata)
    pd.testing.assert_frame_equal(cells.obs, on_disk.obs, check_categorical=False)
    for name in (keys.QC, keys.CONTAMINATION):
        pd.testing.assert_frame_equal(
            cells.uns[keys.UNS][name], on_disk.uns[keys.UNS][name], check_exact=True
        )
    np.testing.assert_array_equal(
        cells.varm[keys.AMBIENT_PROFILE].to_numpy(), on_disk.varm[keys.AMBIENT_PROFILE].to_numpy()
    )
    assert (
        not cells.uns[keys.UNS][keys.CONTAMINATION]["ambient_source"].str.contains("assumed").all()
    )
