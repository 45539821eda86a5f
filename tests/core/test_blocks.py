"""Rows, columns and chunks of a matrix that stays on disk are those of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from crs_sc.core import blocks
from crs_sc.core.blocks import columns_of, is_on_disk, matrix_chunks, rows_of
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MATRIX = sparse.csr_matrix(np.random.default_rng(0).poisson(0.8, (220, 300)), dtype=np.float32)


def same(one: sparse.csr_matrix, other: sparse.csr_matrix) -> None:
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
def test_chunks_columns_and_rows_are_those_of_memory(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "VALUES", 2_000)
    columns, rows = np.array([7, 3, 250]), np.arange(40, 200, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_elem(file, "x", MATRIX)
        del file["x/data"]
        file["x/data"] = MATRIX.data.astype(dtype)
    with h5py.File(tmp_path / "a.h5") as file:
        disk = sparse_dataset(file["x"])
        assert is_on_disk(disk)
        assert not is_on_disk(MATRIX)
        chunks = [chunk for _, chunk in matrix_chunks(disk)]
        assert len(chunks) > 10
        same(sparse.csr_matrix(sparse.vstack(chunks)), MATRIX)
        for wanted in (rows, np.arange(0, 220), np.empty(0, dtype=int)):
            same(rows_of(disk, wanted), MATRIX[wanted])
            expected = MATRIX[wanted][:, columns]
            for found in (columns_of(m, columns, rows=wanted) for m in (disk, MATRIX)):
                np.testing.assert_array_equal(found.toarray(), expected.toarray())
                assert found.has_sorted_indices
        same(columns_of(disk, columns), columns_of(MATRIX, columns))


def test_numbers_of_the_other_order_of_bytes_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_elem(file, "x", MATRIX)
        del file["x/data"]
        file["x/data"] = MATRIX.data.astype(">f4")
        with pytest.raises(InputError, match=r"csr_matrix of >f4.*crs_sc\.read"):
            list(matrix_chunks(sparse_dataset(file["x"])))


@pytest.mark.parametrize("form", [sparse.csc_matrix, sparse.coo_matrix, np.asarray])
def test_any_matrix_in_memory_will_do(form: type) -> None:
    dense = MATRIX.toarray()
    rows, chunks = zip(*matrix_chunks(form(dense), max_values=500), strict=True)
    assert rows[0].start == 0
    assert rows[-1].stop == len(dense)
    np.testing.assert_array_equal(sparse.vstack(chunks).toarray(), dense)
