"""Target genes that make a cluster are found out; those that do not are cleared."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from crs_sc import keys
from crs_sc.clustering import circularity, gene_overlap
from crs_sc.clustering.circularity import element_agreement, like_columns
from crs_sc.errors import MissingKeyError

N_GROUP = 150
TARGETS = ["IL1B", "IL6", "CXCL8", "TNF"]


def cohort(*, strength: float, seed: int = 0) -> ad.AnnData:
    """Two groups by 20 selected genes; half of the first makes the target genes, so strongly."""
    rng = np.random.default_rng(seed)
    group = np.repeat([0, 1], N_GROUP)
    makes = (group == 0) & (np.arange(2 * N_GROUP) % 2 == 0)
    rates = np.full((2 * N_GROUP, 80), 1.0)
    rates[group == 0, :10] = 6.0
    rates[group == 1, 10:20] = 6.0
    rates[np.ix_(makes, range(76, 80))] = 1.0 + strength
    names = [f"g{i}" for i in range(76)] + TARGETS
    adata = ad.AnnData(
        sparse.csr_matrix(np.log1p(rng.poisson(rates)).astype(np.float32)),
        obs=pd.DataFrame(
            {"population": np.where(group == 0, "Classical monocyte", "B")},
            index=[f"c{i}" for i in range(2 * N_GROUP)],
        ),
        var=pd.DataFrame({keys.HIGHLY_VARIABLE: [True] * 40 + [False] * 40}, index=names),
    )
    adata.uns[keys.UNS] = {
        keys.CLUSTERING: pd.DataFrame({"resolution": [0.1, 0.3], "chosen": [False, True]})
    }
    return adata


def test_target_genes_that_split_a_population_are_found_out() -> None:
    table = circularity(cohort(strength=60.0), genes=TARGETS).set_index("population")
    assert list(table.index) == ["B", "Classical monocyte", "All"]
    assert table["agreement"]["Classical monocyte"] < 0.7
    assert table["agreement_control"]["Classical monocyte"] > 0.95
    assert table["agreement"]["B"] > 0.95
    assert table["ari"]["All"] < 0.8 < 0.95 < table["ari_control"]["All"]
    assert table["ari"].isna().sum() == 2
    assert (table["agreement_control_low"] <= table["agreement_control"]).all()


def test_target_genes_without_a_say_are_cleared() -> None:
    table = circularity(cohort(strength=0.0), genes=TARGETS).set_index("population")
    assert (table[["agreement", "agreement_control"]] > 0.95).all(axis=None)
    assert table["n_cells"].tolist() == [N_GROUP, N_GROUP, 2 * N_GROUP]


def test_the_target_genes_are_compared_even_if_they_were_selected() -> None:
    adata = cohort(strength=60.0)
    expected = circularity(adata, genes=TARGETS)
    adata.var.loc[TARGETS, keys.HIGHLY_VARIABLE] = True
    pd.testing.assert_frame_equal(circularity(adata, genes=TARGETS), expected)


def test_without_target_genes_in_the_data_there_is_no_row() -> None:
    assert circularity(cohort(strength=1.0), genes=["IL99"]).empty


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_element_agreement_is_the_definition(pairs: list[tuple[int, int]]) -> None:
    one, other = np.array(pairs).T
    # Gates et al. 2019 with the personalised page rank of a partition (alpha = 0.9).
    alpha, n = 0.9, len(one)

    def affinity(labels: np.ndarray) -> np.ndarray:
        same = (labels[:, None] == labels[None, :]).astype(float)
        return alpha * same / same.sum(axis=1, keepdims=True) + (1 - alpha) * np.eye(n)

    expected = 1 - np.abs(affinity(one) - affinity(other)).sum(axis=1) / (2 * alpha)
    np.testing.assert_allclose(element_agreement(one, other), expected, atol=1e-12)


def test_controls_are_like_the_targets_and_used_once() -> None:
    means = np.array([0.1, 0.5, 0.52, 0.9, 0.11, 0.95, 0.5])
    sets = like_columns(means, np.array([6, 0]), np.full(7, fill_value=True), n_sets=3)
    np.testing.assert_array_equal(sets[0], [1, 4])
    np.testing.assert_array_equal(sets[1], [2, 3])
    assert len(sets) == 2


def test_overlaps_are_listed_by_signature() -> None:
    adata = cohort(strength=0.0)
    table = gene_overlap(
        adata,
        signatures={"response": ["g1", "g50", "g60", "IL6"], "other": ["g70"]},
        markers={"B": ["g50", "g1"], "NK": ["g50"]},
        genes=["IL6", "IL1B", "IL99"],
    )
    rows = table.set_index(["gene_set", "gene"])
    assert rows.index.tolist() == [
        ("response", "g1"), ("response", "g50"), ("response", "IL6"),
        ("target_cytokines", "IL6"), ("target_cytokines", "IL1B"),
    ]  # fmt: skip
    assert rows["marker_of"].tolist() == ["B", "B,NK", "", "", ""]
    assert rows["is_selected"].tolist() == [True, False, False, False, False]
    assert rows["is_target"].tolist() == [False, False, True, True, True]


def test_missing_keys_are_named() -> None:
    adata = cohort(strength=0.0)
    del adata.uns[keys.UNS]
    with pytest.raises(MissingKeyError, match=r"tl\.cluster first"):
        circularity(adata, genes=TARGETS)
    del adata.var[keys.HIGHLY_VARIABLE]
    with pytest.raises(MissingKeyError, match="select_genes first"):
        circularity(adata, genes=TARGETS)
    with pytest.raises(MissingKeyError, match="select_genes first"):
        gene_overlap(adata, signatures={}, markers={}, genes=TARGETS)
