"""Annotation cross-check: labels compared, checked, and carried over."""

from __future__ import annotations

import importlib.util
import logging
import sys
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from crs_sc import genesets, keys, read, tl
from crs_sc.annotation import require_celltypist
from crs_sc.annotation.transfer import telling_genes
from crs_sc.errors import InputError, MissingExtraError, MissingKeyError
from crs_sc.io import open_h5ad, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

Maker = "Callable[..., ad.AnnData]"
TYPES = ("CD4 T", "B", "NK", "Classical monocyte")


def cells(make: Maker, n: int = 40, *, seed: int = 0) -> ad.AnnData:
    """Cells of four types, each a cluster, without a graph."""
    adata = make(dict.fromkeys(TYPES, n), seed=seed)
    del adata.obsp["connectivities"]
    adata.obs["cluster"] = adata.obs["truth"].astype("category")
    return adata


def said(own: list[str], other: list[str], **settings: object) -> pd.DataFrame:
    adata = ad.AnnData(
        obs=pd.DataFrame({"population": own}, index=[f"c{i}" for i in range(len(own))])
    )
    tl.add_opinion(adata, opinion="they", labels=other)
    return tl.compare_opinions(adata, **settings).set_index("population")


# --- names of labels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("CD4+ T cells", "CD4 T"), ("cd4 t", "CD4 T"), ("CD14+ Monocytes", "Classical monocyte"),
        ("CD16- NK cells", "NK"), ("Tem/Trm cytotoxic T cells", "CD8 T"), ("T cells", "T"),
        ("Monocytes", "Monocyte"), ("DC2", "cDC2"), ("Dendritic cells", "DC"),
        ("Doublet", "Unknown"),
        ("B-ALL blast", "B-ALL blast"), ("CD14-CD16+ monocytes", "Non-classical monocyte"),
        ("unlabelled", "Unknown"),
    ],
)  # fmt: skip
def test_labels_of_others_have_our_names(label: str, name: str) -> None:
    assert genesets.name_labels([label]) == {label: name}


def test_what_a_label_lacks_is_not_what_it_has() -> None:
    assert genesets.name_labels(["CD4- T cells", "CD14neg monocytes", "cluster 7"]) == {}


def test_every_name_is_a_population_or_lineage_and_no_label_has_two(tmp_path: Path) -> None:
    known = genesets.lineages()
    table = genesets.load_label_names()
    assert set(table["population"]) <= {*known, *known.values()}
    assert genesets.name_labels(table["label"]) == dict(
        zip(table["label"], table["population"], strict=True)
    )
    assert genesets.name_labels(known) == {name: name for name in known}
    own = tmp_path / "names.tsv"
    own.write_text("label\tpopulation\nB cells\tPlasma cell\ncluster 7\tNK\n", encoding="utf-8")
    named = genesets.name_labels(["b cell", "cluster 7"], user=own)
    assert named == {"b cell": "Plasma cell", "cluster 7": "NK"}
    own.write_text("label\tname\nB cells\tB\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column population"):
        genesets.name_labels(["B"], user=own)
    own.write_text("label\tpopulation\nB cells\t\n", encoding="utf-8")
    with pytest.raises(InputError, match="is empty"):
        genesets.name_labels(["B"], user=own)


# --- agreement ----------------------------------------------------------------------------------


def test_agreement_is_counted_by_type_and_by_lineage() -> None:
    own = ["CD4 T"] * 20 + ["B"] * 20 + ["Classical monocyte"] * 20
    other = (
        ["CD4 T cells"] * 12 + ["CD8 T cells"] * 6 + ["Unassigned"] * 2
        + ["Plasma cells"] * 15 + ["B cells"] * 5
        + ["NK cells"] * 19 + ["Monocytes"]
    )  # fmt: skip
    table = said(own, other)
    t = table.loc["CD4 T"]
    assert (t["n_cells"], t["n_compared"], t["verdict"]) == (20, 18, "agrees")
    assert (t["agreement"], t["lineage_agreement"]) == (12 / 18, 1.0)
    assert (t["other_label"], t["other_share"]) == ("CD8 T", 6 / 20)
    assert t["margin"] == pytest.approx(12 / 20 - 6 / 20)
    b = table.loc["B"]
    assert (b["agreement"], b["lineage_agreement"], b["verdict"]) == (0.25, 1.0, "lineage_agrees")
    mono = table.loc["Classical monocyte"]
    # "Monocytes" says less than the type: it counts for the lineage only.
    assert (mono["n_compared"], mono["agreement"], mono["verdict"]) == (20, 0.0, "disagrees")
    assert mono["lineage_agreement"] == pytest.approx(1 / 20)
    everyone = table.loc["All"]
    assert everyone["n_compared"] == 58
    assert everyone["lineage_agreement"] == pytest.approx((18 + 20 + 1) / 58)
    assert table.drop("All")["kappa"].isna().all()


