from __future__ import annotations

import fcntl
import shutil
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys
from crs_sc.errors import CrsWarning, InputError, MissingKeyError
from crs_sc.io import describe_file, read, source_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GENES = ["IL1B", "IL6", "CD14", "CD3D", "LYZ", "ACTB", "GAPDH", "MT-ND1", "B2M", "NKG7"]


def cohort(n_cells: int = 40, genes: list[str] | None = None, seed: int = 0) -> ad.AnnData:
    genes = GENES if genes is None else genes
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "lib": np.repeat(["m1", "m2", "m10", "m3"], n_cells // 4),
            "mouse": np.repeat([1, 2, 10, 3], n_cells // 4),
            "arm": np.repeat(["vehicle", "CART"], n_cells // 2),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    X = sparse.csr_matrix(rng.poisson(1.5, (n_cells, len(genes))).astype(np.float32))
    return ad.AnnData(X, obs=obs, var=pd.DataFrame(index=genes))


MAPPED = {"sample": "lib", "subject": "mouse", "condition": "arm"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cohort.h5ad"


def put(adata: ad.AnnData, path: Path) -> Path:
    adata.write_h5ad(path)
    return path


# --- what is read ----------------------------------------------------------------------------


def test_counts_columns_and_nothing_else(path: Path) -> None:
    source = cohort()
    source.uns["neighbors"] = {"k": 1}
    source.obsm["X_pca"] = np.zeros((40, 2))
    source.raw = source
    adata = read(put(source, path), columns=MAPPED)
    assert adata.X is None
    assert list(adata.layers) in (["counts"], [None, "counts"])
    stored = adata.layers["counts"]
    assert isinstance(stored, sparse.csr_matrix)
    assert stored.dtype == np.float32
    assert stored.indices.dtype == np.int32
    assert (stored != source.X).nnz == 0
    assert list(adata.uns) == [keys.UNS]
    assert adata.uns[keys.UNS]["matrix"] == "X"
    assert adata.uns[keys.UNS]["organism"] == "human"
    assert not adata.obsm
    assert adata.raw is None
    assert list(adata.obs.columns[:3]) == ["sample", "subject", "condition"]
    assert list(adata.obs["subject"].cat.categories) == ["1", "2", "3", "10"]
    assert list(adata.obs["sample"].cat.categories) == ["m1", "m2", "m3", "m10"]
    assert list(adata.obs["mouse"]) == list(source.obs["mouse"])
    assert list(adata.var["original_name"]) == GENES


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.toarray(),
        lambda x: x.tocsc(),
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.float64),
        lambda x: x.toarray().astype(np.uint16),
        sparse.csr_array,
    ],
    ids=["dense", "csc", "int64", "float64", "uint16-dense", "csr_array"],
)
def test_any_layout_gives_the_same(change: object, path: Path) -> None:
    source = cohort()
    want = read(put(source, path), columns=MAPPED)
    source.X = change(source.X)  # type: ignore[operator]
    got = read(put(source, path), columns=MAPPED)
    for part in ("data", "indices", "indptr"):
        ours, theirs = (getattr(a.layers["counts"], part) for a in (got, want))
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def lognorm(X: sparse.csr_matrix) -> sparse.csr_matrix:
    total = np.asarray(X.sum(axis=1))
    return sparse.csr_matrix(np.log1p(X.toarray() / total * 1e4))


def test_order_of_search(path: Path) -> None:
    source = cohort()
    counts = source.X.copy()
    source.layers["counts"] = counts
    source.X = counts * 2
    assert read(put(source, path)).uns[keys.UNS]["matrix"] == "layers['counts']"
    source.layers["counts"] = lognorm(counts)
    got = read(put(source, path))
    assert got.uns[keys.UNS]["matrix"] == "X"
    assert got.layers["counts"].sum() == 2 * counts.sum()
    source.X = lognorm(counts)
    source.layers["spliced"] = counts
    source.layers["umi"] = counts
    source.layers["codes"] = counts.toarray() - 1
    with pytest.warns(CrsWarning, match=r"taken from layers\['umi'\]"):
        got = read(put(source, path))
    assert got.uns[keys.UNS]["matrix"] == "layers['umi']"


def test_counts_in_raw_bring_their_own_genes(path: Path) -> None:
    source = cohort()
    counts = source.X.copy()
    source.raw = source
    few = source[:, :4].copy()
    few.X = lognorm(few.X)
    got = read(put(few, path))
    assert got.uns[keys.UNS]["matrix"] == "raw.X"
    assert list(got.var_names) == GENES
    assert (got.layers["counts"] != counts).nnz == 0


def test_defaults_without_any_column(path: Path) -> None:
    source = cohort()
    source.obs = source.obs[[]]
    got = read(put(source, path))
    assert set(got.obs["sample"]) == {"cohort"}
    assert set(got.obs["subject"]) == {"cohort"}
    assert set(got.obs["condition"]) == {"all"}


def test_columns_with_our_names_are_kept_beside(path: Path) -> None:
    source = cohort()
    source.obs["sample"] = "other"
    source.obs["cluster"] = "7"
    source.obs["batch"] = np.arange(40) % 2
    got = read(put(source, path), columns={**MAPPED, "batch": None})
    assert set(got.obs["sample_original"]) == {"other"}
    assert set(got.obs["cluster_original"]) == {"7"}
    assert "batch" not in got.obs
    assert "batch_original" in got.obs


def test_numbers_become_strings_in_their_own_order(path: Path) -> None:
    source = cohort()
    source.obs["day"] = np.repeat([10.0, 2.0, 0.5, 2.0], 10)
    source.obs["weight"] = np.repeat([1.0, 2.5, 1.0, 1.0], 10)
    got = read(
        put(source, path), columns={**MAPPED, "timepoint": "day", "sampling_weight": "weight"}
    )
    assert list(got.obs["timepoint"].cat.categories) == ["0.5", "2", "10"]
    assert got.obs["sampling_weight"].dtype == np.float64


def test_file_of_ours_can_be_read_again(path: Path, tmp_path: Path) -> None:
    from crs_sc.io import write_h5ad

    first = read(put(cohort(), path), columns=MAPPED)
    again_path = tmp_path / "again.h5ad"
    write_h5ad(first, again_path)
    again = read(again_path)
    assert (again.layers["counts"] != first.layers["counts"]).nnz == 0
    assert list(again.obs.columns) == list(first.obs.columns)


# --- what is refused -------------------------------------------------------------------------


def assert_refused(path: Path, match: str, **options: object) -> str:
    with pytest.raises(InputError, match=match) as caught:
        read(path, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert options or path.name in text
    assert "\n" not in text
    return text


def test_not_there_text_and_zero_bytes(path: Path) -> None:
    assert_refused(path, "There is no file")
    path.write_text("gene\tcell1\nIL6\t3\n")
    assert_refused(path, "not HDF5")
    path.write_bytes(b"")
    assert_refused(path, "0 bytes")


@pytest.mark.parametrize("keep", [0.5, -100])
def test_truncated(path: Path, keep: float) -> None:
    put(cohort(400), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if keep > 0 else int(keep)])
    assert_refused(path, "truncated")


def test_hdf5_of_another_kind(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["foo"] = [1, 2]
    assert_refused(path, "neither AnnData .* nor 10x .*foo")


def test_damaged_gzip_chunk(path: Path) -> None:
    source = cohort(400)
    source.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 20 : chunk.byte_offset + 60] = bytes(40)
    path.write_bytes(data)
    assert_refused(path, "damaged")


def test_damaged_bytes_in_a_plain_file(path: Path) -> None:
    put(cohort(400), path)
    with h5py.File(path) as file:
        offset = file["X/data"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 40 : offset + 44] = b"\xff\xff\x7f\x7f"
    path.write_bytes(data)
    text = assert_refused(path, "above 16,777,216 .largest 3.4e\\+38")
    assert "cell 'cell" in text


@pytest.mark.parametrize("index", [10, 2_000_000_000, -3])
@pytest.mark.parametrize("build", [sparse.csr_matrix, sparse.csc_matrix])
def test_sparse_index_out_of_range(path: Path, index: int, build: type) -> None:
    source = cohort()
    source.X = build(source.X)
    put(source, path)
    with h5py.File(path, "r+") as file:
        file["X/indices"][5] = max(index, 40) if build is sparse.csc_matrix and index > 0 else index
    assert_refused(path, "indices are damaged")


def _strings_for_x(file: h5py.File) -> None:
    del file["X"]
    file.create_dataset("X", data=np.full((40, 10), b"1"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda file: file["X/indptr"].__setitem__(3, 10_000), "row pointers are damaged"),
        (lambda file: file["X"].attrs.modify("shape", [40, 12]), "does not fit together"),
        (lambda file: file.pop("X"), "no raw counts.*X: not there"),
        (lambda file: file["obs"].attrs.modify("encoding-version", "9.0.0"), "newer anndata"),
        (_strings_for_x, "no numbers"),
    ],
    ids=["pointers", "shape", "no-matrix", "encoding", "strings"],
)
def test_file_that_was_changed(path: Path, change: Callable[[h5py.File], None], match: str) -> None:
    put(cohort(), path)
    with h5py.File(path, "r+") as file:
        change(file)
    assert_refused(path, match)


