"""Samples put together after QC one by one."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import InputError
from crs_sc.preprocessing import filter_cells, merge_samples, quality_control


def sample(name: str, *, umi: float) -> ad.AnnData:
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
    cells.uns[keys.UNS][keys.CONTAMINATION] = pd.DataFrame({"ambient_fraction": [0.1]}, [name])
    return cells


def test_a_sample_without_cells_keeps_its_row() -> None:
    cohort = merge_samples([sample("a", umi=2000), sample("b", umi=20)])
    assert cohort.n_obs == 30
    assert cohort.uns[keys.UNS][keys.QC]["n_cells_out"].to_dict() == {"a": 30, "b": 0}
    assert list(cohort.varm[keys.AMBIENT_PROFILE]) == ["a", "b"]


def test_nothing_left_says_why() -> None:
    with pytest.raises(InputError, match=r"of 60 barcodes, 60 low_counts .*at least 300"):
        merge_samples([sample("a", umi=20), sample("b", umi=20)])