def test_kappa_is_that_of_the_definition() -> None:
    own = ["B"] * 50 + ["NK"] * 50
    other = ["B"] * 40 + ["NK"] * 10 + ["B"] * 20 + ["NK"] * 30
    table = said(own, other)
    # Observed 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4.
    assert table.loc["All", "kappa"] == pytest.approx((0.7 - 0.5) / 0.5)
    assert table.loc["All", "kappa_lineage"] == pytest.approx(0.4)


def test_what_cannot_be_compared_is_not_judged() -> None:
    table = said(["B"] * 9 + ["NK"] * 30 + ["Unknown"] * 20, ["B"] * 9 + ["what"] * 30 + ["B"] * 20)
    assert table["verdict"].drop("All").tolist() == ["cannot_tell"] * 3
    assert table.loc["Unknown", "other_label"] == "B"
    assert table.loc["NK", "n_compared"] == 0
    assert np.isnan(table.loc["NK", "agreement"])
    # A name of one's own is the same name on both sides.
    assert said(["mine"] * 20, ["mine"] * 20).loc["mine", "verdict"] == "agrees"


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.sampled_from(["B", "NK", "CD4 T", "T", "Unknown", "odd"]), min_size=1), st.randoms()
)
def test_agreement_with_oneself_is_whole_and_order_does_not_matter(own: list[str], rng) -> None:
    table = said(own, own)
    assert (table["agreement"].dropna() == 1).all()
    assert (table["lineage_agreement"].dropna() == 1).all()
    other = [rng.choice(["B", "NK", "CD8 T", "T", "Unknown"]) for _ in own]
    order = list(range(len(own)))
    rng.shuffle(order)
    pd.testing.assert_frame_equal(
        said(own, other), said([own[i] for i in order], [other[i] for i in order])
    )


def test_opinions_have_columns_of_the_contract_and_wrong_ones_are_named(make: Maker) -> None:
    adata = cells(make, 5)
    adata.obs["population"] = adata.obs["truth"]
    empty = tl.compare_opinions(adata)
    assert list(empty.columns) == keys.OPINIONS_TABLE.names
    assert empty.empty
    tl.add_opinion(adata, opinion="a", labels=adata.obs["truth"])
    tl.add_opinion(adata, opinion="b", labels=[None] * adata.n_obs)
    table = tl.compare_opinions(adata)
    assert list(table.columns) == keys.OPINIONS_TABLE.names
    assert not table.duplicated(list(keys.OPINIONS_TABLE.index)).any()
    assert list(dict.fromkeys(table["opinion"])) == ["a", "b"]
    assert (adata.obsm["opinions"]["b"] == "Unknown").all()
    with pytest.raises(InputError, match="3 labels for 20 cells"):
        tl.add_opinion(adata, opinion="c", labels=["B"] * 3)
    with pytest.raises(InputError, match="needs a name"):
        tl.add_opinion(adata, opinion=" ", labels=adata.obs["truth"])
    with pytest.raises(InputError, match="no opinion c"):
        tl.compare_opinions(adata, opinions=["c"])
    with pytest.raises(MissingKeyError, match="type"):
        tl.compare_opinions(adata, population_key="type")


# --- labels of the user -------------------------------------------------------------------------


def test_labels_are_held_against_the_markers_and_stay_as_they_are(make: Maker) -> None:
    adata = cells(make)
    label = adata.obs["truth"].replace(
        {"CD4 T": "T cells", "NK": "CD8+ T lymphocytes", "Classical monocyte": "odd ones"}
    )
    adata.obs["label"] = label
    before = adata.obs.copy()
    table = tl.check_labels(adata).set_index("population")
    pd.testing.assert_frame_equal(adata.obs, before)
    assert keys.UNS not in adata.uns
    assert table.loc["B", "verdict"] == "agrees"
    assert table.loc["T cells", "verdict"] == "lineage_agrees"
    assert table.loc["CD8+ T lymphocytes", ["verdict", "other_label"]].tolist() == [
        "disagrees",
        "NK",
    ]
    # Nobody knows what they are called, but what the markers say is told.
    odd = table.loc["odd ones"]
    assert (odd["verdict"], odd["other_label"]) == ("cannot_tell", "Classical monocyte")
    assert odd["margin"] < -0.9