def test_locked(path: Path) -> None:
    put(cohort(), path)
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert_refused(path, "HDF5_USE_FILE_LOCKING=FALSE")


def test_names_what_each_matrix_holds(path: Path) -> None:
    source = cohort()
    logged = lognorm(source.X)
    source.layers["scaled"] = (logged.toarray() - 3.1).astype(np.float32)
    source.X = logged
    text = assert_refused(put(source, path), "no raw counts")
    assert "X: log-normalised" in text
    assert "layers['scaled']: scaled" in text


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.nan, "1 NaN or infinite"),
        (np.inf, "1 NaN or infinite"),
        (-2.0, "1 negative"),
        (1.5, "1 not whole"),
    ],
)
@pytest.mark.parametrize("dense", [True, False])
def test_counts_with_a_wrong_value(path: Path, value: float, match: str, dense: bool) -> None:  # noqa: FBT001
    source = cohort(400)
    matrix = source.X.toarray()
    matrix[7, 2] = value
    source.X = matrix if dense else sparse.csr_matrix(matrix)
    assert_refused(
        put(source, path), f"{match}.* among its values; the first is cell 'cell7', gene 'CD14'"
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x > 0, "binary"),
        (lambda x: x * 0, "empty or all zero"),
        (lambda x: sparse.csr_matrix(np.full(x.shape, 3.0)), "constant"),
        (lambda x: x * 30.3, "fractional"),
    ],
)
def test_no_counts(path: Path, change: object, match: str) -> None:
    source = cohort()
    source.X = change(source.X)  # type: ignore[operator]
    assert_refused(put(source, path), match)


