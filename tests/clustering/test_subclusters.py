"""Groups within a compartment that the whole cohort hides."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from crs_sc import keys
from crs_sc.clustering import subcluster, subcluster_table
from crs_sc.errors import InputError, MissingKeyError

STATE_GENES = [f"s{i}" for i in range(20)]
LINEAGE_GENES = [f"l{i}" for i in range(20)]


def cohort(n: int = 150, seed: int = 0) -> ad.AnnData:
    """T cells, and monocytes in two states that differ in genes of their own."""
    rng = np.random.default_rng(seed)
    group = np.repeat(["T", "resting", "inflammatory"], n)
    rates = np.full((3 * n, 40), 0.5)
    rates[group == "T", :10] = 8.0
    rates[group != "T", 10:20] = 8.0
    rates[group == "inflammatory", 20:30] = 5.0
    rates[group == "resting", 30:] = 5.0
    is_myeloid = group != "T"
    obs = pd.DataFrame(
        {
            "group": group,
            "lineage": np.where(is_myeloid, "Monocyte", "T"),
            "population": np.where(is_myeloid, "Classical monocyte", "CD4 T"),
            "myeloid_state": pd.Categorical(np.where(is_myeloid, group, None)),
            "condition": np.where(group == "inflammatory", "CART", "vehicle"),
            "subject": np.where(np.arange(3 * n) % 3 == 0, "m1", "m2"),
        },
        index=[f"c{i}" for i in range(3 * n)],
    )
    return ad.AnnData(
        sparse.csr_matrix(np.log1p(rng.poisson(rates)).astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=LINEAGE_GENES + STATE_GENES),
    )


def test_states_come_back_on_their_own_genes_and_nothing_outside() -> None:
    adata = cohort()
    subcluster(adata, genes=STATE_GENES, resolutions=(0.1,))
    found = adata.obs[keys.SUBCLUSTER]
    own = adata.obs["lineage"] == "Monocyte"
    assert found[~own].isna().all()
    assert adjusted_rand_score(adata.obs["group"][own], found[own]) > 0.98
    table = subcluster_table(adata)
    assert list(table.columns) == keys.SUBCLUSTERS_TABLE.names
    assert table["cluster"].tolist() == ["s0", "s1"]
    assert set(table["myeloid_state"]) == {"resting", "inflammatory"}
    assert (table["population"] == "Classical monocyte").all()
    assert (table["myeloid_state_share"] > 0.98).all()
    assert table["state"].tolist() == [keys.STABLE] * 2
    arm = table.set_index("myeloid_state")["condition"]
    assert arm.to_dict() == {"resting": "vehicle", "inflammatory": "CART"}
    assert (table["subject"] == "m2").all()
    np.testing.assert_allclose(table["subject_share"], 2 / 3, atol=0.02)


def test_cells_outside_the_compartment_do_not_matter() -> None:
    whole = cohort()
    subcluster(whole, genes=STATE_GENES, resolutions=(0.1,))
    alone = cohort()
    alone = alone[alone.obs["lineage"] == "Monocyte"].copy()
    subcluster(alone, genes=STATE_GENES, resolutions=(0.1,))
    own = whole.obs["lineage"] == "Monocyte"
    assert whole.obs.loc[own, keys.SUBCLUSTER].tolist() == alone.obs[keys.SUBCLUSTER].tolist()


def test_too_few_cells_are_not_clustered_and_an_old_result_does_not_stay() -> None:
    adata = cohort(60)
    subcluster(adata, genes=STATE_GENES, resolutions=(0.1,))
    assert len(subcluster_table(adata)) == 2
    subcluster(adata, genes=STATE_GENES, min_cells=500)
    assert adata.obs[keys.SUBCLUSTER].isna().all()
    assert subcluster_table(adata).empty
    assert any("Not clustered again: 120 cells" in n for n in adata.uns[keys.UNS]["notes"])


def test_genes_are_selected_within_the_compartment_also_from_counts_elsewhere() -> None:
    adata = cohort()
    counts = sparse.csr_matrix(np.rint(np.expm1(adata.X.toarray())).astype(np.float32))
    adata.layers[keys.COUNTS] = counts
    adata.obs[keys.SAMPLE] = adata.obs["subject"]
    depth = np.asarray(counts.sum(axis=1))
    adata.X = sparse.csr_matrix(np.log1p(counts.toarray() / depth * 1e4).astype(np.float32))
    few = adata[:, STATE_GENES[:2]].copy()
    rest = depth - few.layers[keys.COUNTS].sum(axis=1)
    small = ad.AnnData(
        obs=adata.obs.copy(),
        var=pd.DataFrame(index=[*few.var_names, keys.OTHER_GENES]),
        layers={keys.COUNTS: sparse.hstack([few.layers[keys.COUNTS], rest]).tocsr()},
    )
    own = adata.obs["lineage"] == "Monocyte"
    subcluster(adata, exclude=LINEAGE_GENES, n_genes=15, resolutions=(0.1,))
    assert adjusted_rand_score(adata.obs["group"][own], adata.obs[keys.SUBCLUSTER][own]) > 0.9
    subcluster(small, exclude=LINEAGE_GENES, n_genes=15, counts=adata, resolutions=(0.1,))
    assert small.obs[keys.SUBCLUSTER][own].tolist() == adata.obs[keys.SUBCLUSTER][own].tolist()


def test_errors_name_what_is_missing() -> None:
    adata = cohort(30)
    with pytest.raises(InputError, match="None of the 1 genes"):
        subcluster(adata, genes=["nope"])
    with pytest.raises(MissingKeyError, match="group_key"):
        subcluster(adata, genes=STATE_GENES, group_key="nope")
