"""Kernels over row chunks against numpy, in any cut, compiled and as plain Python."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from crs_sc.core import arrays
from crs_sc.core.arrays import (
    FewColumns,
    GroupSums,
    RowTotals,
    string_codes,
    whole_numbers,
    within,
)


def _matrix(seed: int, *, dtype: str = "float32") -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix(rng.poisson(0.7, size=(31, 9)).astype(dtype))


def _feed(kernel: object, matrix: sparse.csr_matrix, size: int) -> None:
    for start in range(0, matrix.shape[0], size):
        rows = slice(start, min(start + size, matrix.shape[0]))
        kernel.add(rows, matrix[rows])  # type: ignore[attr-defined]


@pytest.fixture(params=["compiled", "python"])
def _both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(arrays, "compiled", lambda kernel: kernel)


@pytest.mark.usefixtures("_both")
@pytest.mark.parametrize("size", [1, 7, 31])
@pytest.mark.parametrize("dtype", ["float32", "uint16", "int64"])
def test_kernels_are_numpy(size: int, dtype: str) -> None:
    matrix = _matrix(0, dtype=dtype)
    dense = matrix.toarray().astype(np.float64)
    rng = np.random.default_rng(1)
    codes, weights = rng.integers(-1, 4, size=31), rng.random(31)
    plain, weighted = GroupSums(codes, 4, 9), GroupSums(codes, 4, 9, weights=weights)
    columns = np.array([5, 0, 7])
    few, totals = FewColumns(columns, 31, 9), RowTotals(31, np.isin(np.arange(9), columns))
    for kernel in (plain, weighted, few, totals):
        _feed(kernel, matrix, size)
    for k in range(4):
        np.testing.assert_array_equal(plain.sums[k], dense[codes == k].sum(axis=0))
        expected = (weights[:, None] * dense)[codes == k].sum(axis=0)
        np.testing.assert_allclose(weighted.sums[k], expected, rtol=1e-13)
    np.testing.assert_array_equal(plain.row_sums, dense.sum(axis=1))
    counts, rest = few.result()
    np.testing.assert_array_equal(counts.toarray(), dense[:, columns])
    assert counts.dtype == np.float32
    assert counts.has_canonical_format
    np.testing.assert_array_equal(rest, np.delete(dense, columns, axis=1).sum(axis=1))
    np.testing.assert_array_equal(totals.total, dense.sum(axis=1))
    np.testing.assert_array_equal(totals.masked, dense[:, columns].sum(axis=1))
    np.testing.assert_array_equal(totals.n_above_zero, (dense > 0).sum(axis=1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 31))
def test_weighted_sums_do_not_depend_on_the_cut_by_a_bit(seed: int, size: int) -> None:
    matrix = _matrix(seed)
    rng = np.random.default_rng(seed)
    codes, weights = rng.integers(-1, 4, size=31), rng.random(31)
    whole, parts = (GroupSums(codes, 4, 9, weights=weights) for _ in range(2))
    _feed(whole, matrix, 31)
    _feed(parts, matrix, size)
    np.testing.assert_array_equal(whole.sums, parts.sums)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from(["b", "a", "10", "2", None]), min_size=1, max_size=12),
    categorical=st.booleans(),
    numbers=st.booleans(),
)
def test_codes_are_those_of_the_sorted_strings(
    *, values: list[str | None], categorical: bool, numbers: bool
) -> None:
    series = pd.Series(values, dtype="str")
    if numbers:
        series = pd.Series([len(str(value)) for value in values])
    expected, names = pd.factorize(series.astype(str), sort=True)
    if categorical:
        kinds = pd.Index(series.dropna().unique()[::-1])
        series = pd.Series(pd.Categorical(series, categories=[*kinds, "unused"]))
    codes, found = string_codes(series)
    np.testing.assert_array_equal(codes, expected)
    assert found == list(names)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 0.5])
def test_one_value_that_is_no_count_is_found(bad: float) -> None:
    values = np.arange(100, dtype=np.float32)
    assert whole_numbers(values)
    values[57] = bad
    assert not whole_numbers(values)


def test_indices_outside_of_the_matrix_are_found() -> None:
    assert within(np.arange(5, dtype=np.int32), 5)
    assert not within(np.arange(5, dtype=np.int32), 4)
    assert not within(np.array([-1, 2]), 4)
    assert within(np.empty(0, dtype=np.int32), 0)