@pytest.mark.parametrize("rows", [slice(0, 0), slice(None)])
def test_nothing_inside(path: Path, rows: slice) -> None:
    columns = slice(None) if rows.stop == 0 else slice(0, 0)
    assert_refused(put(cohort()[rows, columns].copy(), path), "nothing to read")


def test_transposed(path: Path) -> None:
    source = cohort()
    source.obs_names = [f"ACGTACGTACGTAC{'ACGT'[i % 4]}{i}-1" for i in range(40)]
    assert_refused(put(source.T.copy(), path), "transposed")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_duplicate_cells(path: Path) -> None:
    source = cohort()
    source.obs_names = [f"cell{i % 20}" for i in range(40)]
    assert_refused(put(source, path), "20 duplicate cell names, such as 'cell0'")


def test_mapped_column_missing_or_empty(path: Path) -> None:
    source = cohort()
    source.obs["site"] = ["a"] * 35 + [None] * 5
    put(source, path)
    with pytest.raises(MissingKeyError, match=r"no column 'donor' .subject.*mouse"):
        read(path, columns={**MAPPED, "subject": "donor"})
    assert_refused(path, "'site'.*batch.* empty for 5 of 40", columns={**MAPPED, "batch": "site"})
    assert_refused(path, "unknown name donor", columns={"donor": "x"})
    got = read(path, columns={**MAPPED, "label": "site"})
    assert got.obs["label"].isna().sum() == 5


