from __future__ import annotations

import numpy as np
import pytest

import crs_sc as crs
from crs_sc import keys
from crs_sc.datasets import toy_cohort


def test_raw_is_what_the_reader_gives(tmp_path):
    adata = toy_cohort(state="raw")
    lab = adata.copy()
    lab.X = lab.layers.pop(keys.COUNTS)
    del lab.uns[keys.UNS]
    lab.write_h5ad(tmp_path / "cohort.h5ad")
    again = crs.read(tmp_path / "cohort.h5ad", organism="human")
    assert (again.layers[keys.COUNTS] != adata.layers[keys.COUNTS]).nnz == 0
    assert again.obs.equals(adata.obs)
    assert again.var[keys.ORIGINAL_NAME].equals(adata.var[keys.ORIGINAL_NAME])
    assert again.uns[keys.UNS] == adata.uns[keys.UNS]


def test_annotated_has_both_arms_and_finds_the_planted_sources():
    adata = toy_cohort()
    assert 600 <= adata.n_obs <= 900
    assert adata.obs.groupby("condition", observed=True)["subject"].nunique().to_list() == [3, 3]
    crs.tl.call_producers(adata, genes=["IL1B", "IL6"])
    ledger = crs.tl.ledger(adata, genes=["IL1B", "IL6"])
    share = (
        ledger[ledger["gene"] == "IL6"].groupby("population", observed=True)["corrected_umi"].sum()
    )
    assert share.drop(keys.ALL_POPULATIONS, errors="ignore").idxmax() == "Classical monocyte"


def test_a_copy_is_the_callers_own_and_an_unknown_state_is_refused():
    adata = toy_cohort()
    adata.X.data[:] = 0
    assert np.asarray(toy_cohort().X.sum()) > 0
    with pytest.raises(crs.errors.InputError, match="state must be"):
        toy_cohort(state="cooked")  # type: ignore[arg-type]
