"""Evidence beside the name of a part: markers, doublets, stress and mixtures."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.annotation._evidence import cell_evidence, marker_evidence
from crs_sc.annotation._marker_scores import Panel


def test_markers_are_named_by_weight_and_level_and_those_against_apart() -> None:
    panel = Panel(np.array([0, 1, 2]), np.array([3]), np.array([1.0, 0.5, 1.0]), np.array([1.0]))
    relative = np.array([[0.5, 0.9, 0.1, 0.0], [0.3, 0.8, 0.9, 0.4], [1.0, 1.0, 1.0, 1.0]])
    genes = ["MPO", "LYZ", "AZU1", "CD14"]
    # LYZ at 0.9 with half a weight comes after MPO at 0.5; AZU1 at 0.1 is not there.
    assert marker_evidence(relative, [panel], genes, [0, 0, -1]) == [
        "MPO, LYZ",
        "AZU1, LYZ, MPO; against it CD14",
        "",
    ]
    assert marker_evidence(relative, [panel], genes, [0, 0, 0], most=1)[2] == "MPO; against it CD14"


def test_means_of_parts_and_the_mixtures_of_their_cluster() -> None:
    clusters = pd.Series(["0"] * 4 + ["1"] * 4, dtype="category", index=[f"c{i}" for i in range(8)])
    adata = ad.AnnData(sparse.csr_matrix((8, 1)), obs=pd.DataFrame(index=clusters.index))
    codes = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    mixed = np.array([False, False, True, False, True, True, True, False])
    table = cell_evidence(adata, clusters, codes, mixed, 3)
    assert table[["doublet_score", "stress"]].isna().all(axis=None)
    np.testing.assert_allclose(table["mixed_share"], [0.25, 0.25, 0.75])
    (note,) = adata.uns[keys.UNS][keys.NOTES]
    assert note.startswith("Clusters of mixtures")
    assert note.endswith("compartments: 1.")
    adata.obs[keys.DOUBLET_SCORE] = np.arange(8.0)
    adata.obsm[keys.SIGNATURE_SCORES] = pd.DataFrame(
        {"dissociation_stress": np.arange(8.0) / 2}, index=adata.obs_names
    )
    table = cell_evidence(adata, clusters, codes, mixed, 3)
    np.testing.assert_allclose(table["doublet_score"], [0.5, 2.5, 5.5])
    np.testing.assert_allclose(table["stress"], [0.25, 1.25, 2.75])
