"""Harmony and its measurement, where the batches and what they hide are planted."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import keys
from crs_sc.clustering import integration_table
from crs_sc.clustering.embedding import represent
from crs_sc.clustering.integration import foreign_share, same_label_share
from crs_sc.core.neighbours import neighbours_of
from crs_sc.errors import CrsWarning, MissingKeyError


def batches(*, gap: float, aliased: bool = False, seed: int = 0) -> ad.AnnData:
    """Three groups in two batches that are `gap` apart in one direction."""
    rng = np.random.default_rng(seed)
    group, batch = np.tile(np.repeat([0, 1, 2], 100), 2), np.repeat([0, 1], 300)
    points = 12 * np.eye(3, 8)[group] + rng.normal(size=(600, 8))
    points[:, 7] += gap * batch
    condition = batch if aliased else rng.integers(0, 2, 600)
    obs = pd.DataFrame(
        {
            "group": group.astype(str),
            "batch": np.array(["x", "y"])[batch],
            "condition": np.array(["vehicle", "CART"])[condition],
        },
        index=[f"c{i}" for i in range(600)],
    )
    return ad.AnnData(
        sparse.csr_matrix((600, 1), dtype=np.float32), obs=obs, obsm={keys.PCA: points}
    )


SETTINGS = {"batch_key": "batch", "condition_key": "condition", "random_state": 0}


def test_harmony_mixes_planted_batches_and_keeps_the_groups() -> None:
    adata = batches(gap=8.0)
    assert represent(adata, integrate=None, **SETTINGS) == keys.HARMONY
    table = integration_table(adata, label_key="group").set_index("batch")
    assert table["mixing_before"]["All"] < 0.05
    assert table["mixing_after"]["All"] > 0.8
    assert (table[["conservation_before", "conservation_after"]] > 0.99).all(axis=None)
    assert table["status"].unique().tolist() == [keys.OK]
    assert table["conditions"].to_dict() == {"x": "CART,vehicle", "y": "CART,vehicle", "All": ""}
    assert table["n_cells"].tolist() == [300, 300, 600]


def test_groups_that_the_integration_merges_are_not_conserved() -> None:
    adata = batches(gap=8.0)
    # An integration that throws everything together.
    adata.obsm[keys.HARMONY] = np.random.default_rng(0).normal(size=(600, 8))
    for labels in ("group", None):
        table = integration_table(adata, label_key=labels).set_index("batch")
        assert table["mixing_after"]["All"] == pytest.approx(1.0, abs=0.05)
        assert table["conservation_after"]["All"] < 0.45 < 0.6 < table["conservation_before"]["All"]


def test_batches_that_are_no_batches_are_mixed_before() -> None:
    table = integration_table(batches(gap=0.0)).set_index("batch")
    assert table["mixing_before"]["All"] == pytest.approx(1.0, abs=0.05)
    assert table[["mixing_after", "conservation_after"]].isna().all(axis=None)


def test_aliased_batches_are_integrated_only_when_asked_and_with_a_warning() -> None:
    adata = batches(gap=8.0, aliased=True)
    with pytest.warns(CrsWarning, match="cannot be told from what the condition does. Not inte"):
        assert represent(adata, integrate=None, **SETTINGS) == keys.PCA
    assert keys.HARMONY not in adata.obsm
    with pytest.warns(CrsWarning, match="Integrated all the same"):
        assert represent(adata, integrate=True, **SETTINGS) == keys.HARMONY
    assert integration_table(adata)["status"].unique().tolist() == [keys.CONFOUNDED]
    assert any("Integrated all the same" in note for note in adata.uns[keys.UNS]["notes"])


def test_nothing_is_integrated_without_batches_and_an_old_result_does_not_stay() -> None:
    adata = batches(gap=8.0)
    adata.obsm[keys.HARMONY] = adata.obsm[keys.PCA]
    assert represent(adata, integrate=False, **SETTINGS) == keys.PCA
    assert keys.HARMONY not in adata.obsm
    adata.obs["batch"] = "x"
    assert represent(adata, integrate=True, **SETTINGS) == keys.PCA
    assert any("single value" in note for note in adata.uns[keys.UNS]["notes"])
    del adata.obs["batch"]
    assert represent(adata, integrate=None, **SETTINGS) == keys.PCA
    assert integration_table(adata).empty
    with pytest.raises(MissingKeyError, match="batch_key"):
        represent(adata, integrate=True, **SETTINGS)


def test_the_same_twice() -> None:
    found = []
    for _ in range(2):
        adata = batches(gap=8.0)
        represent(adata, integrate=True, **SETTINGS)
        found.append((adata.obsm[keys.HARMONY], integration_table(adata, max_cells=400)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    pd.testing.assert_frame_equal(found[0][1], found[1][1])


def test_measures_in_closed_form() -> None:
    # Cells on a line; batches 0 0 1 1, two neighbours each.
    neighbours, _ = neighbours_of(np.array([[0.0], [1.0], [2.1], [3.3]]), 2)
    np.testing.assert_array_equal(neighbours, [[1, 2], [0, 2], [1, 3], [2, 1]])
    batch = np.array([0, 0, 1, 1])
    # In batch 0 half of the neighbours are foreign, of a random mixture 2/3 would be.
    np.testing.assert_allclose(foreign_share(neighbours, batch, 3), [0.75, 0.75, np.nan])
    assert same_label_share(neighbours, batch) == 0.5
