from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from scipy import io as scipy_io
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import InputError
from crs_sc.io import describe_file, empty_droplet_profile, read, source_files

if TYPE_CHECKING:
    from pathlib import Path

GENES = ["IL1B", "IL6", "CD14", "LYZ", "ACTB"]
IDS = [f"ENSG{i:011d}" for i in range(5)]


def matrix(n_cells: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.5, (n_cells, len(GENES)))


def barcodes(n_cells: int) -> list[str]:
    rng = np.random.default_rng(9)
    return ["".join(rng.choice(list("ACGT"), 16)) + "-1" for _ in range(n_cells)]


def put_h5(path: Path, counts: np.ndarray, *, extra: bool = False) -> Path:
    names, ids, types = list(GENES), list(IDS), ["Gene Expression"] * 5
    if extra:
        counts = np.column_stack([counts, np.full(len(counts), 7)])
        names, ids, types = [*names, "CD3_ab"], [*ids, "CD3_ab"], [*types, "Antibody Capture"]
    csr = sparse.csr_matrix(counts.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes(len(counts)), dtype="S")
        group["data"], group["indices"] = csr.data, csr.indices.astype(np.int64)
        group["indptr"], group["shape"] = csr.indptr.astype(np.int64), csr.shape[::-1]
        features = group.create_group("features")
        features["id"], features["name"] = np.array(ids, "S"), np.array(names, "S")
        features["feature_type"] = np.array(types, "S")
        features["genome"] = np.array(["GRCh38"] * len(ids), "S")
    return path


def put_mtx(folder: Path, counts: np.ndarray, *, prefix: str = "", old: bool = False) -> Path:
    folder.mkdir()
    suffix = "" if old else ".gz"
    open_ = open if old else gzip.open
    with open_(folder / f"{prefix}matrix.mtx{suffix}", "wb") as stream:
        scipy_io.mmwrite(stream, sparse.coo_matrix(counts.T), field="integer")
    features = "genes.tsv" if old else "features.tsv.gz"
    kind = "" if old else "\tGene Expression"
    with open_(folder / f"{prefix}{features}", "wt") as stream:
        stream.writelines(f"{i}\t{n}{kind}\n" for i, n in zip(IDS, GENES, strict=True))
    with open_(folder / f"{prefix}barcodes.tsv{suffix}", "wt") as stream:
        stream.writelines(f"{name}\n" for name in barcodes(len(counts)))
    return folder


@pytest.mark.parametrize("name", ["x.h5", "x.h5ad"])
def test_h5_by_content(tmp_path: Path, name: str) -> None:
    counts = matrix()
    path = put_h5(tmp_path / name, counts, extra=True)
    got = read(path)
    assert np.array_equal(got.layers["counts"].toarray(), counts)
    assert list(got.var_names) == GENES
    assert list(got.var[keys.GENE_ID]) == IDS
    assert list(got.obs_names) == barcodes(30)
    assert any("1 features that are not gene" in note for note in got.uns[keys.UNS]["notes"])
    assert describe_file(path).kind == "10x-h5"


@pytest.mark.parametrize(("prefix", "old"), [("", False), ("GSM1_", False), ("", True)])
def test_mtx_folder(tmp_path: Path, prefix: str, old: bool) -> None:  # noqa: FBT001
    counts = matrix()
    folder = put_mtx(tmp_path / "s1", counts, prefix=prefix, old=old)
    got = read(folder)
    assert np.array_equal(got.layers["counts"].toarray(), counts)
    assert list(got.var[keys.GENE_ID]) == IDS
    assert set(got.obs["sample"]) == {"s1"}
    assert len(source_files(folder)) == 3


def test_formats_mix_and_barcodes_repeat(tmp_path: Path) -> None:
    parts = [put_h5(tmp_path / "a.h5", matrix()), put_mtx(tmp_path / "b", matrix(seed=1))]
    got = read(parts)
    assert got.shape == (60, 5)
    assert got.obs_names[0] == f"a_{barcodes(1)[0]}"
    assert got.obs_names.is_unique
    assert np.array_equal(got.layers["counts"][30:].toarray(), matrix(seed=1))


def test_bad_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"0 files matrix.mtx"):
        read(tmp_path / "empty")
    folder = put_mtx(tmp_path / "s", matrix())
    (folder / "barcodes.tsv.gz").unlink()
    with pytest.raises(InputError, match=r"there is no barcodes.tsv"):
        read(folder)
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as stream:
        stream.write("AAA\n")
    with pytest.raises(InputError, match="does not fit together"):
        read(folder)
    mtx = folder / "matrix.mtx.gz"
    mtx.write_bytes(mtx.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"'.*/s' is (truncated|damaged)"):
        read(folder)


def test_index_out_of_range(tmp_path: Path) -> None:
    path = put_h5(tmp_path / "x.h5", matrix())
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][3] = 5
    with pytest.raises(InputError, match="indices are damaged"):
        read(path)


def test_empty_droplets(tmp_path: Path) -> None:
    cells = matrix() * 100
    ambient = np.array([[1, 0, 0, 2, 0], [0, 0, 1, 3, 0], [0, 0, 0, 0, 0], [0, 0, 0, 3, 0]])
    path = put_h5(tmp_path / "raw.h5", np.vstack([cells, ambient]), extra=False)
    got = empty_droplet_profile(path)
    assert list(got.index) == GENES
    assert np.allclose(got, [0.1, 0, 0.1, 0.8, 0])
    with pytest.raises(InputError, match="Give the raw matrix"):
        empty_droplet_profile(put_h5(tmp_path / "filtered.h5", cells + 50))
