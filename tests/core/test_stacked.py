"""Matrices that stay in the files of their samples: what is read is what memory has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys
from crs_sc.clustering import cluster, embed
from crs_sc.core import blocks
from crs_sc.core.blocks import columns_of, count_chunks, is_on_disk, matrix_chunks, rows_of
from crs_sc.core.stacked import StackedCounts
from crs_sc.io import open_h5ad, read, write_h5ad
from crs_sc.preprocessing import normalize, select_genes

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

SIZES = (90, 1, 0, 130)


def counts_of(n_cells: int, *, seed: int) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(1, 1, (3, 300))[rng.integers(0, 3, n_cells)]
    return sparse.csr_matrix(rng.poisson(mean), dtype=np.float32)


@pytest.fixture
def cohorts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[AnnData, AnnData]:
    """The same cells in memory, and left in four files."""
    parts = []
    for i, size in enumerate(SIZES):
        part = ad.AnnData(
            obs=pd.DataFrame({keys.SAMPLE: f"s{i}"}, index=[f"c{i}_{j}" for j in range(size)]),
            var=pd.DataFrame(index=[f"G{j}" for j in range(300)]),
            layers={keys.COUNTS: counts_of(size, seed=i)},
        )
        write_h5ad(part, tmp_path / f"{i}.h5ad")
        parts.append(part)
    memory = ad.concat(parts)
    opened = [open_h5ad(tmp_path / f"{i}.h5ad") for i in range(len(SIZES))]
    monkeypatch.setattr(blocks, "VALUES", 2_000)
    disk = ad.AnnData(obs=memory.obs.copy(), var=memory.var.copy())
    disk.layers[keys.COUNTS] = StackedCounts([part.layers[keys.COUNTS] for part in opened])
    for adata in (memory, disk):
        normalize(adata)
    return memory, disk


def same(one: sparse.csr_matrix, other: sparse.csr_matrix) -> None:
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_chunks_columns_and_rows_are_those_of_memory(cohorts: tuple[AnnData, AnnData]) -> None:
    memory, disk = cohorts
    assert is_on_disk(disk.X)
    assert not is_on_disk(memory.X)
    assert len(list(count_chunks(disk))) > len(SIZES)
    columns, rows = np.array([7, 3, 250]), np.arange(40, 200, 3)
    for one, other in ((memory.X, disk.X), *[(a.layers[keys.COUNTS] for a in cohorts)]):
        same(sparse.csr_matrix(sparse.vstack([c for _, c in matrix_chunks(other)])), one)
        same(rows_of(other, rows), rows_of(one, rows))
        for wanted in (None, rows):
            found = columns_of(other, columns, rows=wanted)
            known = columns_of(one, columns, rows=wanted)
            same(found, known)
        assert rows_of(other, np.empty(0, dtype=int)).shape == (0, 300)


def test_subsets_are_those_of_memory(cohorts: tuple[AnnData, AnnData]) -> None:
    memory, disk = cohorts
    for index in (
        (slice(3, 180, 2), slice(None)),
        ([200, 3, 3, 95], slice(None)),
        (memory.obs[keys.SAMPLE].to_numpy() == "s3", ["G5", "G2"]),
        (slice(None), slice(10, 20)),
    ):
        one, other = memory[index], disk[index]
        np.testing.assert_array_equal(one.X.toarray(), other.X.toarray())
        np.testing.assert_array_equal(
            one.layers[keys.COUNTS].toarray(), other.layers[keys.COUNTS].toarray()
        )
    same(disk.to_memory().X, memory.X)


def test_clusters_are_those_of_memory(cohorts: tuple[AnnData, AnnData]) -> None:
    for adata in cohorts:
        select_genes(adata, n_genes=100)
        embed(adata, n_comps=5)
        cluster(adata, resolutions=(0.5, 1.0))
    memory, disk = cohorts
    assert memory.var[keys.HIGHLY_VARIABLE].sum() == 100
    np.testing.assert_array_equal(memory.var[keys.HIGHLY_VARIABLE], disk.var[keys.HIGHLY_VARIABLE])
    np.testing.assert_array_equal(memory.obsm[keys.PCA], disk.obsm[keys.PCA])
    assert memory.obs[keys.CLUSTER].tolist() == disk.obs[keys.CLUSTER].tolist()


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_written_file_is_that_of_memory_and_has_the_indices_once(
    compression: str | None, cohorts: tuple[AnnData, AnnData], tmp_path: Path
) -> None:
    for name, adata in zip(("memory", "disk"), cohorts, strict=True):
        write_h5ad(adata, tmp_path / f"{name}.h5ad", compression=compression)
    one, other = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("memory", "disk"))
    same(one.X, other.X)
    same(one.layers[keys.COUNTS], other.layers[keys.COUNTS])
    pd.testing.assert_frame_equal(one.obs, other.obs)
    with h5py.File(tmp_path / "disk.h5ad") as file:
        assert file["X/indices"] == file["layers/counts/indices"]
    if compression is None:
        sizes = [(tmp_path / f"{n}.h5ad").stat().st_size for n in ("disk", "memory")]
        assert sizes[0] < 0.85 * sizes[1]
    # A reader that knows nothing of it, and our own that leaves both on disk.
    assert read(tmp_path / "disk.h5ad", columns={"sample": keys.SAMPLE}).n_obs == sum(SIZES)
    opened = open_h5ad(tmp_path / "disk.h5ad")
    assert is_on_disk(opened.X)
    same(opened.to_memory().X, cohorts[0].X)
