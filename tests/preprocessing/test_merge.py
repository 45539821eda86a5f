"""Samples put together after QC one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import InputError
from crs_sc.io import open_h5ad, write_h5ad
from crs_sc.preprocessing import filter_cells, merge_samples, quality_control

if TYPE_CHECKING:
    from pathlib import Path


def sample(name: str, *, umi: float, fraction: float = 0.1, assumed: bool = False) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(umi / 2000, size=(30, 2000))
    obs = {keys.SAMPLE: name, keys.SUBJECT: name, keys.CONDITION: "ctrl"}
    adata = ad.AnnData(
        obs=pd.DataFrame(obs, index=[f"{name}_{i}" for i in range(30)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(2000)]),
        layers={keys.COUNTS: sparse.csr_matrix(counts, dtype=np.float32)},
    )
    quality_control(adata)
    cells = filter_cells(adata)
    cells.varm[keys.AMBIENT_PROFILE] = pd.DataFrame({name: 1 / 2000}, index=cells.var_names)
    cells.uns[keys.UNS][keys.CONTAMINATION] = pd.DataFrame(
        {
            "ambient_fraction": [fraction],
            "ambient_upper": [0.5 if assumed else 1.2 * fraction],
            "ambient_source": ["pooled_cells; " + ("assumed" if assumed else "myeloid")],
            "ambient_lower": [0.0 if assumed else 0.8 * fraction],
        },
        [name],
    )
    return cells


def test_a_sample_without_cells_keeps_its_row() -> None:
    cohort = merge_samples([sample("a", umi=2000), sample("b", umi=20)])
    assert cohort.n_obs == 30
    assert cohort.uns[keys.UNS][keys.QC]["n_cells_out"].to_dict() == {"a": 30, "b": 0}
    assert list(cohort.varm[keys.AMBIENT_PROFILE]) == ["a", "b"]


def test_nothing_left_says_why() -> None:
    with pytest.raises(InputError, match=r"of 60 barcodes, 60 low_counts .*at least 300"):
        merge_samples([sample("a", umi=20), sample("b", umi=20)])


def test_an_assumed_fraction_becomes_the_upper_quartile_of_the_measured() -> None:
    parts = [
        sample(name, umi=2000, fraction=fraction)
        for name, fraction in zip("abc", (0.01, 0.02, 0.03), strict=True)
    ]
    parts.append(sample("d", umi=2000, fraction=0.1, assumed=True))
    cohort = merge_samples(parts)
    table = cohort.uns[keys.UNS][keys.CONTAMINATION]
    assert table["ambient_fraction"].tolist() == pytest.approx([0.01, 0.02, 0.03, 0.025])
    assert table.loc["d", "ambient_upper"] == pytest.approx(0.036)
    assert table.loc["d", "ambient_source"] == (
        "pooled_cells; upper quartile of 3 samples, assumed"
    )
    assert any("upper quartile" in note for note in cohort.uns[keys.UNS][keys.NOTES])
    two = merge_samples([parts[0], parts[1], parts[3]]).uns[keys.UNS][keys.CONTAMINATION]
    assert two.loc["d", "ambient_fraction"] == 0.1
    assert two.loc["d", "ambient_upper"] == 0.5


def test_droplets_of_all_samples_stay_once() -> None:
    parts = [sample("a", umi=2000), sample("b", umi=2000)]
    for part, name in zip(parts, "ab", strict=True):
        droplets = pd.DataFrame(
            {keys.SAMPLE: [name], "umi_analysed": [9], "umi_other": [1], keys.SPECIES: ["human"]},
            index=[f"{name}_0"],
        )
        part.uns[keys.UNS][keys.DROPLETS] = droplets
    table = merge_samples(parts).uns[keys.UNS][keys.DROPLETS]
    assert table.index.tolist() == ["a_0", "b_0"]


def test_parts_may_be_on_disk_or_without_counts(tmp_path: Path) -> None:
    parts = [sample(name, umi=2000) for name in "abcdef"]
    for part, name in zip(parts, "abcdef", strict=True):
        write_h5ad(part, tmp_path / f"{name}.h5ad")
    memory = merge_samples(parts)
    disk = merge_samples([open_h5ad(tmp_path / f"{name}.h5ad") for name in "abcdef"])
    for name in ("data", "indices", "indptr"):
        one, two = (getattr(found.layers[keys.COUNTS], name) for found in (memory, disk))
        np.testing.assert_array_equal(one, two)
    for part in parts:
        del part.layers[keys.COUNTS]
    bare = merge_samples(parts)
    assert keys.COUNTS not in bare.layers
    pd.testing.assert_frame_equal(bare.obs, memory.obs)
