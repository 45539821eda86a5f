from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from crs_sc.errors import InputError
from crs_sc.io import matrix_state


def counts(n_cells: int = 30, n_genes: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(2.0, (n_cells, n_genes))


def lognorm(matrix: np.ndarray) -> np.ndarray:
    return np.log1p(matrix / matrix.sum(axis=1, keepdims=True) * 1e4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "uint16"])
@pytest.mark.parametrize("build", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_counts_in_any_type_and_layout(dtype: str, build: type) -> None:
    assert matrix_state(build(counts().astype(dtype))) == "counts"


def test_each_kind_is_told_apart() -> None:
    raw = counts()
    logged = lognorm(raw)
    scaled = (logged - logged.mean(axis=0)) / logged.std(axis=0)
    assert matrix_state(logged) == "log-normalised"
    assert matrix_state(sparse.csr_matrix(logged)) == "log-normalised"
    assert matrix_state(scaled) == "scaled"
    assert matrix_state(raw / raw.sum(axis=1, keepdims=True) * 1e4) == "fractional"
    assert matrix_state(raw + 0.25 * (raw == 1)) == "fractional"
    assert matrix_state(raw > 0) == "binary"
    assert matrix_state((raw > 0).astype(float)) == "binary"
    assert matrix_state(np.zeros((3, 4))) == "empty"
    assert matrix_state(np.zeros((0, 4))) == "empty"
    assert matrix_state(np.full((3, 4), 5.0)) == "other"
    assert matrix_state(np.full((3, 4), "a")) == "other"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 3.4e38, 2.0**31, 2.5])
@pytest.mark.parametrize("build", [np.asarray, sparse.csr_matrix])
def test_one_wrong_value_in_the_last_cell_is_seen(value: float, build: type) -> None:
    matrix = counts(400, 50).astype(float)
    matrix[-1, -1] = value
    assert matrix_state(build(matrix)) != "counts"


def test_needs_two_axes() -> None:
    with pytest.raises(InputError, match="two axes"):
        matrix_state(np.arange(3))


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 9)),
    st.randoms(use_true_random=False),
)
def test_state_ignores_order_layout_and_type(matrix: np.ndarray, random: object) -> None:
    state = matrix_state(matrix)
    rows = list(range(matrix.shape[0]))
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert matrix_state(matrix[rows]) == state
    assert matrix_state(matrix.T) == state
    assert matrix_state(sparse.csr_matrix(matrix)) == state
    assert matrix_state(sparse.csc_matrix(matrix.astype(np.float32))) == state
