"""Samples read alone, and counts left in the file: the same as reading everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import io as scipy_io
from scipy import sparse

from crs_sc.core.blocks import count_chunks
from crs_sc.errors import CrsWarning, InputError
from crs_sc.io import CohortFiles, read, write_h5ad
from crs_sc.io import _matrix as matrix_module
from crs_sc.io._matrix import _gather

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")

# IL8 is an old name of CXCL8; LYZ stands for two columns.
GENES = ["CD3D", "LYZ", "IL8", "IL6", "MS4A1", "LYZ", "ACTB", "GAPDH"]
COLUMNS = {"sample": "lib", "condition": "arm"}


def _cohort(*, scattered: bool, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    n = 60
    lib = np.arange(n) % 3 if scattered else np.arange(n) // 20
    counts = sparse.csr_matrix(rng.poisson(1.0, size=(n, len(GENES))).astype(np.float32))
    obs = pd.DataFrame(
        {
            "lib": pd.Categorical(np.array(["s1", "s2", "s10"])[lib]),
            "arm": np.array(["a", "b", "b"])[lib],
            "score": rng.random(n),
            "type": pd.Categorical(np.array(["T", "B", "Mono"])[lib]),
        },
        index=[f"c{i}" for i in range(n)],
    )
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))


def _write(adata: ad.AnnData, path: Path, form: str) -> None:
    counts = adata.X
    if form == "csc":
        adata.X = counts.tocsc()
    elif form == "dense":
        adata.X = counts.toarray()
    elif form == "layer":
        adata.layers["counts"] = counts
        adata.X = counts.log1p()
    elif form == "raw":
        adata.raw = adata.copy()
        adata = adata[:, :5].copy()
        adata.X = counts[:, :5].log1p()
    adata.write_h5ad(path)


def _assert_same(one: ad.AnnData, two: ad.AnnData) -> None:
    pd.testing.assert_frame_equal(one.obs, two.obs)
    pd.testing.assert_frame_equal(one.var, two.var)
    a, b = one.layers["counts"], two.layers["counts"]
    assert a.dtype == b.dtype == np.float32
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
        assert getattr(a, part).dtype == getattr(b, part).dtype
    assert one.uns == two.uns


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "layer", "raw"])
@pytest.mark.parametrize("scattered", [True, False])
def test_a_sample_alone_is_that_of_the_whole(
    form: str, *, scattered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(_cohort(scattered=scattered), tmp_path / "a.h5ad", form)
    whole = read(tmp_path / "a.h5ad", columns=COLUMNS)
    # Several spans and gaps, and a beginning that is not the whole.
    monkeypatch.setattr(matrix_module, "_HEAD", 30)
    monkeypatch.setattr(matrix_module, "_GAP", 4)
    monkeypatch.setattr(matrix_module, "_SPAN", 25)
    files = CohortFiles(tmp_path / "a.h5ad", columns=COLUMNS)
    assert files.sample_sizes() == {"s1": 20, "s10": 20, "s2": 20}
    assert files.header().shape == whole.shape
    for name in ("s1", "s2", "s10"):
        expected = whole[(whole.obs["sample"] == name).to_numpy()].copy()
        _assert_same(files.read([name]), expected)
    _assert_same(files.read(), whole)
    with pytest.raises(InputError, match=r"no sample s3. Samples: s1, s10, s2"):
        files.read(["s3"])


def test_samples_in_files_of_their_own(tmp_path: Path) -> None:
    adata = _cohort(scattered=False)
    adata.var_names_make_unique()
    folder = tmp_path / "s1"
    folder.mkdir()
    scipy_io.mmwrite(folder / "matrix.mtx", adata.X[:20].T.astype(int))
    (folder / "barcodes.tsv").write_text("\n".join(adata.obs_names[:20]), encoding="utf-8")
    features = [f"id{i}\t{name}\tGene Expression" for i, name in enumerate(adata.var_names)]
    (folder / "features.tsv").write_text("\n".join(features), encoding="utf-8")
    adata[20:40].copy().write_h5ad(tmp_path / "s2.h5ad")
    (tmp_path / "sheet.tsv").write_text(
        "path\tlib\tarm\ns1\ts1\ta\ns2.h5ad\ts2\tb\n", encoding="utf-8"
    )
    with pytest.warns(CrsWarning, match="column 'lib' was taken from the sample sheet"):
        whole = read(tmp_path / "sheet.tsv", columns=COLUMNS)
    files = CohortFiles(tmp_path / "sheet.tsv", columns=COLUMNS)
    assert files.n_values == adata[:40].X.nnz
    for name in ("s1", "s2"):
        expected = whole[(whole.obs["sample"] == name).to_numpy()].copy()
        _assert_same(files.read([name]), expected)


def test_only_the_rows_of_the_sample_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cohort(scattered=False).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/data"][-1] = 0.5
    monkeypatch.setattr(matrix_module, "_HEAD", 10)
    files = CohortFiles(tmp_path / "a.h5ad", columns=COLUMNS)
    assert files.read(["s1"]).n_obs == 20
    with pytest.raises(InputError, match=r"cell 'c59', gene"):
        files.read(["s10"])
    with pytest.raises(InputError, match=r"cell 'c59', gene"):
        read(tmp_path / "a.h5ad", columns=COLUMNS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.data())
def test_rows_are_gathered_in_any_cut(lengths: list[int], data: st.DataObject) -> None:
    pointers = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.arange(pointers[-1], dtype=np.float32)
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True).map(sorted))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix_module, "_GAP", data.draw(st.integers(0, 5)))
        patch.setattr(matrix_module, "_SPAN", data.draw(st.integers(1, 12)))
        found, columns, indptr = _gather(
            values, values.astype(np.int32), pointers, np.array(rows, dtype=np.intp)
        )
    expected = [values[pointers[i] : pointers[i + 1]] for i in rows]
    np.testing.assert_array_equal(found, np.concatenate([np.empty(0), *expected]))
    np.testing.assert_array_equal(columns, found)
    np.testing.assert_array_equal(np.diff(indptr), [len(part) for part in expected])


@pytest.mark.parametrize("form", ["csr", "layer", "raw"])
@pytest.mark.parametrize("features", [True, False])
def test_counts_left_in_the_file_are_those_that_are_read(
    form: str, *, features: bool, tmp_path: Path
) -> None:
    adata = _cohort(scattered=True)
    if features:
        kinds = ["Gene Expression"] * (len(GENES) - 1) + ["Antibody Capture"]
        adata.var["feature_types"] = kinds
    _write(adata, tmp_path / "a.h5ad", form)
    memory = read(tmp_path / "a.h5ad", columns=COLUMNS)
    disk = CohortFiles(tmp_path / "a.h5ad", columns=COLUMNS).on_disk()
    pd.testing.assert_frame_equal(disk.obs, memory.obs)
    pd.testing.assert_frame_equal(disk.var, memory.var)
    assert "CXCL8" in disk.var_names
    chunks = list(count_chunks(disk, max_values=25))
    assert len(chunks) > 4
    assert all(chunk.has_canonical_format for _, chunk in chunks)
    found = sparse.vstack([chunk for _, chunk in chunks])
    expected = memory.layers["counts"].toarray()
    np.testing.assert_array_equal(found.toarray(), expected)
    some = [chunk for _, chunk in count_chunks(disk[[7, 3]])]
    np.testing.assert_array_equal(sparse.vstack(some).toarray(), expected[[7, 3]])


def test_ambient_rna_of_the_file_comes_with_the_counts(tmp_path: Path) -> None:
    adata = _cohort(scattered=False)
    adata.var_names_make_unique()
    profile = np.random.default_rng(1).dirichlet(np.ones(len(GENES)), size=3).T
    adata.varm["ambient_profile"] = pd.DataFrame(
        profile, index=adata.var_names, columns=["s1", "s2", "s10"]
    )
    table = pd.DataFrame({"ambient_fraction": 0.1, "ambient_upper": 0.2}, ["s1", "s2", "s10"])
    adata.uns["crs_sc"] = {"contamination": table}
    write_h5ad(adata, tmp_path / "a.h5ad")
    disk = CohortFiles(tmp_path / "a.h5ad", columns=COLUMNS).on_disk()
    np.testing.assert_array_equal(
        disk.varm["ambient_profile"][["s1", "s2", "s10"]].to_numpy(), profile
    )
    assert disk.uns["crs_sc"]["contamination"].loc["s10", "ambient_upper"] == 0.2
    # Ambient RNA that lacks a sample is none.
    adata.uns["crs_sc"]["contamination"] = table.iloc[:2]
    write_h5ad(adata, tmp_path / "b.h5ad")
    disk = CohortFiles(tmp_path / "b.h5ad", columns=COLUMNS).on_disk()
    assert "ambient_profile" not in disk.varm


def test_what_cannot_stay_on_disk_is_refused(tmp_path: Path) -> None:
    adata = _cohort(scattered=False)
    adata.var_names_make_unique()
    adata[:20].copy().write_h5ad(tmp_path / "s1.h5ad")
    adata[20:].copy().write_h5ad(tmp_path / "s2.h5ad")
    two = CohortFiles([tmp_path / "s1.h5ad", tmp_path / "s2.h5ad"], columns=COLUMNS)
    with pytest.raises(InputError, match=r"one h5ad.*several files.*crs-sc run"):
        two.on_disk()
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "csc.h5ad")
    with pytest.raises(InputError, match=r"stored as csc_matrix.*write_h5ad"):
        CohortFiles(tmp_path / "csc.h5ad", columns=COLUMNS).on_disk()