# --- label transfer -----------------------------------------------------------------------------


def test_telling_genes_tell_the_labels_apart_whatever_their_size() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [200, 200, 6])
    x = rng.poisson(1.0, size=(406, 30)).astype(float)
    x[codes == 0, 3] += 4
    x[codes == 2, 7] += 4
    assert set(telling_genes(sparse.csr_matrix(x), codes, n_genes=2)) == {3, 7}


def test_labels_are_carried_over_cell_by_cell(make: Maker, tmp_path: Path) -> None:
    adata, reference = cells(make, seed=1), cells(make, seed=2)
    reference.obs["label"] = reference.obs["truth"]
    tl.transfer_labels(adata, reference=reference)
    found = adata.obsm["opinions"]["reference"]
    assert (found == adata.obs["truth"]).mean() > 0.97
    # A cell has its answer for itself, whoever else is there.
    alone = adata[adata.obs["truth"] == "B"].copy()
    del alone.obsm["opinions"]
    tl.transfer_labels(alone, reference=reference)
    again = alone.obsm["opinions"]["reference"].astype(str)
    assert (again == found[alone.obs_names].astype(str)).all()
    # Another order of the genes changes nothing, nor do the counts stay in memory.
    write_h5ad(adata[:, ::-1].copy(), tmp_path / "cells.h5ad")
    stored = open_h5ad(tmp_path / "cells.h5ad")
    tl.transfer_labels(stored, reference=reference)
    assert (stored.obsm["opinions"]["reference"].astype(str) == found.astype(str)).all()
    # Of two labels each has its own probability as well.
    two = reference[reference.obs["truth"].isin(["B", "NK"])].copy()
    tl.transfer_labels(adata, reference=two, min_probability=0.0, opinion="two")
    same = (adata.obsm["opinions"]["two"].astype(str) == adata.obs["truth"]).to_numpy()
    assert same[adata.obs["truth"].isin(["B", "NK"])].mean() > 0.97
    assert "shared genes" in adata.uns["crs_sc"]["notes"][0]


def test_target_cytokines_never_decide(make: Maker) -> None:
    adata, reference = cells(make, seed=1), cells(make, seed=2)
    rng = np.random.default_rng(0)
    for one in (adata, reference):
        one.obs["label"] = rng.choice(["yes", "no"], size=one.n_obs)
        counts = one.layers["counts"].tolil()
        made = np.where(one.obs["label"] == "yes", 50, 0).astype(np.float32)
        counts[:, one.var_names.get_loc("HK0")] = made[:, None]
        one.layers["counts"] = counts.tocsr()
        one.var_names = ["IL6" if name == "HK0" else name for name in one.var_names]
    tl.transfer_labels(adata, reference=reference, min_probability=0, n_label_genes=5)
    hits = (adata.obsm["opinions"]["reference"] == adata.obs["label"]).mean()
    assert hits < 0.65
    for one in (adata, reference):
        one.var_names = ["HK0" if name == "IL6" else name for name in one.var_names]
    tl.transfer_labels(adata, reference=reference, min_probability=0, n_label_genes=5)
    assert (adata.obsm["opinions"]["reference"] == adata.obs["label"]).mean() > 0.95
    tl.transfer_labels(
        adata, reference=reference, min_probability=0, n_label_genes=5, exclude=["HK0"]
    )
    assert (adata.obsm["opinions"]["reference"] == adata.obs["label"]).mean() < 0.65


def test_a_reference_that_cannot_be_used_is_refused(make: Maker) -> None:
    adata, reference = cells(make, seed=1), cells(make, seed=2)
    with pytest.raises(MissingKeyError, match="label"):
        tl.transfer_labels(adata, reference=reference)
    reference.obs["label"] = pd.Series([None] * reference.n_obs, dtype=object).to_numpy()
    with pytest.raises(InputError, match="is empty for every cell"):
        tl.transfer_labels(adata, reference=reference)
    reference.obs["label"] = np.where(np.arange(reference.n_obs) < 5, "few", "unlabelled")
    with pytest.raises(InputError, match=r"0 label\(s\) with 10 cells"):
        tl.transfer_labels(adata, reference=reference)
    reference.obs["label"] = reference.obs["truth"]
    reference.var_names = [f"G{i}" for i in range(reference.n_vars)]
    with pytest.raises(InputError, match="shares 0 genes"):
        tl.transfer_labels(adata, reference=reference)
    with pytest.raises(InputError, match="min_probability"):
        tl.transfer_labels(adata, reference=reference, min_probability=2)


