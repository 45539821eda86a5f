"""Pseudobulk from disk, what it leaves out, covariates, and the export to other libraries."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys
from crs_sc.comparison import Contrast, exclusions, export_counts, pseudobulk, shifts
from crs_sc.core.blocks import count_chunks
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.io import open_h5ad, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

GENES = [f"G{i}" for i in range(30)]
# Cells of Mono and T in each subject and arm; m1 to m4 are seen in both arms.
CELLS = {
    ("m1", "vehicle"): (30, 30),
    ("m1", "CART"): (30, 30),
    ("m2", "vehicle"): (30, 30),
    ("m2", "CART"): (4, 30),
    ("m3", "vehicle"): (30, 30),
    ("m3", "CART"): (0, 30),
    ("m4", "vehicle"): (30, 30),
    ("m4", "CART"): (30, 30),
    ("m5", "CART"): (30, 30),
}


def _cohort(*, ambient: bool = True, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    rows = [
        (f"{subject}_{condition}", subject, condition, population)
        for (subject, condition), numbers in CELLS.items()
        for population, n in zip(("Mono", "T"), numbers, strict=True)
        for _ in range(n)
    ]
    obs = pd.DataFrame(rows, columns=["sample", "subject", "condition", "population"])
    obs["sampling_weight"] = rng.uniform(0.5, 2, size=len(obs))
    obs = obs.sample(frac=1, random_state=seed)
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    mean = rng.gamma(2.0, 2.0, size=30)
    counts = sparse.csr_matrix(rng.poisson(mean, size=(len(obs), 30)).astype(np.float32))
    adata = ad.AnnData(obs=obs, var=pd.DataFrame(index=GENES), layers={"counts": counts})
    if ambient:
        samples = sorted(set(obs["sample"]))
        profile = rng.dirichlet(np.ones(30), size=len(samples)).T
        adata.varm["ambient_profile"] = pd.DataFrame(profile, index=GENES, columns=samples)
        rate = pd.DataFrame({"ambient_fraction": rng.uniform(0, 0.2, len(samples))}, index=samples)
        adata.uns["crs_sc"] = {"contamination": rate}
    return adata


def _assert_same(one: ad.AnnData, two: ad.AnnData) -> None:
    """Bit for bit."""
    pd.testing.assert_frame_equal(one.obs, two.obs, check_exact=True)
    for name in (None, "counts", "ambient"):
        a, b = (x.X if name is None else x.layers[name] for x in (one, two))
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
    pd.testing.assert_frame_equal(one.uns["crs_sc"]["exclusions"], two.uns["crs_sc"]["exclusions"])


@pytest.mark.parametrize("ambient", [True, False])
def test_disk_equals_memory_bit_for_bit(
    *, ambient: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = _cohort(ambient=ambient)
    write_h5ad(adata, tmp_path / "cohort.h5ad")
    memory = pseudobulk(adata)
    _assert_same(memory, pseudobulk(open_h5ad(tmp_path / "cohort.h5ad")))
    small = partial(count_chunks, max_values=100)
    monkeypatch.setattr("crs_sc.core.blocks.count_chunks", small)
    _assert_same(memory, pseudobulk(open_h5ad(tmp_path / "cohort.h5ad")))
    _assert_same(memory, pseudobulk(adata))


def test_counts_must_be_counts() -> None:
    adata = _cohort()
    adata.layers["counts"].data[5] = 0.5
    with pytest.raises(InputError, match=r"raw counts.*0\.5"):
        pseudobulk(adata)


def test_small_rows_are_listed_with_the_reason() -> None:
    bulk = pseudobulk(_cohort(), min_cells=5)
    table = bulk.uns[keys.UNS][keys.EXCLUSIONS]
    assert list(table.columns) == ["subject", "condition", "population", "n_cells", "reason"]
    assert table.to_numpy().tolist() == [
        ["m2", "CART", "Mono", 4, "too_few_cells"],
        ["m3", "CART", "Mono", 0, "no_cells"],
    ]
    # Nothing is dropped, and nothing is listed that is large enough.
    assert bulk.n_obs == len(CELLS) * 2
    assert pseudobulk(_cohort(), min_cells=4).uns[keys.UNS][keys.EXCLUSIONS].shape[0] == 1
    assert pseudobulk(_cohort(), min_cells=31).uns[keys.UNS][keys.EXCLUSIONS].shape[0] == bulk.n_obs
    with pytest.raises(InputError, match="min_cells"):
        pseudobulk(_cohort(), min_cells=0)


def test_the_table_survives_the_disk(tmp_path: Path) -> None:
    bulk = pseudobulk(_cohort())
    write_h5ad(bulk, tmp_path / "bulk.h5ad")
    again = ad.read_h5ad(tmp_path / "bulk.h5ad").uns[keys.UNS][keys.EXCLUSIONS]
    assert again["n_cells"].tolist() == [4, 0]
    assert again["reason"].tolist() == ["too_few_cells", "no_cells"]


PAIRED = Contrast("cart", "CART", "vehicle", paired=True)


def test_exclusions_of_a_paired_contrast() -> None:
    table = exclusions(pseudobulk(_cohort()), contrasts=[PAIRED])
    assert list(table.columns) == keys.EXCLUSIONS_TABLE.names
    assert set(table["contrast"]) == {"cart"}
    assert table.drop(columns="contrast").to_numpy().tolist() == [
        ["Mono", "m2", "vehicle", 30, "incomplete_pair"],
        ["Mono", "m3", "vehicle", 30, "incomplete_pair"],
        ["Mono", "m2", "CART", 4, "too_few_cells"],
        ["Mono", "m3", "CART", 0, "no_cells"],
        ["Mono", "m5", "CART", 30, "incomplete_pair"],
        ["T", "m5", "CART", 30, "incomplete_pair"],
    ]


@pytest.mark.parametrize("min_cells", [1, 4, 10, 31])
@pytest.mark.parametrize("paired", [True, False])
def test_used_and_excluded_subjects_are_all_subjects(*, min_cells: int, paired: bool) -> None:
    """What shifts uses and what the table lists add up to what is there."""
    adata = _cohort()
    if not paired:
        adata.obs["subject"] = adata.obs["sample"]
    bulk = pseudobulk(adata)
    contrast = Contrast("c", "CART", "vehicle", paired=paired)
    settings = {"contrasts": [contrast], "min_cells": min_cells}
    found = shifts(bulk, signatures={}, genes=["G0"], **settings).set_index("population")
    left_out = exclusions(bulk, **settings)
    there = {
        arm: sum(1 for _, condition in CELLS if condition == arm) for arm in ("vehicle", "CART")
    }
    for population, row in found.iterrows():
        mine = left_out[left_out["population"] == population]
        assert row["n_reference"] + (mine["condition"] == "vehicle").sum() == there["vehicle"]
        assert row["n_treated"] + (mine["condition"] == "CART").sum() == there["CART"]
    assert not left_out.duplicated(["population", "subject", "condition"]).any()


def test_a_population_that_is_not_tested_says_so() -> None:
    adata = _cohort()
    adata = adata[~(adata.obs["population"].eq("T") & adata.obs["condition"].eq("CART"))].copy()
    adata.obs["subject"] = adata.obs["sample"]
    table = exclusions(pseudobulk(adata), contrasts=[Contrast("c", "CART", "vehicle")])
    lost = table[table["population"] == "T"]
    assert set(lost.loc[lost["condition"] == "CART", "reason"]) == {"no_cells"}
    assert set(lost.loc[lost["condition"] == "vehicle", "reason"]) == {"not_tested"}
    assert exclusions(pseudobulk(adata), contrasts=[]).empty


def test_exclusions_by_time_point() -> None:
    adata = _cohort()
    adata.obs["timepoint"] = "d1"
    later = adata.copy()
    later.obs["timepoint"] = "d7"
    later.obs["sample"] = later.obs["sample"] + "_d7"
    later = later[~(later.obs["subject"].eq("m1") & later.obs["population"].eq("T"))].copy()
    both = ad.concat([adata, later], index_unique="_")
    contrast = Contrast("cart", "CART", "vehicle", paired=True, within="timepoint")
    table = exclusions(pseudobulk(both), contrasts=[contrast])
    late = table[(table["contrast"] == "cart@d7") & (table["population"] == "T")]
    assert late[["subject", "reason"]].to_numpy().tolist() == [
        ["m1", "no_cells"], ["m1", "no_cells"], ["m5", "incomplete_pair"],
    ]  # fmt: skip
    # Pooled over time m1 has T cells, and 4 + 4 Mono of m2 are still fewer than 10.
    pooled = exclusions(pseudobulk(both), contrasts=[PAIRED])
    assert pooled.loc[pooled["population"] == "T", "subject"].tolist() == ["m5"]
    small = pooled[pooled["reason"] == "too_few_cells"]
    assert small[["subject", "n_cells"]].to_numpy().tolist() == [["m2", 8]]


def test_covariates_are_those_of_the_samples() -> None:
    adata = _cohort()
    sample = adata.obs["sample"]
    # A second library of m1 under vehicle, of another age.
    first = np.flatnonzero(sample == "m1_vehicle")[:20]
    adata.obs["sample"] = sample.where(~sample.index.isin(sample.index[first]), "m1_again")
    for part in ("varm", "uns"):
        getattr(adata, part).clear()
    adata.obs["age"] = adata.obs["subject"].map({f"m{i}": 8.0 + i for i in range(1, 6)})
    adata.obs.loc[adata.obs["sample"] == "m1_again", "age"] = 19.0
    adata.obs["sex"] = pd.Categorical(np.where(adata.obs["subject"] < "m3", "f", "m"))
    adata.obs.loc[adata.obs["sample"] == "m1_again", "sex"] = "m"
    adata.obs["centre"] = adata.obs["subject"].map({"m1": "A", "m2": "B"})
    bulk = pseudobulk(adata, covariates=["age", "sex", "centre"])
    plain = pseudobulk(adata)
    pd.testing.assert_frame_equal(bulk.obs.drop(columns=["age", "sex", "centre"]), plain.obs)
    by = bulk.obs.groupby(["condition", "subject"], observed=True)[["age", "sex", "centre"]].first()
    assert by.loc[("vehicle", "m1")].tolist() == [14.0, "f+m", "A"]
    assert by.loc[("CART", "m1")].tolist() == [9.0, "f", "A"]
    assert by["age"].dtype == np.float64
    assert by.loc[("CART", "m5")].isna().tolist() == [False, False, True]
    adata.obs["depth"] = np.arange(adata.n_obs)
    with pytest.raises(InputError, match=r"more than one depth.*one value a sample"):
        pseudobulk(adata, covariates=["depth"])
    with pytest.raises(MissingKeyError, match="weight_kg"):
        pseudobulk(adata, covariates=["weight_kg"])
    with pytest.raises(InputError, match="subject cannot be cov"):
        pseudobulk(adata, covariates=["subject"])


def test_export_holds_raw_whole_counts_of_the_rows_that_are_large_enough() -> None:
    adata = _cohort()
    bulk = pseudobulk(adata)
    export = export_counts(bulk, min_cells=10)
    assert export.n_obs == bulk.n_obs - 2
    assert export.X.dtype == np.int64
    np.testing.assert_array_equal(export.X, export.layers["counts"])
    kept = bulk[export.obs_names]
    np.testing.assert_array_equal(export.X, kept.layers["counts"].toarray())
    # Raw, not corrected for ambient RNA.
    assert export.X.sum() > kept.X.sum()
    np.testing.assert_array_equal(export.obs["psbulk_cells"], kept.obs["n_cells"])
    np.testing.assert_array_equal(export.obs["psbulk_counts"], export.X.sum(axis=1))
    assert export.uns[keys.UNS][keys.EXCLUSIONS]["n_cells"].tolist() == [4, 0]
    assert len(export_counts(bulk, min_cells=1).uns[keys.UNS][keys.EXCLUSIONS]) == 1
    assert len(bulk.uns[keys.UNS][keys.EXCLUSIONS]) == 2


@pytest.mark.filterwarnings("ignore")
def test_export_goes_straight_into_pydeseq2(tmp_path: Path) -> None:
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    adata = _cohort()
    changed = (adata.obs["condition"] == "CART").to_numpy()
    counts = adata.layers["counts"].toarray()
    counts[changed, 0] *= 8
    adata.layers["counts"] = sparse.csr_matrix(counts)
    write_h5ad(export_counts(pseudobulk(adata)), tmp_path / "export.h5ad")
    export = ad.read_h5ad(tmp_path / "export.h5ad")
    dds = DeseqDataSet(
        adata=export[export.obs["population"] == "T"].copy(), design="~condition", quiet=True
    )
    dds.deseq2()
    stats = DeseqStats(dds, contrast=["condition", "CART", "vehicle"], quiet=True)
    stats.summary()
    assert stats.results_df["padj"].idxmin() == "G0"
    assert stats.results_df.loc["G0", "log2FoldChange"] == pytest.approx(3, abs=0.3)


def test_a_table_without_rows_survives_the_disk(tmp_path: Path) -> None:
    adata = _cohort()
    bulk = pseudobulk(adata[adata.obs["population"] == "T"].copy())
    assert bulk.uns[keys.UNS][keys.EXCLUSIONS].empty
    for write in (ad.AnnData.write_h5ad, write_h5ad):
        write(bulk, tmp_path / "bulk.h5ad")
        again = ad.read_h5ad(tmp_path / "bulk.h5ad").uns[keys.UNS][keys.EXCLUSIONS]
        assert list(again.columns) == [
            "subject", "condition", "population", "n_cells", "reason",
        ]  # fmt: skip
        assert again.empty
