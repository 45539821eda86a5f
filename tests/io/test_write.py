from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc.core import blocks
from crs_sc.errors import InputError
from crs_sc.io import atomic_path, open_h5ad, write_cohort, write_h5ad, write_json, write_text
from crs_sc.preprocessing import normalize


def small(n_cells: int = 6) -> ad.AnnData:
    X = sparse.csr_matrix(np.arange(n_cells * 3, dtype=np.float32).reshape(n_cells, 3))
    adata = ad.AnnData(
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=["IL6", "IL1B", "LYZ"]),
        layers={"counts": X},
    )
    adata.obs["sample"] = pd.Categorical(["b", "a"] * (n_cells // 2), categories=["b", "a"])
    return adata


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- atomic ----------------------------------------------------------------------------------


def test_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "half"

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("broken")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "half"
    assert leftovers(path.parent) == ["a.txt"]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text("x", tmp_path / "a.txt")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.txt", Path("/proc/nowhere/a.txt")):
        with pytest.raises(InputError, match=r"Cannot write .*output folder"):
            write_text("x", path)


def test_json(tmp_path: Path) -> None:
    write_json({"b": 1, "a": ["é"]}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == (
        '{\n  "b": 1,\n  "a": [\n    "é"\n  ]\n}\n'.encode()
    )


def _kill(code: str, final: Path, *, after: float) -> None:
    """Kill a process so many seconds after it said that it writes."""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(final)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)


def test_killed_while_writing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from crs_sc.io import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half'); print('now', flush=True); time.sleep(60)\n"
    )
    final = tmp_path / "a.h5ad"
    _kill(code, final, after=0)
    assert not final.exists()
    assert all(name.startswith(".a.tmp-") for name in leftovers(tmp_path))


# --- h5ad ------------------------------------------------------------------------------------


def encodings(path: Path) -> set[str]:
    found: set[str] = set()
    with h5py.File(path) as file:
        file.visititems(lambda _, node: found.add(str(node.attrs.get("encoding-type"))))
    return found


def test_round_trip_and_plain_encodings(tmp_path: Path) -> None:
    adata = small()
    adata.X = adata.layers["counts"].copy()
    adata.obs["name"] = [f"n{i}" for i in range(6)]
    adata.obs["gaps"] = ["x", None, "x", "y", None, "y"]
    adata.obs["mixed"] = pd.Series([1, "a", 2.5, None, "a", 1], dtype=object).to_numpy()
    adata.obs["whole"] = pd.array([1, 2, 3, 4, 5, 6], dtype="Int64")
    adata.obs["holes"] = pd.array([1, None, 3, 4, 5, 6], dtype="Int64")
    adata.obs["flag"] = pd.array([True, False, True, True, None, True], dtype="boolean")
    adata.obs["day"] = pd.Categorical([1, 10, 2, 1, 10, 2], categories=[1, 2, 10], ordered=True)
    adata.obsm["states"] = pd.DataFrame(
        {"IL6": pd.Categorical(["p", "n"] * 3), "IL1B": 1.0}, index=adata.obs_names
    )
    table = pd.DataFrame({"note": ["", "b"], "x": [0.1, np.nan]}, index=["s1", "s2"])
    table.index.name = "sample"
    adata.uns["crs_sc"] = {"qc": table, "notes": ["one", "two"], "none": [], "f": 0.5, "b": True}
    before = adata.copy()
    path = tmp_path / "a.h5ad"
    write_h5ad(adata, path)
    assert leftovers(tmp_path) == ["a.h5ad"]
    assert not {kind for kind in encodings(path) if "nullable" in kind or kind == "null"}
    got = ad.read_h5ad(path)
    assert (got.layers["counts"] != adata.layers["counts"]).nnz == 0
    assert (got.X != adata.X).nnz == 0
    assert list(got.obs_names) == list(adata.obs_names)
    assert list(got.obs["sample"].cat.categories) == ["b", "a"]
    assert got.obs["gaps"].isna().tolist() == [False, True, False, False, True, False]
    assert got.obs["mixed"].tolist()[:3] == ["1", "a", "2.5"]
    assert got.obs["whole"].dtype == np.int64
    assert np.isnan(got.obs["holes"].iloc[1])
    assert list(got.obs["day"].cat.categories) == ["1", "2", "10"]
    assert got.obs["day"].cat.ordered
    assert list(got.obsm["states"]["IL6"]) == ["p", "n"] * 3
    stored = got.uns["crs_sc"]
    assert stored["qc"].index.name == "sample"
    assert list(stored["qc"]["note"]) == ["", "b"]
    assert list(stored["notes"]) == ["one", "two"]
    assert len(stored["none"]) == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_compression(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.h5ad"
    write_h5ad(small(), path, compression=compression)  # type: ignore[arg-type]
    with h5py.File(path) as file:
        assert file["layers/counts/data"].compression == compression
    assert ad.read_h5ad(path).shape == (6, 3)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([{"a": 1}], r"\['bad'\] is list"),
        (None, "NoneType"),
        ({"a/b": 1}, "'a/b'"),
        (pd.DataFrame({"x/y": [1]}), "'x/y'"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "two columns named 'x'"),
    ],
)
def test_what_no_h5ad_can_hold(tmp_path: Path, value: object, match: str) -> None:
    adata = small()
    adata.uns["bad"] = value
    with pytest.raises(InputError, match=match):
        write_h5ad(adata, tmp_path / "a.h5ad")
    assert leftovers(tmp_path) == []


