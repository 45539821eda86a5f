"""Limits of quality control, the reasons it gives, and its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.preprocessing import (
    call_doublets,
    call_species,
    estimate_ambient,
    filter_cells,
    normalize,
    qc_table,
    quality_control,
)
from crs_sc.preprocessing.qc import lower_limit, upper_limit

if TYPE_CHECKING:
    from pathlib import Path


def cohort(sizes: tuple[int, ...] = (60, 1), *, n_genes: int = 2000, seed: int = 0) -> ad.AnnData:
    """Samples of cells with about 2,000 UMI, 3 % of it mitochondrial."""
    rng = np.random.default_rng(seed)
    depth = 2000 * rng.lognormal(0, 0.3, sum(sizes))
    share = np.full(n_genes, 0.97 / (n_genes - 1))
    share[0] = 0.03
    counts = rng.poisson(depth[:, None] * share)
    names = ["MT-CO1", *(f"G{i}" for i in range(1, n_genes))]
    adata = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), var=pd.DataFrame(index=names))
    adata.layers[keys.COUNTS] = adata.X.copy()
    sample = np.repeat([f"s{i}" for i in range(len(sizes))], sizes)
    adata.obs[keys.SAMPLE] = sample
    adata.obs[keys.SUBJECT] = sample
    adata.obs[keys.CONDITION] = "ctrl"
    return adata


def scale_cell(adata: ad.AnnData, cell: int, factor: float) -> None:
    counts = adata.layers[keys.COUNTS].tolil()
    counts[cell] = np.floor(counts[cell].toarray() * factor)
    adata.layers[keys.COUNTS] = counts.tocsr()


def test_lower_limit_is_the_closed_form() -> None:
    values = np.exp(np.linspace(6, 10, 401))
    mad = 1.4826 * 1.0
    assert lower_limit(values, floor=1, n_mads=2) == pytest.approx(np.exp(8 - 2 * mad))
    assert lower_limit(values, floor=300, n_mads=5) == 300


def test_lower_limit_ignores_empty_droplets() -> None:
    cells = np.full(100, 5000.0)
    alone = lower_limit(cells, floor=300, n_mads=3)
    assert lower_limit(np.append(cells, np.full(5000, 5.0)), floor=300, n_mads=3) == alone


def test_pure_sample_keeps_cells_with_a_quarter_of_the_rna() -> None:
    assert lower_limit(np.full(1000, 4000.0), floor=300, n_mads=4) < 1000


def test_upper_limit_stays_in_its_range() -> None:
    assert upper_limit(np.full(50, 0.01), lowest=0.08, highest=0.2, n_mads=4) == 0.08
    assert upper_limit(np.linspace(0, 0.9, 50), lowest=0.08, highest=0.2, n_mads=4) == 0.2
    values = np.linspace(0.05, 0.15, 101)
    expected = 0.1 + 2 * 1.4826 * 0.025
    assert upper_limit(values, lowest=0.0, highest=1.0, n_mads=2) == pytest.approx(expected)


def test_each_damaged_cell_gets_its_first_reason() -> None:
    adata = cohort((60,))
    counts = adata.layers[keys.COUNTS].tolil()
    counts[0] = 0
    counts[1, 1:] = 0
    counts[1, 5] = 3000
    counts[2, 0] = 2000
    adata.layers[keys.COUNTS] = counts.tocsr()
    call_species(adata)
    species = adata.obs[keys.SPECIES].copy()
    species.iloc[3], species.iloc[4] = "mouse", "mixed"
    adata.obs[keys.SPECIES] = species
    quality_control(adata)
    expected = ["low_counts", "low_genes", "high_mt", "other_species", "cross_species", "pass"]
    assert adata.obs[keys.QC_STATUS].tolist()[:6] == expected
    row = qc_table(adata).iloc[0]
    reasons = ["n_low_counts", "n_low_genes", "n_high_mt", "n_other_species", "n_cross_species"]
    assert [row[name] for name in reasons] == [1] * 5
    assert row["n_cells_in"] == 60
    assert row["n_cells_out"] == 55


def test_measures_are_the_plain_sums() -> None:
    adata = cohort((5,))
    scale_cell(adata, 2, 0)
    quality_control(adata)
    dense = adata.layers[keys.COUNTS].toarray()
    np.testing.assert_array_equal(adata.obs[keys.N_UMI], dense.sum(1))
    np.testing.assert_array_equal(adata.obs[keys.N_GENES], (dense > 0).sum(1))
    np.testing.assert_allclose(
        adata.obs[keys.MT_FRACTION], dense[:, 0] / np.maximum(dense.sum(1), 1), rtol=1e-6
    )


def test_without_mitochondrial_genes_the_filter_is_off_and_said_so() -> None:
    adata = cohort((40,))[:, 1:].copy()
    quality_control(adata)
    row = qc_table(adata).iloc[0]
    assert np.isnan(row["max_mt_fraction"])
    assert np.isnan(row["median_mt_fraction"])
    assert "no mitochondrial gene" in row["note"]
    assert row["n_cells_out"] == 40


def test_one_cell_sample_and_lost_sample_stay_in_the_table() -> None:
    adata = cohort((60, 1, 3))
    for cell in (61, 62, 63):
        scale_cell(adata, cell, 0.01)
    quality_control(adata)
    call_doublets(adata)
    estimate_ambient(adata)
    table = qc_table(adata).set_index(keys.SAMPLE)
    assert table["n_cells_out"].tolist() == [60, 1, 0]
    assert table["n_doublets"].isna().all()
    assert "no cell passed" in table.loc["s2", "note"]
    assert "fewer than 100" in table.loc["s0", "note"]
    kept = filter_cells(adata)
    assert kept.n_obs == 61
    pd.testing.assert_frame_equal(qc_table(kept).set_index(keys.SAMPLE), table)


def test_table_has_the_contract_columns_before_and_after_later_steps() -> None:
    adata = cohort()
    quality_control(adata)
    assert list(qc_table(adata).columns) == keys.QC_TABLE.names
    estimate_ambient(adata)
    table = qc_table(adata)
    assert list(table.columns) == keys.QC_TABLE.names
    assert table.columns[-1] == "ambient_lower"
    assert (table["ambient_lower"] <= table["ambient_fraction"]).all()
    assert table["ambient_source"].str.startswith("pooled_cells").all()


def test_cohort_that_loses_every_cell_is_refused_by_name() -> None:
    adata = cohort((5,))
    quality_control(adata, min_umi=10**6)
    kept = filter_cells(adata)
    with pytest.raises(InputError, match="no cell left"):
        normalize(kept)


def test_missing_steps_and_settings_say_what_to_do() -> None:
    adata = cohort((5,))
    with pytest.raises(MissingKeyError, match="quality_control"):
        qc_table(adata)
    with pytest.raises(MissingKeyError, match="qc_status"):
        filter_cells(adata)
    with pytest.raises(InputError, match="max_mt_fraction"):
        quality_control(adata, max_mt_fraction=1.5)
    with pytest.raises(InputError, match="n_mads"):
        quality_control(adata, n_mads=0)


@pytest.mark.parametrize(
    ("name", "sample"),
    [
        ("kang_ifnb_3800", "sample"),
        ("kang_ctrl_12k_1287genes", "sample"),
        ("pbmc4k_soupx_2170", ""),
    ],
)
def test_real_cells_are_kept(shared_data: Path, name: str, sample: str) -> None:
    adata = ad.read_h5ad(shared_data / f"{name}.h5ad")
    adata.layers[keys.COUNTS] = adata.X
    adata.obs[keys.SAMPLE] = adata.obs[sample].astype(str) if sample else "s"
    adata.obs[keys.SUBJECT] = adata.obs[keys.SAMPLE]
    adata.obs[keys.CONDITION] = "x"
    quality_control(adata)
    assert (adata.obs[keys.QC_STATUS] == keys.PASS).mean() > 0.95