def test_strings_that_mean_missing(path: Path) -> None:
    source = cohort()
    source.obs["arm"] = [*source.obs["arm"][:38], "nan", ""]
    assert_refused(put(source, path), "empty for 2 of 40", columns=MAPPED)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf, "much"])
def test_bad_weight(path: Path, weight: object) -> None:
    source = cohort()
    source.obs["w"] = [1.0] * 39 + [weight]
    source.obs["w"] = source.obs["w"].astype(str) if weight == "much" else source.obs["w"]
    assert_refused(put(source, path), "above 0; it is not for 1", columns={"sampling_weight": "w"})


def test_sample_of_two_subjects(path: Path) -> None:
    columns = {"subject": "mouse", "condition": "arm"}
    assert_refused(put(cohort(), path), "more than one subject and condition", columns=columns)


def test_sample_with_a_slash(path: Path) -> None:
    source = cohort()
    source.obs["lib"] = source.obs["lib"] + "/d3"
    assert_refused(put(source, path), "'/'", columns=MAPPED)


def test_organism(path: Path) -> None:
    put(cohort(), path)
    assert_refused(path, "are human .*Set organism: human", organism="mouse")
    assert_refused(path, "must be one of", organism="rat")
    with pytest.warns(CrsWarning, match="only human genes"):
        read(path, organism="human+mouse")


# --- a list of files and a sheet --------------------------------------------------------------


def test_sheet(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for seed, name in enumerate(["a", "b"]):
        source = cohort(seed=seed)
        source.obs = source.obs[[]]
        put(source, tmp_path / "data" / f"{name}.h5ad")
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(
        "path\tsample\tdonor\tarm\tCD4/CD8\ndata/a.h5ad\tS1\t7\tCART\t2\ndata/b.h5ad\tS2\t8\tNA\t3\n"
    )
    got = read(sheet, columns={"subject": "donor", "condition": "arm"})
    assert got.shape == (80, 10)
    assert list(got.obs_names[[0, 40]]) == ["S1_cell0", "S2_cell0"]
    assert list(got.obs["condition"].cat.categories) == ["CART", "NA"]
    assert list(got.obs["subject"].cat.categories) == ["7", "8"]
    assert "CD4_CD8" in got.obs
    want = sparse.vstack([cohort(seed=seed).X for seed in (0, 1)])
    assert (got.layers["counts"] != want).nnz == 0
    files = [tmp_path / "data" / f"{name}.h5ad" for name in "ab"]
    assert source_files(sheet) == [sheet, *files]
    sheet.write_text("path\traw_path\ndata/a.h5ad\tdata/b.h5ad\n")
    assert source_files([sheet]) == [sheet, *files]
    sheet.write_text("path\traw_path\ndata/a.h5ad\traw.h5\n")
    with pytest.raises(InputError, match=r"There is no file '.*raw.h5'"):
        source_files(sheet)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file\tsample\na\tb\n", "no column 'path'"),
        ("path\tsample\n", "no rows"),
        ("path\tsample\n\tS1\n", "1 rows without a path"),
        ("path\nx.h5ad\nx.h5ad\n", "named twice"),
        ("path\nx.h5ad\n", "There is no file"),
        ("", "cannot be read as a table"),
        ("path\tsample\nx.h5ad\tS1\t\ny.h5ad\tS2\t\n", "more fields than its header"),
    ],
)
def test_bad_sheet(tmp_path: Path, text: str, match: str) -> None:
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(text)
    with pytest.raises(InputError, match=match):
        read(sheet)