def test_a_sample_of_one_type_stays_that_type_on_real_cells(shared_data: Path) -> None:
    """Control to IFN-beta in 8 donors: accuracy, and T cells alone stay T cells."""
    kang = read(
        shared_data / "kang_ifnb_3800.h5ad",
        columns={"subject": "donor", "condition": "condition", "label": "cell_type"},
    )
    kang = kang[kang.obs["demuxlet_call"] == "SNG"].copy() if "demuxlet_call" in kang.obs else kang
    named = genesets.name_labels(kang.obs["label"].astype(str))
    lineage = genesets.lineages() | {"T": "T", "DC": "DC"}
    control = kang[kang.obs["condition"] == "ctrl"].copy()
    treated = kang[kang.obs["condition"] == "stim"].copy()
    tl.transfer_labels(treated, reference=control)
    truth = treated.obs["label"].astype(str).map(named)
    found = treated.obsm["opinions"]["reference"].astype(str).map(lambda x: named.get(x, x))
    known = (truth != "Unknown") & (found != "Unknown")
    assert (found == "Unknown")[truth != "Unknown"].mean() < 0.06
    assert (found[known].map(lineage) == truth[known].map(lineage)).mean() > 0.96
    t_cells = treated[(truth == "CD4 T").to_numpy()].copy()
    del t_cells.obsm["opinions"]
    tl.transfer_labels(t_cells, reference=control)
    labels = t_cells.obsm["opinions"]["reference"].astype(str).map(named)
    assert (labels.map(lineage) == "T").mean() > 0.9


# --- CellTypist ---------------------------------------------------------------------------------


def test_celltypist_is_asked_for_by_name_if_it_is_missing(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = cells(make, 5)
    with pytest.raises(InputError, match="no CellTypist model"):
        tl.celltypist_labels(adata, model=tmp_path / "model.pkl")
    (tmp_path / "model.pkl").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "celltypist", None)
    with pytest.raises(MissingExtraError, match=r"crs_sc\[celltypist\]"):
        tl.celltypist_labels(adata, model=tmp_path / "model.pkl")


@pytest.mark.skipif(
    importlib.util.find_spec("celltypist") is None,
    reason="CellTypist is not installed (pip install 'crs_sc[celltypist]')",
)
def test_celltypist_gives_its_own_labels(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLTYPIST_FOLDER", str(tmp_path / "folder"))
    handlers = list(logging.getLogger().handlers)
    celltypist = require_celltypist()
    assert logging.getLogger().handlers == handlers
    trained, adata = cells(make, seed=1), cells(make, seed=2)
    names = {"CD4 T": "Tcm/Naive helper T cells", "Classical monocyte": "Classical monocytes",
             "B": "B cells", "NK": "CD16- NK cells"}  # fmt: skip
    labels = trained.obs["truth"].map(names).to_numpy()
    # Its other solver asks scikit-learn for what 1.8 has taken out.
    model = celltypist.train(trained, labels=labels, use_SGD=True, check_expression=False)
    path = tmp_path / "model.pkl"
    model.write(str(path))
    x = adata.X.copy()
    itself = celltypist.annotate(adata.copy(), model=str(path))
    tl.celltypist_labels(adata, model=path, min_probability=0)
    assert (x != adata.X).nnz == 0
    found = adata.obsm["opinions"]["celltypist"].astype(str)
    assert (found == itself.predicted_labels["predicted_labels"].astype(str)).all()
    # Without `X` the counts are normalised, in memory or on disk.
    write_h5ad(adata, tmp_path / "cells.h5ad")
    stored = open_h5ad(tmp_path / "cells.h5ad")
    for one in (adata.copy(), stored):
        one.X = None
        tl.celltypist_labels(one, model=path, min_probability=0)
        assert (one.obsm["opinions"]["celltypist"].astype(str) == found).all()
    sure = itself.probability_matrix.max(axis=1) >= 0.9
    tl.celltypist_labels(adata, model=path, min_probability=0.9, opinion="sure")
    of_sure = adata.obsm["opinions"]["sure"].astype(str)
    assert (of_sure == found.where(sure, "Unknown")).all()
    assert 0 < sure.sum() < adata.n_obs
    adata.obs["population"] = adata.obs["truth"]
    table = tl.compare_opinions(adata, opinions=["celltypist"]).set_index("population")
    assert (table["verdict"] == "agrees").all()
    assert table.loc["All", "kappa"] > 0.9
    path.write_bytes(b"no pickle")
    with pytest.raises(InputError, match="is no CellTypist model"):
        tl.celltypist_labels(adata, model=path)
