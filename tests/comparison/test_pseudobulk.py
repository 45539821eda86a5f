"""Pseudobulk against pandas, and ambient RNA against its formula."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from crs_sc.comparison import pseudobulk
from crs_sc.core.arrays import GroupSums
from crs_sc.errors import InputError, MissingKeyError

GENES = [f"G{i}" for i in range(6)]
# Subject m1 has two libraries of different ambient RNA.
LIBRARIES = {
    "l1": ("m1", "vehicle", "a"),
    "l2": ("m1", "vehicle", "b"),
    "l3": ("m2", "CART", "a"),
    "l4": ("m3", "CART", "b"),
}


def _cohort(*, ambient: bool = True, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    rows = [
        (name, *fields, population)
        for name, fields in LIBRARIES.items()
        for population in rng.choice(["Mono", "T"], size=20)
        # m3 has no monocytes
        if not (name == "l4" and population == "Mono")
    ]
    obs = pd.DataFrame(rows, columns=["sample", "subject", "condition", "batch", "population"])
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    counts = sparse.csr_matrix(rng.poisson(2.0, size=(len(obs), 6)).astype(np.float32))
    adata = ad.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=GENES))
    adata.layers["counts"] = counts.copy()
    if ambient:
        profile = pd.DataFrame(
            rng.dirichlet(np.ones(6), size=4).T, index=GENES, columns=list(LIBRARIES)
        )
        adata.varm["ambient_profile"] = profile
        adata.uns["crs_sc"] = {
            "contamination": pd.DataFrame(
                {"ambient_fraction": [0.05, 0.2, 0.1, 0.0]}, index=list(LIBRARIES)
            )
        }
    return adata


def test_complete_grid_and_sums() -> None:
    adata = _cohort()
    bulk = pseudobulk(adata)
    assert bulk.shape == (3 * 2, 6)
    expected = pd.DataFrame(adata.layers["counts"].toarray(), columns=GENES)
    labels = adata.obs.reset_index()[["subject", "population"]]
    expected = expected.groupby([labels["subject"], labels["population"]]).sum()
    for i, row in enumerate(bulk.obs.itertuples()):
        counts = bulk.layers["counts"][[i]].toarray().ravel()
        here = adata.obs["subject"].eq(row.subject) & adata.obs["population"].eq(row.population)
        assert row.n_cells == here.sum()
        assert row.n_cells_total == adata.obs["subject"].eq(row.subject).sum()
        assert row.cell_share == pytest.approx(row.n_cells / row.n_cells_total)
        wanted = expected.loc[(row.subject, row.population)] if row.n_cells else np.zeros(6)
        np.testing.assert_array_equal(counts, wanted)
    empty = bulk.obs.query("subject == 'm3' and population == 'Mono'")
    assert list(empty["n_cells"]) == [0]


def test_ambient_rna_is_summed_over_libraries() -> None:
    adata = _cohort()
    bulk = pseudobulk(adata)
    rho = adata.uns["crs_sc"]["contamination"]["ambient_fraction"]
    row = int(np.flatnonzero(bulk.obs["subject"].eq("m1") & bulk.obs["population"].eq("Mono"))[0])
    expected = np.zeros(6)
    for library in ("l1", "l2"):
        here = adata.obs["sample"].eq(library) & adata.obs["population"].eq("Mono")
        umi = adata.layers["counts"][here.to_numpy()].sum()
        expected += rho[library] * umi * adata.varm["ambient_profile"][library].to_numpy()
    ambient = bulk.layers["ambient"][[row]].toarray().ravel()
    np.testing.assert_allclose(ambient, expected, rtol=1e-12)
    counts = bulk.layers["counts"][[row]].toarray().ravel()
    corrected = bulk.X[[row]].toarray().ravel()
    np.testing.assert_allclose(corrected, np.maximum(0, counts - expected), rtol=1e-12)


def test_without_ambient_rna_nothing_is_corrected_and_a_note_says_so() -> None:
    bulk = pseudobulk(_cohort(ambient=False))
    assert bulk.layers["ambient"].nnz == 0
    np.testing.assert_array_equal(bulk.X.toarray(), bulk.layers["counts"].toarray())
    assert "ambient RNA is not known" in bulk.uns["crs_sc"]["notes"][0]


def test_ambient_rna_of_a_sample_missing_is_an_error() -> None:
    adata = _cohort()
    adata.uns["crs_sc"]["contamination"] = adata.uns["crs_sc"]["contamination"].drop(index="l3")
    with pytest.raises(MissingKeyError, match="l3"):
        pseudobulk(adata)


def test_batches_of_a_unit_are_joined() -> None:
    bulk = pseudobulk(_cohort())
    assert set(bulk.obs.loc[bulk.obs["subject"] == "m1", "batch"]) == {"a+b"}


def test_sampling_weights_change_the_share_only() -> None:
    adata = _cohort()
    adata.obs["sampling_weight"] = np.where(adata.obs["population"] == "Mono", 3.0, 1.0)
    plain, weighted = pseudobulk(_cohort()), pseudobulk(adata)
    np.testing.assert_array_equal(plain.obs["n_cells"], weighted.obs["n_cells"])
    mono = weighted.obs.query("subject == 'm2' and population == 'Mono'").iloc[0]
    n, total = mono["n_cells"], mono["n_cells_total"]
    assert mono["cell_share"] == pytest.approx(3 * n / (3 * n + total - n))
    adata.obs.loc[adata.obs_names[0], "sampling_weight"] = 0
    with pytest.raises(InputError, match="above 0"):
        pseudobulk(adata)


def test_time_points_are_separate_rows() -> None:
    adata = _cohort()
    adata.obs["timepoint"] = adata.obs["sample"].map(
        {"l1": "d1", "l2": "d2", "l3": "d1", "l4": "d1"}
    )
    bulk = pseudobulk(adata)
    assert bulk.n_obs == 4 * 2
    assert not bulk.obs_names.duplicated().any()
    assert bulk.obs["timepoint"].dtype == "category"


@pytest.mark.parametrize("missing", ["population", "subject"])
def test_missing_columns(missing: str) -> None:
    adata = _cohort()
    del adata.obs[missing]
    with pytest.raises(MissingKeyError, match=missing):
        pseudobulk(adata)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_order_of_cells_does_not_matter(seed: int) -> None:
    adata = _cohort()
    shuffled = adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()
    one, two = pseudobulk(adata), pseudobulk(shuffled)
    pd.testing.assert_frame_equal(one.obs, two.obs)
    np.testing.assert_array_equal(one.layers["counts"].toarray(), two.layers["counts"].toarray())
    np.testing.assert_allclose(one.X.toarray(), two.X.toarray(), rtol=1e-12)


def test_chunks_add_up() -> None:
    rng = np.random.default_rng(3)
    matrix = sparse.csr_matrix(rng.poisson(1.0, size=(50, 4)).astype(np.float32))
    codes = rng.integers(0, 5, size=50)
    codes[:3] = -1
    whole, parts = GroupSums(codes, 5, 4), GroupSums(codes, 5, 4)
    whole.add(slice(0, 50), matrix)
    for i in range(0, 50, 7):
        parts.add(slice(i, min(i + 7, 50)), matrix[i : i + 7])
    expected = np.array([matrix.toarray()[codes == k].sum(axis=0) for k in range(5)])
    np.testing.assert_array_equal(whole.sums, expected)
    np.testing.assert_array_equal(whole.sums, parts.sums)
    np.testing.assert_array_equal(whole.row_sums, matrix.toarray().sum(axis=1))
    np.testing.assert_array_equal(whole.row_sums, parts.row_sums)


def test_result_survives_the_disk(tmp_path: object) -> None:
    bulk = pseudobulk(_cohort())
    path = f"{tmp_path}/bulk.h5ad"
    bulk.write_h5ad(path)
    again = ad.read_h5ad(path)
    np.testing.assert_array_equal(again.X.toarray(), bulk.X.toarray())