def test_column_that_one_file_lacks(tmp_path: Path) -> None:
    full, bare = cohort(), cohort(seed=1)
    full.obs["arm"] = "CART"
    bare.obs = bare.obs[[]]
    paths = [put(full, tmp_path / "full.h5ad"), put(bare, tmp_path / "bare.h5ad")]
    with pytest.raises(MissingKeyError, match=r"'arm' \(condition\) in 1 of 2 files: .*bare.h5ad"):
        read(paths, columns={"condition": "arm"})


def test_sample_is_the_file_or_the_folder_above_cell_ranger(tmp_path: Path) -> None:
    paths = []
    for seed, name in enumerate(["lib.1", "lib.2"]):
        folder = tmp_path / name / "outs"
        folder.mkdir(parents=True)
        source = cohort(seed=seed)
        source.obs = source.obs[[]]
        paths.append(put(source, folder / "filtered_feature_bc_matrix.h5ad"))
    got = read(paths)
    assert list(got.obs["sample"].cat.categories) == ["lib.1", "lib.2"]
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(paths[0], tmp_path / name / "x.h5ad")
    with pytest.raises(InputError, match=r"Several files would be sample 'x'"):
        read([tmp_path / "a" / "x.h5ad", tmp_path / "b" / "x.h5ad"])


def test_names_that_clash_between_files_of_many_samples(tmp_path: Path) -> None:
    paths = [put(cohort(seed=i), tmp_path / f"{i}.h5ad") for i in range(2)]
    with pytest.raises(InputError, match="40 cell names are in more than one file"):
        read(paths, columns=MAPPED)


def test_counts_and_log_normalised_do_not_mix(tmp_path: Path) -> None:
    one, two = cohort(), cohort(seed=1)
    two.X = lognorm(two.X)
    paths = [put(one, tmp_path / "one.h5ad"), put(two, tmp_path / "two.h5ad")]
    with pytest.raises(InputError, match=r"two.h5ad' has no raw counts"):
        read(paths)


def test_panels(tmp_path: Path) -> None:
    one = put(cohort(), tmp_path / "one.h5ad")
    two = put(cohort(genes=[*GENES[2:][::-1], "XIST"], seed=1), tmp_path / "two.h5ad")
    columns = {"sample": None, "subject": None}
    with pytest.warns(CrsWarning, match="3 of 11 genes .*IL1B, IL6, XIST"):
        got = read([one, two], columns=columns)
    assert list(got.var_names) == GENES[2:]
    assert (
        got.layers["counts"][40:].toarray()[:, 0].sum()
        == cohort(genes=[*GENES[2:][::-1], "XIST"], seed=1)[:, "CD14"].X.sum()
    )
    assert any("genes are not in every file" in note for note in got.uns[keys.UNS]["notes"])
    ids = [f"ENSG{i:011d}" for i in range(10)]
    three = put(cohort(genes=ids), tmp_path / "three.h5ad")
    with pytest.raises(InputError, match=r"share 0 of 10 genes: IL1B.*ENSG"):
        read([one, three])


# --- looking without reading -----------------------------------------------------------------


def test_describe(path: Path) -> None:
    source = cohort()
    source.layers["raw_umi"] = source.X.copy()
    source.X = lognorm(source.X)
    found = describe_file(put(source, path))
    assert (found.kind, found.n_cells, found.n_genes) == ("h5ad", 40, 10)
    assert found.counts == "layers['raw_umi']"
    assert found.states["X"].startswith("log-normalised")
    assert found.organism == "human"
    assert list(found.obs.columns) == ["lib", "mouse", "arm"]


def test_real_files_are_read_as_they_are(shared_data: Path) -> None:
    source = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad")
    got = read(shared_data / "kang_ifnb_3800.h5ad", columns={"subject": "donor"})
    assert (got.layers["counts"] != source.X).nnz == 0
    assert "CXCL8" in got.var_names
    assert got.var.loc["CXCL8", "original_name"] == "IL8"
    with pytest.raises(InputError, match="Set organism: mouse"):
        read(shared_data / "shalek_bmdc_lps_mouse.h5ad")
