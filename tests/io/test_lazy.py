"""Counts that stay on disk: the same chunks as in memory, bounded memory, refusals."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from crs_sc.core.arrays import value_chunks
from crs_sc.core.blocks import count_chunks
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.io import open_h5ad, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path


def _cohort(n_cells: int = 40, n_genes: int = 6, dtype: str = "float32") -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(0.6, size=(n_cells, n_genes)).astype(dtype))
    obs = pd.DataFrame({"sample": "s1"}, index=[f"c{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(n_genes)])
    adata = ad.AnnData(obs=obs, var=var, layers={"counts": counts})
    adata.varm["ambient_profile"] = pd.DataFrame({"s1": np.full(n_genes, 1 / n_genes)}, var.index)
    adata.uns["crs_sc"] = {"notes": ["a note"]}
    return adata


@pytest.mark.parametrize("dtype", ["float32", "uint16", "int64"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_chunks_are_those_of_memory(dtype: str, compression: str | None, tmp_path: Path) -> None:
    adata = _cohort(dtype=dtype)
    write_h5ad(adata, tmp_path / "a.h5ad", compression=compression)
    opened = open_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_index_equal(opened.obs_names, adata.obs_names, exact=False)
    assert opened.uns["crs_sc"]["notes"] == ["a note"]
    assert opened.varm["ambient_profile"].shape == (6, 1)
    assert isinstance(opened.layers["counts"], ad.abc.CSRDataset)
    pairs = zip(count_chunks(adata, max_values=9), count_chunks(opened, max_values=9), strict=True)
    stop = 0
    for (rows, memory), (same_rows, disk) in pairs:
        assert rows == same_rows
        assert rows.start == stop
        stop = rows.stop
        np.testing.assert_array_equal(memory.toarray(), disk.toarray())
        np.testing.assert_array_equal(disk.toarray(), adata.layers["counts"][rows].toarray())
        assert disk.nnz <= 9
    assert stop == adata.n_obs
    np.testing.assert_array_equal(
        opened.to_memory().layers["counts"].toarray(), adata.layers["counts"].toarray()
    )
    few = opened[["c3", "c1"]]
    np.testing.assert_array_equal(
        np.vstack([chunk.toarray() for _, chunk in count_chunks(few)]),
        adata.layers["counts"][[3, 1]].toarray(),
    )


def test_memory_is_that_of_a_chunk(tmp_path: Path) -> None:
    adata = _cohort(n_cells=20_000, n_genes=60)
    write_h5ad(adata, tmp_path / "a.h5ad")
    matrix = adata.layers["counts"]
    whole = matrix.data.nbytes + matrix.indices.nbytes
    opened = open_h5ad(tmp_path / "a.h5ad")
    del adata, matrix
    tracemalloc.start()
    for _ in count_chunks(opened, max_values=5_000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The row pointers of all cells are in memory.
    assert peak < 0.25 * whole


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_row_slices_cover_and_keep_to_the_size(lengths: list[int], size: int) -> None:
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    slices = list(value_chunks(indptr, size=size))
    assert [i for s in slices for i in range(s.start, s.stop)] == list(range(len(lengths)))
    for part in slices:
        stored = indptr[part.stop] - indptr[part.start]
        assert stored <= size or part.stop - part.start == 1


def test_a_cohort_without_cells_has_no_chunks() -> None:
    assert list(count_chunks(_cohort(n_cells=0))) == []


@pytest.mark.parametrize("encoding", ["csc", "dense"])
def test_counts_that_are_not_by_cell_are_refused(encoding: str, tmp_path: Path) -> None:
    adata = _cohort()
    counts = adata.layers["counts"]
    adata.layers["counts"] = counts.tocsc() if encoding == "csc" else counts.toarray()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"csc_matrix|array.*write_h5ad"):
        open_h5ad(tmp_path / "a.h5ad")
    # In memory any form will do.
    total = sum(chunk.sum() for _, chunk in count_chunks(adata))
    assert total == counts.sum()


def test_an_anndata_of_csc_on_disk_is_refused(tmp_path: Path) -> None:
    adata = _cohort()
    adata.layers["counts"] = adata.layers["counts"].tocsc()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad") as file:
        lazy = ad.AnnData(
            obs=adata.obs, layers={"counts": ad.io.sparse_dataset(file["layers/counts"])}
        )
        with pytest.raises(InputError, match="cannot be read cell by cell"):
            list(count_chunks(lazy))


def test_missing_files_layers_and_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        open_h5ad(tmp_path / "none.h5ad")
    (tmp_path / "text.h5ad").write_text("not HDF5")
    with pytest.raises(InputError, match="not HDF5"):
        open_h5ad(tmp_path / "text.h5ad")
    write_h5ad(_cohort(), tmp_path / "a.h5ad")
    with pytest.raises(MissingKeyError, match=r"no layer 'umi'.*Layers: counts"):
        open_h5ad(tmp_path / "a.h5ad", layer="umi")
    content = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"truncated|damaged"):
        open_h5ad(tmp_path / "cut.h5ad")


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("data", 4, 0.5, "must hold raw counts; cell 'c.' has 0.5"),
        ("data", 4, -1, "has -1"),
        ("data", 4, np.nan, "has nan"),
        ("indices", 4, 6, "column indices"),
        ("indices", 4, -1, "column indices"),
        ("indptr", 3, 90, "row pointers"),
        ("indptr", -1, 3, "row pointers"),
    ],
)
def test_damage_is_found_on_the_way(
    name: str, place: int, value: float, message: str, tmp_path: Path
) -> None:
    write_h5ad(_cohort(), tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        stored = file[f"layers/counts/{name}"]
        stored[place % len(stored)] = value
    with pytest.raises(InputError, match=message):
        list(count_chunks(open_h5ad(tmp_path / "a.h5ad"), max_values=20))


def test_values_that_are_no_counts_name_their_cell() -> None:
    adata = _cohort()
    counts = adata.layers["counts"]
    first = int(counts.indptr[7])
    assert counts.indptr[8] > first
    counts.data[first] = 1.5
    with pytest.raises(InputError, match=r"cell 'c7' has 1\.5"):
        list(count_chunks(adata))
