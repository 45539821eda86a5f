"""Normalisation starts from the counts, always."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import InputError
from crs_sc.preprocessing import normalize
from crs_sc.preprocessing.normalisation import log_normalised


@given(arrays(np.float32, (4, 5), elements=st.integers(0, 50).map(float)))
def test_kernel_is_the_formula_and_empty_cells_stay_empty(dense: np.ndarray) -> None:
    result = log_normalised(sparse.csr_matrix(dense), target_sum=1e4)
    total = np.maximum(dense.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(result.toarray(), np.log1p(dense / total * 1e4), rtol=1e-5)


def test_agrees_with_scanpy_and_cannot_be_done_twice() -> None:
    import scanpy as sc

    rng = np.random.default_rng(0)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(1.0, (20, 30)), dtype=np.float32))
    adata.layers[keys.COUNTS] = adata.X.copy()
    reference = adata.copy()
    sc.pp.normalize_total(reference, target_sum=1e4)
    sc.pp.log1p(reference)
    before = adata.layers[keys.COUNTS].copy()
    normalize(adata)
    once = adata.X.copy()
    normalize(adata)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(once.toarray(), adata.X.toarray())
    np.testing.assert_allclose(once.toarray(), reference.X.toarray(), rtol=1e-5)
    assert (adata.layers[keys.COUNTS] != before).nnz == 0


def test_target_must_be_positive() -> None:
    with pytest.raises(InputError, match="target_sum"):
        normalize(ad.AnnData(np.ones((1, 1))), target_sum=0)
