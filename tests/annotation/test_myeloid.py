"""States of monocytes: by their scores, on real data, and as planted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from crs_sc import genesets, keys
from crs_sc.annotation import call_myeloid_states, score_signatures

if TYPE_CHECKING:
    from pathlib import Path

MONOCYTES = ("CD14+ Monocytes", "FCGR3A+ Monocytes")


def scored(rows: list[dict[str, float]], lineage: list[str], *, n_genes: int = 6000) -> ad.AnnData:
    names = [f"c{i}" for i in range(len(rows))]
    adata = ad.AnnData(
        sparse.csr_matrix((len(rows), n_genes), dtype=np.float32),
        obs=pd.DataFrame({keys.LINEAGE: lineage}, index=names),
    )
    adata.obsm[keys.SIGNATURE_SCORES] = pd.DataFrame(rows, index=names)
    return adata


def scores(**given: float) -> dict[str, float]:
    zero = dict.fromkeys(
        ("type1_ifn_response", "inflammatory_monocyte", "il1_response", "nfkb_response",
         "s100a_high", "hla_dr"), 0.0
    )  # fmt: skip
    return zero | given


def test_the_state_is_the_largest_multiple_of_its_threshold() -> None:
    both = scores(
        type1_ifn_response=0.5, inflammatory_monocyte=0.2, il1_response=0.2, nfkb_response=0.2
    )
    hot = scores(inflammatory_monocyte=0.1, il1_response=0.2, nfkb_response=0.3)
    low = scores(s100a_high=0.6, hla_dr=0.2)
    rows = [both, hot, low, scores(s100a_high=0.6, hla_dr=0.5), scores(), both]
    adata = scored(rows, ["Monocyte"] * 4 + ["Macrophage", "T"])
    call_myeloid_states(adata)
    states = adata.obs[keys.MYELOID_STATE]
    assert states[:5].tolist() == [
        "interferon_stimulated", "inflammatory", "hla_dr_low", "resting", "resting",
    ]  # fmt: skip
    assert states[5:].isna().all()
    # 0.2 of 0.1 is a larger multiple than 0.5 of 0.3.
    call_myeloid_states(adata, min_inflammatory=0.1, min_interferon=0.3)
    assert adata.obs[keys.MYELOID_STATE].iloc[0] == "inflammatory"


def test_states_that_cannot_be_seen_are_noted() -> None:
    rows = [{"type1_ifn_response": 0.6, "s100a_high": 0.9}]
    adata = scored(rows, ["Monocyte"], n_genes=300)
    call_myeloid_states(adata)
    assert adata.obs[keys.MYELOID_STATE].tolist() == ["interferon_stimulated"]
    notes = adata.uns[keys.UNS][keys.NOTES]
    assert any("not scored: inflammatory, hla_dr_low" in note for note in notes), notes
    assert any("300 genes" in note for note in notes)


def kang(shared_data: Path) -> ad.AnnData:
    adata = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad")
    adata = adata[
        (adata.obs["demuxlet_call"] == "SNG") & adata.obs["cell_type"].isin(MONOCYTES)
    ].copy()
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.LINEAGE] = "Monocyte"
    score_signatures(adata, signatures=genesets.signatures())
    call_myeloid_states(adata)
    return adata


def test_monocytes_after_interferon_are_interferon_stimulated_and_controls_are_not(
    shared_data: Path,
) -> None:
    adata = kang(shared_data)
    state = adata.obs[keys.MYELOID_STATE].astype(str)
    arm = adata.obs["condition"].astype(str)
    share = (state == "interferon_stimulated").groupby(arm).mean()
    assert share["stim"] >= 0.95
    assert share["ctrl"] <= 0.06
    # IL1B is in no signature; monocytes that are called inflammatory make it more often.
    makes = np.asarray(adata[:, "IL1B"].layers[keys.COUNTS].todense()).ravel() > 0
    of = pd.Series(makes, index=adata.obs_names)[arm == "ctrl"].groupby(state[arm == "ctrl"]).mean()
    assert of["inflammatory"] >= 1.5 * of["resting"]


def test_the_state_of_a_cell_does_not_depend_on_the_others(shared_data: Path) -> None:
    adata = kang(shared_data)
    part = adata[::7].copy()
    score_signatures(part, signatures=genesets.signatures())
    call_myeloid_states(part)
    found = part.obs[keys.MYELOID_STATE].astype(str)
    pd.testing.assert_series_equal(
        found, adata.obs[keys.MYELOID_STATE].astype(str).loc[part.obs_names]
    )


def test_healthy_monocytes_rest_and_those_of_critical_covid_lose_hla_dr(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "combat_covid_pbmc.h5ad")
    # The provisional labels are a rough guess; the states are those of cells with CD14 or FCGR3A.
    adata = adata[adata.obs["cell_type_provisional"].isin(MONOCYTES)].copy()
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.LINEAGE] = "Monocyte"
    score_signatures(adata, signatures=genesets.signatures())
    call_myeloid_states(adata)
    state, arm = adata.obs[keys.MYELOID_STATE].astype(str), adata.obs["condition"].astype(str)
    share = pd.crosstab(arm, state, normalize="index")
    assert share.loc["Healthy", "resting"] >= 0.85
    assert share.loc["Covid_Critical", "hla_dr_low"] >= 0.4
    assert share.loc["Covid_Mild", "interferon_stimulated"] >= 0.2
    assert share.loc["Healthy", ["hla_dr_low", "interferon_stimulated"]].max() <= 0.06


@pytest.mark.parametrize("name", ["min_interferon", "min_inflammatory", "min_hla_dr_low"])
def test_thresholds_decide(name: str) -> None:
    row = scores(
        type1_ifn_response=0.3, inflammatory_monocyte=0.2, il1_response=0.2, nfkb_response=0.2,
        s100a_high=0.7, hla_dr=0.3,
    )  # fmt: skip
    others = {"min_interferon": 9.0, "min_inflammatory": 9.0, "min_hla_dr_low": 9.0} | {name: 0.1}
    adata = scored([row], ["Monocyte"])
    call_myeloid_states(adata, **others)
    called = {"min_interferon": "interferon_stimulated", "min_inflammatory": "inflammatory",
              "min_hla_dr_low": "hla_dr_low"}[name]  # fmt: skip
    assert adata.obs[keys.MYELOID_STATE].tolist() == [called]