def test_too_large_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr("crs_sc.io._write.shutil.disk_usage", lambda _: Full)
    with pytest.raises(InputError, match="needs about"):
        write_h5ad(small(), tmp_path / "a.h5ad")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("compression", ["None", "'gzip'"])
def test_disk_that_fills_up(tmp_path: Path, compression: str) -> None:
    # A limit on the size of files stands for the full disk: the same failing write, no root.
    code = f"""
import resource, signal, sys
import anndata as ad, numpy as np
from crs_sc.errors import InputError
from crs_sc.io import write_h5ad
X = np.random.default_rng(0).random((4000, 50))
adata = ad.AnnData(X, uns={{"t": {{f"k{{i}}": np.arange(500.0) for i in range(40)}}}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    write_h5ad(adata, sys.argv[1], compression={compression})
except InputError as error:
    print(error)
    sys.exit(1)
"""
    final = tmp_path / "a.h5ad"
    done = subprocess.run(
        [sys.executable, "-c", code, str(final)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "No space left" in done.stdout
    assert leftovers(tmp_path) == []


def test_killed_while_writing_h5ad(tmp_path: Path) -> None:
    code = """
import sys
import anndata as ad, numpy as np
from crs_sc.io import write_h5ad
adata = ad.AnnData(np.random.default_rng(0).random((4000, 500)))
print("now", flush=True)
while True:
    write_h5ad(adata, sys.argv[1], compression="gzip")
"""
    final = tmp_path / "a.h5ad"
    _kill(code, final, after=0.3)
    assert not final.exists() or ad.read_h5ad(final).shape == (4000, 500)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_cohort_is_written_with_normalised_values_beside_its_counts(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.random.default_rng(0).poisson(0.5, size=(40, 9)).astype(np.float32)
    counts[[3, 39]] = 0
    adata = ad.AnnData(
        obs=pd.DataFrame({"sample": "s1"}, index=[f"c{i}" for i in range(40)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(9)]),
        layers={
            "counts": sparse.csc_matrix(counts) if where == "memory" else sparse.csr_matrix(counts)
        },
    )
    expected = adata.copy()
    normalize(expected)
    if where == "disk":
        write_h5ad(adata, tmp_path / "counts.h5ad")
        adata = open_h5ad(tmp_path / "counts.h5ad")
        monkeypatch.setattr(blocks, "VALUES", 30)
    write_cohort(adata, tmp_path / "cohort.h5ad")
    written = ad.read_h5ad(tmp_path / "cohort.h5ad")
    np.testing.assert_array_equal(written.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(written.layers["counts"].toarray(), counts)
    with h5py.File(tmp_path / "cohort.h5ad") as file:
        assert file["X/indices"] == file["layers/counts/indices"]
    # One that was opened is copied as it is.
    write_h5ad(open_h5ad(tmp_path / "cohort.h5ad"), tmp_path / "copy.h5ad")
    np.testing.assert_array_equal(
        ad.read_h5ad(tmp_path / "copy.h5ad").X.toarray(), written.X.toarray()
    )
