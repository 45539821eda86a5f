"""Counts with fractions, as a correction for ambient RNA leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys, read
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, values: np.ndarray, *, dense: bool) -> Path:
    names = ["CD3D", "LYZ", *(f"G{i}" for i in range(values.shape[1] - 2))]
    matrix = values if dense else sparse.csr_matrix(values)
    obs = pd.DataFrame(index=[f"AAAC{i}-1" for i in range(len(values))])
    ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=names)).write_h5ad(path)
    return path


def corrected_counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    raw = rng.poisson(3.0, (30, 40)).astype(np.float32) * rng.integers(1, 9, (30, 1))
    return np.maximum(raw - 0.3 * (raw > 0) * rng.random(raw.shape), 0).astype(np.float32)


@pytest.mark.parametrize("dense", [True, False])
def test_declared_fractions_are_rounded_and_said(tmp_path: Path, *, dense: bool) -> None:
    values = corrected_counts()
    path = write(tmp_path / "soupx.h5ad", values, dense=dense)
    with pytest.raises(InputError, match="corrected=True"):
        read(path)
    adata = read(path, corrected=True)
    counts = adata.layers[keys.COUNTS]
    np.testing.assert_array_equal(counts.toarray(), np.rint(values))
    assert counts.has_sorted_indices
    assert (counts.data != 0).all()
    assert "rounded to whole UMI" in " ".join(adata.uns[keys.UNS][keys.NOTES])


def test_a_few_fractions_are_damage_unless_declared(tmp_path: Path) -> None:
    values = np.rint(corrected_counts())
    values[3, 4] = 2.4
    path = write(tmp_path / "few.h5ad", values, dense=False)
    with pytest.raises(InputError, match="not whole"):
        read(path)
    assert read(path, corrected=True).layers[keys.COUNTS][3, 4] == 2


def test_normalised_and_logarithmic_values_stay_refused(tmp_path: Path) -> None:
    values = corrected_counts()
    scaled = values / values.sum(axis=1, keepdims=True) * 1e4
    for name, wrong in {"cp10k": scaled, "log": np.log1p(scaled), "minus": values - 1}.items():
        path = write(tmp_path / f"{name}.h5ad", wrong.astype(np.float32), dense=False)
        with pytest.raises(InputError, match="counts"):
            read(path, corrected=True)


def test_whole_counts_are_taken_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.h5ad", np.rint(corrected_counts()), dense=False)
    one, two = read(path), read(path, corrected=True)
    assert (one.layers[keys.COUNTS] != two.layers[keys.COUNTS]).nnz == 0
    assert list(one.uns[keys.UNS][keys.NOTES]) == list(two.uns[keys.UNS][keys.NOTES])
